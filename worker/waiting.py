"""Reliable cancellation: replace ``asyncio.wait_for`` in libraries on Python 3.11, and wait for events.

On 3.11 ``wait_for`` drops a cancellation that arrives in the same iteration of the loop as the result
(python/cpython#86296, fixed only in 3.12). The waiting task then continues, and the task that cancelled it
waits for its end, possibly forever. ``asyncio.timeout`` does not have this bug, so the worker's own code uses
that.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable
from types import ModuleType
from typing import Any, TypeVar

T = TypeVar("T")


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
