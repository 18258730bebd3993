"""The input and output values of the database operations: rows, claims, messages and outcomes.

Timestamps of rows are naive UTC, like the platform's columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal
from uuid import UUID, uuid4

JobStatus = Literal["queued", "processing", "completed", "failed", "completed_with_errors"]
TaskStatus = Literal["queued", "processing", "completed", "failed", "retrying", "pending_retry", "cancelled"]


@dataclass(frozen=True)
class Status:
    """The meaning of a status of a job or a task.

    Attributes
    ----------
    is_open : bool
        Whether a worker may still do something for it.
    is_over : bool
        Whether it is final. A status that is neither open nor over is the platform's to end.
    tone : str
        How it is shown.
    """

    is_open: bool = False
    is_over: bool = False
    tone: Literal["dim", "now", "good", "warn", "bad"] = "dim"


STATUSES: Mapping[str, Status] = {
    "queued": Status(is_open=True),
    "processing": Status(is_open=True, tone="now"),
    "completed": Status(is_over=True, tone="good"),
    "completed_with_errors": Status(is_over=True, tone="warn"),
    "failed": Status(is_over=True, tone="bad"),
    "retrying": Status(),
    "pending_retry": Status(),
    "cancelled": Status(),
}
"""What each status means; the transitions between them are in queries.sql."""

OPEN_STATUSES = frozenset(name for name, status in STATUSES.items() if status.is_open)
OVER_STATUSES = frozenset(name for name, status in STATUSES.items() if status.is_over)


def tone_of(status: str) -> str:
    """Return how a status is shown; one of a later version of the platform is shown as if it waits."""
    return STATUSES.get(status, Status()).tone


Json = Mapping[str, Any]


def unwrapped(result: Json) -> Json:
    """Return a task's result without its envelope, which stages 1–3 have and stages 4–5 do not."""
    wrapped = result.get("result")
    return wrapped if isinstance(wrapped, Mapping) else result


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
        """Whether the job is in a final state."""
        return self.status in OVER_STATUSES


@dataclass(frozen=True)
class TaskRow:
    """A row of ``tasks``, with the columns that the protocol names."""

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
        return self.status in OVER_STATUSES


@dataclass(frozen=True)
class JobStage:
    """The task counts of one job, stage and queue, the first start and the last end of its tasks.

    >>> JobStage("j", 3, "create_cog", "docker-tasks", 15, 4, 1, 2, None, None).text
    '4 of 15 done, 2 running, 1 failed'
    """

    job_id: str
    stage: int
    task_type: str
    queue: str
    tasks: int
    done: int
    failed: int
    running: int
    began: datetime | None
    ended: datetime | None

    @property
    def over(self) -> bool:
        """Whether every task is completed or failed."""
        return self.done + self.failed == self.tasks

    @property
    def seconds(self) -> float | None:
        """From the first start to the last end; None until the stage is over, or if no task ever started."""
        if not self.over or self.began is None or self.ended is None:
            return None
        return (self.ended - self.began).total_seconds()

    @property
    def tone(self) -> str:
        """How the stage is shown: "bad" when a task has failed, "good" when it is over, else "now"."""
        return "bad" if self.failed else ("good" if self.over else "now")

    @property
    def text(self) -> str:
        """The progress in words."""
        parts = [f"{self.done} of {self.tasks} done"]
        parts += [f"{self.running} running"] if self.running else []
        parts += [f"{self.failed} failed"] if self.failed else []
        return ", ".join(parts)


@dataclass(frozen=True)
class Claim:
    """The right to write one task's outcome; invalid once the row is recreated or taken over.

    ``row_created_at`` identifies the row, because the platform recreates rows with the same ``task_id``.
    """

    task_id: str
    job_id: str
    stage: int
    token: UUID
    row_created_at: datetime


