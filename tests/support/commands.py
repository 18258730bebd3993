"""``python -m worker`` as a process: its commands, and a standalone worker for them to use."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
WORKER = [sys.executable, "-m", "worker"]
START_SECONDS = 90


@dataclass
class Standalone:
    """A standalone worker in its own process."""

    process: subprocess.Popen[str]
    environment: dict[str, str]
    blobs: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.environment['PORT']}"

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run(*arguments, environment=self.environment)

    def get(
        self, path: str, body: bytes | None = None, *, content_type: str | None = None
    ) -> tuple[int, Any]:
        """Return the status and the JSON of a path, requested by GET or, with a body, by POST."""
        headers = {} if content_type is None else {"Content-Type": content_type}
        request = urllib.request.Request(f"{self.url}{path}", data=body, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)


def environment_with(**values: str) -> dict[str, str]:
    """Return this process's environment without any worker configuration, plus `values`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("APP_", "WORKER_", "POSTGIS_", "SERVICE_BUS_"))
    }
    return {**kept, "PYTHONPATH": str(ROOT), **values}


def run(*arguments: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run `python -m worker` with these arguments until it exits."""
    return subprocess.run(
        [*WORKER, *arguments], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120
    )


def free_port() -> int:
    """Return a port that no process listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_one_clear_line(text: str) -> bool:
    """Return whether an error is reported in one line, without a traceback."""
    return text.count("\n") == 1 and "Traceback" not in text


def assert_refused(done: subprocess.CompletedProcess[str], code: int, said: str) -> None:
    """Fail unless a command ended with this code and one clear line that contains `said`."""
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert is_one_clear_line(done.stderr)
    assert "\x1b" not in done.stderr


def wait_until_ready(worker: Standalone) -> None:
    """Return once the worker is ready; fail if it ends or takes longer than `START_SECONDS`."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            status, _ = worker.get("/readyz")
        except OSError:
            status = 0
        if status == 200:
            return
        assert worker.process.poll() is None, worker.process.stderr and worker.process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)


@contextlib.contextmanager
def standalone_worker(blobs: Path) -> Iterator[Standalone]:
    """Run a standalone worker whose blobs are in the folder `blobs`; it is killed on exit."""
    environment = environment_with(
        APP_MODE="standalone", PORT=str(free_port()), GDALTOOLS_BLOB_ROOT=str(blobs), LOG_LEVEL="WARNING"
    )
    with subprocess.Popen(WORKER, env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        made = Standalone(process, environment, blobs)
        try:
            wait_until_ready(made)
            yield made
        finally:
            process.kill()
