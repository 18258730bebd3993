"""One heartbeat for all running tasks: touch their rows in time, and detect lost claims.

The heartbeat has its own connection, so a burst of other work does not delay it. Every second one statement
checks which claims are still valid. A row is written only when its heartbeat is due or its progress changed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from worker.database import Database
from worker.errors import DatabaseError
from worker.protocol.rows import Claim

# The interval at which lost claims are detected and new progress is written to the row.
TICK_SECONDS = 1.0


@dataclass(eq=False)
class _Beat:
    """A running task."""

    claim: Claim
    on_lost: Callable[[], None]
    progress: dict[str, Any] | None = None
    shown: dict[str, Any] | None = None
    touched: float = field(default_factory=time.monotonic)

    def is_due(self, every_seconds: float) -> bool:
        return self.progress is not self.shown or time.monotonic() - self.touched >= every_seconds


class Heartbeat:
    """The heartbeat of one worker's tasks; touches each row every `every_seconds`.

    While the database fails, the heartbeat retries every second and no task is stopped: the database decides
    which claims are lost once it answers again.
    """

    def __init__(
        self,
        database: Database,
        *,
        every_seconds: float,
        on_error: Callable[[DatabaseError | None], None] = lambda _: None,
    ) -> None:
        self._database = database
        self._every_seconds = every_seconds
        self._on_error = on_error
        self._beats: set[_Beat] = set()

    @contextmanager
    def kept(self, claim: Claim, on_lost: Callable[[], None]) -> Iterator[Callable[[dict[str, Any]], None]]:
        """Keep a claim's row alive inside the block; yield a function that accepts the newest progress.

        `on_lost` is called once if the claim is lost.
        """
        beat = _Beat(claim, on_lost)
        self._beats.add(beat)

        def show(progress: dict[str, Any]) -> None:
            beat.progress = progress

        try:
            yield show
        finally:
            self._beats.discard(beat)

    async def run(self) -> None:
        """Send heartbeats until cancelled."""
        while True:
            await asyncio.sleep(min(TICK_SECONDS, self._every_seconds))
            if not self._beats:
                continue
            try:
                await self._beat_all()
                self._on_error(None)
            except DatabaseError as error:
                self._on_error(error)

    async def _beat_all(self) -> None:
        beats = list(self._beats)
        standing = await self._database.tasks.standing([beat.claim for beat in beats])
        for beat in beats:
            kept = beat.claim.token in standing
            if kept and beat.is_due(self._every_seconds) and beat in self._beats:
                progress = beat.progress
                kept = await self._database.tasks.heartbeat(beat.claim, progress=progress)
                beat.shown, beat.touched = progress, time.monotonic()
            if not kept and beat in self._beats:
                self._beats.discard(beat)
                beat.on_lost()
