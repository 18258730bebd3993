"""Keep the lock on a message while somebody works on what it asked for, and say when it is lost."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Protocol

from worker.errors import BusError, LockLost

MIN_PAUSE_SECONDS = 0.1  # between renewals
RETRY_SECONDS = 5.0  # at most, between tries to renew while the service fails
EXIT_GRACE_SECONDS = 2.0  # for a renewal under way when the lock need not be kept any longer

_LOGGER = logging.getLogger(__name__)


class Lock(Protocol):
    """What can be kept."""

    @property
    def locked_until(self) -> datetime:
        """When the lock ends unless it is renewed; with a time zone."""

    @property
    def is_settled(self) -> bool:
        """Whether there is nothing left to keep."""

    async def renew(self) -> None:
        """Begin the lock's time anew, or raise `LockLost` or `BusError`."""


def remaining_seconds(lock: Lock) -> float:
    """How long the lock still holds, by this machine's clock; negative when it has ended."""
    return (lock.locked_until - datetime.now(UTC)).total_seconds()


@asynccontextmanager
async def lock_kept(lock: Lock, on_lost: Callable[[], None]) -> AsyncIterator[None]:
    """Keep a lock from entry to exit, or until it is settled.

    The lock is renewed whenever a third of its remaining time has gone by; while Service Bus fails, renewing
    is tried again until the lock has run out. ``on_lost`` is then called, once, on the event loop. It must
    not wait, and the body of the ``async with`` goes on: it is for ``on_lost`` to end it.
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
    longest_pause = float("inf")
    while (remaining := remaining_seconds(lock)) > 0:
        pause = min(max(remaining / 3, MIN_PAUSE_SECONDS), longest_pause, remaining)
        if await _is_set_within(done, pause) or lock.is_settled:
            return
        try:
            async with asyncio.timeout(max(remaining_seconds(lock), 0)):
                await lock.renew()
            longest_pause = float("inf")
        except LockLost:
            break
        except (BusError, TimeoutError) as error:
            longest_pause = RETRY_SECONDS * random.uniform(0.5, 1.0)
            left = remaining_seconds(lock)
            _LOGGER.warning("the lock on %r was not renewed, %.0f s remain: %s", lock, left, error)
    if not (lock.is_settled or done.is_set()):
        on_lost()


async def _is_set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
