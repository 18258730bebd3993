"""Waiting: retries, events, and a cancellation that ``asyncio.wait_for`` on Python 3.11 does not drop.

On 3.11 ``wait_for`` drops a cancellation that arrives in the same iteration of the loop as the result
(python/cpython#86296, fixed only in 3.12). The waiting task then continues, and the task that cancelled it
waits for its end, possibly forever. ``asyncio.timeout`` does not have this bug, so the worker's own code uses
that.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator
from random import random
from types import ModuleType
from typing import Any, TypeVar

from gdaltools.errors import GdalToolsError

T = TypeVar("T")
E = TypeVar("E", bound=GdalToolsError)


async def retried(
    attempt: Callable[[], Awaitable[T]],
    *,
    errors: type[E],
    pauses: Iterable[float],
    may_pass: Callable[[E], bool] = lambda error: error.retryable,
    on_error: Callable[[E], object] = lambda _: None,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> T:
    """Return the result of `attempt`, repeated while it fails with an error that may pass.

    Parameters
    ----------
    errors : type
        The errors after which a retry may help; any other error is raised at once.
    pauses : iterable of float
        The seconds before each further attempt; when they are used up, the last error is raised.
    may_pass : callable
        Whether to retry after an error; by default if it is ``retryable``.
    on_error : callable
        Receives each error that is followed by a retry.
    sleep : callable
        Waits the seconds of a pause; an error from it ends the retries.
    """
    remaining = iter(pauses)
    while True:
        try:
            return await attempt()
        except errors as error:
            pause = next(remaining, None) if may_pass(error) else None
            if pause is None:
                raise
            on_error(error)
        await sleep(pause)


def growing(first_seconds: float, longest_seconds: float) -> Iterator[float]:
    """Yield pauses without end: each is twice the last up to the longest, and varied by up to a half."""
    pause = first_seconds
    while True:
        yield pause * (0.5 + random())
        pause = min(2 * pause, longest_seconds)


def mend_cancellation(*modules: ModuleType) -> None:
    """Replace ``asyncio.wait_for`` inside these modules by one that never drops a cancellation.

    Nothing else changes in these modules or outside them. On Python 3.12 and later this does nothing.
    """
    if sys.version_info < (3, 12):
        for module in modules:
            assert vars(module)["asyncio"] in (asyncio, _MENDED), (
                f"{module.__name__} imports asyncio otherwise"
            )
            vars(module)["asyncio"] = _MENDED


class _Mended(ModuleType):
    """The module ``asyncio`` with a different ``wait_for``."""

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    @staticmethod
    async def wait_for(work: Awaitable[T], timeout: float | None) -> T:
        async with asyncio.timeout(timeout):
            return await work


_MENDED = _Mended("asyncio")


async def is_set_within(event: asyncio.Event, seconds: float) -> bool:
    """Wait up to `seconds` for an event; return whether it is set."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return event.is_set()
    return True
