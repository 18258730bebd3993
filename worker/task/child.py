"""The inside of a task's process: run the handler, tell the parent how it goes, die with the parent.

What travels to the parent is plain data: first ``("needs", Needs or None)``, which the parent answers when
there is room; then ``("progress", dict)`` and ``("log", lines)`` any number of times, one
``("usage", Usage)``, and at the end ``("result", dict)`` or ``("failure", Failure)``. `PRELOAD` names what
the forkserver imports once, so that a task's process starts warm.
"""

from __future__ import annotations

import logging
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from gdaltools.display.progress import Progress
from gdaltools.errors import GdalToolsError
from gdaltools.runtime import crash_points, phases, scratch
from gdaltools.runtime.text import redacted
from worker.telemetry import logs

if TYPE_CHECKING:
    from worker.task.handlers import Expected

PRELOAD = [
    "worker.task.child",
    "worker.task.handlers",
    "gdaltools.tiles.extract.create",
    "gdaltools.cog.create",
    "gdaltools.catalog.mosaic",
    "gdaltools.catalog.stac",
    "pystac.extensions.file",
    "pystac.extensions.projection",
    "pystac.extensions.raster",
    "pystac.validation",
]
# Progress is for people and for the stall watch: more often than this serves neither.
_PROGRESS_INTERVAL_SECONDS = 0.5
# Below the worker itself: its event loop keeps locks and answers probes while tasks use every core.
_NICENESS = 5
# The kernel, should it have to end a process, ends a task's and never the worker (proc(5), oom_score_adj).
_OOM_SCORE_ADJUSTMENT = 500
# getrusage(2) counts kilobytes on Linux, bytes on macOS.
_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Needs:
    """What a task is expected to take."""

    peak_memory_mb: float
    seconds: float


@dataclass(frozen=True)
class Failure:
    """Why a task failed, as its row, its job and a dead-letter description will say it."""

    error: str
    error_type: str
    retryable: bool


@dataclass(frozen=True)
class PhaseTime:
    """What a task did from when to when, in seconds since 1970, and for how many seconds over all threads."""

    name: str
    began: float
    ended: float
    busy_seconds: float


@dataclass(frozen=True)
class Usage:
    """What a task's process has used.

    Attributes
    ----------
    seconds, cpu_seconds : float
        Of the run; processor time of the process and of those that it waited for.
    peak_memory_mb : float
        The most that was resident at a time, megabytes of 10⁶ bytes.
    read_bytes, written_bytes : float
        Of files; 0 where nobody counts.
    steps : tuple of PhaseTime
        The phases of the run.
    processor : str
        The machine's.
    estimate : dict or None
        What was expected before.
    """

    seconds: float
    cpu_seconds: float
    peak_memory_mb: float
    read_bytes: float = 0.0
    written_bytes: float = 0.0
    steps: tuple[PhaseTime, ...] = ()
    processor: str = ""
    estimate: dict[str, Any] | None = None

    def measured(self) -> dict[str, Any]:
        """It beside what was expected, as a task's metadata hold it."""
        actual = {
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "peak_memory_mb": self.peak_memory_mb,
            "processor": self.processor,
        }
        return {"actual": actual, "estimate": self.estimate}


