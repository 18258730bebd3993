"""Memory that work at a time may take together: who does not fit waits until others have ended."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# cgroup v2 (docs.kernel.org, admin-guide/cgroup-v2) and v1: what a container may use, in bytes.
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_UNKNOWN_BYTES = 2 << 30


class MemoryBudget:
    """Bytes that may be taken at a time; whoever is alone gets what it asks for, be it more than there is."""

    def __init__(self, total_bytes: int) -> None:
        self._total = total_bytes
        self._taken = 0
        self._changed = threading.Condition()

    @contextmanager
    def taking(self, size_bytes: int) -> Iterator[None]:
        """Wait until so many bytes are free, and hold them for the length of the block."""
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
    """Memory that this machine has free, or its container's limit where that is less."""
    found = [_UNKNOWN_BYTES]
    with suppress(OSError, ValueError):
        lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
        found = [int(line[1]) << 10 for line in lines if line[0] == "MemAvailable:"]
    for name in _CGROUP_LIMITS:
        with suppress(OSError, ValueError):
            found.append(int(Path(name).read_text()))
    return min(found)
