"""Faults around a worker: each is reported while it lasts, and nothing is lost or done twice."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.chaos.verdict import query
from tests.chaos.world import World, world
from tests.support.eventually import eventually, eventually_or_stalled
from tests.support.platform.jobs import NOOP
from tests.support.rasters import UTM, UTM_GRID, smooth, write_raster
from tests.support.worker_process import ROOT, WorkerProcess

pytestmark = pytest.mark.timeout(240)
SOURCE = {"container_name": "bronze-rasters", "blob_name": "scene.tif"}


@pytest_asyncio.fixture
async def made() -> AsyncIterator[World]:
    async with world(workers=1, seed=0) as each:
        await eventually(lambda: ready(each.workers[0])["ready"], within_seconds=60)
        yield each
        assert each.platform.violations == []


def ready(worker: WorkerProcess) -> dict[str, Any]:
    """Return the content of /readyz; not ready if there is no answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{worker.port}/readyz", timeout=5) as answer:
            return dict(json.load(answer))
    except urllib.error.HTTPError as error:
        return dict(json.load(error))
    except OSError:
        return {"ready": False, "problems": {}}


async def reported(worker: WorkerProcess, part: str) -> None:
    """Wait until a part is reported to have a problem."""
    await eventually(lambda: part in ready(worker)["problems"], within_seconds=60)


async def well(worker: WorkerProcess) -> None:
    """Wait until no problem is reported."""
    await eventually(lambda: ready(worker)["ready"], within_seconds=60)


async def sleeping_job(made: World, *, tasks: int = 3, seconds: float = 2) -> str:
    job_id = await made.platform.submit(
        {"stages": 1, "tasks": tasks, "task_type": "sleep", "task_parameters": {"seconds": seconds}},
        job_type=NOOP,
    )
    await eventually(lambda: count(made, job_id, "processing") > 0, within_seconds=60)
    return job_id


def count(made: World, job_id: str, status: str) -> int:
    statement = "select count(*) as n from app.tasks where parent_job_id = %s and status::text = %s"
    return int(query(made, statement, job_id, status)[0]["n"])


async def completed(made: World, job_id: str) -> None:
    rows = await made.platform.quiet([job_id], deadline=120)
    assert rows[job_id]["status"] == "completed", rows[job_id]["error_details"]


async def test_a_database_that_crashes_mid_task_costs_nothing(made: World) -> None:
    (worker,) = made.workers
    job_id = await sleeping_job(made)
    down = made.postgres.down(crash=True)
    await asyncio.to_thread(down.__enter__)
    try:
        await reported(worker, "database")
    finally:
        await asyncio.to_thread(down.__exit__, None, None, None)
    await completed(made, job_id)
    await well(worker)
    assert worker.log.count('"logger": "worker.web.health", "message": "database: ') == 1, (
        "one line for one outage"
    )
    retries = query(made, "select sum(retry_count)::int as n from app.tasks where parent_job_id = %s", job_id)
    assert retries[0]["n"] == 0


async def test_a_broker_that_dies_mid_task_costs_nothing(made: World) -> None:
    (worker,) = made.workers
    job_id = await sleeping_job(made, tasks=2, seconds=3)
    await asyncio.to_thread(made.broker.kill)
    try:
        await reported(worker, "docker-tasks")
    finally:
        await asyncio.to_thread(made.broker.start)
    await completed(made, job_id)
    await well(worker)
    retries = query(made, "select sum(retry_count)::int as n from app.tasks where parent_job_id = %s", job_id)
    assert retries[0]["n"] == 0


async def test_storage_that_refuses_is_told_and_tried_again(made: World) -> None:
    (worker,) = made.workers
    write_raster(made.blobs / "bronze-rasters" / "scene.tif", smooth(3, 200, 300))
    (made.blobs / "silver-cogs").write_text("in the way")
    job_id = await made.platform.submit(
        {"stages": 1, "tasks": 1, "task_type": "create_cog", "task_parameters": SOURCE}, job_type=NOOP
    )
    await reported(worker, "storage")
    (made.blobs / "silver-cogs").unlink()
    await completed(made, job_id)
    await well(worker)


