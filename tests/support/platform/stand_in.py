"""A stand-in for the platform next to ``APP_MODE=worker_docker``, written from protocol.md alone.

It owns jobs as the Function App does: it creates tasks, advances stages, finishes jobs, runs its own stages,
and checks every stage_complete against the protocol. Deviations are collected in `Platform.violations`. Its
database and its broker may go away and come back at any time: an interrupted step is repeated, a processed
message is recognised by its sequence number, and unsent messages are sent later.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any
from uuid import uuid4

from psycopg.types.json import Jsonb

from gdaltools import storage
from tests.support.platform import functions
from tests.support.platform.jobs import LARGE_RASTER, NOOP, job_id_of, job_result, stage_count, stage_tasks
from tests.support.platform.messages import (
    FUNCTION_APP,
    JOB_FIELDS,
    MESSAGE_BYTES,
    Received,
    job_message,
    task_message,
)
from tests.support.platform.rules import signal_deviations, state_deviations, task_deviations
from tests.support.platform.tables import (
    Connection,
    Row,
    fail_untouched,
    insert_job,
    insert_tasks,
    insert_unsent,
    locked_job,
    note_handled,
    query,
    tasks_of_stage,
    transaction,
    until_done,
)
from worker.errors import BusError, LockLost
from worker.queue.bus import Bus, OutgoingMessage
from worker.waiting import is_set_within

SWEEP_SECONDS = 1.0
OVER_STATUSES = ("completed", "failed", "completed_with_errors")

_SENT_AT_ONCE = 500
_LOGGER = logging.getLogger(__name__)


class Platform:
    """The Function App, while `run` runs; use one per database.

    Parameters
    ----------
    conninfo
        A database with the schema of `tests.support.platform.tables.create_schema`.
    bus
        The namespace of the queues.
    docker_stages
        The stages of a `LARGE_RASTER` job that a worker runs; the platform runs the others itself.
    jobs_queue, docker_queue
        Names of the queues.
    message_bytes
        Size limit of a body; larger parameters stay in the task's row.
    """

    def __init__(
        self,
        conninfo: str,
        bus: Bus,
        *,
        docker_stages: Collection[int] = (2, 3),
        jobs_queue: str = "geospatial-jobs",
        docker_queue: str = "docker-tasks",
        message_bytes: int = MESSAGE_BYTES,
    ) -> None:
        self.violations: list[str] = []
        """Deviations from the protocol, each once."""
        self._conninfo = conninfo
        self._bus = bus
        self._docker_stages = docker_stages
        self._jobs_queue = jobs_queue
        self._docker_queue = docker_queue
        self._message_bytes = message_bytes
        self._unsent = asyncio.Event()
        self._functions = asyncio.Event()
        self._runs: asyncio.Task[None] | None = None

    async def submit(self, parameters: Mapping[str, Any], *, job_type: str = LARGE_RASTER) -> str:
        """Create a job, unless the same one exists, and request its start; return its id."""
        kept = {name: value for name, value in parameters.items() if value is not None}
        job_id = job_id_of(job_type, kept)
        if job_type == LARGE_RASTER:
            source = storage.blob(kept["container_name"], kept["blob_name"])
            size = (await asyncio.to_thread(storage.stat, source)).size
            kept |= {"_blob_size_bytes": size, "_blob_size_mb": size / 2**20}

        async def insert() -> None:
            async with self._transaction() as connection:
                await self._insert_job(connection, job_id, job_type, kept)

        await until_done(insert)
        self._unsent.set()
        return job_id

    async def resubmit(self, job_id: str) -> None:
        """Delete a job with its tasks, whatever its state, and begin it again under the same ids."""

        async def replace() -> None:
            async with self._transaction() as connection:
                job = await locked_job(connection, job_id)
                assert job is not None, f"no job {job_id}"
                await query(connection, "delete from app.jobs where job_id = %s", job_id)
                await query(connection, "delete from app.function_app_unsent where job_id = %s", job_id)
                await self._insert_job(
                    connection, job_id, job["job_type"], job["parameters"], job["resubmissions"] + 1
                )

        await until_done(replace)
        self._unsent.set()

    async def janitor_once(self, minutes: float) -> list[str]:
        """Fail every worker's task that was not updated for `minutes`, and its job; return the tasks' ids."""

        async def sweep() -> list[str]:
            async with self._transaction() as connection:
                return await fail_untouched(connection, minutes, spared_app=FUNCTION_APP)

        return await until_done(sweep)

    async def quiet(self, job_ids: Sequence[str], deadline: float) -> dict[str, Row]:
        """Return the jobs' rows once all are over; `deadline` is in seconds.

        Raises
        ------
        AssertionError
            The jobs are not over in time; the message lists the violations.
        """

        async def jobs() -> dict[str, Row]:
            async with self._transaction() as connection:
                statement = "select * from app.jobs where job_id = any(%s)"
                return {row["job_id"]: row for row in await query(connection, statement, list(job_ids))}

        rows: dict[str, Row] = {}
        try:
            async with asyncio.timeout(deadline):
                while True:
                    if self._runs is not None and self._runs.done():
                        self._runs.result()
                    rows = await until_done(jobs)
                    if len(rows) == len(set(job_ids)) and all(
                        row["status"] in OVER_STATUSES for row in rows.values()
                    ):
                        return rows
                    await asyncio.sleep(0.1)
        except TimeoutError:
            found = {row["job_id"]: (row["status"], row["stage"]) for row in rows.values()}
            text = f"after {deadline} s the jobs are {found}, with the violations {self.violations}"
            raise AssertionError(text) from None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Platform]:
        """Run from entry to exit; leaving the block interrupts the platform wherever it is."""
        self._runs = asyncio.create_task(self.run())
        try:
            yield self
        finally:
            self._runs.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._runs
            self._runs = None

    async def run(self) -> None:
        """Process the jobs queue, send unsent messages, and run the platform's own tasks, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._consume())
            group.create_task(self._repeat(self._send_some, self._unsent))
            group.create_task(self._repeat(self._run_one_function, self._functions))

    async def _consume(self) -> None:
        async with self._bus.receiver(self._jobs_queue) as receiver:
            while True:
                try:
                    message = await receiver.receive(wait_seconds=5)
                    if message is not None:
                        async with message.lock_kept(lambda: None):
                            received = Received.of(message)
                            await until_done(lambda: self.handle(received))  # noqa: B023  awaited here
                            await message.complete()
                except BusError as error:
                    if not (error.retryable or isinstance(error, LockLost)):
                        raise
                    _LOGGER.info("the message will come again: %s", error)

    async def _repeat(self, step: Callable[[], Awaitable[bool]], wake: asyncio.Event) -> None:
        """Repeat `step` until it reports no more work; again when woken, or after `SWEEP_SECONDS`."""
        while True:
            wake.clear()
            while await until_done(step):
                continue
            await is_set_within(wake, SWEEP_SECONDS)

    async def handle(self, received: Received) -> None:
        """Process a message of the jobs queue in one transaction; do nothing if it was processed before."""
        document = received.document()
        async with self._transaction() as connection:
            if document is None:
                if await note_handled(connection, received.identity):
                    self._violation(received, "the body is not a JSON object")
            elif document.get("message_type") == "stage_complete":
                await self._handle_signal(connection, received, document)
            elif await note_handled(connection, received.identity):
                await self._handle_job(connection, received, document)
        self._unsent.set()
        self._functions.set()

    async def _handle_job(self, connection: Connection, received: Received, message: Row) -> None:
        job = await locked_job(connection, str(message.get("job_id")))
        if message.keys() != JOB_FIELDS:
            self._violation(received, f"neither a Job message nor a stage_complete: {sorted(message)}")
        elif job is not None and job["status"] == "queued":
            await query(
                connection, "update app.jobs set status = 'processing' where job_id = %s", job["job_id"]
            )
            await self._start_stage(connection, job, 1, [])

    async def _handle_signal(self, connection: Connection, received: Received, signal: Row) -> None:
        deviations = signal_deviations(received, signal)
        if deviations:
            if await note_handled(connection, received.identity):
                for text in deviations:
                    self._violation(received, text)
            return
        job_id, stage = signal["job_id"], signal["completed_stage"]
        if not await note_handled(connection, received.identity, job_id=job_id, completed_stage=stage):
            return
        job = await locked_job(connection, job_id)
        tasks = await tasks_of_stage(connection, job_id, stage)
        deviations = state_deviations(received, signal, job, tasks)
        if deviations and signal["completed_by_app"] == FUNCTION_APP:
            return  # our own signal, sent again because the platform was interrupted before recording it
        for text in deviations or [text for task in tasks for text in task_deviations(task)]:
            self._violation(received, f"job {job_id[:8]}, stage {stage}: {text}")
        if deviations or job is None:
            return
        await self._advance(connection, job, tasks)

    async def _advance(self, connection: Connection, job: Row, tasks: Sequence[Row]) -> None:
        job_id, stage = job["job_id"], job["stage"]
        results = [task["result_data"] for task in tasks]
        (advanced,) = await query(
            connection, "select * from app.advance_job_stage(%s, %s, %s)", job_id, stage, Jsonb(results)
        )
        assert advanced["job_updated"], "the job's row is locked, so its stage cannot have changed"
        if not advanced["is_final_stage"]:
            await self._start_stage(connection, job, advanced["new_stage"], results)
            return
        (completion,) = await query(connection, "select * from app.check_job_completion(%s)", job_id)
        assert completion["job_complete"], f"job {job_id}: stages are over, tasks are not"
        every_task = await query(
            connection,
            "select stage, status::text, result_data from app.tasks where parent_job_id = %s",
            job_id,
        )
        await query(
            connection,
            "update app.jobs set status = 'completed', stage = total_stages, result_data = %s"
            " where job_id = %s",
            Jsonb(job_result(job, every_task)),
            job_id,
        )

    async def _start_stage(
        self, connection: Connection, job: Row, stage: int, previous: Sequence[Mapping[str, Any]]
    ) -> None:
        tasks = stage_tasks(job, stage, previous)
        is_docker = job["job_type"] == NOOP or stage in self._docker_stages
        queue = self._docker_queue if is_docker else functions.QUEUE
        await insert_tasks(connection, job, stage, tasks, queue=queue)
        if is_docker:
            bodies = [task_message(job, stage, task, message_bytes=self._message_bytes) for task in tasks]
            messages = [(body, str(uuid4())) for body in bodies]
            await insert_unsent(connection, job["job_id"], queue, messages)

    async def _insert_job(
        self,
        connection: Connection,
        job_id: str,
        job_type: str,
        parameters: Mapping[str, Any],
        resubmissions: int = 0,
    ) -> None:
        stages = stage_count(job_type, parameters)
        inserted = await insert_job(
            connection, job_id, job_type, parameters, total_stages=stages, resubmissions=resubmissions
        )
        if inserted:
            body = job_message(job_id, job_type, parameters)
            await insert_unsent(connection, job_id, self._jobs_queue, [(body, str(uuid4()))])

    async def _send_some(self) -> bool:
        """Send the oldest unsent messages of one queue; return whether there were any and they were taken."""
        async with self._transaction() as connection:
            rows = await query(
                connection,
                "select * from app.function_app_unsent where queue ="
                " (select queue from app.function_app_unsent order by id limit 1) order by id limit %s",
                _SENT_AT_ONCE,
            )
        if not rows:
            return False
        try:
            await self._bus.send(
                rows[0]["queue"], [OutgoingMessage(row["body"], row["message_id"]) for row in rows]
            )
        except BusError as error:
            if not error.retryable:
                raise
            _LOGGER.info("the broker is away: %s", error)
            return False
        ids = [row["id"] for row in rows]
        await until_done(lambda: self._forget(ids))
        return True

    async def _forget(self, ids: list[int]) -> None:
        async with self._transaction() as connection:
            await query(connection, "delete from app.function_app_unsent where id = any(%s)", ids)

    async def _run_one_function(self) -> bool:
        """Run one of the platform's own tasks; return whether there was one."""
        task = await functions.claimed(self._conninfo)
        if task is None:
            return False
        result = await functions.result_of(task)
        await until_done(lambda: functions.finish(self._conninfo, task, result, jobs_queue=self._jobs_queue))
        self._unsent.set()
        return True

    def _violation(self, received: Received, text: str) -> None:
        entry = f"{text} (message {received.message_id!r}, {received.identity})"
        if entry not in self.violations:
            self.violations.append(entry)

    def _transaction(self) -> AbstractAsyncContextManager[Connection]:
        return transaction(self._conninfo)
