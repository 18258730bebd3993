"""Running dask tasks: results in order, each told when it is there, nothing left running after an error."""

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


def test_results_come_in_order_and_each_is_told_once_with_its_position() -> None:
    told: list[tuple[int, int]] = []
    assert run(_tasks([3, 1, 2]), ended=lambda *ended: told.append(ended)) == [6, 2, 4]
    assert sorted(told) == [(0, 6), (1, 2), (2, 4)]


def test_a_result_is_told_before_the_next_task_has_ended() -> None:
    told = threading.Event()

    def after(first: int) -> int:
        assert told.wait(30)
        return first

    tasks = [delayed(_double)(1), delayed(after)(2)]
    assert run(tasks, ended=lambda position, _: told.set() if position == 0 else None) == [2, 2]


def test_a_cluster_gives_the_same() -> None:
    told: list[tuple[int, int]] = []
    with LocalCluster(n_workers=1, processes=False, dashboard_address=None) as cluster, Client(cluster):
        assert run(_tasks([3, 1, 2]), ended=lambda *ended: told.append(ended)) == [6, 2, 4]
        with pytest.raises(ValueError, match="-1"):
            run(_tasks([-1]), ended=lambda *ended: told.append(ended))
    assert sorted(told) == [(0, 6), (1, 2), (2, 4)]


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
        run([delayed(slow)(), delayed(fail)()], ended=lambda *_: None)
    assert ended.is_set()


def test_an_error_in_the_progress_callback_ends_the_work() -> None:
    def cancel(state: Progress) -> None:
        if state.done:
            raise KeyboardInterrupt

    with (
        pytest.raises(KeyboardInterrupt),
        reporting(cancel, label="x", total=2, unit="tasks") as advance,
    ):
        run(_tasks([1, 2]), ended=lambda *_: advance(1))
