"""An overview of the tables for people: running, waiting and failed tasks of all workers, and recent jobs.

The cost is bounded for any number of rows: every list is short, every count stops at a limit, and the server
cancels statements after some seconds.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from worker.database.connections import Connections
from worker.protocol.rows import JobStage, OutboxBacklog, tone_of

CONNECT_SECONDS, WITHIN_SECONDS = 1.0, 3.0
"""The time limits for getting a connection and for reading the whole overview."""

MOST_RUNNING = 25
MOST_FAILED = 10
MOST_JOBS = 12
MOST_WAITING = 10_000
MOST_COUNTED = 1_000


@dataclass(frozen=True)
class RunningTask:
    """A task that is processing; `done` and `total` are texts, because a row's metadata are not validated."""

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
    """The queued tasks of one job, stage and queue."""

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
    """A failed task with its error."""

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
    """One of the newest jobs."""

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
        """The id and last update of the job; the key changes whenever the job does."""
        return self.job_id, self.updated

    @property
    def tone(self) -> str:
        """How the job's status is shown."""
        return tone_of(self.status)


@dataclass(frozen=True)
class OwedMessage:
    """An unsent message in the outbox."""

    queue: str
    attempts: int
    last_error: str | None
    since: datetime


@dataclass(frozen=True)
class Overview:
    """The whole overview at `now`, by the database's clock (UTC, as a naive datetime)."""

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
        """The number of waiting tasks, at most MOST_WAITING."""
        return sum(each.tasks for each in self.waiting)


async def read_overview(connections: Connections, *, known: Collection[tuple[str, datetime]]) -> Overview:
    """Read the overview; leave out the stages of jobs whose `key` is in `known`.

    Raises
    ------
    DatabaseError
        The database does not answer, or not in time.
    """
    async with connections.connection(timeout=CONNECT_SECONDS, within_seconds=WITHIN_SECONDS) as connection:
        await connection.all("limit_statements", milliseconds=str(int(1000 * WITHIN_SECONDS)))
        clock = await connection.one("clock")
        failed_count = await connection.one("overview_failed_count", limit=MOST_COUNTED)
        backlog = await connection.one("count_outbox")
        assert clock is not None
        assert failed_count is not None
        assert backlog is not None
        jobs = [RecentJob(**row) for row in await connection.all("overview_jobs", limit=MOST_JOBS)]
        asked = [job.job_id for job in jobs if job.key not in known]
        running = await connection.all("overview_running", limit=MOST_RUNNING)
        waiting = await connection.all("overview_waiting", limit=MOST_WAITING)
        failed = await connection.all("overview_failed", limit=MOST_FAILED)
        stages = await connection.all("overview_stages", job_ids=asked) if asked else []
        owed = await connection.all("overview_outbox")
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
