import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest

from gdaltools.errors import InvalidParameter, SourceNotFound
from worker.database import Database
from worker.database.overview import read_overview
from worker.errors import UnknownTaskType
from worker.job.definitions import Context, UnknownJobType
from worker.job.machine import Machine
from worker.protocol.messages import JobMessage, StageComplete, TaskMessage, parse_jobs_queue, parse_task
from worker.protocol.rows import Claimed, NewJob, OutboxMessage

JOB_TYPE = "process_large_raster_v2"
GIVEN = {"container_name": "bronze-rasters", "blob_name": "scene.tif"}
BLOBS = {"scene.tif": 3 * 2**20}
TILES = 3


async def blob_size(container: str, blob: str) -> int:
    if blob not in BLOBS:
        raise SourceNotFound(f"there is no blob {blob!r} in {container!r}")
    return BLOBS[blob]


def route(task_type: str, parameters: Mapping[str, Any]) -> str:
    if task_type == "extract_tiles":
        return "docker-tasks"
    if task_type in ("generate_tiling_scheme", "create_cog", "create_mosaicjson", "create_stac_collection"):
        return "raster-tasks"
    raise UnknownTaskType(f"task type {task_type!r} is on no list")


@pytest.fixture
def machine(database: Database) -> Machine:
    return Machine(
        database,
        route=route,
        blob_size=blob_size,
        context=Context(),
    )


async def sent(database: Database) -> list[OutboxMessage]:
    """Take everything out of the outbox, as a publisher does."""
    async with database.outbox.batch(limit=10_000) as batch:
        for row in batch.rows:
            batch.sent(row)
        return [row.message for row in batch.rows]


