"""Keep the lock on a message while the message is processed, and report when the lock is lost."""

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
# The upper limit for any lock duration, because the service's clock may differ from this machine's.
MAX_PAUSE_SECONDS = 15.0
RETRY_SECONDS = 5.0  # at most, between attempts to renew while the service fails
EXIT_GRACE_SECONDS = 2.0  # for a renewal that is running when the lock is no longer needed

_LOGGER = logging.getLogger(__name__)


class Lock(Protocol):
    """A lock that can be kept."""

    @property
    def remaining_seconds(self) -> float:
        """The seconds until the lock expires unless it is renewed; zero or negative once it has expired."""

    @property
    def is_settled(self) -> bool:
        """Whether the message is settled and its lock no longer needed."""

    async def renew(self) -> None:
        """Renew the lock for its full duration, or raise `LockLost` or `BusError`."""


@asynccontextmanager
async def lock_kept(lock: Lock, on_lost: Callable[[], None]) -> AsyncIterator[None]:
    """Keep a lock from entry to exit, or until its message is settled.

    The lock is renewed after a third of its remaining time, or after 15 seconds if that is shorter. While
    Service Bus fails, the renewal is retried until the lock expires. When the lock is lost, ``on_lost`` is
    called once on the event loop. It must not block. The body of the ``async with`` continues, so ``on_lost``
    has to stop it.
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
