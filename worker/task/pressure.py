"""Back-pressure: a worker receives no message while its disk is full or storage has just failed.

A full scratch disk or failing storage is not the fault of the current task. It would fail the next task too,
until the whole queue is dead-lettered. Each slot therefore waits here before it receives a message.
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
# A storage failure is reported for this long unless a task completes earlier.
_MEMORY_SECONDS = 60.0

Report = Callable[[str, str | None], None]
"""``(part, problem)``; a problem of None means that the part works again."""


class Pressure:
    """The state of disk and storage, shared by all slots of a worker."""

    def __init__(self, report: Report, *, min_free_disk_mb: float) -> None:
        self._report = report
        self._min_free_disk_mb = min_free_disk_mb
        self._failures = 0
        self._failed_at = 0.0
        self._hold_until = 0.0

    async def relieved(self) -> None:
        """Wait until there is enough disk space and the hold after a storage failure is over."""
        while self._disk_is_full():  # noqa: ASYNC110, nobody could set an event
            await asyncio.sleep(_LOOK_SECONDS)
        await asyncio.sleep(max(0.0, self._hold_until - time.monotonic()))
        if self._failures and time.monotonic() - self._failed_at > _MEMORY_SECONDS:
            self.storage_works()

    def storage_failed(self, problem: str) -> None:
        """Record that a task failed because of storage; hold back twice as long as the last time."""
        hold = min(_FIRST_HOLD_SECONDS * 2**self._failures, _LONGEST_HOLD_SECONDS)
        self._failures += 1
        self._failed_at = time.monotonic()
        self._hold_until = self._failed_at + hold * uniform(0.75, 1.25)
        self._report("storage", problem)

    def storage_works(self) -> None:
        """Record that a task has completed its reads and writes; end the storage problem."""
        self._failures = 0
        self._report("storage", None)

    def _disk_is_full(self) -> bool:
        problem = disk_problem(self._min_free_disk_mb)
        self._report("disk", problem)
        return problem is not None


def free_disk() -> tuple[float, str]:
    """Return the least free space of the folders that tasks write to, in MB of 10⁶ bytes, and its folder."""
    named = {tempfile.gettempdir(), os.environ.get("TMPDIR"), os.environ.get("GDALTOOLS_BLOB_ROOT")}
    folders = [folder for folder in named if folder and os.path.isdir(folder)]
    return min((shutil.disk_usage(folder).free / 1e6, folder) for folder in folders)


def disk_problem(min_free_mb: float) -> str | None:
    """Return what is wrong if a folder that tasks write to has less than `min_free_mb` free, else None."""
    free_mb, folder = free_disk()
    if free_mb >= min_free_mb:
        return None
    return (
        f"{free_mb:,.0f} MB are free in {folder}, WORKER_MIN_FREE_DISK_MB is {min_free_mb:g}: "
        "nothing is received until there is more"
    )
