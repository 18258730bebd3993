"""Cancellation that arrives: a ``wait_for`` for libraries that wait by the one of Python 3.11.

That one drops a cancellation which comes in the same turn of the loop as the result (python/cpython#86296,
mended in 3.12 only): whoever waits goes on, and whoever cancelled waits for its end, perhaps for ever.
``asyncio.timeout`` has no such gap, so our own code uses that.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable
from types import ModuleType
from typing import Any, TypeVar

T = TypeVar("T")


def mend_cancellation(*modules: ModuleType) -> None:
    """Let every cancellation pass through what these modules call as ``asyncio.wait_for``.

    Nothing else in them changes, and nothing outside of them; from Python 3.12 on nothing at all.
    """
    if sys.version_info < (3, 12):
        for module in modules:
            assert vars(module)["asyncio"] in (asyncio, _MENDED), (
                f"{module.__name__} imports asyncio otherwise"
            )
            vars(module)["asyncio"] = _MENDED


class _Mended(ModuleType):
    """The module ``asyncio``, but for one function."""

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    @staticmethod
    async def wait_for(work: Awaitable[T], timeout: float | None) -> T:
        async with asyncio.timeout(timeout):
            return await work


_MENDED = _Mended("asyncio")


async def is_set_within(event: asyncio.Event, seconds: float) -> bool:
    """Wait for an event for so long; whether it is set."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return event.is_set()
    return True
