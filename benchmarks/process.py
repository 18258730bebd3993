"""One job in a process of its own: what it answered, and the memory of the whole process tree.

A fresh interpreter for every job, so that no run profits from what another one loaded. The child's group is
killed with it, also when the parent is interrupted: nothing goes on running.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.errors import ChildFailed, MissingPackage

_ROOT = Path(__file__).resolve().parent.parent
# Looking for new descendants reads every process of the machine, so it is done less often.
_SAMPLE_SECONDS, _DESCENDANTS_SECONDS = 0.05, 0.5
_LAST_LINES = 3


@dataclass(frozen=True)
class ChildResult:
    """What a child left behind.

    Attributes
    ----------
    answer : dict
        The JSON object that it wrote.
    tree_peak_bytes : int
        The largest sum of resident memory over it and its descendants among samples 50 ms apart.
    process_seconds, process_cpu_seconds : float
        From its start to its end, interpreter and imports included.
    others_cores : float
        How many cores were busy meanwhile with something else, on average.
    """

    answer: dict[str, Any]
    tree_peak_bytes: int
    process_seconds: float
    process_cpu_seconds: float
    others_cores: float


def run_child(module: str, job: dict[str, Any], *, folder: Path, timeout_seconds: float) -> ChildResult:
    """Run ``python -m module JOB.json RESULT.json`` in the checkout, and wait for it.

    Parameters
    ----------
    module : str
        What to run; it reads the job and writes its answer as JSON.
    job : dict
        What JSON can hold.
    folder : Path
        Where job, answer and standard error are kept; its other files are not touched.

    Raises
    ------
    ChildFailed
        It ended with an error, was killed, took too long, or left no answer; the message ends with the last
        lines of its standard error.
    """
    require_psutil()
    job_file, result_file, log = (folder / name for name in ("job.json", "result.json", "child.log"))
    job_file.write_text(json.dumps(job))
    result_file.unlink(missing_ok=True)
    before = _clocks()
    with (
        log.open("wb") as stream,
        _group([sys.executable, "-m", module, str(job_file), str(result_file)], stream) as child,
    ):
        peak = _watch(child, deadline=time.perf_counter() + timeout_seconds)
    seconds, cpu_seconds, own, machine = (
        after - earlier for after, earlier in zip(_clocks(), before, strict=True)
    )
    if child.returncode != 0 or not result_file.exists():
        raise ChildFailed(_why(child.returncode, log, timed_out=seconds > timeout_seconds))
    others = max(machine - own - cpu_seconds, 0.0) / seconds
    return ChildResult(json.loads(result_file.read_text()), peak, seconds, cpu_seconds, others)


@contextmanager
def _group(command: list[str], stream: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process that leads a group, which is gone when the block is left."""
    child = subprocess.Popen(
        command,
        cwd=_ROOT,
        stdin=subprocess.DEVNULL,
        stdout=stream,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield child
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def require_psutil() -> None:
    """Refuse before anything is measured.

    Raises
    ------
    MissingPackage
        psutil is not installed.
    """
    try:
        import psutil  # noqa: F401
    except ImportError as error:
        raise MissingPackage("measuring memory", "psutil") from error


def _watch(child: subprocess.Popen[bytes], *, deadline: float) -> int:
    """The tree's peak in bytes; returns when the child has ended or the deadline has passed."""
    import psutil

    tree: list[Any] = []
    peak, look_at = 0, 0.0
    while child.poll() is None and time.perf_counter() < deadline:
        try:
            if time.perf_counter() >= look_at:
                root = psutil.Process(child.pid)
                tree = [root, *root.children(recursive=True)]
                look_at = time.perf_counter() + _DESCENDANTS_SECONDS
            peak = max(peak, sum(process.memory_info().rss for process in tree))
        except psutil.Error:
            look_at = 0.0  # one of them has just ended
        time.sleep(_SAMPLE_SECONDS)
    return peak


def _clocks() -> tuple[float, float, float, float]:
    """Wall, and the CPU seconds of our children that have ended, of ourselves, and of the whole machine."""
    import psutil

    ended, own = (resource.getrusage(who) for who in (resource.RUSAGE_CHILDREN, resource.RUSAGE_SELF))
    machine = psutil.cpu_times()
    idle = machine.idle + getattr(machine, "iowait", 0.0)
    # Guests are counted in user and nice already.
    guests = getattr(machine, "guest", 0.0) + getattr(machine, "guest_nice", 0.0)
    return (
        time.perf_counter(),
        ended.ru_utime + ended.ru_stime,
        own.ru_utime + own.ru_stime,
        sum(machine) - idle - guests,
    )


def _why(code: int | None, log: Path, *, timed_out: bool) -> str:
    said = " | ".join(_last_words(log.read_text(errors="replace")))
    if timed_out:
        how = "took too long and was killed"
    elif code is not None and code < 0:
        how = f"was killed by {signal.Signals(-code).name}"
    else:
        how = f"ended with exit code {code}"
    return f"{how}: {said}" if said else how


def _last_words(text: str) -> list[str]:
    """The last lines; of a traceback the error itself and not the way to it."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()][-_LAST_LINES:]
    way = [number for number, line in enumerate(lines) if line.startswith("  ")]
    return lines[way[-1] + 1 :] or lines if way else lines
