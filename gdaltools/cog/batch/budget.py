"""A memory budget for concurrent work: what does not fit waits until other work has ended."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# A container's memory limit in bytes: cgroup v2 (docs.kernel.org, admin-guide/cgroup-v2) and v1.
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_UNKNOWN_BYTES = 2 << 30


class MemoryBudget:
    """A limit on the bytes that concurrent work holds; work that runs alone may exceed it."""

    def __init__(self, total_bytes: int) -> None:
        self._total = total_bytes
        self._taken = 0
        self._changed = threading.Condition()

    @contextmanager
    def taking(self, size_bytes: int) -> Iterator[None]:
        """Wait until `size_bytes` are free, and hold them inside the block."""
        with self._changed:
            self._changed.wait_for(lambda: not self._taken or self._taken + size_bytes <= self._total)
            self._taken += size_bytes
        try:
            yield
        finally:
            with self._changed:
                self._taken -= size_bytes
                self._changed.notify_all()


def free_bytes() -> int:
    """Return the free memory of this machine, or the container's limit if that is less."""
    found = [_UNKNOWN_BYTES]
    with suppress(OSError, ValueError):
        lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
        found = [int(line[1]) << 10 for line in lines if line[0] == "MemAvailable:"]
    for name in _CGROUP_LIMITS:
        with suppress(OSError, ValueError):
            found.append(int(Path(name).read_text()))
    return min(found)
