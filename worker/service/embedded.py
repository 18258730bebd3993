"""A standalone worker inside the current process, for a notebook or a script.

>>> with Standalone("blobs") as worker:  # doctest: +SKIP
...     job = worker.client.submit("process_large_raster_v2", {"container_name": ..., "blob_name": ...})
...     job.watch()

It embeds PostgreSQL, the broker, and the processing of jobs and tasks. The worker runs in a thread with its
own event loop; each task runs in its own process, as in every worker.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from gdaltools.storage import StrPath
from worker.errors import ConfigurationError, Stopped
from worker.service.assembly import serving
from worker.settings import Settings
from worker.web.client import Client

_STOP_SECONDS = 60.0


class Standalone:
    """A worker that runs from `start` (or entry) to `stop` (or exit, or the end of the process).

    Parameters
    ----------
    blobs : path, optional
        The folder behind ``abfs://`` locations, for this process and the tasks; by default
        GDALTOOLS_BLOB_ROOT.
    settings : mapping, optional
        Additional fields of `worker.settings.Settings`, such as ``{"worker_concurrency": 1}``.

    Attributes
    ----------
    client : Client
        The client that submits jobs to this worker.
    url : str
        The address of the status page.
    """

    client: Client
    url: str

    def __init__(self, blobs: StrPath | None = None, *, settings: Mapping[str, Any] | None = None) -> None:
        self._blobs = None if blobs is None else Path(blobs).absolute()
        self._settings = dict(settings or {})
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._root: str | None = None

    def start(self) -> Standalone:
        """Start the services and return when the worker accepts jobs.

        Raises
        ------
        ConfigurationError
            The worker already runs, or a setting is wrong.
        WorkerError
            A service did not start.
        """
        if self._thread is not None:
            raise ConfigurationError("the worker runs already: stop it first")
        self._root = os.environ.get("GDALTOOLS_BLOB_ROOT")
        if self._blobs is not None:
            self._blobs.mkdir(parents=True, exist_ok=True)
            os.environ["GDALTOOLS_BLOB_ROOT"] = str(self._blobs)
        for noisy in ("azure", "aiohttp"):  # both log routine operations
            logging.getLogger(noisy).setLevel(logging.ERROR)
        self._ready.clear()
        self._thread = threading.Thread(target=self._run, name="standalone worker", daemon=True)
        self._thread.start()
        atexit.register(self.stop)
        self._ready.wait()
        if self._error is not None:
            error, self._error = self._error, None
            self.stop()
            raise error
        return self

    def stop(self) -> None:
        """Stop all services; running tasks go back to their queue, which ends with the embedded broker."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        if self._loop is not None and self._stopping is not None and thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
        thread.join(_STOP_SECONDS)
        atexit.unregister(self.stop)
        if self._root is None:
            os.environ.pop("GDALTOOLS_BLOB_ROOT", None)
        else:
            os.environ["GDALTOOLS_BLOB_ROOT"] = self._root

    def __enter__(self) -> Standalone:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Stopped:
            return
        except BaseException as error:  # noqa: BLE001 - `start`, in another thread, raises it
            self._error = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        settings = Settings.standalone(**self._settings)
        async with serving(settings, stopping=self._stopping) as service:
            self.url = f"http://127.0.0.1:{service.port}/"
            self.client = Client(self.url)
            self._ready.set()
            await service.wait(self._stopping)
