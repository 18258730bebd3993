"""What must hold for a world that has come to rest, checked from outside."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

from tests.chaos.jobs import Jobs
from tests.chaos.own_platform import OwnPlatform
from tests.chaos.world import JOBS, World
from worker.queue.dead_letters import DeadLetters

Row = dict[str, Any]


def query(world: World, statement: str, *values: object) -> list[Row]:
    """Return rows of the database."""
    with psycopg.connect(world.postgres.conninfo, autocommit=True, row_factory=dict_row) as connection:
        return connection.execute(statement.encode(), values).fetchall()


async def come_to_rest(world: World, jobs: Jobs, *, within_seconds: float) -> list[str]:
    """Wait until every job is over and no message is in flight; return what did not come to rest in time."""
    deadline = time.monotonic() + within_seconds
    while unrest := await asyncio.to_thread(_unrest, world, jobs):
        if time.monotonic() > deadline:
            return unrest
        await asyncio.sleep(0.5)
    return []


def _unrest(world: World, jobs: Jobs) -> list[str]:
    found = []
    rows = query(world, "select job_id, status::text from app.jobs where job_id = any(%s)", list(jobs.kinds))
    status = {row["job_id"]: row["status"] for row in rows}
    for job_id, kind in jobs.kinds.items():
        if status.get(job_id) not in ("completed", "failed"):
            found.append(f"{kind} job {job_id[:8]} is {status.get(job_id)}")
    running = query(world, "select task_id from app.tasks where status = 'processing'")
    found += [f"task {row['task_id']} is processing" for row in running]
    unsent = query(world, "select id from app.worker_outbox where sent_at is null")
    found += [f"outbox row {row['id']} is unsent" for row in unsent]
    for queue in world.queues:
        counts = world.broker.counts(queue)
        if counts.active or counts.locked or counts.scheduled:
            found.append(f"{queue} holds {counts}")
    return found


async def wrongs(world: World, jobs: Jobs, calm: dict[str, dict[str, Any]]) -> list[str]:
    """Return everything that is wrong; `calm` are the products of the undisturbed jobs, by kind."""
    return [
        *world.problems,
        *world.platform.violations,
        *_wrong_jobs(world, jobs),
        *_wrong_signals(world, jobs),
        *await _wrong_dead_letters(world),
        *_wrong_products(jobs, calm),
        *_left_behind(world),
    ]


def _wrong_jobs(world: World, jobs: Jobs) -> list[str]:
    found = []
    for row in query(world, "select job_id, status::text, error_details from app.jobs"):
        kind = jobs.kinds.get(row["job_id"], "?")
        expected = "failed" if kind == "broken" else "completed"
        if row["status"] != expected:
            found.append(f"{kind} job {row['job_id'][:8]} is {row['status']}: {row['error_details']}")
    unfinished = query(
        world,
        "select task_id, t.status::text from app.tasks t join app.jobs j on j.job_id = t.parent_job_id"
        " where j.status = 'completed' and t.status <> 'completed'",
    )
    found += [f"task {row['task_id']} of a completed job is {row['status']}" for row in unfinished]
    return found


def _wrong_signals(world: World, jobs: Jobs) -> list[str]:
    """Check for one signal per stage that a worker finished; the platform has counted those it received."""
    rows = query(
        world,
        "select message_id, count(*) as sent from app.worker_outbox where queue = %s"
        " group by 1 having count(*) > 1",
        JOBS,
    )
    found = [f"{row['message_id']} was owed {row['sent']} times" for row in rows]
    if isinstance(world.platform, OwnPlatform):
        return found
    handled = query(
        world,
        "select job_id, completed_stage, count(*) as n from app.function_app_handled"
        " where completed_stage is not null group by 1, 2",
    )
    reached = {(row["job_id"], row["completed_stage"]): row["n"] for row in handled}
    done = query(world, "select job_id, total_stages from app.jobs where status = 'completed'")
    for row in done:
        for stage in range(1, row["total_stages"] + 1):
            count = reached.get((row["job_id"], stage), 0)
            own = jobs.kinds[row["job_id"]] != "nothing" and stage not in (2, 3)
            if count != 1 and not (own and count >= 1):
                found.append(f"stage {stage} of job {row['job_id'][:8]} was signalled {count} times")
    return found


async def _wrong_dead_letters(world: World) -> list[str]:
    """Check for one dead letter per failed task, with its reason, and no others."""
    rows = query(world, "select task_id, error_details from app.tasks where status = 'failed'")
    failed = {row["task_id"]: row["error_details"] for row in rows}
    dead_letters = DeadLetters(world.bus, queues=world.queues)
    dead_letters = [
        dead_letter
        for queue in world.queues
        for dead_letter in (await dead_letters.listing(queue, limit=10_000)).dead_letters
    ]
    found = []
    for dead_letter in dead_letters:
        if dead_letter.task_id not in failed:
            reason = dead_letter.message.dead_letter_reason
            found.append(f"task {dead_letter.task_id} has a dead letter and has not failed: {reason}")
        elif dead_letter.message.dead_letter_description != failed[dead_letter.task_id]:
            found.append(f"task {dead_letter.task_id}'s dead letter does not say why it failed")
    missing = failed.keys() - {dead_letter.task_id for dead_letter in dead_letters}
    return found + [f"failed task {task_id} has no dead letter" for task_id in sorted(missing)]


def _wrong_products(jobs: Jobs, calm: dict[str, dict[str, Any]]) -> list[str]:
    found = []
    for job_id, kind in jobs.kinds.items():
        if kind in calm:
            try:
                made = jobs.products(job_id)
            except AssertionError as error:
                found.append(str(error))
                continue
            if made != calm[kind]:
                names = [name for name in made.keys() | calm[kind] if made.get(name) != calm[kind].get(name)]
                found.append(
                    f"{kind} job {job_id[:8]}: {', '.join(sorted(names))} differ from the calm run's"
                )
    return found


def _left_behind(world: World) -> list[str]:
    scratch = [path for path in world.blobs.rglob("*") if path.name.startswith(".gdaltools-")]
    return [f"{_short(world, path)} was left behind" for path in (*scratch, *world.temporary.iterdir())]


def _short(world: World, path: Path) -> str:
    return str(path.relative_to(world.folder))
