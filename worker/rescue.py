"""What dead workers left behind is taken up again: their tasks' rows, and messages that the broker gave up.

Every worker sweeps. A row whose worker shows no life is queued again and its message sent anew, without
waiting for the lock on the old message and whatever the queue's delivery count allows.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from random import uniform

from gdaltools import crash_points
from gdaltools.errors import GdalToolsError
from worker.database import Database
from worker.outbox import Outbox
from worker.patience import is_set_within

# How often is looked, in seconds: a sixth of the lease, within these.
_SOONEST_SECONDS, _LATEST_SECONDS = 0.5, 15.0

log = logging.getLogger(__name__)


class Rescue:
    """Sweeps the task queues that this worker serves."""

    def __init__(
        self, database: Database, outbox: Outbox, *, queues: Sequence[str], lease_seconds: float
    ) -> None:
        self._database = database
        self._outbox = outbox
        self._queues = queues
        self._lease_seconds = lease_seconds

    async def sweep(self, stopping: asyncio.Event, on_error: Callable[[GdalToolsError | None], None]) -> None:
        """Rescue until `stopping`; faults are told to `on_error` (None: it works again).

        After a fault of the database the living are given time to show it before anybody is taken for dead.
        """
        pause = min(max(self._lease_seconds / 6, _SOONEST_SECONDS), _LATEST_SECONDS)
        wait = 0.0
        while not await is_set_within(stopping, wait * uniform(0.75, 1.25)):
            try:
                await self.tasks()
                on_error(None)
                wait = pause
            except GdalToolsError as error:
                on_error(error)
                wait = max(pause, self._lease_seconds / 2)

    async def tasks(self) -> None:
        """Take up the tasks of dead workers.

        Raises
        ------
        DatabaseError
            The database does not answer.
        """
        rescued = await self._database.rescue(self._queues, lease_seconds=self._lease_seconds)
        if rescued:
            log.warning("the workers of these tasks are dead, they are queued again: %s", ", ".join(rescued))
            crash_points.reach("task-rescued")
            await self._outbox.publish_or_leave()
