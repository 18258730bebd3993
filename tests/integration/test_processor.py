"""A task's life between a real queue, a real database and real children: what protocol.md §4 promises."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
import pytest_asyncio

from tests.support.eventually import eventually
from tests.support.processes import descendants
from tests.support.rasters import smooth, write_raster
from worker.bus import Bus, OutgoingMessage
from worker.heartbeat import Heartbeat
from worker.listener import listen
from worker.local.broker import BrokerThread, QueueSpec
from worker.outbox import Outbox
from worker.platform_database import PlatformDatabase
from worker.pressure import Pressure
from worker.processor import Processor, ProcessorOptions
from worker.rows import TaskRow
from worker.runner import Runner, RunnerOptions

pytestmark = pytest.mark.timeout(120)

QUEUE, JOBS = "docker-tasks", "geospatial-jobs"
JOB = "0" * 63 + "1"
SCENE = {"container_name": "bronze-rasters", "blob_name": "scene.tif", "output_container": "silver-cogs"}


@dataclass
class Bench:
    """A processor on one slot, and everything around it."""

    database: PlatformDatabase
    conninfo: str
    broker: BrokerThread
    bus: Bus
    processor: Processor
    stopping: asyncio.Event
    slot: asyncio.Task[None]

    def create(
        self,
        task_id: str,
        *,
        task_type: str = "create_cog",
        status: str = "queued",
        parameters: dict[str, Any] = SCENE,
    ) -> None:
        """A task as a platform makes it: with the platform's columns only."""
        with psycopg.connect(self.conninfo, autocommit=True) as connection:
            connection.execute(
                "insert into app.jobs (job_id, job_type, status, total_stages)"
                " values (%s, 'any_job', 'processing', 5) on conflict do nothing",
                [JOB],
            )
            connection.execute(
                "insert into app.tasks"
                " (task_id, parent_job_id, job_type, task_type, stage, parameters, status)"
                " values (%s, %s, 'any_job', %s, 3, %s, %s)",
                [task_id, JOB, task_type, json.dumps(parameters), status],
            )

    async def send(self, task_id: str, *, task_type: str = "create_cog", **fields: Any) -> None:
        body = {
            "task_id": task_id,
            "parent_job_id": JOB,
            "job_type": "any_job",
            "task_type": task_type,
            "stage": 3,
            "parameters": SCENE,
            **fields,
        }
        await self.bus.send(
            QUEUE, [OutgoingMessage(body=json.dumps(body), message_id=f"{task_id}-{id(body)}")]
        )

    async def task(self, task_id: str) -> TaskRow:
        found = await self.database.task(task_id)
        assert found is not None
        return found

    async def until(self, task_id: str, status: str) -> TaskRow:
        async with asyncio.timeout(60):
            while True:
                task = await self.task(task_id)
                if task.status == status:
                    return task
                await asyncio.sleep(0.05)

    async def quiet(self) -> None:
        """Nothing is in hand and nothing waits in the task queue."""

        def is_quiet() -> bool:
            counts = self.broker.counts(QUEUE)
            return counts.active == counts.locked == 0 and self.processor.busy == 0

        await eventually(is_quiet, within_seconds=30)

    async def signals(self) -> list[dict[str, Any]]:
        """What was sent to the jobs queue; it is taken away."""
        found = []
        async with self.bus.receiver(JOBS) as receiver:
            while (message := await receiver.receive(wait_seconds=2)) is not None:
                found.append({**json.loads(message.body), "message_id": message.message_id})
                await message.complete()
        return found

    async def stop(self, grace_seconds: float = 0) -> None:
        self.stopping.set()
        await asyncio.wait({self.slot}, timeout=grace_seconds)
        self.processor.shut_down()
        await self.slot