@dataclass(frozen=True)
class Claimed:
    """The caller has claimed the task. ``task`` is the row before the claim, with the platform's parameters.

    ``takeovers`` counts the workers that died while running this row; ``deaths`` counts the task's own
    processes that died while their worker survived.
    """

    claim: Claim
    task: TaskRow
    takeovers: int
    deaths: int

    @property
    def crashes(self) -> int:
        """The number of runs of the task that ended with the death of a process."""
        return self.takeovers + self.deaths

    @property
    def retry_count(self) -> int:
        """The number of earlier retries of the task; the row's count is used, not the message's."""
        return self.task.retry_count

    @property
    def parameters(self) -> Json:
        """The task's parameters in its row."""
        return self.task.parameters


@dataclass(frozen=True)
class Burial:
    """The reason and description with which a failed task's message must still be dead-lettered."""

    reason: str
    description: str


@dataclass(frozen=True)
class Finished:
    """The task is over, or in a state that no worker may change (cancelled, retrying, pending_retry).

    ``burial`` is set if the worker that failed the task died before it dead-lettered the message.
    """

    status: TaskStatus
    burial: Burial | None = None


@dataclass(frozen=True)
class HeldElsewhere:
    """Another worker runs the task; its last heartbeat is ``idle_seconds`` old."""

    worker: str | None
    idle_seconds: float


@dataclass(frozen=True)
class JobOver:
    """The task could run, but its job is over."""

    status: JobStatus


@dataclass(frozen=True)
class Missing:
    """The job has no task with this id."""

    task_id: str


ClaimOutcome = Claimed | Finished | HeldElsewhere | JobOver | Missing


@dataclass(frozen=True)
class OutboxMessage:
    """A message that is sent once the transaction that writes it is committed.

    The broker delivers it after ``delay_seconds``, counted by the database's clock. The broker recognises
    duplicates by ``message_id``, which is random by default.
    """

    queue: str
    body: str
    message_id: str = field(default_factory=lambda: uuid4().hex)
    correlation_id: str | None = None
    delay_seconds: float = 0.0
    job_id: str | None = None


@dataclass(frozen=True)
class OutboxRow:
    """An outbox message locked for sending, for delivery at once or at ``scheduled_at`` (timezone-aware)."""

    id: int
    message: OutboxMessage
    scheduled_at: datetime | None
    attempts: int


@dataclass(frozen=True)
class Completion:
    """The outcome of a completion. If it is not accepted, the claim is lost and nothing was written.

    ``signal_id`` is the outbox id of the stage's signal if this was the last task of its stage and the job is
    not over.
    """

    accepted: bool
    last: bool = False
    remaining: int = 0
    signal_id: int | None = None


RedriveOutcome = Literal["reset", "queued", "running", "completed", "stage_over", "not_ours", "missing"]


@dataclass(frozen=True)
class Redriven:
    """The outcome of a redrive for one task.

    ``reset``: the row was failed and is now queued as if new. ``queued``: the row was already queued. In both
    cases a message is in the outbox. In every other case nothing was written: the task runs or is completed;
    its job is over or at another stage; the row is in a state that no worker may change; or there is no row.

    ``still_failed`` counts the failed tasks of its stage that this redrive did not reset. ``asked_again``
    counts the unfinished tasks that get a new message because their job was failed and now is not.
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
    """The number of unsent messages in the outbox, and the age of the oldest."""

    unsent: int
    oldest_seconds: float


@dataclass(frozen=True)
class NewJob:
    """A job to insert."""

    job_id: str
    job_type: str
    parameters: Json
    total_stages: int
    metadata: Json = field(default_factory=dict)


@dataclass(frozen=True)
class NewTask:
    """A task to insert, with its message for the worker."""

    task_id: str
    task_type: str
    parameters: Json
    task_index: str
    message: OutboxMessage


@dataclass(frozen=True)
class Submission:
    """The outcome of a submission: the job, and whether it was created or already existed."""

    job_id: str
    status: JobStatus
    created: bool


@dataclass(frozen=True)
class Advance:
    """Whether this call advanced the job, and to which stage; a late or repeated call does not."""

    advanced: bool
    stage: int | None = None
