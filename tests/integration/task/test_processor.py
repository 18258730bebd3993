"""A task's life with a real queue, a real database and real child processes, as protocol.md §4 promises."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import numpy as np
import psycopg
import pytest

from tests.support.bench import JOB, QUEUE, SCENE, Bench
from tests.support.eventually import eventually
from tests.support.processes import frozen, task_processes
from tests.support.rasters import smooth, write_raster

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def blobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GDALTOOLS_BLOB_ROOT", str(tmp_path))
    write_raster(_made(tmp_path / "bronze-rasters") / "scene.tif", smooth(3, 128, 128))
    return tmp_path


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _keep_busy(blobs: Path, *, side: int = 8000) -> None:
    """Give the next task seconds of work: 8 for the default here, a quarter of that for half the side."""
    noise = np.random.default_rng(0).integers(0, 256, (3, side, side), dtype="uint8")
    write_raster(blobs / "bronze-rasters" / "scene.tif", noise)


async def _child(before: set[int]) -> int:
    new: set[int] = set()

    def started() -> bool:
        new.update(task_processes() - before)
        return bool(new)

    await eventually(started, within_seconds=30)
    return new.pop()


async def _running(bench: Bench, blobs: Path, task_id: str) -> int:
    """Start a task that keeps its process busy; return the process id."""
    _keep_busy(blobs)
    bench.create(task_id)
    before = task_processes()
    await bench.send(task_id)
    pid = await _child(before)
    await bench.until(task_id, "processing")
    return pid


async def test_the_last_task_of_a_stage_and_only_it_signals(bench: Bench) -> None:
    for task_id in ("a", "b", "c"):
        bench.create(task_id)
    for task_id in ("a", "b", "c"):
        await bench.send(task_id)
    for task_id in ("a", "b", "c"):
        task = await bench.until(task_id, "completed")
        assert task.executed_by_app == "test-worker"
        assert task.result_data is not None
        assert task.result_data["success"] is True
        assert task.metadata["measured"]["actual"]["seconds"] > 0
        assert task.metadata["measured"]["estimate"]["seconds"] > 0
    await bench.quiet()
    (signal_,) = await bench.signals()
    assert signal_["message_type"] == "stage_complete"
    assert (signal_["job_id"], signal_["completed_stage"], signal_["job_type"]) == (JOB, 3, "any_job")
    assert signal_["message_id"] == f"{JOB}:3:stage_complete"
    assert signal_["correlation_id"] == f"docker-{JOB[:8]}"


async def test_a_message_that_comes_twice_runs_its_task_once(bench: Bench) -> None:
    bench.create("twice")
    await bench.send("twice")
    first = await bench.until("twice", "completed")
    await bench.send("twice")
    await bench.quiet()
    assert await bench.task("twice") == first
    assert len(await bench.signals()) == 1


async def test_the_parameters_are_the_rows_when_the_message_says_so(bench: Bench) -> None:
    bench.create("large", parameters=SCENE | {"output_blob_name": "from-the-row.tif"})
    await bench.send("large", parameters={}, parameters_in_row=True)
    task = await bench.until("large", "completed")
    assert task.result_data is not None
    assert task.result_data["result"]["cog_blob"] == "from-the-row_analysis.tif"


async def test_a_permanent_failure_fails_task_and_job_and_dead_letters_with_the_story(bench: Bench) -> None:
    bench.create("bad")
    bench.create("other")
    await bench.send("bad", parameters=SCENE | {"blob_name": "missing.tif"})
    task = await bench.until("bad", "failed")
    assert "missing.tif" in str(task.error_details)
    assert task.result_data == {
        "success": False,
        "error": task.result_data["error"] if task.result_data else "",
        "error_type": "SourceNotFound",
        "retryable": False,
    }
    job = await bench.database.jobs.get(JOB)
    assert job is not None
    assert job.status == "failed"
    await bench.quiet()
    assert bench.broker.counts(QUEUE).dead_letter == 1
    await bench.send("other")
    await bench.quiet()
    assert (await bench.task("other")).status == "queued", "a job that is over has no more tasks run"
    assert await bench.signals() == []


async def test_an_unknown_task_type_is_a_permanent_failure(bench: Bench) -> None:
    bench.create("strange", task_type="vector_upload")
    await bench.send("strange", task_type="Vector-Upload")
    task = await bench.until("strange", "failed")
    assert "UnknownTaskType" in str(task.error_details)
    await bench.quiet()
    assert bench.broker.counts(QUEUE).dead_letter == 1


async def test_a_child_that_is_killed_is_tried_again_from_the_same_queue(bench: Bench, blobs: Path) -> None:
    _keep_busy(blobs, side=4000)
    bench.create("victim")
    before = task_processes()
    await bench.send("victim")
    os.kill(await _child(before), signal.SIGKILL)
    task = await bench.until("victim", "queued")
    assert task.retry_count == 1
    assert "SIGKILL" in task.metadata["last_error"]
    await eventually(lambda: bench.broker.counts(QUEUE).scheduled == 1)
    await bench.until("victim", "completed")
    await bench.quiet()
    assert bench.broker.counts(QUEUE).dead_letter == 0
    assert len(await bench.signals()) == 1


async def test_a_lost_lock_kills_the_child_and_writes_nothing(bench: Bench, blobs: Path) -> None:
    pid = await _running(bench, blobs, "unlocked")
    with frozen({pid}):  # so that the task does not end before the lock is missed
        bench.stopping.set()
        bench.broker.faults.expire_locks(QUEUE)
        await eventually(lambda: pid not in task_processes(), within_seconds=30)
    await bench.slot
    task = await bench.task("unlocked")
    assert (task.status, task.retry_count, task.result_data) == ("processing", 0, None)


async def test_a_row_that_was_recreated_meanwhile_is_not_completed_by_the_old_run(
    bench: Bench, blobs: Path
) -> None:
    pid = await _running(bench, blobs, "phoenix")
    with frozen({pid}):  # so that the old run does not end before it is found out
        with psycopg.connect(bench.conninfo, autocommit=True) as connection:
            connection.execute("delete from app.tasks where task_id = 'phoenix'")
        bench.create("phoenix")
        await eventually(lambda: pid not in task_processes(), within_seconds=30)
    assert (await bench.task("phoenix")).status == "queued"
    await bench.stop()
    assert await bench.signals() == []


async def test_a_task_interrupted_by_shutdown_goes_back_to_row_and_queue(bench: Bench, blobs: Path) -> None:
    pid = await _running(bench, blobs, "interrupted")
    await bench.stop()
    assert pid not in task_processes()
    task = await bench.task("interrupted")
    assert (task.status, task.retry_count) == ("queued", 0)
    counts = bench.broker.counts(QUEUE)
    assert (counts.active, counts.dead_letter) == (1, 0), "handed back without using up its one delivery"


async def test_a_stale_run_of_a_dead_worker_is_taken_over(bench: Bench) -> None:
    bench.create("stale", status="processing")
    with psycopg.connect(bench.conninfo, autocommit=True) as connection:
        connection.execute("alter table app.tasks disable trigger user")
        connection.execute(
            "update app.tasks set heartbeat = timezone('utc', now()) - interval '1 hour',"
            " updated_at = timezone('utc', now()) - interval '1 hour'"
        )
        connection.execute("alter table app.tasks enable trigger user")
    await bench.send("stale")
    await bench.until("stale", "completed")


async def test_a_task_that_another_worker_runs_is_looked_at_again_later(bench: Bench) -> None:
    bench.create("elsewhere", status="processing")
    await bench.send("elsewhere")

    async def live() -> None:
        async with await psycopg.AsyncConnection.connect(bench.conninfo, autocommit=True) as other_worker:
            while True:
                await other_worker.execute("update app.tasks set heartbeat = timezone('utc', now())")
                await asyncio.sleep(0.5)

    life = asyncio.create_task(live())
    await eventually(lambda: bench.broker.counts(QUEUE).scheduled == 1, within_seconds=20)
    life.cancel()
    assert (await bench.task("elsewhere")).status == "processing"
    await bench.until("elsewhere", "completed")  # no process updated the row: its lease of 3 s ran out
    assert bench.broker.counts(QUEUE).dead_letter == 0
