"""One task in one child process: outcomes, progress, timeout, kill. The children and their tasks are real."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from tests.support.eventually import eventually
from tests.support.processes import descendants, forkservers
from tests.support.rasters import smooth, write_raster
from worker.errors import ChildDied, OutOfMemory, TaskFailed, TaskStalled, TaskTimedOut
from worker.task.memory import working_set_mb
from worker.task.runner import Runner, RunnerOptions

COG = {"container_name": "bronze-rasters", "blob_name": "scene.tif", "output_container": "silver-cogs"}


@pytest.fixture(autouse=True)
def blobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GDALTOOLS_BLOB_ROOT", str(tmp_path))
    (tmp_path / "bronze-rasters").mkdir()
    return tmp_path


@pytest_asyncio.fixture
async def runner() -> AsyncIterator[Runner]:
    made = Runner(RunnerOptions(timeout_seconds=60, stall_seconds=60))
    with made.warm():
        before = descendants()
        yield made
        assert descendants() <= before, "a task's process is gone when its run has ended"


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raster that keeps a child busy for seconds."""
    noise = np.random.default_rng(0).integers(0, 256, (3, 4000, 4000), dtype="uint8")
    return write_raster(tmp_path_factory.mktemp("large") / "scene.tif", noise)


def _ignore(_: dict[str, Any]) -> None:
    return


async def _child_of(running: asyncio.Task[Any], before: set[int]) -> int:
    new: set[int] = set()

    def started() -> bool:
        new.update(descendants() - before)
        return bool(new) or running.done()

    await eventually(started, within_seconds=30)
    (pid,) = new
    return pid


async def test_a_result_comes_back_in_its_envelope_with_progress(runner: Runner, blobs: Path) -> None:
    write_raster(blobs / "bronze-rasters" / "scene.tif", smooth(3, 200, 300))
    seen: list[dict[str, Any]] = []
    measured: list[dict[str, Any]] = []
    result = await runner.run("Create-COG", COG, on_progress=seen.append, on_measured=measured.append)
    assert result["success"] is True
    assert (blobs / "silver-cogs" / result["result"]["cog_blob"]).exists()
    assert seen[-1]["percent"] == 100
    (found,) = measured
    assert found["actual"]["seconds"] > 0
    assert 20 < found["actual"]["peak_memory_mb"] < 1000
    assert [work["operation"] for work in found["estimate"]["workloads"]] == ["create_cog"]


@pytest.mark.parametrize(
    ("task_type", "parameters", "error_type", "said"),
    [
        ("create_cog", {**COG, "blob_name": "missing.tif"}, "SourceNotFound", "missing.tif"),
        ("create_cog", {**COG, "jpeg_quality": "high"}, "InvalidParameter", "jpeg_quality"),
        ("create_cog", {}, "InvalidParameter", "container_name"),
        ("paint", {}, "UnknownTaskType", "paint"),
        ("vector_upload", {}, "UnknownTaskType", "vector_upload"),
        ("create_mosaicjson", {"previous_results": []}, "InvalidParameter", "no COG"),
    ],
)
async def test_a_failure_comes_back_with_its_type_its_words_and_whether_to_retry(
    runner: Runner, task_type: str, parameters: dict[str, Any], error_type: str, said: str
) -> None:
    with pytest.raises(TaskFailed, match=said) as caught:
        await runner.run(task_type, parameters, on_progress=_ignore)
    assert caught.value.error_type == error_type
    assert caught.value.retryable is False


async def test_a_child_that_is_killed_says_by_what_and_leaves_no_target(
    runner: Runner, blobs: Path, large: Path
) -> None:
    (blobs / "bronze-rasters" / "scene.tif").hardlink_to(large)
    before = descendants()
    running = asyncio.create_task(runner.run("create_cog", COG, on_progress=_ignore))
    os.kill(await _child_of(running, before), signal.SIGKILL)
    with pytest.raises(ChildDied, match="SIGKILL"):
        await running
    assert not list((blobs / "silver-cogs").glob("*.tif"))


async def test_a_task_past_its_time_is_killed(blobs: Path, large: Path) -> None:
    (blobs / "bronze-rasters" / "scene.tif").hardlink_to(large)
    runner = Runner(RunnerOptions(timeout_seconds=0.3, stall_seconds=60))
    with runner.warm():
        before = descendants()
        with pytest.raises(TaskTimedOut, match="WORKER_TIMEOUT_MINUTES"):
            await runner.run("create_cog", COG, on_progress=_ignore)
        assert descendants() <= before
    assert _products(blobs) == [], "not even a scratch folder"


