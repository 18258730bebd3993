"""Retry database calls until the database answers again, so that no finished work is lost."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from random import random
from typing import TypeVar

from worker.database.connections import DatabaseError

_FIRST_SECONDS = 0.25
_LONGEST_SECONDS = 10.0

log = logging.getLogger(__name__)
T = TypeVar("T")


async def with_retries(
    attempt: Callable[[], Awaitable[T]], *, pause: Callable[[float], Awaitable[None]]
) -> T:
    """Return the result of `attempt`, repeated after each retryable database error.

    Parameters
    ----------
    pause : callable
        Waits the number of seconds before the next attempt; an exception from it ends the retries.

    Raises
    ------
    DatabaseError
        The error is not retryable.
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