@pytest.fixture
def blobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GDALTOOLS_BLOB_ROOT", str(tmp_path))
    write_raster(_made(tmp_path / "bronze-rasters") / "scene.tif", smooth(3, 128, 128))
    return tmp_path


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.fixture
def broker() -> Iterator[BrokerThread]:
    with BrokerThread([QueueSpec(QUEUE, lock_seconds=5, max_delivery_count=1), QueueSpec(JOBS)]) as made:
        yield made


@pytest_asyncio.fixture
async def bench(
    database: PlatformDatabase, conninfo: str, broker: BrokerThread, blobs: Path
) -> AsyncIterator[Bench]:
    async with Bus.connect(connection_string=broker.connection_string) as bus:
        heartbeat = Heartbeat(database, every_seconds=0.5)
        pressure = Pressure(lambda *_: None, min_free_disk_mb=0)
        processor = Processor(
            database=database,
            outbox=Outbox(database, bus),
            runner=Runner(RunnerOptions(timeout_seconds=60, stall_seconds=60)),
            heartbeat=heartbeat,
            pressure=pressure,
            options=ProcessorOptions(app_name="test-worker", jobs_queue=JOBS, lease_seconds=3, crash_limit=3),
        )
        stopping = asyncio.Event()
        beats = asyncio.create_task(heartbeat.run())
        slot = asyncio.create_task(
            listen(
                bus,
                QUEUE,
                processor.process,
                relieved=pressure.relieved,
                stopping=stopping,
                on_error=lambda _: None,
            )
        )
        made = Bench(database, conninfo, broker, bus, processor, stopping, slot)
        yield made
        await made.stop()
        beats.cancel()


def _keep_busy(blobs: Path, *, side: int = 8000) -> None:
    """Give the next task seconds of work: 8 for the default here, a quarter for half the side."""
    noise = np.random.default_rng(0).integers(0, 256, (3, side, side), dtype="uint8")
    write_raster(blobs / "bronze-rasters" / "scene.tif", noise)


async def _child(before: set[int]) -> int:
    new: set[int] = set()

    def started() -> bool:
        new.update(descendants() - before)
        return bool(new)

    await eventually(started, within_seconds=30)
    return new.pop()


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
    job = await bench.database.job(JOB)
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
    before = descendants()
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
    _keep_busy(blobs)
    bench.create("unlocked")
    before = descendants()
    await bench.send("unlocked")
    pid = await _child(before)
    await bench.until("unlocked", "processing")
    bench.stopping.set()
    bench.broker.faults.expire_locks(QUEUE)
    await eventually(lambda: pid not in descendants(), within_seconds=10)
    await bench.slot
    task = await bench.task("unlocked")
    assert (task.status, task.retry_count, task.result_data) == ("processing", 0, None)


async def test_a_row_that_was_recreated_meanwhile_is_not_completed_by_the_old_run(
    bench: Bench, blobs: Path
) -> None:
    _keep_busy(blobs)
    bench.create("phoenix")
    before = descendants()
    await bench.send("phoenix")
    pid = await _child(before)
    await bench.until("phoenix", "processing")
    with psycopg.connect(bench.conninfo, autocommit=True) as connection:
        connection.execute("delete from app.tasks where task_id = 'phoenix'")
    bench.create("phoenix")
    await eventually(lambda: pid not in descendants(), within_seconds=10)
    assert (await bench.task("phoenix")).status == "queued"
    assert await bench.signals() == []


async def test_a_task_interrupted_by_shutdown_goes_back_to_row_and_queue(bench: Bench, blobs: Path) -> None:
    _keep_busy(blobs)
    bench.create("interrupted")
    before = descendants()
    await bench.send("interrupted")
    pid = await _child(before)
    await bench.until("interrupted", "processing")
    await bench.stop()
    assert pid not in descendants()
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
    await eventually(lambda: bench.broker.counts(QUEUE).scheduled == 1, within_seconds=20)
    assert (await bench.task("elsewhere")).status == "processing"
    await bench.until("elsewhere", "completed")  # nobody touched the row any more: its lease of 3 s ran out
    assert bench.broker.counts(QUEUE).dead_letter == 0
