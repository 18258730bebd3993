"""What every worker looks after in turns, so that nothing owed waits for a worker that is dead.

Unsent messages of the outbox are sent. A row without a heartbeat is queued again and its message is sent
again, without waiting for the lock on the old message and independently of the queue's delivery count.
Messages that the broker gave up are taken back. Old rows and incomplete files are deleted.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import uniform

from gdaltools.errors import GdalToolsError
from gdaltools.runtime import crash_points, scratch
from worker.database import Database
from worker.errors import DatabaseError
from worker.queue.dead_letters import DeadLetters
from worker.queue.outbox import Outbox
from worker.waiting import is_set_within

# How long a row in the outbox that a dead worker left waits, about.
_OUTBOX_SECONDS = 2.0
# The limits of the other intervals: a sixth of the lease for tasks and a third for dead letters.
_SOONEST_SECONDS, _LATEST_SECONDS, _LATEST_DEAD_LETTERS_SECONDS = 0.5, 15.0, 60.0
_HOUSEKEEPING_SECONDS = 3600.0

log = logging.getLogger(__name__)

Report = Callable[[str, GdalToolsError | None], None]
"""``(part, error)``; an error of None means that the part works."""


@dataclass(frozen=True)
class Duty:
    """Work that is repeated after `every_seconds`, or after `after_fault_seconds` if it failed."""

    part: str
    work: Callable[[], Awaitable[None]]
    every_seconds: float
    after_fault_seconds: float

    async def repeat(self, stopping: asyncio.Event, report: Report) -> None:
        """Do the work at once and again until `stopping` is set; report the outcome of each time.

        An error of the database is reported for the database, any other for `part`.
        """
        wait = 0.0
        while not await is_set_within(stopping, wait * uniform(0.75, 1.25)):
            error: GdalToolsError | None = None
            try:
                await self.work()
            except GdalToolsError as fault:
                error = fault
            of_database = isinstance(error, DatabaseError)
            report("database", error if of_database else None)
            report(self.part, None if of_database else error)
            wait = self.every_seconds if error is None else self.after_fault_seconds


def duties(
    database: Database,
    outbox: Outbox,
    dead_letters: DeadLetters,
    *,
    queues: Sequence[str],
    lease_seconds: float,
) -> tuple[Duty, ...]:
    """Return the duties of a worker that serves the task queues `queues`."""

    async def rescue() -> None:
        rescued = await database.tasks.rescue(queues, lease_seconds=lease_seconds)
        if rescued:
            log.warning("the workers of these tasks are dead, they are queued again: %s", ", ".join(rescued))
            crash_points.reach("task-rescued")
            await outbox.publish_or_leave()

    async def take_back() -> None:
        for queue in queues:
            taken = await dead_letters.take_back(queue)
            if taken:
                log.warning("the broker gave up the messages of these tasks: %s", ", ".join(taken))
                await outbox.publish_or_leave()

    async def keep_house() -> None:
        root = os.environ.get("GDALTOOLS_BLOB_ROOT")
        if root is not None:
            await asyncio.to_thread(scratch.sweep_below, Path(root))
        await database.outbox.purge()

    tasks_seconds = min(max(lease_seconds / 6, _SOONEST_SECONDS), _LATEST_SECONDS)
    letters_seconds = min(max(lease_seconds / 3, _SOONEST_SECONDS), _LATEST_DEAD_LETTERS_SECONDS)
    return (
        Duty("outbox", outbox.publish, _OUTBOX_SECONDS, _OUTBOX_SECONDS),
        # After a fault of the database live workers send their heartbeats first.
        Duty("rescue", rescue, tasks_seconds, lease_seconds / 2),
        Duty("dead letters", take_back, letters_seconds, 2 * letters_seconds),
        Duty("housekeeping", keep_house, _HOUSEKEEPING_SECONDS, _HOUSEKEEPING_SECONDS),
    )