async def test_a_worker_told_to_stop_hands_its_extraction_back_and_the_next_goes_on() -> None:
    # Without a grace period there is no race for the remaining tiles.
    async with world(workers=1, seed=0, environment={"WORKER_SHUTDOWN_GRACE_SECONDS": "0"}) as made:
        (worker,) = made.workers
        write_raster(
            made.blobs / "bronze-rasters" / "scene.tif", smooth(3, 2400, 2400), crs=UTM, transform=UTM_GRID
        )
        job_id = await made.platform.submit(SOURCE | {"tile_size": 256, "overlap": 32})
        tiles = made.blobs / "silver-mosaicjson" / job_id[:8] / "tiles"

        def written() -> int:
            return len(list(tiles.glob("*.tif")))

        await eventually_or_stalled(lambda: written() > 20, progress=written)
        made.restless = False
        worker.terminate()
        assert await asyncio.to_thread(worker.wait, 30) == 0
        statement = "select status::text, retry_count from app.tasks where parent_job_id = %s and stage = 2"
        assert query(made, statement, job_id) == [{"status": "queued", "retry_count": 0}]
        assert not list(tiles.glob(".gdaltools-*")), "nothing half-written"
        assert not list(made.temporary.iterdir()), "nothing temporary"
        listed = json.loads((tiles / "scene_tiles.json").read_text())["tiles"]
        before = {path: path.stat().st_ino for path in tiles.glob("*.tif")}
        worker.start()
        await eventually_or_stalled(
            lambda: query(made, statement, job_id)[0]["status"] == "completed", progress=written
        )
        kept = [path for path, inode in before.items() if path.stat().st_ino == inode]
        assert len(kept) >= len(listed) > 0
        assert query(made, "select sum(takeovers)::int as n from app.worker_claims")[0]["n"] == 0
        assert made.platform.violations == []


async def test_a_full_disk_keeps_a_worker_from_receiving() -> None:
    async with world(workers=1, seed=0, environment={"WORKER_MIN_FREE_DISK_MB": "1e12"}) as made:
        (worker,) = made.workers
        await reported(worker, "disk")
        job_id = await made.platform.submit(
            {"stages": 1, "tasks": 1, "task_type": "do_nothing", "task_parameters": {}}, job_type=NOOP
        )
        await eventually(lambda: made.broker.counts("docker-tasks").active == 1, within_seconds=30)
        assert count(made, job_id, "queued") == 1


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"DOCKER_TASKS_QUEUE": "no-such-queue"}, "no-such-queue"),
        ({"JOBS_QUEUE": "no-such-queue"}, "no-such-queue"),
        ({"POSTGIS_DATABASE": "no-such-database"}, "no-such-database"),
        ({"POSTGIS_USER": "nobody-we-know"}, "nobody-we-know"),
        ({"SERVICE_BUS_CONNECTION_STRING": "Endpoint=sb://x"}, "malformed"),
        ({"WORKER_CRASH_LIMIT": "0"}, "WORKER_CRASH_LIMIT"),
        ({"WORKER_MEMORY_LIMIT_MB": "much"}, "WORKER_MEMORY_LIMIT_MB"),
    ],
)
async def test_a_wrong_configuration_is_one_line_and_exit_code_2(
    services: Mapping[str, str], wrong: dict[str, str], said: str
) -> None:
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "worker"],
        env={**os.environ, **services, **wrong},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("python -m worker: ")
    assert said in last
    assert "Traceback" not in done.stderr


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def services(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mapping[str, str]]:
    """The environment of a worker that is able to start."""
    async with world(workers=0, seed=0) as made:
        idle = WorkerProcess(
            conninfo=made.postgres.conninfo,
            connection_string=made.broker.connection_string,
            blobs=made.blobs,
            log_path=Path(os.devnull),
        )
        yield {**idle.environment, "PORT": "0"}
