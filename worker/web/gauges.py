"""Gauges that are read only when metrics are requested: outbox, waiting tasks, memory of task processes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence

import psutil

from worker.errors import DatabaseError
from worker.task.memory import working_set_mb
from worker.telemetry.metrics import METRICS
from worker.web.api import Platform

# More frequent requests get the previous values: a refresh costs two queries and a walk over child processes.
_FRESH_SECONDS = 5.0


class Gauges:
    """Keeps the gauges of `worker.telemetry.metrics` up to date.

    Those that need the database keep their value until `platform` has one.
    """

    def __init__(self, platform: Platform, queues: Sequence[str]) -> None:
        self._platform = platform
        self._queues = queues
        self._refreshed = float("-inf")

    async def refresh(self) -> None:
        """Refresh the gauges, at most every 5 s; while the database does not answer, its gauges stay."""
        if time.monotonic() - self._refreshed < _FRESH_SECONDS:
            return
        self._refreshed = time.monotonic()
        METRICS.children_mb.set(await asyncio.to_thread(_children_mb))
        database = self._platform.database
        if database is None:
            return
        with contextlib.suppress(DatabaseError):
            backlog = await database.outbox.backlog()
            METRICS.outbox_messages.set(backlog.unsent)
            METRICS.outbox_seconds.set(backlog.oldest_seconds)
            waiting = await database.tasks.waiting()
            for queue in self._queues:
                METRICS.waiting.labels(queue=queue).set(waiting.get(queue, 0))


def _children_mb() -> float:
    return sum(working_set_mb(child.pid) for child in psutil.Process().children())
