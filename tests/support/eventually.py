"""Wait for a condition, with a deadline, instead of sleeping."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


async def eventually(condition: Callable[[], bool], *, within_seconds: float = 10.0) -> None:
    """Return as soon as the condition holds; fail if it does not within `within_seconds`."""
    deadline = time.monotonic() + within_seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_seconds} s"
        await asyncio.sleep(0.02)


async def eventually_or_stalled(
    condition: Callable[[], bool], *, progress: Callable[[], object], within_seconds: float = 60.0
) -> None:
    """Return as soon as the condition holds; fail if `progress` stops changing for `within_seconds` before.

    For work whose total duration says more about the machine than about what is tested.
    """
    seen = progress()
    deadline = time.monotonic() + within_seconds
    while not condition():
        if (now := progress()) != seen:
            seen, deadline = now, time.monotonic() + within_seconds
        assert time.monotonic() < deadline, f"not further than {seen} within {within_seconds} s"
        await asyncio.sleep(0.2)
