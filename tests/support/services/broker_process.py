"""The development broker as a separate process, which can be killed and restarted at the same address."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from worker.local.broker.server import QueueCounts

ROOT = Path(__file__).parents[3]
STOP_SECONDS = 20.0


class BrokerProcess:
    """A broker that keeps its address and state file through every restart; a context manager.

    Parameters
    ----------
    folder
        The folder of its state (``broker.db``) and its standard error (``broker.log``).
    queues
        Names of its queues.
    options
        Further options of ``python -m worker.local.broker``, such as ``--lock-seconds=5``.
    """

    def __init__(self, folder: Path, queues: Sequence[str], *, options: Sequence[str] = ()) -> None:
        self.state = folder / "broker.db"
        self.log = folder / "broker.log"
        self.connection_string = ""
        """The connection string for clients; the same after a restart."""
        named = [f"--queue={queue}" for queue in queues]
        where = [f"--port={_free_port()}", f"--state={self.state}", "--faults"]
        self._command = [sys.executable, "-m", "worker.local.broker", *named, *where, *options]
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self.stop()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._running().pid

    def start(self) -> None:
        """Start it; it listens when this returns."""
        assert self._process is None, "the broker is running"
        with self.log.open("a") as log:
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        self._process = process
        assert process.stdout is not None
        self.connection_string = process.stdout.readline().strip()
        if not self.connection_string:
            code = self._reap()
            raise AssertionError(f"the broker ended with {code}: {self.log.read_text()}")

    def kill(self) -> None:
        """End it by SIGKILL."""
        self._running().kill()
        self._reap()

    def stop(self) -> None:
        """End it by SIGTERM, and wait until it has exited."""
        self._running().terminate()
        code = self._reap()
        assert code == 0, f"the broker ended with {code}: {self.log.read_text()}"

    def restart(self) -> None:
        """Kill it, if it still runs, and start it again at the same address with the same state."""
        if self._process is not None:
            self.kill()
        self.start()

    def command(self, line: str) -> str:
        """Send it a command and return its answer."""
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(line + "\n")
        process.stdin.flush()
        answer = process.stdout.readline().strip()
        assert answer, f"the broker did not answer {line!r}: {self.log.read_text()}"
        assert not answer.startswith("error:"), f"{line!r}: {answer}"
        return answer

    def counts(self, queue: str) -> QueueCounts:
        """Return how many messages of a queue are in each state."""
        return QueueCounts(**json.loads(self.command(f"counts {queue}")))

    def _running(self) -> subprocess.Popen[str]:
        assert self._process is not None, "the broker is not running"
        return self._process

    def _reap(self) -> int:
        process, self._process = self._running(), None
        with process:
            return process.wait(STOP_SECONDS)


def _free_port() -> int:
    """Return a port below the ephemeral range (from 32768): no client takes it while the broker is down."""
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("none of 100 ports is free")