def result_of(message: TaskMessage, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return a handler's result (protocol.md §5)."""
    prefix = message.parent_job_id[:8]
    if message.task_type == "generate_tiling_scheme":
        return {
            "success": True,
            "result": {
                "tiling_scheme_blob": parameters["output_blob_name"],
                "tiling_scheme_container": "silver-cogs",
                "total_tiles": TILES,
                "grid": {"rows": 1, "cols": TILES, "tile_size_pixels": 512},
            },
        }
    if message.task_type == "extract_tiles":
        return {
            "success": True,
            "result": {
                "tile_blobs": [f"{prefix}/tiles/scene_tile_0_{i}.tif" for i in range(TILES)],
                "tiles_container": "silver-mosaicjson",
                "source_crs": "EPSG:3857",
                "total_tiles": TILES,
                "raster_metadata": {"detected_type": "rgb", "band_count": 3, "data_type": "uint8"},
            },
        }
    if message.task_type == "create_cog":
        return {
            "success": True,
            "result": {"cog_blob": parameters["output_blob_name"], "size_mb": 1.0, "note": "-" * 1000},
        }
    if message.task_type == "create_mosaicjson":
        cogs = [result["result"]["cog_blob"] for result in parameters["previous_results"]]
        return {"success": True, "mosaicjson_blob": "m.json", "tile_count": len(cogs), "cog_blobs": cogs}
    return {"success": True, "stac_id": "s", "items_created": TILES, "items_failed": 0}


async def run_task(database: Database, body: str) -> None:
    """Do a worker's part for one task message."""
    message = parse_task(body)
    claimed = await database.tasks.claim(message.task_id, message.parent_job_id, worker="w", lease_seconds=60)
    assert isinstance(claimed, Claimed)
    parameters = claimed.parameters if message.parameters_in_row else message.parameters
    signal = StageComplete.of(
        message.parent_job_id, message.stage, job_type=message.job_type, completed_by="w"
    )
    await database.tasks.complete(
        claimed.claim,
        result_of(message, parameters),
        signal=OutboxMessage("geospatial-jobs", signal.body(), message_id=signal.message_id),
    )


async def run_to_the_end(database: Database, machine: Machine, *, times: int = 1) -> dict[str, int]:
    """Deliver all messages, each jobs message `times` times, until none is left; count them by queue."""
    queues: dict[str, int] = {}
    while messages := await sent(database):
        for message in messages:
            queues[message.queue] = queues.get(message.queue, 0) + 1
            if message.queue == "geospatial-jobs":
                for _ in range(times):
                    await machine.handle(parse_jobs_queue(message.body))
            else:
                await run_task(database, message.body)
    return queues


@pytest.mark.parametrize("times", [1, 3])
async def test_a_job_goes_through_its_five_stages(database, machine, times):
    submission = await machine.submit(JOB_TYPE, GIVEN)
    queues = await run_to_the_end(database, machine, times=times)
    job = await database.jobs.get(submission.job_id)
    assert (job.status, job.stage, job.total_stages) == ("completed", 5, 5)
    assert queues == {"geospatial-jobs": 6, "raster-tasks": 3 + TILES, "docker-tasks": 1}
    assert sorted(job.stage_results) == ["1", "2", "3", "4", "5"]
    assert job.result_data["cogs"] == {"total_count": 3, "successful": 3, "failed": 0, "total_size_mb": 3.0}
    assert job.result_data["tasks_by_status"] == {"completed": 7}
    assert job.result_data["blob_size_mb"] == 3.0
    assert job.result_data["stages_completed"] == 5


@pytest.mark.parametrize(
    ("mosaic", "stac", "stages", "task_count"),
    [(False, True, 5, 6), (True, False, 4, 6), (False, False, 3, 5)],
)
async def test_a_job_without_some_of_its_stages_completes(
    database, machine, mosaic, stac, stages, task_count
):
    submission = await machine.submit(
        JOB_TYPE, GIVEN | {"create_mosaicjson": mosaic, "create_stac_collection": stac}
    )
    await run_to_the_end(database, machine)
    job = await database.jobs.get(submission.job_id)
    assert (job.status, job.total_stages) == ("completed", stages)
    assert job.result_data["total_tasks_executed"] == task_count
    assert (job.result_data["mosaicjson"] is None, job.result_data["stac"] is None) == (not mosaic, not stac)
    assert ("4" in job.stage_results) == (stages >= 4)


async def test_the_tasks_carry_what_routing_decides_by(database, machine):
    submission = await machine.submit(JOB_TYPE, GIVEN)
    await run_to_the_end(database, machine)
    for task in await database.tasks.of_job(submission.job_id):
        text = {"file_size_mb", "estimated_duration_minutes", "estimated_memory_mb"}
        assert text <= set(task.parameters)
        assert task.parameters["estimated_duration_minutes"] > 0
        assert task.parameters["estimated_memory_mb"] > 100
        assert task.target_queue == route(task.task_type, task.parameters)


async def test_a_fan_in_that_does_not_fit_into_a_message_is_in_the_row(database, machine, monkeypatch):
    monkeypatch.setattr("tests.integration.job.test_machine.TILES", 250)
    submission = await machine.submit(JOB_TYPE, GIVEN)
    seen: list[TaskMessage] = []
    while messages := await sent(database):
        for message in messages:
            assert len(message.body) < 256 * 1024
            if message.queue == "geospatial-jobs":
                await machine.handle(parse_jobs_queue(message.body))
            elif parse_task(message.body).stage < 4:
                await run_task(database, message.body)
            else:
                seen.append(parse_task(message.body))
                await run_task(database, message.body)
    assert [message.parameters_in_row for message in seen] == [True, False]
    job = await database.jobs.get(submission.job_id)
    assert job.status == "completed"
    assert job.result_data["mosaicjson"]["tile_count"] == 250


async def test_submitting_again_changes_nothing(database, machine):
    first = await machine.submit(JOB_TYPE, GIVEN)
    again = await machine.submit(JOB_TYPE, GIVEN | {"tile_size": None})
    assert (first.created, again.created, again.job_id) == (True, False, first.job_id)
    await run_to_the_end(database, machine)
    done = await machine.submit(JOB_TYPE, GIVEN)
    assert (done.created, done.status) == (False, "completed")
    assert await sent(database) == []


async def test_a_failed_job_is_run_anew_by_submitting_it_again(database, machine):
    submission = await machine.submit(JOB_TYPE, GIVEN)
    await database.jobs.fail(submission.job_id, error_details="x")
    assert (await machine.submit(JOB_TYPE, GIVEN)).created
    await run_to_the_end(database, machine)
    assert (await database.jobs.get(submission.job_id)).status == "completed"


@pytest.mark.parametrize(
    ("job_type", "given", "error", "said"),
    [
        ("nope", GIVEN, UnknownJobType, "'nope'"),
        (JOB_TYPE, {}, InvalidParameter, "container_name: Field required; blob_name: Field required"),
        (JOB_TYPE, GIVEN | {"blob_name": "../x"}, InvalidParameter, "climb"),
        (JOB_TYPE, GIVEN | {"blob_name": "missing.tif"}, SourceNotFound, "missing.tif"),
    ],
)
async def test_a_submission_that_cannot_work_leaves_nothing(database, machine, job_type, given, error, said):
    with pytest.raises(error, match=said):
        await machine.submit(job_type, given)
    assert (await read_overview(database.connections, known=())).jobs == ()
    assert await sent(database) == []


async def test_a_late_or_early_stage_complete_does_nothing(database, machine):
    submission = await machine.submit(JOB_TYPE, GIVEN)
    signals = [
        StageComplete.of(submission.job_id, n, job_type=JOB_TYPE, completed_by="w") for n in range(1, 7)
    ]
    for signal in signals:
        assert (await machine.handle(signal)).action == "ignored"
    await run_to_the_end(database, machine)
    for signal in signals:
        assert (await machine.handle(signal)).action == "ignored"
    job = await database.jobs.get(submission.job_id)
    assert (job.status, job.stage) == ("completed", 5)


async def test_a_message_of_a_job_that_is_not_there_does_nothing(machine):
    message = JobMessage(job_id="f" * 64, job_type=JOB_TYPE, parameters={})
    assert (await machine.handle(message)).action == "ignored"


async def test_one_stage_complete_delivered_to_many_advances_once(database, machine):
    await machine.submit(JOB_TYPE, GIVEN)
    (job_message,) = await sent(database)
    await machine.handle(parse_jobs_queue(job_message.body))
    (task_message,) = await sent(database)
    await run_task(database, task_message.body)
    (signal,) = await sent(database)
    handled = await asyncio.gather(*(machine.handle(parse_jobs_queue(signal.body)) for _ in range(8)))
    assert sorted(outcome.action for outcome in handled) == ["advanced"] + ["ignored"] * 7
    assert len(await sent(database)) == 1


async def test_a_stage_that_cannot_be_created_fails_the_job(database, machine, monkeypatch):
    def bad_result(message, parameters):
        return {"success": True, "result": {"total_tiles": 3}}

    monkeypatch.setattr("tests.integration.job.test_machine.result_of", bad_result)
    submission = await machine.submit(JOB_TYPE, GIVEN)
    await run_to_the_end(database, machine)
    job = await database.jobs.get(submission.job_id)
    assert job.status == "failed"
    assert job.error_details == "stage 1: stage 1's result lacks 'tiling_scheme_blob'"


async def test_a_stage_with_a_failed_task_fails_the_job(database, machine):
    submission = await machine.submit(JOB_TYPE, GIVEN)
    await machine.handle(parse_jobs_queue((await sent(database))[0].body))
    task_id = f"{submission.job_id[:8]}-s1-tiling"
    async with database.connections.connection() as connection:
        await connection.execute("update app.tasks set status = 'failed', error_details = 'janitor'")
    signal = StageComplete.of(submission.job_id, 1, job_type=JOB_TYPE, completed_by="w")
    assert (await machine.handle(signal)).action == "failed"
    assert f"{task_id}: janitor" in (await database.jobs.get(submission.job_id)).error_details


async def test_a_task_type_without_a_queue_fails_the_job(database, machine, monkeypatch):
    submission = await machine.submit(JOB_TYPE, GIVEN)
    monkeypatch.setattr(machine, "_route", lambda task_type, parameters: route("dance", parameters))
    await run_to_the_end(database, machine)
    job = await database.jobs.get(submission.job_id)
    assert (job.status, job.error_details) == ("failed", "stage 1: task type 'dance' is on no list")


async def test_what_nobody_foresaw_fails_the_job_and_not_its_message(database, machine, monkeypatch):
    submission = await machine.submit(JOB_TYPE, GIVEN)
    monkeypatch.setattr(machine, "_route", lambda task_type, parameters: 1 // 0)
    await run_to_the_end(database, machine)
    job = await database.jobs.get(submission.job_id)
    assert job.status == "failed"
    assert job.error_details == "stage 1: ZeroDivisionError: integer division or modulo by zero"


async def test_a_job_of_an_unknown_type_fails(database, machine):
    await database.jobs.submit(
        NewJob("e" * 64, "old_job", {}, 1), message=OutboxMessage("geospatial-jobs", json.dumps({}))
    )
    handled = await machine.handle(JobMessage(job_id="e" * 64, job_type="old_job", parameters={}))
    assert handled.action == "failed"
    assert "'old_job'" in handled.detail
