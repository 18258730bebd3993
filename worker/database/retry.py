"""Waiting: for a database that does not answer, as what is to be written is worth it, and for an event."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from random import random
from typing import TypeVar

from worker.database.tasks import DatabaseError

_FIRST_SECONDS = 0.25
_LONGEST_SECONDS = 10.0

log = logging.getLogger(__name__)
T = TypeVar("T")


async def with_retries(
    attempt: Callable[[], Awaitable[T]], *, pause: Callable[[float], Awaitable[None]]
) -> T:
    """What `attempt` returns, tried again after each error of the database that may pass.

    Parameters
    ----------
    pause : callable
        Waits so many seconds before the next try; what it raises ends the trying.

    Raises
    ------
    DatabaseError
        One that trying again does not help.
    """
    wait = _FIRST_SECONDS
    while True:
        try:
            return await attempt()
        except DatabaseError as error:
            if not error.retryable:
                raise
            first = wait == _FIRST_SECONDS
            log.log(
                logging.WARNING if first else logging.DEBUG,
                "the database did not answer, trying again: %s",
                error,
            )
        await pause(wait * (0.5 + random()))
        wait = min(2 * wait, _LONGEST_SECONDS)
