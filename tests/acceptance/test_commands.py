"""``python -m worker`` as an engineer runs it: real processes, from the outside only."""

from __future__ import annotations

import json
import os
import signal
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

import pytest

from tests.support.processes import descendants
from tests.support.rasters import smooth, write_raster

pytestmark = pytest.mark.timeout(240)

ROOT = Path(__file__).parents[2]
WORKER = [sys.executable, "-m", "worker"]
START_SECONDS = 90


@dataclass
class Standalone:
    """A standalone worker in a process of its own."""

    process: subprocess.Popen[str]
    environment: dict[str, str]
    blobs: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.environment['PORT']}"

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return _run(*arguments, environment=self.environment)

    def get(self, path: str, body: bytes | None = None) -> tuple[int, Any]:
        try:
            with urllib.request.urlopen(f"{self.url}{path}", data=body, timeout=30) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)


def _environment(**values: str) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("APP_", "WORKER_", "POSTGIS_"))
    }
    return {**kept, "PYTHONPATH": str(ROOT), **values}


def _run(*arguments: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*WORKER, *arguments], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_one_clear_line(text: str) -> bool:
    return text.count("\n") == 1 and "Traceback" not in text


@pytest.fixture(scope="module")
def standalone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standalone]:
    blobs = tmp_path_factory.mktemp("blobs")
    (blobs / "bronze-rasters").mkdir()
    environment = _environment(
        APP_MODE="standalone", PORT=str(_free_port()), GDALTOOLS_BLOB_ROOT=str(blobs), LOG_LEVEL="WARNING"
    )
    with subprocess.Popen(WORKER, env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        made = Standalone(process, environment, blobs)
        try:
            _wait_until_ready(made)
            yield made
        finally:
            process.kill()


def _wait_until_ready(worker: Standalone) -> None:
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


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({}, "APP_MODE"),
        ({"APP_MODE": "worker_docker"}, "SERVICE_BUS"),
        ({"APP_MODE": "worker_moon"}, "standalone"),
        ({"APP_MODE": "standalone", "PORT": "http"}, "PORT"),
    ],
)
def test_a_wrong_configuration_is_one_line_and_exit_code_2(values: dict[str, str], named: str) -> None:
    done = _run(environment=_environment(**values))
    assert done.returncode == 2
    assert named in done.stderr
    assert _is_one_clear_line(done.stderr)


def test_a_port_that_is_taken_is_one_line_and_exit_code_2() -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = _run(environment=_environment(APP_MODE="standalone", PORT=port))
    assert done.returncode == 2
    assert port in done.stderr
    assert _is_one_clear_line(done.stderr)


def test_without_a_worker_the_commands_say_how_to_start_one() -> None:
    done = _run("status", "0" * 64, environment=_environment(PORT=str(_free_port())))
    assert done.returncode == 4
    assert "APP_MODE=standalone" in done.stderr
    assert _is_one_clear_line(done.stderr)


def test_a_job_is_submitted_watched_and_found_again(standalone: Standalone) -> None:
    write_raster(standalone.blobs / "bronze-rasters" / "scene.tif", smooth(3, 200, 300))
    submit = ["submit", "process_large_raster_v2", "--container", "bronze-rasters", "--blob", "scene.tif"]
    done = standalone.command(*submit, "--parameter", "overlap=64", "--wait")
    assert done.returncode == 0, done.stderr
    job = json.loads(done.stdout)
    assert job["status"] == "completed"

    status = standalone.command("status", job["jobId"])
    assert json.loads(status.stdout) == job
    listed = standalone.command("tasks", job["jobId"])
    assert "docker-tasks" in listed.stdout

    code, answer = standalone.get(f"/api/jobs/status/{job['jobId']}")
    assert code == 200
    assert {"jobId", "jobType", "status", "stage", "totalStages", "parameters", "resultData"} <= set(answer)
    code, again = standalone.get(
        "/api/jobs/submit/process_large_raster_v2",
        json.dumps({"container_name": "bronze-rasters", "blob_name": "scene.tif", "overlap": 64}).encode(),
    )
    assert (code, again["jobId"], again["created"]) == (200, job["jobId"], False)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("submit", "paint_it", "--container", "bronze-rasters", "--blob", "scene.tif"), 3, "paint_it"),
        (
            ("submit", "process_large_raster_v2", "--container", "bronze-rasters", "--blob", "../x.tif"),
            2,
            "climb",
        ),
        (
            ("submit", "process_large_raster_v2", "--container", "bronze-rasters", "--blob", "none.tif"),
            3,
            "none.tif",
        ),
        (
            (
                *(
                    "submit",
                    "process_large_raster_v2",
                    "--container",
                    "bronze-rasters",
                    "--blob",
                    "scene.tif",
                ),
                *("--parameter", "tile_size=1000"),
            ),
            2,
            "16",
        ),
        (("status", "f" * 64), 3, "does not exist"),
        (("tasks", "../../etc"), 3, "does not exist"),
    ],
)
def test_a_refused_command_is_one_line_and_a_code_that_says_why(
    standalone: Standalone, arguments: tuple[str, ...], code: int, said: str
) -> None:
    done = standalone.command(*arguments)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert _is_one_clear_line(done.stderr)


@pytest.mark.parametrize("body", [b"hello", b"[1]", b"\xff\xfe"])
def test_a_body_that_is_no_json_object_is_a_bad_request(standalone: Standalone, body: bytes) -> None:
    code, answer = standalone.get("/api/jobs/submit/process_large_raster_v2", body)
    assert code == 400
    assert "JSON" in answer["error"]


def test_a_failed_job_is_exit_code_1(standalone: Standalone) -> None:
    (standalone.blobs / "bronze-rasters" / "notes.tif").write_text("no raster")
    submit = ["submit", "process_large_raster_v2", "--container", "bronze-rasters", "--blob", "notes.tif"]
    done = standalone.command(*submit, "--wait")
    assert done.returncode == 1
    assert "notes.tif" in json.loads(done.stdout)["errorDetails"]


def test_sigterm_ends_it_with_code_0_and_leaves_no_process(standalone: Standalone) -> None:
    assert standalone.get("/livez")[0] == 200
    children = descendants(standalone.process.pid)
    assert children
    standalone.process.send_signal(signal.SIGTERM)
    assert standalone.process.wait(60) == 0
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in children):
        assert time.monotonic() < deadline, "a child outlived the worker"
        time.sleep(0.05)


def test_what_a_killed_worker_left_is_cleaned_up_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir(mode=0o755)
    tmp_path.chmod(0o755)
    for killed in (True, False):
        port = str(_free_port())
        environment = _environment(
            APP_MODE="standalone", PORT=port, GDALTOOLS_BLOB_ROOT=str(tmp_path), TMPDIR=str(temporary)
        )
        with subprocess.Popen(
            WORKER, env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                _wait_until_ready(Standalone(process, environment, tmp_path))
                if not killed:
                    process.terminate()
                    assert process.wait(60) == 0
            finally:
                process.kill()
        assert bool(list(temporary.glob("gdaltools-*"))) is killed
