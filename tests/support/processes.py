"""Processes, as the operating system reports them."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path


def descendants(pid: int | None = None) -> set[int]:
    """Return the ids of all descendants of a process (by default this one), zombies excluded."""
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z":
            parents.setdefault(int(fields[1]), []).append(int(folder.name))
    found: set[int] = set()
    waiting = [os.getpid() if pid is None else pid]
    while waiting:
        for child in parents.get(waiting.pop(), ()):
            found.add(child)
            waiting.append(child)
    return found


def task_processes(worker: int | None = None) -> set[int]:
    """Return the processes in which the tasks of a worker (by default this process) run.

    They are children of its forkserver.
    """
    return {pid for child in descendants(worker) for pid in descendants(child)}


def forkservers(pid: int | None = None) -> set[int]:
    """Return those of `descendants` that are multiprocessing's forkserver or were forked from it."""
    found = set()
    for each in descendants(pid):
        with contextlib.suppress(OSError):  # the process has just ended
            if b"multiprocessing.forkserver" in Path(f"/proc/{each}/cmdline").read_bytes():
                found.add(each)
    return found


@contextlib.contextmanager
def frozen(pids: Iterable[int]) -> Iterator[None]:
    """Stop processes inside the block, as on a paused machine; they notice only the lost time."""
    pids = list(pids)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
