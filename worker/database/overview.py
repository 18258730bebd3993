"""The tables at a glance, for a person: what runs, waits and failed of all workers, and the newest jobs.

However many rows there are, little is read of them: every list is short, every count ends at a limit, and
the server itself gives up after some seconds.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from worker.database.connections import Connection, Connections
from worker.protocol.rows import OutboxBacklog

CONNECT_SECONDS, WITHIN_SECONDS = 1.0, 3.0
"""How long a connection is waited for, and how long the whole look may take."""

MOST_RUNNING = 25
MOST_FAILED = 10
MOST_JOBS = 12
MOST_WAITING = 10_000
MOST_COUNTED = 1_000


@dataclass(frozen=True)
class RunningTask:
    """A row that is processing; `done` and `total` are texts, as nobody checks what a row holds."""

    task_id: str
    job_id: str
    task_type: str
    stage: int
    queue: str | None
    worker: str | None
    began: datetime | None
    idle_seconds: float | None
    unit: str | None
    done: str | None
    total: str | None
    blob: str | None


@dataclass(frozen=True)
class WaitingTasks:
    """Queued rows of one kind."""

    job_id: str
    stage: int
    task_type: str
    queue: str | None
    tasks: int
    retried: int
    since: datetime
    last_error: str | None
    blob: str | None


@dataclass(frozen=True)
class FailedTask:
    """A row that is failed, and what it says."""

    task_id: str
    job_id: str
    task_type: str
    stage: int
    queue: str | None
    worker: str | None
    retries: int
    error: str | None
    ended: datetime
    blob: str | None


@dataclass(frozen=True)
class RecentJob:
    """A job."""

    job_id: str
    job_type: str
    status: str
    stage: int
    total_stages: int
    error: str | None
    created: datetime
    updated: datetime
    blob: str | None

    @property
    def key(self) -> tuple[str, datetime]:
        """What is another when the job is."""
        return self.job_id, self.updated


@dataclass(frozen=True)
class JobStage:
    """The tasks of one job, stage and queue together."""

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


@dataclass(frozen=True)
class OwedMessage:
    """A message that waits in the outbox."""

    queue: str
    attempts: int
    last_error: str | None
    since: datetime


@dataclass(frozen=True)
class Overview:
    """All of it, at `now` by the database's clock (UTC, without a zone)."""

    now: datetime
    running: tuple[RunningTask, ...]
    waiting: tuple[WaitingTasks, ...]
    failed: tuple[FailedTask, ...]
    failed_count: int
    jobs: tuple[RecentJob, ...]
    stages: tuple[JobStage, ...]
    backlog: OutboxBacklog
    owed: tuple[OwedMessage, ...]

    @property
    def waiting_count(self) -> int:
        """How many tasks wait; it ends at MOST_WAITING."""
        return sum(each.tasks for each in self.waiting)


async def read_overview(connections: Connections, *, known: Collection[tuple[str, datetime]]) -> Overview:
    """Look; the stages of jobs that are over, and whose `key` is `known`, are left out.

    Raises
    ------
    DatabaseError
        The database does not answer, or not in time.
    """
    async with connections.connection(timeout=CONNECT_SECONDS, within_seconds=WITHIN_SECONDS) as connection:
        return await _read(connections, connection, known)


async def _read(
    connections: Connections, connection: Connection, known: Collection[tuple[str, datetime]]
) -> Overview:
    await connections.all(connection, "limit_statements", milliseconds=str(int(1000 * WITHIN_SECONDS)))
    clock = await connections.one(connection, "clock")
    failed_count = await connections.one(connection, "overview_failed_count", limit=MOST_COUNTED)
    backlog = await connections.one(connection, "count_outbox")
    assert clock is not None
    assert failed_count is not None
    assert backlog is not None
    jobs = [RecentJob(**row) for row in await connections.all(connection, "overview_jobs", limit=MOST_JOBS)]
    asked = [job.job_id for job in jobs if job.key not in known]
    running = await connections.all(connection, "overview_running", limit=MOST_RUNNING)
    waiting = await connections.all(connection, "overview_waiting", limit=MOST_WAITING)
    failed = await connections.all(connection, "overview_failed", limit=MOST_FAILED)
    stages = await connections.all(connection, "overview_stages", job_ids=asked) if asked else []
    owed = await connections.all(connection, "overview_outbox")
    return Overview(
        now=clock["now"],
        running=tuple(RunningTask(**row) for row in running),
        waiting=tuple(WaitingTasks(**row) for row in waiting),
        failed=tuple(FailedTask(**row) for row in failed),
        failed_count=failed_count["tasks"],
        jobs=tuple(jobs),
        stages=tuple(JobStage(**row) for row in stages),
        backlog=OutboxBacklog(**backlog),
        owed=tuple(OwedMessage(**row) for row in owed),
    )
