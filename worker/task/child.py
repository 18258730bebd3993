"""The code in a task's process: run the handler, report to the parent, and exit when the parent does.

The messages to the parent are plain data, in this order: first ``("needs", Needs or None)``, which the parent
answers once there is enough memory; then ``("progress", dict)`` and ``("log", lines)`` any number of times,
one ``("usage", Usage)``, and at the end ``("result", dict)`` or ``("failure", Failure)``. `PRELOAD` lists the
modules that the forkserver imports once, so that a task's process starts without imports.
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
    from worker.job.expectations import Expected

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
# Progress serves people and stall detection; a shorter interval helps neither.
_PROGRESS_INTERVAL_SECONDS = 0.5
# Lower than the worker's priority: its event loop renews locks and answers probes while tasks use every core.
_NICENESS = 5
# If the kernel has to kill a process, it kills a task's and never the worker's (proc(5), oom_score_adj).
_OOM_SCORE_ADJUSTMENT = 500
# getrusage(2) counts kilobytes on Linux, bytes on macOS.
_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Needs:
    """The estimated peak memory and duration of a task."""

    peak_memory_mb: float
    seconds: float


@dataclass(frozen=True)
class Failure:
    """Why a task failed, as its row, its job and its dead letter record it."""

    error: str
    error_type: str
    retryable: bool


@dataclass(frozen=True)
class PhaseTime:
    """The first start and last end of a phase, in seconds since 1970, and its busy time over all threads."""

    name: str
    began: float
    ended: float
    busy_seconds: float


@dataclass(frozen=True)
class Usage:
    """The resource usage of a task's process.

    Attributes
    ----------
    seconds, cpu_seconds : float
        Elapsed time of the run, and processor time of the process and of the children it has waited for.
    peak_memory_mb : float
        Peak resident memory, in megabytes of 10⁶ bytes.
    read_bytes, written_bytes : float
        Bytes read and written; 0 where the operating system does not count them.
    steps : tuple of PhaseTime
        The phases of the run.
    processor : str
        The name of the machine's processor.
    estimate : dict or None
        The estimate made before the run.
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
        """Return the usage and the estimate as the task's metadata store them."""
        actual = {
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "peak_memory_mb": self.peak_memory_mb,
            "processor": self.processor,
        }
        return {"actual": actual, "estimate": self.estimate}


class Steps:
    """The phases of a task, merged into one step per name."""

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
        """Return all steps, ordered by their start."""
        return tuple(sorted(self._steps.values(), key=lambda step: step.began))


def main(
    connection: Connection,
    task_type: str,
    parameters: Mapping[str, Any],
    environment: Mapping[str, str],
    log_as: logs.LogState | None = None,
) -> None:
    """Run one task and send its outcome to the parent; the entry point of a task's process.

    `environment` is the worker's current environment; the forkserver's is the one of its own start. `log_as`
    is the worker's logging configuration.
    """
    os.environ.clear()
    os.environ.update(environment)
    logs.take_over(log_as)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the parent decides
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
    from gdaltools.cost.calibration import processor_name

    usage = Usage(
        seconds=round(time.monotonic() - began, 3),
        cpu_seconds=round(_cpu_seconds() - cpu_before, 3),
        peak_memory_mb=_peak_memory_mb(),
        steps=steps.done(),
        processor=processor_name(),
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


def _expected(task_type: str, parameters: Mapping[str, Any]) -> Expected | None:
    from worker.task import handlers  # imports rasterio, numpy and dask, which the worker does not load

    try:
        return handlers.expectation(task_type, parameters)
    except Exception:  # a real problem shows in the run itself
        log.exception("no estimate for a task of type %s", task_type)
        return None


def _outcome(parent: _Parent, task_type: str, parameters: Mapping[str, Any]) -> tuple[str, object]:
    from worker.task import handlers

    try:
        return "result", handlers.run(task_type, parameters, progress=parent.show)
    except GdalToolsError as error:
        return "failure", Failure(redacted(str(error)), type(error).__name__, error.retryable)
    except Exception as error:  # the one border of a task: any exception becomes its outcome
        log.exception("task of type %s failed unexpectedly", task_type)
        return "failure", Failure(redacted(str(error)), type(error).__name__, retryable=True)


def _cpu_seconds() -> float:
    """Return the user and system time of this process and of the children it has waited for."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def _peak_memory_mb() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS_UNIT / 1e6, 1)


class _Parent:
    """Sends messages to the parent: the newest progress and log lines twice a second, all others in order."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._newest: Progress | None = None
        threading.Thread(target=self._send_progress, daemon=True).start()

    def show(self, state: Progress) -> None:
        """Queue a progress state; a newer one replaces it until it is sent."""
        self._newest = state

    def say(self, message: tuple[str, object]) -> None:
        """Send a message after all pending progress and log lines."""
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
    """Exit at once; an exception would wait for threads that still write, and let them publish."""
    scratch.abandon()
    os._exit(1)


def _die_with_parent(connection: Connection) -> None:
    """Wait for the next message of the parent, and exit the process if the parent is gone.

    The parent sends only one message, the permission to begin; a second call therefore waits for its death.
    """
    try:
        connection.recv_bytes()
    except (EOFError, OSError):
        _leave()
