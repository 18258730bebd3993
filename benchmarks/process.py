"""Run one job in its own process; return its answer and the peak memory of the whole process tree.

Every job gets a fresh interpreter, so that no run profits from what another one loaded. The child's process
group is killed on every exit, also when the parent is interrupted: nothing is left running.
"""

from __future__ import annotations

import json
import os
import pickle
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.errors import ChildFailed, OutOfMemory
from benchmarks.machine import require

_ROOT = Path(__file__).resolve().parent.parent
# Finding new descendants reads every process of the machine, so it is done less often.
_SAMPLE_SECONDS, _DESCENDANTS_SECONDS = 0.05, 0.5
_LAST_LINES = 3


@dataclass(frozen=True)
class ChildResult:
    """The outcome of a child process.

    Attributes
    ----------
    answer : dict
        The JSON object that the child wrote.
    peak_bytes : int
        The largest sum of resident memory over the child and its descendants, sampled every 50 ms, or the
        child's own high-water mark if that is larger.
    process_seconds, process_cpu_seconds : float
        From the start of the process to its end, interpreter and imports included.
    others_cores : float
        The average number of cores that other processes kept busy meanwhile.
    disk_peak_bytes : int
        The largest size of the watched folders, sampled every half second.
    timeline : tuple of (float, int)
        Seconds since the start, and resident bytes of the tree.
    """

    answer: dict[str, Any]
    peak_bytes: int
    process_seconds: float
    process_cpu_seconds: float
    others_cores: float
    disk_peak_bytes: int = 0
    timeline: tuple[tuple[float, int], ...] = ()


def run_child(
    job: Callable[[], object],
    *,
    folder: Path,
    timeout_seconds: float,
    environment: Mapping[str, str] | None = None,
    watched: Sequence[Path] = (),
    memory_limit_bytes: int | None = None,
    within: Sequence[str] = (),
) -> ChildResult:
    """Run a job by `benchmarks.child`, in the checkout, and wait for it.

    Parameters
    ----------
    job : callable
        A call that can be pickled and returns a dict that JSON can hold.
    folder : Path
        Where job, answer and standard error are kept; its other files are not touched.
    environment : mapping, optional
        Variables in addition to this process's own.
    watched : sequence of Path
        Folders whose size is sampled.
    memory_limit_bytes : int, optional
        Limit on the tree's resident memory; a child above it is killed, as a container would be.
    within : sequence of str
        A command that wraps the child's command, such as a profiler.

    Raises
    ------
    OutOfMemory
        The child exceeded its limit, or the kernel killed it.
    ChildFailed
        The child ended with an error, was killed, took too long, or left no answer; the message ends with the
        last lines of its standard error.
    """
    require("measuring memory", "psutil")
    job_file, result_file, log = (folder / name for name in ("job", "result.json", "child.log"))
    job_file.write_bytes(pickle.dumps(job))
    result_file.unlink(missing_ok=True)
    before = _clocks()
    command = [*within, sys.executable, "-m", "benchmarks.child", str(job_file), str(result_file)]
    watch = _Watch(watched, memory_limit_bytes, timeout_seconds)
    with log.open("wb") as stream, _group(command, stream, environment or {}) as child:
        watch.until_its_end(child)
    seconds, cpu_seconds, own, machine = (
        after - earlier for after, earlier in zip(_clocks(), before, strict=True)
    )
    if child.returncode != 0 or not result_file.exists():
        raise _failure(child.returncode, log, watch, timed_out=seconds > timeout_seconds)
    others = max(machine - own - cpu_seconds, 0.0) / seconds
    answer = json.loads(result_file.read_text())
    return ChildResult(
        answer,
        max(watch.peak_bytes, answer.get("peak_bytes", 0)),
        seconds,
        cpu_seconds,
        others,
        watch.disk_peak_bytes,
        tuple(watch.timeline),
    )


@contextmanager
def _group(
    command: list[str], stream: Any, environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process that leads its own group; the group is killed when the block exits."""
    child = subprocess.Popen(
        command,
        cwd=_ROOT,
        stdin=subprocess.DEVNULL,
        stdout=stream,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env={**os.environ, **environment},
    )
    try:
        yield child
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


@dataclass
class _Watch:
    """Sample a child's memory and disk until it ends, the deadline passes, or it exceeds its memory limit."""

    folders: Sequence[Path]
    memory_limit_bytes: int | None
    timeout_seconds: float
    peak_bytes: int = 0
    disk_peak_bytes: int = 0
    over_memory: bool = False
    timeline: list[tuple[float, int]] = field(default_factory=list)

    def until_its_end(self, child: subprocess.Popen[bytes]) -> None:
        import psutil

        tree: list[Any] = []
        began, look_at = time.perf_counter(), 0.0
        while child.poll() is None and time.perf_counter() < began + self.timeout_seconds:
            try:
                if time.perf_counter() >= look_at:
                    root = psutil.Process(child.pid)
                    tree = [root, *root.children(recursive=True)]
                    self.disk_peak_bytes = max(self.disk_peak_bytes, sum(map(folder_bytes, self.folders)))
                    look_at = time.perf_counter() + _DESCENDANTS_SECONDS
                resident = sum(process.memory_info().rss for process in tree)
            except psutil.Error:
                look_at = 0.0  # one of the processes has just ended
            else:
                self.timeline.append((round(time.perf_counter() - began, 3), resident))
                self.peak_bytes = max(self.peak_bytes, resident)
            if self.memory_limit_bytes is not None and self.peak_bytes > self.memory_limit_bytes:
                self.over_memory = True
                return
            time.sleep(_SAMPLE_SECONDS)


def folder_bytes(folder: Path) -> int:
    """Return the total size of the files below `folder`; files deleted during the walk do not count."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(root, name)).st_size
    return total


def _clocks() -> tuple[float, float, float, float]:
    """Return wall seconds, and the CPU seconds of our ended children, of this process and of the machine."""
    import psutil

    ended, own = (resource.getrusage(who) for who in (resource.RUSAGE_CHILDREN, resource.RUSAGE_SELF))
    machine = psutil.cpu_times()
    idle = machine.idle + getattr(machine, "iowait", 0.0)
    # user and nice already include guest time.
    guests = getattr(machine, "guest", 0.0) + getattr(machine, "guest_nice", 0.0)
    return (
        time.perf_counter(),
        ended.ru_utime + ended.ru_stime,
        own.ru_utime + own.ru_stime,
        sum(machine) - idle - guests,
    )


def _failure(code: int, log: Path, watch: _Watch, *, timed_out: bool) -> ChildFailed:
    kind = ChildFailed
    said = " | ".join(_last_words(log.read_text(errors="replace")))
    if watch.over_memory:
        kind = OutOfMemory
        how = (
            f"took {watch.peak_bytes / 1e6:.0f} MB, over its limit of "
            f"{(watch.memory_limit_bytes or 0) / 1e6:.0f} MB, and was killed"
        )
    elif timed_out:
        how = "took too long and was killed"
    elif code == -signal.SIGKILL:
        kind = OutOfMemory
        how = "was killed by SIGKILL (out of memory?)"
    elif code < 0:
        how = f"was killed by {signal.Signals(-code).name}"
    else:
        how = f"ended with exit code {code}"
    return kind(f"{how}: {said}" if said else how)


def _last_words(text: str) -> list[str]:
    """Return the last lines; for a traceback, the error itself without the frames that lead to it."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()][-_LAST_LINES:]
    way = [number for number, line in enumerate(lines) if line.startswith("  ")]
    return lines[way[-1] + 1 :] or lines if way else lines