def _products(blobs: Path) -> list[Path]:
    return list(blobs.glob("silver-cogs/*"))


async def test_a_cancelled_run_kills_its_child_first(runner: Runner, blobs: Path, large: Path) -> None:
    (blobs / "bronze-rasters" / "scene.tif").hardlink_to(large)
    before = descendants()
    running = asyncio.create_task(runner.run("create_cog", COG, on_progress=_ignore))
    pid = await _child_of(running, before)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert pid not in descendants()


async def _run(task_type: str, *, options: RunnerOptions | None = None, **parameters: Any) -> dict[str, Any]:
    runner = Runner(options or RunnerOptions(timeout_seconds=60, stall_seconds=60))
    return await runner.run(task_type, parameters, on_progress=_ignore)


async def test_a_child_that_leaves_without_a_word_is_told_by_its_exit_code() -> None:
    with pytest.raises(ChildDied, match="exit code 7"):
        await _run("leave")


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL])
async def test_a_child_that_dies_by_a_signal_is_told_by_its_name(number: signal.Signals) -> None:
    with pytest.raises(ChildDied, match=number.name):
        await _run("die", number=int(number))


async def test_a_child_that_comes_no_further_is_ended_as_stalled() -> None:
    before = descendants()
    with pytest.raises(TaskStalled, match=r"33\.3% of its steps.*WORKER_STALL_MINUTES"):
        await _run("stand_still", options=RunnerOptions(timeout_seconds=60, stall_seconds=1), seconds=60)
    assert descendants() <= before


async def test_a_handler_that_reports_nothing_is_not_taken_for_stalled() -> None:
    options = RunnerOptions(timeout_seconds=60, stall_seconds=0.1)
    assert (await _run("sleep", options=options, seconds=0.5))["success"] is True


async def test_a_child_that_uses_up_the_memory_is_ended_and_says_so() -> None:
    limit = round(working_set_mb(os.getpid())) + 600
    options = RunnerOptions(timeout_seconds=60, stall_seconds=60, memory_limit_mb=limit)
    with pytest.raises(OutOfMemory, match=f"of {limit:,.0f} MB were left"):
        await _run("use_memory", options=options, megabytes=1500)


async def test_a_task_too_large_for_this_machine_is_a_permanent_error_with_both_numbers() -> None:
    options = RunnerOptions(timeout_seconds=60, stall_seconds=60, memory_limit_mb=2000)
    with pytest.raises(TaskFailed, match="needs about 3,000 MB and this worker has 2,000 MB") as caught:
        await _run("do_nothing", options=options, needs_mb=3000)
    assert caught.value.error_type == "InsufficientMemory"
    assert not caught.value.retryable


async def test_the_forkserver_is_given_up_when_nothing_needs_it_and_comes_again() -> None:
    runner = Runner(RunnerOptions(timeout_seconds=60, stall_seconds=60, warm_seconds=0))
    with runner.warm():
        first = forkservers()
        assert first
        with runner.warm():
            pass
        await asyncio.sleep(0.1)
        assert forkservers() == first, "it is kept for as long as one needs it"
    await eventually(lambda: not forkservers(), within_seconds=10)
    with runner.warm():
        assert (await runner.run("do_nothing", {}, on_progress=_ignore))["success"] is True
        assert not first & forkservers()


async def test_a_forkserver_that_others_in_this_process_use_is_kept() -> None:
    theirs = multiprocessing.get_context("forkserver").Process(target=time.sleep, args=(60,))
    theirs.start()
    runner = Runner(RunnerOptions(timeout_seconds=60, stall_seconds=60, warm_seconds=0))
    before = forkservers()
    try:
        with runner.warm():
            pass
        await asyncio.sleep(0.1)
        assert forkservers() == before
    finally:
        theirs.kill()
        theirs.join()


async def test_a_task_too_large_just_now_waits_for_the_others_to_end() -> None:
    runner = Runner(RunnerOptions(timeout_seconds=60, stall_seconds=60, memory_limit_mb=20_000))
    began = asyncio.Event()
    large = {"needs_mb": 12_000, "seconds": 1}
    first = asyncio.create_task(runner.run("stand_still", large, on_progress=lambda _: began.set()))
    await began.wait()
    small = {"needs_mb": 100}
    await runner.run("do_nothing", small, on_progress=_ignore)
    assert not first.done(), "what fits beside it does not wait"
    await runner.run("do_nothing", large, on_progress=_ignore)
    assert first.done()
    await first
