"""Running dask tasks: results in order, each reported on arrival, nothing left running after an error."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import dask
import pytest
import rasterio
from dask import delayed
from distributed import Client, LocalCluster

from gdaltools import storage
from gdaltools.display.progress import Progress
from gdaltools.display.reporting import reporting
from gdaltools.raster.dataset import read_window
from gdaltools.runtime import interruption
from gdaltools.runtime.graph import cluster_threads, run, run_each, thread_count, using_threads
from tests.support.rasters import smooth, write_raster


def _double(value: int) -> int:
    if value < 0:
        raise ValueError(value)
    return 2 * value


def _tasks(values: list[int]) -> list[dask.delayed]:
    return [delayed(_double)(value) for value in values]


def test_results_come_in_order_and_each_is_told_once_with_its_position() -> None:
    note: list[tuple[int, int]] = []
    assert run(_tasks([3, 1, 2]), ended=lambda *ended: note.append(ended)) == [6, 2, 4]
    assert sorted(note) == [(0, 6), (1, 2), (2, 4)]


def test_a_result_is_told_before_the_next_task_has_ended() -> None:
    note = threading.Event()

    def after(first: int) -> int:
        assert note.wait(30)
        return first

    tasks = [delayed(_double)(1), delayed(after)(2)]
    assert run(tasks, ended=lambda position, _: note.set() if position == 0 else None) == [2, 2]


def test_a_cluster_gives_the_same() -> None:
    note: list[tuple[int, int]] = []
    with LocalCluster(n_workers=1, processes=False, dashboard_address=None) as cluster, Client(cluster):
        assert run(_tasks([3, 1, 2]), ended=lambda *ended: note.append(ended)) == [6, 2, 4]
        with pytest.raises(ValueError, match="-1"):
            run(_tasks([-1]), ended=lambda *ended: note.append(ended))
    assert sorted(note) == [(0, 6), (1, 2), (2, 4)]


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


def test_with_one_thread_tasks_run_in_the_callers_own_whatever_is_configured() -> None:
    def here() -> int:
        return threading.get_ident()

    with (
        LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as cluster,
        Client(cluster),
    ):
        assert cluster_threads() == 2
        with using_threads(1):
            assert (cluster_threads(), thread_count()) == (0, 1)
            assert run([delayed(here)() for _ in range(3)], ended=lambda *_: None) == [here()] * 3
        assert cluster_threads() == 2
    with dask.config.set(num_workers=5), using_threads(3):
        assert thread_count() == 3
    with dask.config.set(num_workers=5):
        assert thread_count() == 5


def test_runs_of_several_threads_at_a_time_are_told_of_their_own_tasks() -> None:
    note: dict[int, list[int]] = {}

    def several(number: int) -> None:
        note[number] = []
        with using_threads(1 + number % 2):
            for round_ in range(20):
                run(_tasks([number, round_]), ended=lambda _, result: note[number].append(result))

    threads = [threading.Thread(target=several, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for number, results in note.items():
        expected = [2 * number] * 20 + [2 * round_ for round_ in range(20)]
        assert sorted(results) == sorted(expected)


def test_an_error_in_the_progress_callback_ends_the_work() -> None:
    def cancel(state: Progress) -> None:
        if state.done:
            raise KeyboardInterrupt

    with (
        pytest.raises(KeyboardInterrupt),
        reporting(cancel, label="x", total=2, unit="tasks") as advance,
    ):
        run(_tasks([1, 2]), ended=lambda *_: advance(1))


def _interrupted_while_running(task: Callable[[], None]) -> None:
    """Run a task, and interrupt the run as soon as it has started."""
    begun = threading.Event()

    def under_way() -> None:
        begun.set()
        while not interruption.is_requested():
            assert threading.main_thread().is_alive()
        task()

    def interrupt(position: int, _: object) -> None:
        assert begun.wait(30)
        raise KeyboardInterrupt

    with dask.config.set(num_workers=2), pytest.raises(KeyboardInterrupt):
        run([delayed(_double)(1), delayed(under_way)()], ended=interrupt)


def test_an_interrupted_task_publishes_nothing(tmp_path: Path) -> None:
    written = threading.Event()

    def write() -> None:
        with storage.writing(tmp_path / "a.tif") as path:
            path.write_bytes(b"whole")
            written.set()

    _interrupted_while_running(write)
    assert written.is_set()
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_task_reads_no_further_window(tmp_path: Path) -> None:
    source = write_raster(tmp_path / "a.tif", smooth(1, 40, 40))
    read: list[object] = []

    def read_on() -> None:
        with rasterio.open(source) as dataset:
            read.append(read_window(dataset, str(source), rasterio.windows.Window(0, 0, 9, 9)))

    _interrupted_while_running(read_on)
    assert read == []


def test_an_interruption_ends_with_its_run() -> None:
    _interrupted_while_running(lambda: None)
    assert run(_tasks([1, 2]), ended=lambda *_: None) == [2, 4]
    interruption.check()


def test_of_very_many_calls_only_a_few_are_handed_out_at_a_time() -> None:
    handed_out = ended = most = 0

    def arguments() -> Iterator[int]:
        nonlocal handed_out, most
        for number in range(5000):
            handed_out += 1
            most = max(most, handed_out - ended)
            yield number

    results: list[int] = []

    def note(result: int) -> None:
        nonlocal ended
        ended += 1
        results.append(result)

    with dask.config.set(scheduler="threads", num_workers=3):
        run_each(abs, arguments(), ended=note)
    assert sorted(results) == list(range(5000))
    assert most <= 6
    run_each(abs, iter(range(3)), ended=results.append, threads=1)
    assert results[-3:] == [0, 1, 2]


def test_after_an_error_no_further_call_is_handed_out_and_those_under_way_are_interrupted() -> None:
    called: list[int] = []
    begun = threading.Event()

    def call(number: int) -> None:
        called.append(number)
        if number == 0:
            assert begun.wait(10)
            raise ValueError("the first")
        begun.set()
        for _ in range(1000):
            interruption.check()
            threading.Event().wait(0.01)

    with (
        dask.config.set(scheduler="threads", num_workers=2),
        pytest.raises(ValueError, match="the first"),
    ):
        run_each(call, range(100), ended=lambda _: None)
    assert {0, 1} <= set(called) <= set(range(4)), "what had been handed out may begin"
