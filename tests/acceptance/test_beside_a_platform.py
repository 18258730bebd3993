"""``APP_MODE=worker_docker`` beside a platform that is not ours: its tables, its messages, its signal.

The platform here is this file: it makes rows and messages by protocol.md alone, in tables that have more
columns than the protocol names, and reads the jobs queue.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
import pytest_asyncio
import rasterio
from psycopg.rows import dict_row

import gdaltools as gt
from tests.support import postgres
from tests.support.eventually import eventually
from tests.support.rasters import UTM, UTM_GRID, smooth, write_raster
from worker.bus import Bus, OutgoingMessage
from worker.local.broker import BrokerThread, QueueSpec
from worker.platform_database import PlatformDatabase

pytestmark = pytest.mark.timeout(180)

ROOT = Path(__file__).parents[2]
JOB = "0" * 63 + "1"
TASK = "00000000-s2-extract"


@dataclass
class Platform:
    conninfo: str
    bus: Bus
    broker: BrokerThread
    blobs: Path

    def sql(self, statement: str, *values: object) -> list[dict[str, Any]]:
        with psycopg.connect(self.conninfo, autocommit=True, row_factory=dict_row) as connection:
            cursor = connection.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    def make_job(self, parameters: dict[str, Any]) -> None:
        self.sql(
            "insert into app.jobs (job_id, job_type, status, stage, total_stages)"
            " values (%s, 'process_large_raster_v2', 'processing', 2, 5)",
            JOB,
        )
        self.sql(
            "insert into app.tasks"
            " (task_id, parent_job_id, job_type, task_type, stage, parameters, target_queue)"
            " values (%s, %s, 'process_large_raster_v2', 'extract_tiles', 2, %s, 'docker-tasks')",
            TASK,
            JOB,
            json.dumps(parameters),
        )

    async def send(self, parameters: dict[str, Any]) -> None:
        message = {
            "task_id": TASK,
            "parent_job_id": JOB,
            "job_type": "process_large_raster_v2",
            "task_type": "Extract-Tiles",
            "stage": 2,
            "parameters": parameters,
            "parent_task_id": None,
            "retry_count": 0,
            "timestamp": "2025-12-12T12:00:00",
            "something_new": True,
        }
        await self.bus.send(
            "docker-tasks", [OutgoingMessage(body=json.dumps(message), message_id="platform-1")]
        )

    async def next_signal(self) -> dict[str, Any]:
        async with self.bus.receiver("geospatial-jobs") as receiver, asyncio.timeout(90):
            while (message := await receiver.receive(wait_seconds=10)) is None:
                continue
            await message.complete()
            return {**json.loads(message.body), "message_id": message.message_id}


@pytest_asyncio.fixture
async def platform(tmp_path: Path) -> AsyncIterator[Platform]:
    queues = [QueueSpec("docker-tasks"), QueueSpec("geospatial-jobs")]
    with postgres.server() as server, server.database() as conninfo, BrokerThread(queues) as broker:
        async with PlatformDatabase.connect(conninfo) as database:
            await database.migrate()
        (tmp_path / "bronze-rasters").mkdir()
        (tmp_path / "silver-cogs").mkdir()
        async with Bus.connect(connection_string=broker.connection_string) as bus:
            made = Platform(conninfo, bus, broker, tmp_path)
            made.sql("drop table app.worker_claims, app.worker_outbox")
            made.sql("alter table app.tasks add column claimed_by varchar, add column last_pulse timestamp")
            made.sql("alter table app.jobs add column checkpoint_data jsonb")
            yield made


@pytest.fixture
def worker(platform: Platform) -> Iterator[subprocess.Popen[str]]:
    parts = {name.upper(): str(value) for name, value in postgres.parts(platform.conninfo).items() if value}
    environment = {
        **os.environ,
        **parts,
        "APP_MODE": "worker_docker",
        "SERVICE_BUS_CONNECTION_STRING": platform.broker.connection_string,
        "GDALTOOLS_BLOB_ROOT": str(platform.blobs),
        "PORT": "0",
        "PYTHONPATH": str(ROOT),
    }
    with subprocess.Popen([sys.executable, "-m", "worker"], env=environment, cwd=ROOT, text=True) as process:
        yield process
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def _scheme(path: Path) -> dict[str, Any]:
    """A scheme as another program writes it: features by the protocol, metadata of its own."""
    document = gt.generate_tiling_scheme(path, 128, 16, "EPSG:32637").to_geojson()
    return {**document, "metadata": {"created_by": "another program"}}


async def test_a_task_of_the_platform_is_done_and_its_stage_signalled_once(
    platform: Platform, worker: subprocess.Popen[str]
) -> None:
    scene = write_raster(
        platform.blobs / "bronze-rasters" / "scene.tif", smooth(3, 300, 400), crs=UTM, transform=UTM_GRID
    )
    (platform.blobs / "silver-cogs" / "scene_tiling_scheme.geojson").write_text(json.dumps(_scheme(scene)))
    parameters = {
        "container_name": "bronze-rasters",
        "blob_name": "scene.tif",
        "tiling_scheme_blob": "scene_tiling_scheme.geojson",
        "tiling_scheme_container": "silver-cogs",
        "output_container": "silver-mosaicjson",
        "job_id": JOB,
        "band_names": {"1": "Red", "2": "Green", "3": "Blue"},
    }
    platform.make_job(parameters)
    await platform.send(parameters)

    received = await platform.next_signal()
    assert received.pop("completed_at").endswith("+00:00")
    assert received == {
        "message_type": "stage_complete",
        "job_id": JOB,
        "job_type": "process_large_raster_v2",
        "completed_stage": 2,
        "completed_by_app": "gdal-docker-worker",
        "correlation_id": "docker-00000000",
        "message_id": f"{JOB}:2:stage_complete",
    }
    (task,) = platform.sql("select * from app.tasks where task_id = %s", TASK)
    assert task["status"] == "completed"
    assert task["executed_by_app"] == "gdal-docker-worker"
    assert task["result_data"]["success"] is True
    result = task["result_data"]["result"]
    assert set(result) == {
        "tiles_blob_prefix",
        "tiles_container",
        "total_tiles",
        "tile_blobs",
        "source_blob",
        "source_container",
        "tiling_scheme_blob",
        "source_crs",
        "raster_metadata",
        "extraction_time_seconds",
        "upload_time_seconds",
        "processing_time_seconds",
    }
    assert result["tiles_blob_prefix"] == "00000000/tiles/"
    assert result["tile_blobs"][0] == "00000000/tiles/scene_tile_0_0.tif"
    for name in result["tile_blobs"]:
        with rasterio.open(platform.blobs / "silver-mosaicjson" / name) as tile:
            assert tile.crs == UTM
    (job,) = platform.sql("select * from app.jobs")
    assert (job["status"], job["stage"]) == ("processing", 2), "a worker never advances a stage"
    assert platform.broker.counts("geospatial-jobs").active == 0


async def test_a_task_that_cannot_be_done_fails_its_job_without_a_signal(
    platform: Platform, worker: subprocess.Popen[str]
) -> None:
    parameters = {
        "container_name": "bronze-rasters",
        "blob_name": "gone.tif",
        "tiling_scheme_blob": "gone.geojson",
    }
    platform.make_job(parameters)
    await platform.send(parameters)
    await eventually(lambda: platform.broker.counts("docker-tasks").dead_letter == 1, within_seconds=60)
    (task,) = platform.sql("select * from app.tasks")
    (job,) = platform.sql("select * from app.jobs")
    assert (task["status"], job["status"]) == ("failed", "failed")
    assert "gone.geojson" in task["error_details"]
    assert "gone.geojson" in job["error_details"]
    assert platform.broker.counts("geospatial-jobs").active == 0
