"""A whole job through a standalone worker, and the fate of bad input: real services, real child processes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pystac
import pytest
import pytest_asyncio
import rasterio
from cogeo_mosaic.mosaic import MosaicJSON

import gdaltools as gt
from gdaltools import storage
from gdaltools.errors import GdalToolsError
from tests.support.eventually import eventually
from tests.support.rasters import WGS84_GRID, categories, smooth, truncate, write_raster
from tests.support.services import postgres
from worker.database.overview import read_overview
from worker.local.broker.server import BrokerThread, QueueSpec
from worker.protocol.rows import JobRow, TaskRow
from worker.queue.bus import Bus, OutgoingMessage
from worker.service.assembly import Service, serving
from worker.settings import AppMode, Settings

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

JOB_TYPE = "process_large_raster_v2"
QUEUES = ("docker-tasks", "raster-tasks", "vector-tasks", "geospatial-jobs")
DEADLINE_SECONDS = 120


@dataclass
class World:
    """A running worker and its backing services, seen from outside."""

    service: Service
    broker: BrokerThread
    bus: Bus
    blobs: Path

    async def finished(self, parameters: dict[str, Any]) -> tuple[JobRow, list[TaskRow]]:
        submission = await self.service.machine.submit(JOB_TYPE, parameters)
        async with asyncio.timeout(DEADLINE_SECONDS):
            while True:
                job = await self.service.database.jobs.get(submission.job_id)
                assert job is not None
                if job.over:
                    return job, await self.service.database.tasks.of_job(job.job_id)
                await asyncio.sleep(0.1)

    async def dead_letters(self, queue: str, count: int) -> list[tuple[str | None, str | None]]:
        """Return reason and description of `count` dead letters, and remove them."""
        found = []
        async with self.bus.receiver(queue, sub_queue="dead-letter") as receiver:
            while len(found) < count:
                message = await receiver.receive(wait_seconds=20)
                assert message is not None, f"{count - len(found)} more dead letters were expected"
                found.append((message.dead_letter_reason, message.dead_letter_description))
                await message.complete()
        return found

    async def send(self, queue: str, body: str) -> None:
        await self.bus.send(queue, [OutgoingMessage(body=body, message_id=f"test-{body[:40]}")])


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("blobs")
    (root / "bronze-rasters").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GDALTOOLS_BLOB_ROOT", str(root))
        yield root


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(blobs: Path) -> AsyncIterator[World]:
    with (
        postgres.server() as server,
        server.database() as conninfo,
        BrokerThread([QueueSpec(name) for name in QUEUES]) as broker,
    ):
        settings = Settings(
            app_mode=AppMode.STANDALONE,
            service_bus_connection_string=broker.connection_string,
            port=0,
            **postgres.parts(conninfo),
        )
        async with (
            serving(settings, stopping=asyncio.Event()) as service,
            Bus.connect(connection_string=broker.connection_string) as bus,
        ):
            yield World(service, broker, bus, blobs)


async def test_a_raster_goes_through_all_five_stages_over_two_queues(world: World) -> None:
    pixels = smooth(3, 700, 900)
    write_raster(world.blobs / "bronze-rasters" / "scene.tif", pixels, descriptions=("Red", "Green", "Blue"))
    job, tasks = await world.finished(
        {"container_name": "bronze-rasters", "blob_name": "scene.tif", "tile_size": 256, "overlap": 32}
    )
    assert job.status == "completed", job.error_details
    assert {task.target_queue for task in tasks if task.stage == 2} == {"docker-tasks"}
    assert {task.target_queue for task in tasks if task.stage != 2} == {"raster-tasks"}
    assert {task.status for task in tasks} == {"completed"}
    assert [task.stage for task in tasks].count(3) == 4 * 3
    prefix = job.job_id[:8]
    assert {task.task_id for task in tasks if task.stage < 3} == {
        f"{prefix}-s1-tiling",
        f"{prefix}-s2-extract",
    }

    result = job.result_data
    assert result is not None
    assert result["cogs"]["successful"] == result["tiling"]["tile_count"] == 12
    assert all(result[key] is not None for key in result)

    cogs = [task.result_data["result"] for task in tasks if task.stage == 3 and task.result_data]
    for cog in cogs:
        location = storage.blob(cog["cog_container"], cog["cog_blob"])
        assert gt.validate_cog(location).valid
        assert cog["cog_blob"].endswith("_cog_analysis.tif")
        _same_pixels(location.gdal_path, pixels)

    mosaic = next(task.result_data for task in tasks if task.stage == 4 and task.result_data)
    document = MosaicJSON(
        **json.loads((world.blobs / "silver-mosaicjson" / mosaic["mosaicjson_blob"]).read_text())
    )
    assert {asset for names in document.tiles.values() for asset in names} == {
        storage.blob(cog["cog_container"], cog["cog_blob"]).gdal_path for cog in cogs
    }
    collection = pystac.Collection.from_file(
        str(world.blobs / "silver-mosaicjson" / prefix / "stac/collection.json")
    )
    assert len(list(collection.get_items())) == 12
    assert all(storage.exists(href) for item in collection.get_items() for href in _hrefs(item))


async def test_a_warped_categorical_raster_keeps_its_classes(world: World) -> None:
    values = categories(500, 600)
    write_raster(
        world.blobs / "bronze-rasters" / "classes.tif",
        values,
        crs="EPSG:32637",
        transform=rasterio.Affine(30, 0, 400_000, 0, -30, 5_400_000),
        nodata=0,
    )
    job, tasks = await world.finished(
        {
            "container_name": "bronze-rasters",
            "blob_name": "classes.tif",
            "raster_type": "categorical",
            "output_tier": "all",
            "overlap": 16,
            "tile_size": 256,
        }
    )
    assert job.status == "completed", job.error_details
    for task in tasks:
        if task.stage == 3 and task.result_data:
            made = task.result_data["result"]
            assert made["overview_resampling"] in ("mode", "nearest")
            assert {tier["cog_tier"] for tier in made["other_tiers"]} == {"archive"}
            with rasterio.open(storage.blob(made["cog_container"], made["cog_blob"]).gdal_path) as dataset:
                assert dataset.crs.to_epsg() == 4326
                assert set(dataset.read(1).ravel()) <= {0, *values.ravel()}


async def test_the_same_submission_is_the_same_job_and_is_not_run_again(world: World) -> None:
    write_raster(world.blobs / "bronze-rasters" / "again.tif", smooth(1, 64, 64))
    parameters = {
        "container_name": "bronze-rasters",
        "blob_name": "again.tif",
        "create_stac_collection": False,
    }
    job, _ = await world.finished(parameters)
    assert job.status == "completed", job.error_details
    again = await world.service.machine.submit(JOB_TYPE, {**parameters, "input_crs": None})
    assert (again.job_id, again.created, again.status) == (job.job_id, False, "completed")


@pytest.mark.parametrize(
    ("name", "error_type"),
    [
        ("notes.tif", "UnsupportedRaster"),
        ("truncated.tif", "CorruptRaster"),
        ("empty.tif", "UnsupportedRaster|CorruptRaster"),
        ("nowhere.tif", "UnsupportedRaster"),
    ],
)
async def test_a_bad_raster_fails_its_task_and_its_job_and_the_worker_goes_on(
    world: World, name: str, error_type: str
) -> None:
    bronze = world.blobs / "bronze-rasters"
    match name:
        case "notes.tif":
            (bronze / name).write_text("this is not a raster, whatever its name says\n")
        case "truncated.tif":
            truncate(write_raster(bronze / name, smooth(3, 600, 600)))
        case "empty.tif":
            (bronze / name).write_bytes(b"")
        case "nowhere.tif":
            write_raster(bronze / name, smooth(1, 64, 64), crs=None)
    before = _files(world.blobs)
    job, tasks = await world.finished({"container_name": "bronze-rasters", "blob_name": name})
    assert job.status == "failed"
    assert job.error_details is not None
    assert name in job.error_details
    (task,) = tasks
    assert task.status == "failed"
    assert task.retry_count == 0
    assert task.result_data is not None
    assert task.result_data["error_type"] in error_type.split("|")
    assert task.result_data["success"] is False
    assert _files(world.blobs) == before, "a failed job leaves nothing half-written"
    ((reason, description),) = await world.dead_letters("raster-tasks", 1)
    assert reason in error_type.split("|")
    assert description is not None
    assert name in description


async def test_a_crs_that_nobody_knows_fails_the_job(world: World) -> None:
    write_raster(world.blobs / "bronze-rasters" / "mars.tif", smooth(1, 64, 64))
    job, _ = await world.finished(
        {"container_name": "bronze-rasters", "blob_name": "mars.tif", "target_crs": "EPSG:999999"}
    )
    assert job.status == "failed"
    assert "EPSG:999999" in str(job.error_details)
    await world.dead_letters("raster-tasks", 1)


@pytest.mark.parametrize(
    ("job_type", "changes", "said"),
    [
        ("process_small_raster", {}, "process_small_raster"),
        (JOB_TYPE, {"blob_name": "missing.tif"}, "missing.tif"),
        (JOB_TYPE, {"blob_name": "../secret.tif"}, "climb"),
        (JOB_TYPE, {"blob_name": "/etc/passwd"}, "absolute"),
        (JOB_TYPE, {"tile_size": 1000}, "16"),
        (JOB_TYPE, {"tile_size": 512, "overlap": 512}, "overlap"),
        (JOB_TYPE, {"blob_name": None}, "blob_name"),
    ],
)
async def test_a_bad_submission_is_refused_in_words_and_makes_no_job(
    world: World, job_type: str, changes: dict[str, Any], said: str
) -> None:
    connections = world.service.database.connections
    before = [job.job_id for job in (await read_overview(connections, known=())).jobs]
    with pytest.raises(GdalToolsError, match=said):
        await world.service.machine.submit(
            job_type, {"container_name": "bronze-rasters", "blob_name": "scene.tif", **changes}
        )
    assert [job.job_id for job in (await read_overview(connections, known=())).jobs] == before


@pytest.mark.parametrize(
    ("body", "reason", "said"),
    [
        ("hello", "InvalidMessage", "JSON"),
        ('{"task_id": "t"}', "InvalidMessage", "parent_job_id"),
        (
            json.dumps(
                {
                    "task_id": "t",
                    "parent_job_id": "j",
                    "job_type": "x",
                    "task_type": "y",
                    "stage": 1,
                    "parameters": {},
                }
            ),
            "TaskNotFound",
            "no row",
        ),
    ],
)
async def test_a_message_that_nobody_understands_is_dead_lettered_with_a_reason(
    world: World, body: str, reason: str, said: str
) -> None:
    await world.send("docker-tasks", body)
    ((found, description),) = await world.dead_letters("docker-tasks", 1)
    assert found == reason
    assert said in str(description)


async def test_an_unknown_message_on_the_jobs_queue_is_dead_lettered(world: World) -> None:
    await world.send("geospatial-jobs", '{"message_type": "party"}')
    ((reason, description),) = await world.dead_letters("geospatial-jobs", 1)
    assert reason == "InvalidMessage"
    assert "party" in str(description)


async def test_nothing_is_left_in_the_queues_and_the_outbox(world: World) -> None:
    await eventually(lambda: all(_is_empty(world.broker, queue) for queue in QUEUES))
    assert (await world.service.database.outbox.backlog()).unsent == 0


def _is_empty(broker: BrokerThread, queue: str) -> bool:
    counts = broker.counts(queue)
    return counts.active == counts.locked == counts.scheduled == counts.dead_letter == 0


def _files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def _hrefs(item: pystac.Item) -> list[str]:
    return [href for asset in item.assets.values() if (href := asset.get_absolute_href()) is not None]


def _same_pixels(path: str, source: Any) -> None:
    """Check that the COG's pixels are the source's at the same place."""
    with rasterio.open(path) as dataset:
        col, row = ~WGS84_GRID * (dataset.transform.c, dataset.transform.f)
        rows = slice(round(row), round(row) + dataset.height)
        cols = slice(round(col), round(col) + dataset.width)
        assert (dataset.read() == source[:, rows, cols]).all()
