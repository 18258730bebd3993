"""The tasks and their claims: the life of a task, and its recovery after a death or a failure.

The statements are in queries.sql; this module defines their order and their transactions. A worker writes
about a task only while it holds the lock of the task's row, and only after it has checked under that lock
that its claim is still valid. Of two workers one therefore writes, and a zombie (a worker whose row was taken
over, or deleted and recreated under the same id) writes nothing.

Each operation that ends a claim can be repeated with the same claim if a broken connection left it unknown
whether the first call was committed: the second call returns the same answer and has no effect.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal
from uuid import UUID, uuid4

from psycopg.rows import DictRow

from worker.database.connections import Connection, Connections, in_transaction
from worker.database.outbox_table import owe
from worker.errors import DatabaseError
from worker.protocol.json_text import clean_text, dumps
from worker.protocol.rows import (
    OPEN_STATUSES,
    OVER_STATUSES,
    Burial,
    Claim,
    Claimed,
    ClaimOutcome,
    Completion,
    Finished,
    HeldElsewhere,
    JobOver,
    Json,
    Missing,
    OutboxMessage,
    Redriven,
    RedriveOutcome,
    TaskRow,
)


@dataclass(frozen=True)
class Tasks:
    """The tasks of one schema and their claims."""

    connections: Connections

    async def get(self, task_id: str) -> TaskRow | None:
        """Return a task; None if it does not exist."""
        row = await self.connections.one("read_task", task_id=task_id)
        return None if row is None else TaskRow(**row)

    async def of_job(self, job_id: str, *, stage: int | None = None) -> list[TaskRow]:
        """Return the tasks of a job or of one of its stages, ordered by stage and `task_index`."""
        return [
            TaskRow(**row) for row in await self.connections.all("read_tasks", job_id=job_id, stage=stage)
        ]

    async def measured(self, *, limit: int) -> list[DictRow]:
        """Return id, type, ``measured`` and time of the newest completed tasks that have measured usage."""
        return await self.connections.all("measured_tasks", limit=limit)

    async def waiting(self) -> dict[str, int]:
        """Return the number of queued tasks by queue."""
        return {row["queue"]: row["tasks"] for row in await self.connections.all("count_waiting")}

    # The life of a task (protocol.md §4)

    @in_transaction
    async def claim(
        self,
        connection: Connection,
        task_id: str,
        job_id: str,
        *,
        worker: str,
        lease_seconds: float,
        token: UUID | None = None,
        message: OutboxMessage | None = None,
    ) -> ClaimOutcome:
        """Claim a task: queued → processing, or take over a dead worker's run.

        Of any number of concurrent callers one gets `Claimed`. A processing row is taken over if its
        heartbeat (or its last update, if it has none) is older than `lease_seconds` by the database's clock;
        this invalidates the former claim. A repeated call with the same `token` returns the same claim.
        `rescue` sends `message` again if this worker dies.
        """
        token = token or uuid4()
        row = await connection.one("lock_task", task_id=task_id)
        if row is None or row["parent_job_id"] != job_id:
            return Missing(task_id)
        idle_seconds = row.pop("idle_seconds")
        if idle_seconds is None:
            idle_seconds = 0.0
        task = TaskRow(**row)
        held = await connection.one("read_claim", task_id=task_id)
        if task.status not in OPEN_STATUSES:
            return Finished(task.status, _burial(task, held))
        job = await connection.one("job_status", job_id=job_id)
        if job is not None and job["status"] in OVER_STATUSES:
            return JobOver(job["status"])
        claim = Claim(task_id, job_id, task.stage, token, task.created_at)
        if task.status == "processing":
            if held is not None and _is_held(held, claim) and held["outcome"] is None:
                return Claimed(claim, task, held["takeovers"], held["deaths"])
            if idle_seconds <= lease_seconds:
                return HeldElsewhere(task.executed_by_app, idle_seconds)
        await connection.one("start_task", task_id=task_id, worker=clean_text(worker))
        written = await connection.one(
            "write_claim",
            task_id=task_id,
            created_at=task.created_at,
            token=token,
            worker=clean_text(worker),
            takeovers=int(task.status == "processing"),
            queue=message and message.queue,
            body=message and clean_text(message.body),
            correlation_id=message and message.correlation_id,
        )
        assert written is not None
        return Claimed(claim, task, written["takeovers"], written["deaths"])

    async def standing(self, claims: Sequence[Claim]) -> set[UUID]:
        """Return the tokens of those claims that are still valid; write nothing and wait for no lock."""
        rows = await self.connections.all(
            "standing_claims",
            task_ids=[claim.task_id for claim in claims],
            tokens=[claim.token for claim in claims],
        )
        return {row["token"] for row in rows}

    async def rescue(self, queues: Sequence[str], *, lease_seconds: float, limit: int = 100) -> list[str]:
        """Requeue the tasks of dead workers and put their messages into the outbox again; return their ids.

        A worker counts as dead if it has not touched the row of its task for `lease_seconds` by the
        database's clock. The rescue is counted as a take-over and invalidates the dead worker's claim.
        """
        stale = await self.connections.all(
            "stale_claims", queues=list(queues), lease_seconds=lease_seconds, limit=limit
        )
        return [row["task_id"] for row in stale if await self._rescue_one(row["task_id"], lease_seconds)]

    @in_transaction
    async def _rescue_one(self, connection: Connection, task_id: str, lease_seconds: float) -> bool:
        row = await connection.one("lock_task", task_id=task_id)
        held = await connection.one("read_claim", task_id=task_id)
        if row is None or held is None or row["status"] != "processing" or held["outcome"] is not None:
            return False
        if held["task_created_at"] != row["created_at"] or row["idle_seconds"] <= lease_seconds:
            return False
        claim = Claim(task_id, row["parent_job_id"], row["stage"], held["token"], row["created_at"])
        message = OutboxMessage(held["queue"], held["body"], correlation_id=held["correlation_id"])
        await connection.one("release_task", task_id=task_id)
        await owe(connection, [message], job_id=claim.job_id)
        await self._end(connection, claim, "rescued", takeovers=1)
        return True

    @in_transaction
    async def heartbeat(self, connection: Connection, claim: Claim, *, progress: Json | None = None) -> bool:
        """Update the task's heartbeat; return False and write nothing if the claim is lost.

        `progress` is merged into the row's ``metadata.progress``.
        """
        if await self._lock(connection, claim) != "held":
            return False
        text = None if progress is None else dumps(progress)
        return await connection.count("heartbeat", task_id=claim.task_id, progress=text) == 1

    @in_transaction
    async def complete(
        self,
        connection: Connection,
        claim: Claim,
        result: Json,
        *,
        signal: OutboxMessage,
        measured: Json | None = None,
    ) -> Completion:
        """Complete a task; if it was the last of its stage, put the stage's signal into the outbox.

        Both happen in one transaction. `signal` is written once per stage, with the completion of its last
        task, unless the job is over. `measured`, the task's usage and estimate, is stored in the row's
        ``metadata.measured``.
        """
        state = await self._lock(connection, claim)
        if state == "completed":
            ended = await connection.one("read_claim", task_id=claim.task_id)
            assert ended is not None
            return Completion(accepted=True, last=ended["stage_ended"], remaining=ended["remaining"])
        if state != "held":
            return Completion(accepted=False)
        if measured is not None:
            text = dumps(measured)
            await connection.count("note_measured", task_id=claim.task_id, measured=text)
        last, remaining = await self._finish_task(connection, claim, dumps(result), None)
        await self._end(connection, claim, "completed", stage_ended=last, remaining=remaining)
        signal_id = None
        if last:
            job = await connection.one("job_status", job_id=claim.job_id)
            if job is not None and job["status"] not in OVER_STATUSES:
                (signal_id,) = await owe(connection, [signal], job_id=claim.job_id)
        return Completion(accepted=True, last=last, remaining=remaining, signal_id=signal_id)

    @in_transaction
    async def retry(
        self,
        connection: Connection,
        claim: Claim,
        *,
        message: OutboxMessage,
        error: str = "",
        deaths: int = 0,
    ) -> bool:
        """Requeue a task, count one retry, and put `message` for it into the outbox.

        `deaths` is 1 if the task's process died. Return False and write nothing if the claim is lost.
        """
        state = await self._lock(connection, claim)
        if state == "held":
            await connection.one("retry_task", task_id=claim.task_id)
            await connection.one("note_retry", task_id=claim.task_id, error=clean_text(error))
            await owe(connection, [message], job_id=claim.job_id)
            await self._end(connection, claim, "retried", deaths=deaths)
        return state in ("held", "retried")

    @in_transaction
    async def release(
        self, connection: Connection, claim: Claim, *, message: OutboxMessage | None = None
    ) -> bool:
        """Requeue a task without counting a retry; return False if the claim is lost.

        `message`, a fresh copy of the task's message, is put into the outbox; it is for queues on which
        abandoning the old message would use up a delivery.
        """
        state = await self._lock(connection, claim)
        if state == "held":
            await connection.one("release_task", task_id=claim.task_id)
            if message is not None:
                await owe(connection, [message], job_id=claim.job_id)
            await self._end(connection, claim, "released")
        return state in ("held", "released")

    @in_transaction
    async def fail(
        self, connection: Connection, claim: Claim, *, reason: str, error_details: str, result: Json
    ) -> bool:
        """Fail a task permanently, and its job unless that is over; write no stage signal.

        The claim records that the message must be dead-lettered for `reason`, until `note_dead_letter` clears
        it. Return False and write nothing if the claim is lost.
        """
        state = await self._lock(connection, claim)
        if state == "held":
            details = clean_text(error_details)
            last, remaining = await self._finish_task(connection, claim, dumps(result), details)
            await connection.one("fail_job", job_id=claim.job_id, error_details=details)
            await self._end(
                connection,
                claim,
                "failed",
                stage_ended=last,
                remaining=remaining,
                dead_letter_reason=clean_text(reason),
            )
        return state in ("held", "failed")

    @in_transaction
    async def note_dead_letter(self, connection: Connection, task_id: str) -> None:
        """Record that a failed task's message is dead-lettered."""
        await connection.one("note_dead_letter", task_id=task_id)

    @in_transaction
    async def redrive(
        self,
        connection: Connection,
        job_id: str,
        messages: Mapping[str, OutboxMessage],
        *,
        message_of: Callable[[TaskRow], OutboxMessage],
    ) -> dict[str, Redriven]:
        """Reset failed tasks of a job to queued, and put their messages into the outbox.

        `messages` maps task ids to messages. All tasks are reset in one transaction, so that none can end its
        stage while another still counts as failed; this invalidates their former claims. A job that failed at
        their stage is set to processing again. While it was failed, messages of its other unfinished tasks
        may have been dropped, so each of these tasks gets a new message from `message_of`. A repeated call
        resets nothing and puts one more message into the outbox for each task that is still queued.
        """
        # Lock tasks, then stages, then the job: the same order as completions.
        locked = {task_id: await connection.one("lock_task", task_id=task_id) for task_id in sorted(messages)}
        rows = {
            task_id: row
            for task_id, row in locked.items()
            if row is not None and row["parent_job_id"] == job_id
        }
        for stage in sorted({row["stage"] for row in rows.values()}):
            await connection.one("lock_stage", job_id=job_id, stage=stage)
        job = await connection.one("lock_job", job_id=job_id)
        found = {task_id: _redriven(task_id, rows.get(task_id), job) for task_id in messages}
        reset = [task_id for task_id, each in found.items() if each.outcome == "reset"]
        for task_id in reset:
            await connection.one("reset_task", task_id=task_id)
            await connection.one("forget_claim", task_id=task_id)
        owed = [messages[task_id] for task_id, each in found.items() if each.outcome in ("reset", "queued")]
        unfinished: list[OutboxMessage] = []
        still_failed = 0
        if job is not None and reset:
            stage = job["stage"]
            revived = await connection.one("revive_job", job_id=job_id, stage=stage)
            tasks = await connection.all("read_tasks", job_id=job_id, stage=stage)
            others = [TaskRow(**row) for row in tasks if row["task_id"] not in messages]
            still_failed = sum(other.status == "failed" for other in others)
            if revived is not None:
                unfinished = [message_of(o) for o in others if o.status in OPEN_STATUSES]
        await owe(connection, [*owed, *unfinished], job_id=job_id)
        return {
            task_id: replace(each, still_failed=still_failed, asked_again=len(unfinished))
            for task_id, each in found.items()
        }

    @in_transaction
    async def ask_again(
        self, connection: Connection, task_id: str, job_id: str, *, message: OutboxMessage
    ) -> Literal["asked", "over", "unknown"]:
        """Put a task's message into the outbox again, after the broker has dead-lettered its last copy.

        Return "asked" if a message was written, "over" if nothing is left to do for the task, and "unknown"
        if a worker can do nothing for it.
        """
        row = await connection.one("lock_task", task_id=task_id)
        if row is None or row["parent_job_id"] != job_id:
            return "unknown"
        held = await connection.one("read_claim", task_id=task_id)
        ours = held is not None and held["task_created_at"] == row["created_at"]
        unburied = ours and held is not None and held["dead_letter_reason"] is not None
        if row["status"] in OPEN_STATUSES or (row["status"] == "failed" and unburied):
            await owe(connection, [message], job_id=job_id)
            return "asked"
        over = row["status"] == "completed" or (row["status"] == "failed" and ours)
        return "over" if over else "unknown"

    # Helpers

    async def _lock(self, connection: Connection, claim: Claim) -> str:
        """Lock the task's row and return the state of the claim: held, lost, or its outcome."""
        row = await connection.one("lock_task", task_id=claim.task_id)
        if row is None or row["parent_job_id"] != claim.job_id or row["created_at"] != claim.row_created_at:
            return "lost"
        held = await connection.one("read_claim", task_id=claim.task_id)
        if held is None or not _is_held(held, claim):
            return "lost"
        if held["outcome"] is not None:
            return str(held["outcome"])
        return "held" if row["status"] == "processing" else "lost"

    async def _end(
        self,
        connection: Connection,
        claim: Claim,
        outcome: str,
        *,
        stage_ended: bool = False,
        remaining: int = 0,
        takeovers: int = 0,
        deaths: int = 0,
        dead_letter_reason: str | None = None,
    ) -> None:
        await connection.one(
            "end_claim",
            task_id=claim.task_id,
            token=claim.token,
            outcome=outcome,
            stage_ended=stage_ended,
            remaining=remaining,
            takeovers=takeovers,
            deaths=deaths,
            dead_letter_reason=dead_letter_reason,
        )

    async def _finish_task(
        self, connection: Connection, claim: Claim, result: str, error_details: str | None
    ) -> tuple[bool, int]:
        row = await connection.one(
            "complete_task",
            task_id=claim.task_id,
            job_id=claim.job_id,
            stage=claim.stage,
            result=result,
            error_details=error_details,
        )
        if row is None or not row["task_updated"]:
            raise DatabaseError(f"task {claim.task_id} is ours and processing, yet was not finished")
        return row["is_last_task_in_stage"], row["remaining_tasks"] or 0


def _is_held(held: DictRow, claim: Claim) -> bool:
    return bool(held["token"] == claim.token and held["task_created_at"] == claim.row_created_at)


def _redriven(task_id: str, row: DictRow | None, job: DictRow | None) -> Redriven:
    """Return the outcome of a redrive for a task's locked row."""
    if row is None or job is None:
        return Redriven(task_id, "missing")
    outcome: RedriveOutcome
    if row["status"] == "processing":
        outcome = "running"
    elif row["status"] == "completed":
        outcome = "completed"
    elif row["status"] not in ("queued", "failed"):
        outcome = "not_ours"
    elif row["stage"] != job["stage"] or job["status"] in ("completed", "completed_with_errors"):
        outcome = "stage_over"
    else:
        outcome = "reset" if row["status"] == "failed" else "queued"
    return Redriven(
        task_id,
        outcome,
        status=row["status"],
        stage=row["stage"],
        job_status=job["status"],
        job_stage=job["stage"],
    )


def _burial(task: TaskRow, held: DictRow | None) -> Burial | None:
    if held is None or held["dead_letter_reason"] is None or held["task_created_at"] != task.created_at:
        return None
    return Burial(held["dead_letter_reason"], task.error_details or "")
