"""``python -m worker`` as an engineer runs it: real processes, from the outside only."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commands import (
    ROOT,
    WORKER,
    Standalone,
    assert_refused,
    environment_with,
    free_port,
    is_one_clear_line,
    run,
    standalone_worker,
    wait_until_ready,
)
from tests.support.processes import descendants
from tests.support.rasters import smooth, write_raster

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def standalone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standalone]:
    blobs = tmp_path_factory.mktemp("blobs")
    (blobs / "bronze-rasters").mkdir()
    with standalone_worker(blobs) as made:
        yield made


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
    done = run(environment=environment_with(**values))
    assert done.returncode == 2
    assert named in done.stderr
    assert is_one_clear_line(done.stderr)


def test_a_port_that_is_taken_is_one_line_and_exit_code_2() -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = run(environment=environment_with(APP_MODE="standalone", PORT=port))
    assert done.returncode == 2
    assert port in done.stderr
    assert is_one_clear_line(done.stderr)


def test_without_a_worker_the_commands_say_how_to_start_one() -> None:
    done = run("status", "0" * 64, environment=environment_with(PORT=str(free_port())))
    assert done.returncode == 4
    assert "APP_MODE=standalone" in done.stderr
    assert is_one_clear_line(done.stderr)


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
    assert_refused(done, code, said)


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
    temporary = tmp_path / "a-name-that-is-too-long-for-the-name-of-a-socket".ljust(100, "-")
    temporary.mkdir(mode=0o755)
    tmp_path.chmod(0o755)
    for killed in (True, False):
        port = str(free_port())
        environment = environment_with(
            APP_MODE="standalone", PORT=port, GDALTOOLS_BLOB_ROOT=str(tmp_path), TMPDIR=str(temporary)
        )
        with subprocess.Popen(
            WORKER, env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                wait_until_ready(Standalone(process, environment, tmp_path))
                if not killed:
                    process.terminate()
                    assert process.wait(60) == 0
            finally:
                process.kill()
        assert bool(list(temporary.glob("gdaltools-*"))) is killed
