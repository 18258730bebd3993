"""The inside of a task's process: run the handler, tell the parent how it goes, die with the parent.

What travels to the parent is plain data: ``("progress", dict)`` any number of times, then one
``("result", dict)`` or ``("failure", Failure)``. `PRELOAD` names what the forkserver imports once, so that
a task's process starts warm.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from typing import Any, NoReturn

from gdaltools import storage
from gdaltools.errors import GdalToolsError
from gdaltools.progress import Progress
from worker import handlers

PRELOAD = [
    "worker.child",
    "gdaltools.extract",
    "gdaltools.cog.create",
    "gdaltools.mosaic",
    "gdaltools.stac",
    "cogeo_mosaic.mosaic",
    "pystac.extensions.file",
    "pystac.extensions.projection",
    "pystac.extensions.raster",
    "pystac.validation",
]
# Progress is for people and for the stall watch: more often than this serves neither.
_PROGRESS_INTERVAL_SECONDS = 0.5

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Failure:
    """Why a task failed, as its row, its job and a dead-letter description will say it."""

    error: str
    error_type: str
    retryable: bool


def main(
    connection: Connection, task_type: str, parameters: Mapping[str, Any], environment: Mapping[str, str]
) -> None:
    """Run one task and send its outcome; the process's only function.

    The forkserver's environment is that of its own start: `environment` is the worker's of now.
    """
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_die_with_parent, args=(connection,), daemon=True).start()
    connection.send(_outcome(connection, task_type, parameters))
    connection.close()


def _outcome(connection: Connection, task_type: str, parameters: Mapping[str, Any]) -> tuple[str, object]:
    try:
        return "result", handlers.run(task_type, parameters, progress=_to_parent(connection))
    except GdalToolsError as error:
        return "failure", Failure(str(error), type(error).__name__, error.retryable)
    except Exception as error:  # the one border of a task: whatever it raised becomes its outcome
        log.exception("task of type %s failed unexpectedly", task_type)
        return "failure", Failure(str(error), type(error).__name__, retryable=True)


def _to_parent(connection: Connection) -> Callable[[Progress], None]:
    last = 0.0
    lock = threading.Lock()

    def send(state: Progress) -> None:
        nonlocal last
        with lock:
            now = time.monotonic()
            if state.done < state.total and now - last < _PROGRESS_INTERVAL_SECONDS:
                return
            last = now
            connection.send(("progress", asdict(state) | {"percent": round(100 * state.fraction, 1)}))

    return send


def _leave(*_: object) -> NoReturn:
    """End at once: an exception would wait for threads that are still writing, and let them publish."""
    storage.abandon_writing()
    os._exit(1)


def _die_with_parent(connection: Connection) -> None:
    """The parent never sends: the pipe becomes readable only when the parent is gone."""
    try:
        connection.recv_bytes()
    except (EOFError, OSError):
        _leave()
