"""The platform's operations on the database: start jobs, advance them from stage to stage, and end them.

A worker never does this (protocol.md §1); only APP_MODE=standalone, which also acts as the platform, writes
here. Each operation is one transaction that also writes the resulting messages to the outbox. Each can
be repeated: of any number of equal calls one has an effect.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from worker.database.connections import Connection, Connections, in_transaction
from worker.database.outbox_table import owe
from worker.errors import DatabaseError, TaskIdTaken
from worker.protocol.json_text import clean_text, dumps
from worker.protocol.rows import (
    OVER_STATUSES,
    Advance,
    JobRow,
    Json,
    NewJob,
    NewTask,
    OutboxMessage,
    Submission,
)


@dataclass(frozen=True)
class Jobs:
    """The jobs of one schema."""

    connections: Connections

    async def get(self, job_id: str) -> JobRow | None:
        """Return a job; None if it does not exist."""
        row = await self.connections.one("read_job", job_id=job_id)
        return None if row is None else JobRow(**row)

    @in_transaction
    async def submit(self, connection: Connection, job: NewJob, *, message: OutboxMessage) -> Submission:
        """Insert a job and put the message that starts it into the outbox.

        Idempotent: an existing job with this id is returned unchanged unless it is failed. A failed job is
        deleted with its tasks and inserted again.
        """
        if await self._insert_job(connection, job, message):
            return Submission(job.job_id, "queued", created=True)
        await connection.all("lock_tasks_of_job", job_id=job.job_id)
        found = await connection.one("lock_job", job_id=job.job_id)
        if found is not None and found["status"] != "failed":
            return Submission(job.job_id, found["status"], created=False)
        await connection.one("delete_job", job_id=job.job_id)
        if not await self._insert_job(connection, job, message):
            raise DatabaseError(f"job {job.job_id} is being submitted elsewhere at this moment")
        return Submission(job.job_id, "queued", created=True)

    @in_transaction
    async def start_stage(
        self, connection: Connection, job_id: str, stage: int, tasks: Sequence[NewTask]
    ) -> int:
        """Create a stage's tasks and their outbox messages, if the job is at that stage and not over.

        Return the number of new tasks. Idempotent: existing tasks are left unchanged, and only new ones get a
        message.

        Raises
        ------
        TaskIdTaken
            A task's id belongs to another job.
        """
        job = await connection.one("lock_job", job_id=job_id)
        if job is None or job["status"] in OVER_STATUSES or job["stage"] != stage:
            return 0
        await connection.one("begin_job", job_id=job_id)
        return await self._create_tasks(connection, job_id, stage, tasks)

    @in_transaction
    async def advance(
        self,
        connection: Connection,
        job_id: str,
        completed_stage: int,
        *,
        results: Sequence[Json],
        tasks: Sequence[NewTask],
    ) -> Advance:
        """Advance a job from `completed_stage` and create the next stage's tasks, in one transaction.

        Of any number of calls for a stage one advances the job. `results` are the stage_results of the stages
        that the job leaves: one for `completed_stage`, and one for each stage that is skipped without tasks.

        Raises
        ------
        TaskIdTaken
            A task's id belongs to another job; the job stays at its stage.
        """
        job = await connection.one("lock_job", job_id=job_id)
        if job is None or job["status"] in OVER_STATUSES or job["stage"] != completed_stage:
            return Advance(advanced=False)
        stage = completed_stage
        for result in results:
            moved = await connection.one("advance_job", job_id=job_id, stage=stage, results=dumps(result))
            if moved is None or not moved["job_updated"]:
                return Advance(advanced=False)
            stage = moved["new_stage"]
        await self._create_tasks(connection, job_id, stage, tasks)
        return Advance(advanced=True, stage=stage)

    @in_transaction
    async def finish(
        self, connection: Connection, job_id: str, stage: int, *, stage_results: Json, result: Json
    ) -> bool:
        """Complete a job at its last stage; return False if it is not at `stage` or is already over."""
        values = {"results": dumps(stage_results), "result": dumps(result)}
        row = await connection.one("finish_job", job_id=job_id, stage=stage, **values)
        return row is not None

    @in_transaction
    async def fail(self, connection: Connection, job_id: str, *, error_details: str) -> bool:
        """Fail a job; return False if it does not exist or is already over."""
        details = clean_text(error_details)
        row = await connection.one("fail_job", job_id=job_id, error_details=details)
        return row is not None

    async def _insert_job(self, connection: Connection, job: NewJob, message: OutboxMessage) -> bool:
        row = await connection.one(
            "insert_job",
            job_id=job.job_id,
            job_type=job.job_type,
            parameters=dumps(job.parameters),
            total_stages=job.total_stages,
            metadata=dumps(job.metadata),
        )
        if row is not None:
            await owe(connection, [message], job_id=job.job_id)
        return row is not None

    async def _create_tasks(
        self, connection: Connection, job_id: str, stage: int, tasks: Sequence[NewTask]
    ) -> int:
        job = await connection.one("read_job", job_id=job_id)
        assert job is not None
        rows = [
            {
                "task_id": task.task_id,
                "parent_job_id": job_id,
                "job_type": job["job_type"],
                "task_type": task.task_type,
                "stage": stage,
                "task_index": task.task_index,
                "parameters": task.parameters,
                "target_queue": task.message.queue,
            }
            for task in tasks
        ]
        inserted = await connection.all("insert_tasks", tasks=dumps(rows))
        new = {row["task_id"] for row in inserted}
        ids = [task.task_id for task in tasks]
        own = await connection.one("count_own_tasks", job_id=job_id, stage=stage, task_ids=ids)
        if own is None or own["tasks"] != len(set(ids)):
            raise TaskIdTaken(
                f"stage {stage} of job {job_id} needs task ids that belong to another job (both begin with "
                f"{job_id[:8]!r}); delete that job, or change a parameter"
            )
        await owe(connection, [task.message for task in tasks if task.task_id in new], job_id=job_id)
        return len(new)
