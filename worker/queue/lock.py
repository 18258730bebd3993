"""Keep the lock on a message while somebody works on what it asked for, and say when it is lost."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Protocol

from worker.errors import BusError, LockLost
from worker.telemetry.metrics import METRICS
from worker.waiting import is_set_within

MIN_PAUSE_SECONDS = 0.1  # between renewals
# However long the lock is said to last: that is said by a clock which need not go like ours.
MAX_PAUSE_SECONDS = 15.0
RETRY_SECONDS = 5.0  # at most, between tries to renew while the service fails
EXIT_GRACE_SECONDS = 2.0  # for a renewal under way when the lock need not be kept any longer

_LOGGER = logging.getLogger(__name__)


class Lock(Protocol):
    """What can be kept."""

    @property
    def remaining_seconds(self) -> float:
        """How long the lock holds unless it is renewed; not positive when it has ended."""

    @property
    def is_settled(self) -> bool:
        """Whether there is nothing left to keep."""

    async def renew(self) -> None:
        """Begin the lock's time anew, or raise `LockLost` or `BusError`."""


@asynccontextmanager
async def lock_kept(lock: Lock, on_lost: Callable[[], None]) -> AsyncIterator[None]:
    """Keep a lock from entry to exit, or until it is settled.

    The lock is renewed whenever a third of its remaining time has gone by, or 15 seconds; while Service Bus
    fails, renewing is tried again until the lock has run out. ``on_lost`` is then called, once, on the event
    loop. It must not wait, and the body of the ``async with`` goes on: it is for ``on_lost`` to end it.
    """
    done = asyncio.Event()
    keeper = asyncio.create_task(_keep(lock, done, on_lost))
    try:
        yield
    finally:
        done.set()
        await asyncio.wait({keeper}, timeout=EXIT_GRACE_SECONDS)
        keeper.cancel()
        await asyncio.wait({keeper})
        if not keeper.cancelled():
            keeper.result()


async def _keep(lock: Lock, done: asyncio.Event, on_lost: Callable[[], None]) -> None:
    longest_pause = MAX_PAUSE_SECONDS
    while (remaining := lock.remaining_seconds) > 0:
        pause = min(max(remaining / 3, MIN_PAUSE_SECONDS), longest_pause, remaining)
        if await is_set_within(done, pause) or lock.is_settled:
            return
        try:
            async with asyncio.timeout(max(lock.remaining_seconds, 0)):
                await lock.renew()
            METRICS.lock_renewals.add()
            longest_pause = MAX_PAUSE_SECONDS
        except LockLost:
            break
        except (BusError, TimeoutError) as error:
            longest_pause = RETRY_SECONDS * random.uniform(0.5, 1.0)
            left = lock.remaining_seconds
            _LOGGER.warning("the lock on %r was not renewed, %.0f s remain: %s", lock, left, error)
    if not (lock.is_settled or done.is_set()):
        METRICS.lock_losses.add()
        on_lost()
