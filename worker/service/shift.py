"""How long a worker serves: until it is told to stop, for one message, or until nothing comes any more.

The last two are for platforms that start a process for the messages that wait (KEDA's ScaledJob, Container
Apps jobs): there scaling in never ends a task, as a process ends by itself (kedacore/keda#2901 is what
happens otherwise).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from worker.queue.bus import Message
from worker.queue.listener import WAIT_SECONDS, Process
from worker.waiting import is_set_within

# How soon it is noticed that the last slot has heard from its queue.
_LOOK_SECONDS = 0.1
# Of a receive: one that ends just as its message comes leaves that to its lock (azure-sdk-for-python#35591).
_SHORTEST_WAIT_SECONDS = 5.0


class Shift:
    """Sets `stopping` when the work is done.

    Parameters
    ----------
    stopping : asyncio.Event
        What ends the worker.
    once : bool
        After one message; further ones are not received.
    idle_seconds : float, optional
        After so long without a message in hand; None: never.
    """

    def __init__(
        self, stopping: asyncio.Event, *, once: bool = False, idle_seconds: float | None = None
    ) -> None:
        self.once = once
        self.is_over = False
        """Whether it was the end of the work that set `stopping`."""
        self._stopping = stopping
        self._idle_seconds = idle_seconds
        self._running = 0
        self._unheard = 0  # slots of which no receive has ended yet
        self._idle_since = time.monotonic()

    @property
    def wait_seconds(self) -> float:
        """How long one receive should wait for a message."""
        return min(WAIT_SECONDS, max(self._idle_seconds or WAIT_SECONDS, _SHORTEST_WAIT_SECONDS))

    @property
    def ends_by_itself(self) -> bool:
        """Whether it ends when the work is done."""
        return self.once or self._idle_seconds is not None

    def new_slot(self) -> Callable[[], None]:
        """What a slot calls whenever a receive has ended, with or without a message.

        Opening a link may take longer than the time after which nothing counts as idle.
        """
        unheard = True
        self._unheard += 1

        def heard() -> None:
            nonlocal unheard
            self._unheard -= unheard
            unheard = False

        return heard

    def watched(self, process: Process) -> Process:
        """`process`, seen by this shift."""

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
        """Wait for the end of the shift, from now on."""
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
