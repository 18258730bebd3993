"""Admit tasks by their memory estimate, and choose the one to end when the container runs out of memory.

A task is admitted when its estimate fits into memory beside the running tasks. When free memory falls below a
reserve, the largest process is chosen, so that one task ends with a clear error before the kernel kills an
arbitrary process. All figures come from the operating system, because Python's do not include GDAL's memory.

Sources: cgroup v2 memory.max, memory.current and memory.stat (docs.kernel.org, admin-guide/cgroup-v2); v1
memory.limit_in_bytes, memory.usage_in_bytes and memory.stat (admin-guide/cgroup-v1/memory).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from worker.errors import MemoryBusy, TaskFailed

MB = 1_000_000
# The memory that stays free: the kernel kills processes before the last page is used.
_RESERVE_SHARE, _RESERVE_LEAST_MB, _RESERVE_MOST_MB = 0.03, 48, 256
_LOOK_SECONDS = 0.25
# The longest time that a task waits for memory before it goes back to its queue.
_WAIT_SECONDS = 60.0

_CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Memory:
    """The memory that this container may use and the part of it that is free, in megabytes of 10⁶ bytes."""

    total_mb: float
    available_mb: float

    @property
    def reserve_mb(self) -> float:
        """The memory that stays free."""
        return min(max(self.total_mb * _RESERVE_SHARE, _RESERVE_LEAST_MB), _RESERVE_MOST_MB)


def container_memory(*, limit_mb: float | None = None) -> Memory:
    """Return the tightest limit of the machine, of every cgroup of this process, and of `limit_mb`.

    Page cache counts as free, because the kernel reclaims it. `limit_mb` applies to the process and its
    descendants.
    """
    machine = psutil.virtual_memory()
    found = [Memory(machine.total / MB, machine.available / MB), *_cgroups()]
    if limit_mb is not None:
        found.append(Memory(limit_mb, limit_mb - _tree_mb(psutil.Process())))
    return Memory(min(each.total_mb for each in found), min(each.available_mb for each in found))


def working_set_mb(pid: int) -> float:
    """Return the unshared memory of a process and its descendants, in megabytes; 0 if it is gone."""
    try:
        return _tree_mb(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return 0.0


def _tree_mb(process: psutil.Process) -> float:
    used = 0.0
    for each in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            used += each.memory_full_info().uss / MB
    return used


def _cgroups() -> list[Memory]:
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            names = ("memory.max", "memory.current", "")
            root = _CGROUPS
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
            root = _CGROUPS / "memory"
        else:
            continue
        # Inside a container the path may be the host's; the container's own limit is then at the root.
        own = root / path.lstrip("/")
        folders = [own, *own.parents] if root in (own, *own.parents) else [root]
        found += [
            memory
            for folder in folders
            if folder == root or root in folder.parents
            if (memory := _cgroup(folder, *names)) is not None
        ]
    return found


def _cgroup(folder: Path, limit_name: str, usage_name: str, prefix: str) -> Memory | None:
    try:
        limit = int((folder / limit_name).read_text())  # "max" is no limit
        usage = int((folder / usage_name).read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    cache = sum(
        int(stat.get(f"{prefix}{name}", 0)) for name in ("inactive_file", "active_file", "slab_reclaimable")
    )
    return Memory(limit / MB, (limit - usage + cache) / MB)


class TaskMemoryBudget:
    """Decides which tasks of one worker may start and which one must end, by memory."""

    def __init__(self, *, limit_mb: float | None = None) -> None:
        self._limit_mb = limit_mb
        self._in_turn = asyncio.Lock()
        self._needs: dict[int, float] = {}  # estimates in MB of the running processes, by pid

    @asynccontextmanager
    async def admitted(self, pid: int, needs_mb: float | None) -> AsyncIterator[None]:
        """Admit a task once `needs_mb` is free beside what the running tasks may still allocate.

        Tasks are admitted in order of arrival. `needs_mb` is None for a task that needs little; it does not
        wait.

        Raises
        ------
        TaskFailed
            The task can never fit into this container; a retry cannot help.
        MemoryBusy
            The task did not fit for a minute.
        """
        if needs_mb is None:
            self._needs[pid] = 0.0
        else:
            async with self._in_turn:
                await self._fits(needs_mb)
                self._needs[pid] = needs_mb
        try:
            yield
        finally:
            del self._needs[pid]

    async def must_end(self, pid: int) -> str:
        """Wait until memory runs out while this process uses the most of all tasks; return the reason."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            memory = await asyncio.to_thread(container_memory, limit_mb=self._limit_mb)
            if memory.available_mb >= memory.reserve_mb:
                continue
            used = {each: await asyncio.to_thread(working_set_mb, each) for each in list(self._needs)}
            mine = used.get(pid, 0.0)
            if mine >= max(memory.reserve_mb, *used.values()):  # ending a small one would not help
                return (
                    f"it used {mine:,.0f} MB when {max(memory.available_mb, 0.0):,.0f} MB of "
                    f"{memory.total_mb:,.0f} MB were left"
                )

    async def _fits(self, needs_mb: float) -> None:
        waited = 0.0
        while True:
            memory = await asyncio.to_thread(container_memory, limit_mb=self._limit_mb)
            if needs_mb > memory.total_mb - memory.reserve_mb:
                raise TaskFailed(
                    f"the task needs about {needs_mb:,.0f} MB and this worker has {memory.total_mb:,.0f} MB "
                    f"({memory.reserve_mb:,.0f} MB of them in reserve): give the container more memory, or "
                    "make the task smaller",
                    error_type="InsufficientMemory",
                    retryable=False,
                )
            promised = 0.0
            for each, needs in list(self._needs.items()):
                promised += max(0.0, needs - await asyncio.to_thread(working_set_mb, each))
            free = memory.available_mb - memory.reserve_mb - promised
            if needs_mb <= free:
                return
            if waited >= _WAIT_SECONDS:
                raise MemoryBusy(
                    f"it needs about {needs_mb:,.0f} MB and {max(free, 0.0):,.0f} MB are free of "
                    f"{memory.total_mb:,.0f} MB"
                )
            await asyncio.sleep(_LOOK_SECONDS)
            waited += _LOOK_SECONDS
