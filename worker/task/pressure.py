"""When a worker holds back: it receives no message that it could only fail.

Scratch space that runs out and storage that refuses say nothing about the task in hand and would fail the
next one just the same, until a whole queue is among the dead letters. So before each receive a slot asks
here, and waits.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from random import uniform

_LOOK_SECONDS = 1.0
_FIRST_HOLD_SECONDS, _LONGEST_HOLD_SECONDS = 1.0, 60.0
# For how long a failure of storage is told as a present problem, when no task has shown that it works again.
_MEMORY_SECONDS = 60.0

Report = Callable[[str, str | None], None]
"""``(part, problem)``; None: it works again."""


class Pressure:
    """What all slots of a worker know of the disk and of storage."""

    def __init__(self, report: Report, *, min_free_disk_mb: float) -> None:
        self._report = report
        self._min_free_disk_mb = min_free_disk_mb
        self._failures = 0
        self._failed_at = 0.0
        self._hold_until = 0.0

    async def relieved(self) -> None:
        """Return when there is nothing that a slot should wait for."""
        while self._disk_is_full():  # noqa: ASYNC110, nobody could set an event
            await asyncio.sleep(_LOOK_SECONDS)
        await asyncio.sleep(max(0.0, self._hold_until - time.monotonic()))
        if self._failures and time.monotonic() - self._failed_at > _MEMORY_SECONDS:
            self.storage_works()

    def storage_failed(self, problem: str) -> None:
        """A task failed because of storage: hold back for twice as long as the last time."""
        hold = min(_FIRST_HOLD_SECONDS * 2**self._failures, _LONGEST_HOLD_SECONDS)
        self._failures += 1
        self._failed_at = time.monotonic()
        self._hold_until = self._failed_at + hold * uniform(0.75, 1.25)
        self._report("storage", problem)

    def storage_works(self) -> None:
        """A task has read and written what it wanted."""
        self._failures = 0
        self._report("storage", None)

    def _disk_is_full(self) -> bool:
        problem = None
        folders = {tempfile.gettempdir(), os.environ.get("TMPDIR"), os.environ.get("GDALTOOLS_BLOB_ROOT")}
        for folder in folders:
            if not folder or not os.path.isdir(folder):
                continue
            free_mb = shutil.disk_usage(folder).free / 1e6
            if free_mb < self._min_free_disk_mb:
                problem = (
                    f"{free_mb:,.0f} MB are free in {folder}, WORKER_MIN_FREE_DISK_MB is "
                    f"{self._min_free_disk_mb:g}: nothing is received until there is more"
                )
        self._report("disk", problem)
        return problem is not None
