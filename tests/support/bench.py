"""A running processor with a real queue, a real database and real child processes, and methods to feed it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import psycopg

from tests.support.eventually import eventually
from worker.database import Database
from worker.local.broker.server import BrokerThread
from worker.protocol.rows import TaskRow
from worker.queue.bus import Bus, OutgoingMessage
from worker.queue.listener import listen
from worker.queue.outbox import Outbox
from worker.task.heartbeat import Heartbeat
from worker.task.pressure import Pressure
from worker.task.processor import Processor
from worker.task.runner import Runner, RunnerOptions

QUEUE, JOBS = "docker-tasks", "geospatial-jobs"
JOB = "0" * 63 + "1"
SCENE = {"container_name": "bronze-rasters", "blob_name": "scene.tif", "output_container": "silver-cogs"}


@dataclass
class Bench:
    """A processor on one slot, with its backing services."""

    database: Database
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
        """Create a task as a platform does, with the platform's columns only."""
        with psycopg.connect(self.conninfo, autocommit=True) as connection:
            connection.execute(
                "insert into app.jobs (job_id, job_type, status, stage, total_stages)"
                " values (%s, 'any_job', 'processing', 3, 5) on conflict do nothing",
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
        found = await self.database.tasks.get(task_id)
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
        """Wait until no task is running and the task queue is empty."""

        def is_quiet() -> bool:
            counts = self.broker.counts(QUEUE)
            return counts.active == counts.locked == 0 and self.processor.busy == 0

        await eventually(is_quiet, within_seconds=30)

    async def signals(self) -> list[dict[str, Any]]:
        """Return what was sent to the jobs queue, and remove it from the queue."""
        found: list[dict[str, Any]] = []
        if not (count := self.broker.counts(JOBS).active):
            return found
        async with self.bus.receiver(JOBS) as receiver:
            while len(found) < count and (message := await receiver.receive()) is not None:
                found.append({**json.loads(message.body), "message_id": message.message_id})
                await message.complete()
        return found

    async def stop(self, grace_seconds: float = 0) -> None:
        self.stopping.set()
        await asyncio.wait({self.slot}, timeout=grace_seconds)
        self.processor.shut_down()
        await self.slot


@asynccontextmanager
async def working(database: Database, conninfo: str, broker: BrokerThread) -> AsyncIterator[Bench]:
    """Run a bench from entry to exit, on a broker that has both queues."""
    async with Bus.connect(connection_string=broker.connection_string) as bus:
        heartbeat = Heartbeat(database, every_seconds=0.5)
        pressure = Pressure(lambda *_: None, min_free_disk_mb=0)
        processor = Processor(
            database=database,
            outbox=Outbox(database, bus),
            runner=Runner(RunnerOptions(timeout_seconds=60, stall_seconds=60)),
            heartbeat=heartbeat,
            pressure=pressure,
            app_name="test-worker",
            jobs_queue=JOBS,
            lease_seconds=3,
            crash_limit=3,
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
        try:
            yield made
        finally:
            await made.stop()
            beats.cancel()
