"""Recover the work of dead workers: requeue their tasks, and take back messages that the broker gave up.

Every worker sweeps. A row without a heartbeat is queued again and its message is sent again, without waiting
for the lock on the old message and independently of the queue's delivery count.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from random import uniform

from gdaltools.errors import GdalToolsError
from gdaltools.runtime import crash_points
from worker.database import Database
from worker.queue.dead_letters import DeadLetters
from worker.queue.outbox import Outbox
from worker.waiting import is_set_within

# The limits of the sweep interval, which is a sixth of the lease for rows and a third for dead letters.
_SOONEST_SECONDS, _LATEST_SECONDS, _LATEST_DEAD_LETTERS_SECONDS = 0.5, 15.0, 60.0

log = logging.getLogger(__name__)


class Rescue:
    """Sweeps the task queues that this worker serves."""

    def __init__(
        self,
        database: Database,
        outbox: Outbox,
        dead_letters: DeadLetters,
        *,
        queues: Sequence[str],
        lease_seconds: float,
    ) -> None:
        self._database = database
        self._outbox = outbox
        self._dead_letters = dead_letters
        self._queues = queues
        self._lease_seconds = lease_seconds

    async def sweep_tasks(
        self, stopping: asyncio.Event, on_error: Callable[[GdalToolsError | None], None]
    ) -> None:
        """Requeue the tasks of dead workers until `stopping` is set.

        Faults are passed to `on_error`, and None after a sweep that works. After a database fault the next
        sweep waits for half a lease, so that live workers can send their heartbeats first.
        """
        pause = min(max(self._lease_seconds / 6, _SOONEST_SECONDS), _LATEST_SECONDS)
        await _repeat(self._tasks, stopping, on_error, pause=pause, pause_after_fault=self._lease_seconds / 2)

    async def sweep_dead_letters(
        self, stopping: asyncio.Event, on_error: Callable[[GdalToolsError | None], None]
    ) -> None:
        """Take back messages that the broker dead-lettered, until `stopping` is set; see `sweep_tasks`."""
        pause = min(max(self._lease_seconds / 3, _SOONEST_SECONDS), _LATEST_DEAD_LETTERS_SECONDS)
        await _repeat(self._take_back, stopping, on_error, pause=pause, pause_after_fault=2 * pause)

    async def _tasks(self) -> None:
        rescued = await self._database.tasks.rescue(self._queues, lease_seconds=self._lease_seconds)
        if rescued:
            log.warning("the workers of these tasks are dead, they are queued again: %s", ", ".join(rescued))
            crash_points.reach("task-rescued")
            await self._outbox.publish_or_leave()

    async def _take_back(self) -> None:
        for queue in self._queues:
            taken = await self._dead_letters.take_back(queue)
            if taken:
                log.warning("the broker gave up the messages of these tasks: %s", ", ".join(taken))
                await self._outbox.publish_or_leave()


async def _repeat(
    work: Callable[[], Awaitable[None]],
    stopping: asyncio.Event,
    on_error: Callable[[GdalToolsError | None], None],
    *,
    pause: float,
    pause_after_fault: float,
) -> None:
    wait = 0.0
    while not await is_set_within(stopping, wait * uniform(0.75, 1.25)):
        try:
            await work()
            on_error(None)
            wait = pause
        except GdalToolsError as error:
            on_error(error)
            wait = pause_after_fault
