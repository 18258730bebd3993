"""The stand-in platform's database: its schema, and short transactions that survive a server's restart.

Every operation has its own connection and is repeated until the server answers. It must therefore be
idempotent: if the server dies during a commit, the caller cannot know whether the commit succeeded.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

SCHEMA = Path(__file__).with_name("platform.sql")
RETRY_SECONDS = 0.2  # between attempts while the server is away

Row = dict[str, Any]
Connection = psycopg.AsyncConnection[Row]
_T = TypeVar("_T")

_LOGGER = logging.getLogger(__name__)


def create_schema(conninfo: str) -> None:
    """Create the platform's own schema (protocol.md §2) in an empty database."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(SCHEMA.read_bytes())


@dataclass(frozen=True)
class NewTask:
    """A task that a stage begins with."""

    task_id: str
    task_type: str
    parameters: Mapping[str, Any]
    task_index: str = "0"


@asynccontextmanager
async def transaction(conninfo: str) -> AsyncIterator[Connection]:
    """Run one transaction on its own connection: committed at the end, rolled back by an exception."""
    connection: Connection
    async with await psycopg.AsyncConnection.connect(
        conninfo, row_factory=dict_row, connect_timeout=5
    ) as connection:
        yield connection


async def until_done(operation: Callable[[], Awaitable[_T]]) -> _T:
    """Repeat the operation until the server accepts it, and return its result."""
    while True:
        try:
            return await operation()
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            _LOGGER.info("the database is away: %s", error)
            await asyncio.sleep(RETRY_SECONDS)


async def query(connection: Connection, statement: str, *values: object) -> list[Row]:
    """Run a statement and return its rows."""
    cursor = await connection.execute(statement.encode(), values)
    return await cursor.fetchall() if cursor.description else []


async def insert_job(
    connection: Connection,
    job_id: str,
    job_type: str,
    parameters: Mapping[str, Any],
    *,
    total_stages: int,
    resubmissions: int,
) -> bool:
    """Insert a queued job; return False if its id exists already."""
    rows = await query(
        connection,
        "insert into app.jobs (job_id, job_type, parameters, total_stages, resubmissions)"
        " values (%s, %s, %s, %s, %s) on conflict do nothing returning job_id",
        job_id,
        job_type,
        Jsonb(dict(parameters)),
        total_stages,
        resubmissions,
    )
    return bool(rows)


async def locked_job(connection: Connection, job_id: str) -> Row | None:
    """Return the job's row, locked until the end of the transaction."""
    rows = await query(connection, "select * from app.jobs where job_id = %s for update", job_id)
    return rows[0] if rows else None


async def tasks_of_stage(connection: Connection, job_id: str, stage: int) -> list[Row]:
    """Return the rows of a stage's tasks, ordered by id."""
    return await query(
        connection,
        "select * from app.tasks where parent_job_id = %s and stage = %s order by task_id",
        job_id,
        stage,
    )


async def insert_tasks(
    connection: Connection, job: Row, stage: int, tasks: Sequence[NewTask], *, queue: str
) -> None:
    """Insert a stage's rows; the columns are the protocol's alone."""
    async with connection.cursor() as cursor:
        await cursor.executemany(
            "insert into app.tasks (task_id, parent_job_id, job_type, task_type, stage, task_index,"
            " parameters, target_queue) values (%s, %s, %s, %s, %s, %s, %s, %s)",
            [
                (
                    task.task_id,
                    job["job_id"],
                    job["job_type"],
                    task.task_type,
                    stage,
                    task.task_index,
                    Jsonb(dict(task.parameters)),
                    queue,
                )
                for task in tasks
            ],
        )


async def insert_unsent(
    connection: Connection, job_id: str, queue: str, messages: Sequence[tuple[str, str]]
) -> None:
    """Store messages, as pairs of body and message id, to be sent once this transaction is committed."""
    async with connection.cursor() as cursor:
        await cursor.executemany(
            "insert into app.function_app_unsent (job_id, queue, body, message_id) values (%s, %s, %s, %s)",
            [(job_id, queue, body, message_id) for body, message_id in messages],
        )


async def note_handled(
    connection: Connection, identity: str, *, job_id: str | None = None, completed_stage: int | None = None
) -> bool:
    """Record a message of the jobs queue as processed; return False if it had been before."""
    rows = await query(
        connection,
        "insert into app.function_app_handled (identity, job_id, completed_stage) values (%s, %s, %s)"
        " on conflict do nothing returning identity",
        identity,
        job_id,
        completed_stage,
    )
    return bool(rows)


async def fail_job(connection: Connection, job_id: str, error: str) -> None:
    """Fail a job that is not over."""
    await query(
        connection,
        "update app.jobs set status = 'failed', error_details = %s"
        " where job_id = %s and status in ('queued', 'processing')",
        error,
        job_id,
    )


async def fail_untouched(connection: Connection, minutes: float, *, spared_app: str) -> list[str]:
    """Fail tasks not updated for `minutes`, except `spared_app`'s, and their jobs; return the tasks' ids."""
    rows = await query(
        connection,
        "update app.tasks set status = 'failed', error_details = 'no heartbeat'"
        " where status = 'processing' and executed_by_app is distinct from %s"
        " and updated_at < timezone('utc', clock_timestamp()) - %s * interval '1 minute'"
        " returning task_id, parent_job_id",
        spared_app,
        minutes,
    )
    for row in rows:
        await fail_job(connection, row["parent_job_id"], f"task {row['task_id']} had no heartbeat")
    return [row["task_id"] for row in rows]
