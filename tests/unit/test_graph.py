"""Running dask tasks: results in order, progress by weight, nothing left running after an error."""

from __future__ import annotations

import threading

import dask
import pytest
from dask import delayed
from distributed import Client, LocalCluster

from gdaltools.graph import run
from gdaltools.progress import Progress, reporting


def _double(value: int) -> int:
    if value < 0:
        raise ValueError(value)
    return 2 * value


def _tasks(values: list[int]) -> list[dask.delayed]:
    return [delayed(_double)(value) for value in values]


def test_results_come_in_order_and_progress_by_weight() -> None:
    steps: list[int] = []
    assert run(_tasks([3, 1, 2]), weights=[10, 20, 30], advance=steps.append) == [6, 2, 4]
    assert sorted(steps) == [10, 20, 30]


def test_a_cluster_gives_the_same() -> None:
    steps: list[int] = []
    with LocalCluster(n_workers=1, processes=False, dashboard_address=None) as cluster, Client(cluster):
        assert run(_tasks([3, 1, 2]), weights=[10, 20, 30], advance=steps.append) == [6, 2, 4]
        with pytest.raises(ValueError, match="-1"):
            run(_tasks([-1]), weights=[1], advance=steps.append)
    assert sorted(steps) == [10, 20, 30]


def test_no_task_still_runs_when_the_first_error_is_raised() -> None:
    release = threading.Event()
    ended = threading.Event()

    def slow() -> None:
        release.wait(30)
        ended.set()

    def fail() -> None:
        release.set()
        raise ValueError("first")

    with pytest.raises(ValueError, match="first"):
        run([delayed(slow)(), delayed(fail)()], weights=[1, 1], advance=lambda _: None)
    assert ended.is_set()


def test_an_error_in_the_progress_callback_ends_the_work() -> None:
    def cancel(state: Progress) -> None:
        if state.done:
            raise KeyboardInterrupt

    with (
        pytest.raises(KeyboardInterrupt),
        reporting(cancel, label="x", total=2, unit="tasks") as advance,
    ):
        run(_tasks([1, 2]), weights=[1, 1], advance=advance)
