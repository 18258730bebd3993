"""The stages that the platform runs itself: it claims tasks in the database and calls them in a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from psycopg.types.json import Jsonb

from gdaltools.errors import GdalToolsError
from tests.support.platform.messages import FUNCTION_APP, own_signal
from tests.support.platform.tables import Connection, Row, fail_job, insert_unsent, query, transaction
from worker.task import handlers

#: Only a name in rows: the functions are called, not sent a message.
QUEUE = "raster-tasks"


async def claimed(conninfo: str) -> Row | None:
    """Claim a task for the platform, or an interrupted one of its own, which no other process would run."""
    async with transaction(conninfo) as connection:
        rows = await query(
            connection,
            "update app.tasks set status = 'processing', executed_by_app = %s,"
            " execution_started_at = timezone('utc', now()), heartbeat = timezone('utc', now())"
            " where task_id = (select task_id from app.tasks where target_queue = %s"
            " and status in ('queued', 'processing') order by created_at, task_id limit 1) returning *",
            FUNCTION_APP,
            QUEUE,
        )
    return rows[0] if rows else None


async def result_of(task: Row) -> dict[str, Any]:
    """Return the result envelope of a task, or that of the error that its handler raised."""
    injected = {
        "_job_id": task["parent_job_id"],
        "_job_type": task["job_type"],
        "_stage": task["stage"],
        "_task_id": task["task_id"],
    }
    try:
        return await asyncio.to_thread(handlers.run, task["task_type"], {**task["parameters"], **injected})
    except GdalToolsError as error:
        kind = type(error).__name__
        return {"success": False, "error": f"{kind}: {error}", "error_type": kind, "retryable": False}


async def finish(conninfo: str, task: Row, result: Mapping[str, Any], *, jobs_queue: str) -> None:
    """Complete a task, and signal its stage if it was the last; do nothing if the task was replaced."""
    async with transaction(conninfo) as connection:
        error = None if result["success"] else result["error"]
        done = await _complete(connection, task, result, error)
        if done["task_updated"] and error is not None:
            await fail_job(connection, task["parent_job_id"], f"task {task['task_id']}: {error}")
        elif done["is_last_task_in_stage"]:
            messages = [(own_signal(task), str(uuid4()))]
            await insert_unsent(connection, task["parent_job_id"], jobs_queue, messages)


async def _complete(connection: Connection, task: Row, result: Mapping[str, Any], error: str | None) -> Row:
    (row,) = await query(
        connection,
        "select * from app.complete_task_and_check_stage(%s, %s, %s, %s, %s)",
        task["task_id"],
        task["parent_job_id"],
        task["stage"],
        Jsonb(dict(result)),
        error,
    )
    return row
