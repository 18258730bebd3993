"""When a worker ends: on request, after one message, or when no more messages arrive.

The last two are for platforms that start a process for waiting messages (KEDA's ScaledJob, Container Apps
jobs). There the process ends by itself, so scaling in never ends a task (kedacore/keda#2901 describes the
problem otherwise).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from worker.queue.bus import Message
from worker.queue.listener import WAIT_SECONDS, Process
from worker.waiting import is_set_within

# The interval at which `Shift.run` checks whether every slot has completed a receive.
_LOOK_SECONDS = 0.1
# The minimum for one receive: a message that arrives just as its receive ends stays locked until its lock
# expires (azure-sdk-for-python#35591).
_SHORTEST_WAIT_SECONDS = 5.0


class Shift:
    """Sets `stopping` when the work is done.

    Parameters
    ----------
    stopping : asyncio.Event
        The event that ends the worker.
    once : bool
        Whether to end after one message; no further message is received.
    idle_seconds : float, optional
        The time without a running message after which the worker ends; None means that it does not.
    """

    def __init__(
        self, stopping: asyncio.Event, *, once: bool = False, idle_seconds: float | None = None
    ) -> None:
        self.once = once
        self.is_over = False
        """Whether this shift set `stopping` because the work was done."""
        self._stopping = stopping
        self._idle_seconds = idle_seconds
        self._running = 0
        self._unheard = 0  # the number of slots that have not completed a receive yet
        self._idle_since = time.monotonic()

    @property
    def wait_seconds(self) -> float:
        """The time for which one receive should wait for a message."""
        return min(WAIT_SECONDS, max(self._idle_seconds or WAIT_SECONDS, _SHORTEST_WAIT_SECONDS))

    @property
    def ends_by_itself(self) -> bool:
        """Whether the worker ends when the work is done."""
        return self.once or self._idle_seconds is not None

    def new_slot(self) -> Callable[[], None]:
        """Register a slot; return the function that it calls after each receive, with or without a message.

        The worker does not end as idle before every slot has completed a receive, because opening a link may
        take longer than `idle_seconds`.
        """
        unheard = True
        self._unheard += 1

        def heard() -> None:
            nonlocal unheard
            self._unheard -= unheard
            unheard = False

        return heard

    def watched(self, process: Process) -> Process:
        """Wrap `process` so that this shift knows which messages are running and when they end."""

        async def watched(message: Message) -> None:
            self._running += 1
            try:
                await process(message)
            finally:
                self._running -= 1
                self._idle_since = time.monotonic()
                if self.once:
                    self._end()

        return watched

    async def run(self) -> None:
        """Wait until `stopping` is set; set it once the worker has been idle for `idle_seconds` from now."""
        self._idle_since = time.monotonic()
        if self._idle_seconds is None:
            await self._stopping.wait()
            return
        left = self._idle_seconds
        while not await is_set_within(self._stopping, left):
            idle = 0.0 if self._running else time.monotonic() - self._idle_since
            left = self._idle_seconds - idle
            if self._unheard:
                left = max(left, _LOOK_SECONDS)
            elif left <= 0:
                self._end()

    def _end(self) -> None:
        self.is_over = not self._stopping.is_set()
        self._stopping.set()