class Steps:
    """The phases of a task, one step for each name."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._steps: dict[str, PhaseTime] = {}

    def note(self, name: str, began: float, ended: float) -> None:
        """Add a phase to its step."""
        with self._lock:
            known = self._steps.get(name, PhaseTime(name, began, ended, 0.0))
            self._steps[name] = PhaseTime(
                name,
                min(known.began, began),
                max(known.ended, ended),
                known.busy_seconds + ended - began,
            )

    def done(self) -> tuple[PhaseTime, ...]:
        """All of them, by their beginning."""
        return tuple(sorted(self._steps.values(), key=lambda step: step.began))


def main(
    connection: Connection,
    task_type: str,
    parameters: Mapping[str, Any],
    environment: Mapping[str, str],
    log_as: logs.Carried | None = None,
) -> None:
    """Run one task and send its outcome; the process's only function.

    The forkserver's environment is that of its own start: `environment` is the worker's of now; `log_as` is
    how it logs.
    """
    os.environ.clear()
    os.environ.update(environment)
    logs.carry_on(log_as)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    signal.signal(signal.SIGTERM, _leave)
    os.nice(_NICENESS)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE_ADJUSTMENT))
    crash_points.reach("child-started")
    parent = _Parent(connection)
    expected = _expected(task_type, parameters)
    parent.say(("needs", None if expected is None else Needs(expected.peak_memory_mb, expected.seconds)))
    _die_with_parent(connection)
    threading.Thread(target=_die_with_parent, args=(connection,), daemon=True).start()
    began, cpu_before, steps = time.monotonic(), _cpu_seconds(), Steps()
    with logs.TAIL.listening(), phases.listening(steps.note):
        outcome = _outcome(parent, task_type, parameters)
    usage = Usage(
        seconds=round(time.monotonic() - began, 3),
        cpu_seconds=round(_cpu_seconds() - cpu_before, 3),
        peak_memory_mb=_peak_memory_mb(),
        steps=steps.done(),
        processor=_processor(),
        estimate=None if expected is None else expected.to_dict(),
        **_file_bytes(),
    )
    parent.say(("usage", usage))
    crash_points.reach("child-ended")
    parent.say(outcome)
    connection.close()


def _file_bytes() -> dict[str, float]:
    with suppress(OSError):
        lines = (line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
        counted = {name: float(value) for name, value in lines}
        return {"read_bytes": counted["rchar"], "written_bytes": counted["wchar"]}
    return {}


def _processor() -> str:
    from gdaltools.cost.calibration import processor_name

    return processor_name()


def _expected(task_type: str, parameters: Mapping[str, Any]) -> Expected | None:
    from worker.task import handlers  # with rasterio, numpy and dask, which the worker itself does without

    try:
        return handlers.expectation(task_type, parameters)
    except Exception:  # the run itself will say what is wrong, if anything is
        log.exception("no estimate for a task of type %s", task_type)
        return None


def _outcome(parent: _Parent, task_type: str, parameters: Mapping[str, Any]) -> tuple[str, object]:
    from worker.task import handlers

    try:
        return "result", handlers.run(task_type, parameters, progress=parent.show)
    except GdalToolsError as error:
        return "failure", Failure(redacted(str(error)), type(error).__name__, error.retryable)
    except Exception as error:  # the one border of a task: whatever it raised becomes its outcome
        log.exception("task of type %s failed unexpectedly", task_type)
        return "failure", Failure(redacted(str(error)), type(error).__name__, retryable=True)


def _cpu_seconds() -> float:
    """User and system time of this process and of those that it has waited for."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def _peak_memory_mb() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS_UNIT / 1e6, 1)


class _Parent:
    """The way to the parent: the newest progress and log twice a second, and what is said once, in order."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._newest: Progress | None = None
        threading.Thread(target=self._send_progress, daemon=True).start()

    def show(self, state: Progress) -> None:
        """Have a state sent, unless a newer one overtakes it."""
        self._newest = state

    def say(self, message: tuple[str, object]) -> None:
        """Send a message behind all progress and log."""
        with self._lock:
            self._send_newest()
            self._send(message)

    def _send_progress(self) -> None:
        while True:
            time.sleep(_PROGRESS_INTERVAL_SECONDS)
            with self._lock:
                self._send_newest()

    def _send_newest(self) -> None:
        state, self._newest = self._newest, None
        if state is not None:
            self._send(("progress", asdict(state) | {"percent": round(100 * state.fraction, 1)}))
        if lines := logs.TAIL.taken():
            self._send(("log", lines))

    def _send(self, message: tuple[str, object]) -> None:
        try:
            self._connection.send(message)
        except OSError:  # the parent is gone
            _leave()


def _leave(*_: object) -> NoReturn:
    """End at once: an exception would wait for threads that are still writing, and let them publish."""
    scratch.abandon()
    os._exit(1)


def _die_with_parent(connection: Connection) -> None:
    """Wait for the parent's one message, its leave to begin; after that, for the parent's end."""
    try:
        connection.recv_bytes()
    except (EOFError, OSError):
        _leave()
