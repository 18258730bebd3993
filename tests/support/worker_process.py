"""The real ``python -m worker``, as a process that a test starts, stops and kills."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.services import postgres

ROOT = Path(__file__).parents[2]
STOP_SECONDS = 60.0


class WorkerProcess:
    """A worker in ``APP_MODE=worker_docker``, running inside a ``with`` block, where it may be restarted.

    Leaving the block sends SIGTERM, and fails if the worker does not then exit with code 0.

    Parameters
    ----------
    conninfo
        Connection string of its database.
    connection_string
        Connection string of its Service Bus.
    blobs
        The folder of its containers.
    log_path
        The file for its output.
    environment
        Variables to add or override.
    module
        The module to run instead of the worker's own, which it wraps.
    """

    def __init__(
        self,
        *,
        conninfo: str,
        connection_string: str,
        blobs: Path,
        log_path: Path,
        environment: Mapping[str, str] | None = None,
        module: str = "worker",
    ) -> None:
        self.port = _free_port()
        """The port of its probes; the same after a restart."""
        parts = {name.upper(): str(value) for name, value in postgres.parts(conninfo).items() if value}
        self.environment = {
            **os.environ,
            **parts,
            "APP_MODE": "worker_docker",
            "SERVICE_BUS_CONNECTION_STRING": connection_string,
            "GDALTOOLS_BLOB_ROOT": str(blobs),
            "PORT": str(self.port),
            "PYTHONPATH": str(ROOT),
            **(environment or {}),
        }
        """Its environment variables."""
        self._log_path = log_path
        self._module = module
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.is_running:
            return
        self.terminate()
        try:
            code = self.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        if error is None:
            assert code == 0, f"the worker ended with {code}:\n{self.log[-4000:]}"

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._started().pid

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """Everything that it has written so far, over all its starts."""
        return self._log_path.read_text(errors="replace") if self._log_path.exists() else ""

    def start(self) -> None:
        """Start it; it is not yet ready when this returns."""
        assert not self.is_running, "the worker runs already"
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self._module],
                env=self.environment,
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._started().terminate()

    def kill(self) -> None:
        """Send SIGKILL to the worker alone, and wait until it has ended."""
        self._started().kill()
        self._started().wait(STOP_SECONDS)

    def wait(self, timeout: float) -> int:
        """Wait until it has ended, and return its exit code.

        Raises
        ------
        subprocess.TimeoutExpired
            It has not ended after `timeout` seconds.
        """
        return self._started().wait(timeout)

    def _started(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the worker was not started"
        return self._process


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
