"""The values that go into and come out of the database: rows, claims, and how each operation ended.

Timestamps of rows are naive UTC, as the platform's columns are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal
from uuid import UUID, uuid4

JobStatus = Literal["queued", "processing", "completed", "failed", "completed_with_errors"]
TaskStatus = Literal["queued", "processing", "completed", "failed", "retrying", "pending_retry", "cancelled"]

OVER_STATUSES: frozenset[str] = frozenset({"completed", "failed", "completed_with_errors"})
"""The states that a job does not leave by itself."""

Json = Mapping[str, Any]


@dataclass(frozen=True)
class JobRow:
    """A row of ``jobs``."""

    job_id: str
    job_type: str
    parameters: Json
    status: JobStatus
    stage: int
    total_stages: int
    stage_results: Json
    metadata: Json
    result_data: Json | None
    error_details: str | None
    created_at: datetime
    updated_at: datetime

    @property
    def over(self) -> bool:
        """Whether nothing more happens to the job."""
        return self.status in OVER_STATUSES


@dataclass(frozen=True)
class TaskRow:
    """A row of ``tasks``, the columns that the protocol names."""

    task_id: str
    parent_job_id: str
    job_type: str
    task_type: str
    stage: int
    task_index: str
    parameters: Json
    metadata: Json
    status: TaskStatus
    result_data: Json | None
    error_details: str | None
    retry_count: int
    heartbeat: datetime | None
    execution_started_at: datetime | None
    target_queue: str | None
    executed_by_app: str | None
    created_at: datetime
    updated_at: datetime

    @property
    def finished(self) -> bool:
        """Whether the task counts as finished for its stage (a failed task does)."""
        return self.status in ("completed", "failed")


@dataclass(frozen=True)
class Claim:
    """The right to write one task's outcome; worthless once the row is recreated or taken over.

    ``row_created_at`` is the identity of the row: the platform recreates rows under the same ``task_id``.
    """

    task_id: str
    job_id: str
    stage: int
    token: UUID
    row_created_at: datetime


@dataclass(frozen=True)
class Claimed:
    """The task is ours. ``task`` is the row as it was found; its parameters are what the platform wrote.

    ``takeovers`` counts the workers that died running this row, ``deaths`` the task's own processes that died
    under a worker that lived.
    """

    claim: Claim
    task: TaskRow
    takeovers: int
    deaths: int

    @property
    def crashes(self) -> int:
        """How many runs of the task ended with the death of a process."""
        return self.takeovers + self.deaths

    @property
    def retry_count(self) -> int:
        """How often the task was retried before; the database is the truth, not the message."""
        return self.task.retry_count

    @property
    def parameters(self) -> Json:
        """The task's parameters as its row has them."""
        return self.task.parameters


@dataclass(frozen=True)
class Burial:
    """A failed task's message is still to be dead-lettered, for this reason and with this description."""

    reason: str
    description: str


@dataclass(frozen=True)
class Finished:
    """The task is over, or in a state in which no worker may touch it (cancelled, retrying,
    pending_retry).

    ``burial`` is what a worker of ours that failed the task died before doing.
    """

    status: TaskStatus
    burial: Burial | None = None


@dataclass(frozen=True)
class HeldElsewhere:
    """Somebody works on the task: its last sign of life is ``idle_seconds`` old."""

    worker: str | None
    idle_seconds: float


@dataclass(frozen=True)
class JobOver:
    """The task could run, but its job is over."""

    status: JobStatus


@dataclass(frozen=True)
class Missing:
    """There is no such task of that job."""

    task_id: str


ClaimOutcome = Claimed | Finished | HeldElsewhere | JobOver | Missing


@dataclass(frozen=True)
class OutboxMessage:
    """A message to be sent once the transaction that wrote it is committed.

    ``delay_seconds`` keeps it back at the broker, counted by the database's clock; ``message_id`` is what the
    broker recognises duplicates by, and is made up where the caller does not care.
    """

    queue: str
    body: str
    message_id: str = field(default_factory=lambda: uuid4().hex)
    correlation_id: str | None = None
    delay_seconds: float = 0.0
    job_id: str | None = None


@dataclass(frozen=True)
class OutboxRow:
    """A message of the outbox that is now ours to send, at once or when it is ``scheduled_at`` (aware)."""

    id: int
    message: OutboxMessage
    scheduled_at: datetime | None
    attempts: int


@dataclass(frozen=True)
class Completion:
    """How a completion ended. Not accepted: the claim is lost and nothing was written.

    ``signal_id`` is the outbox row of the stage's signal when this was the last task of a stage of a job that
    is not over.
    """

    accepted: bool
    last: bool = False
    remaining: int = 0
    signal_id: int | None = None


RedriveOutcome = Literal["reset", "queued", "running", "completed", "stage_over", "not_ours", "missing"]


@dataclass(frozen=True)
class Redriven:
    """What a redrive found of a task, and did.

    ``reset``: the row was failed and is queued as if new; ``queued``: it was queued already. Both are owed a
    message. In every other case nothing was written: the task runs, or is completed; its job is over or at
    another stage; the row is in a state that no worker may touch; or there is no such row.

    ``still_failed`` counts the failed tasks of its stage that this redrive did not reset, and
    ``asked_again`` the unfinished ones that are owed a message because their job was failed and now is not.
    """

    task_id: str
    outcome: RedriveOutcome
    status: TaskStatus | None = None
    stage: int | None = None
    job_status: JobStatus | None = None
    job_stage: int | None = None
    still_failed: int = 0
    asked_again: int = 0


@dataclass(frozen=True)
class OutboxBacklog:
    """How many messages wait in the outbox, and for how long the oldest has."""

    unsent: int
    oldest_seconds: float


@dataclass(frozen=True)
class NewJob:
    """A job to be inserted."""

    job_id: str
    job_type: str
    parameters: Json
    total_stages: int
    metadata: Json = field(default_factory=dict)


@dataclass(frozen=True)
class NewTask:
    """A task to be inserted, with the message that asks a worker to run it."""

    task_id: str
    task_type: str
    parameters: Json
    task_index: str
    message: OutboxMessage


@dataclass(frozen=True)
class Submission:
    """What a submission came to: the job, and whether it was made now or had been there."""

    job_id: str
    status: JobStatus
    created: bool


@dataclass(frozen=True)
class Advance:
    """Whether this call moved the job on, and to which stage; a later or repeated call moves nothing."""

    advanced: bool
    stage: int | None = None
