"""The stand-in platform notices deviations: a conformance test is only as good as its platform."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import pytest_asyncio
from psycopg.rows import dict_row

from tests.support.eventually import eventually
from tests.support.platform.jobs import LARGE_RASTER, NOOP, fan_in_id, job_id_of, stage_tasks
from tests.support.platform.messages import FUNCTION_APP, MESSAGE_BYTES, Received, job_message, task_message
from tests.support.platform.stand_in import Platform
from tests.support.platform.tables import create_schema
from tests.support.rasters import smooth, write_raster
from worker.local.broker.server import BrokerThread, QueueSpec
from worker.queue.bus import Bus

APP = "gdal-docker-worker"
PARAMETERS = {"stages": 2, "tasks": 2, "task_type": "noop", "task_parameters": {"name": "n{index}"}}


@dataclass
class World:
    conninfo: str
    broker: BrokerThread
    platform: Platform
    deliveries: int = field(default=0)

    def sql(self, statement: str, *values: object) -> list[dict[str, Any]]:
        with psycopg.connect(self.conninfo, autocommit=True, row_factory=dict_row) as connection:
            cursor = connection.execute(statement.encode(), values)
            return cursor.fetchall() if cursor.description else []

    @property
    def job(self) -> dict[str, Any]:
        return self.sql("select * from app.jobs")[0]

    def received(self, document: Any, *, message_id: str | None = None) -> Received:
        self.deliveries += 1
        return Received(
            body=json.dumps(document).encode(),
            identity=f"{self.deliveries} of now",
            message_id=message_id,
            content_type="application/json",
            session_id=None,
        )

    def signal(self, stage: int = 1, **changes: Any) -> Received:
        job_id = self.job["job_id"]
        document = {
            "message_type": "stage_complete",
            "job_id": job_id,
            "job_type": NOOP,
            "completed_stage": stage,
            "completed_at": datetime.now(UTC).isoformat(),
            "completed_by_app": APP,
            "correlation_id": f"docker-{job_id[:8]}",
        }
        kept = {name: value for name, value in (document | changes).items() if value is not ...}
        return self.received(kept, message_id=f"{job_id}:{stage}:stage_complete")

    async def started(self) -> str:
        """Start a job, and return its id once its first stage has begun."""
        job_id = await self.platform.submit(PARAMETERS, job_type=NOOP)
        message = json.loads(job_message(job_id, NOOP, PARAMETERS))
        await self.platform.handle(self.received(message))
        return job_id

    def finish_tasks(self, status: str = "completed") -> None:
        self.sql(
            "update app.tasks set status = %s::app.task_status, executed_by_app = %s, result_data = '{}',"
            " execution_started_at = timezone('utc', now()), heartbeat = timezone('utc', now())"
            " where status <> 'completed'",
            status,
            APP,
        )


@pytest_asyncio.fixture
async def world(empty_conninfo: str) -> AsyncIterator[World]:
    create_schema(empty_conninfo)
    with BrokerThread([QueueSpec("docker-tasks"), QueueSpec("geospatial-jobs")]) as broker:
        async with Bus.connect(connection_string=broker.connection_string) as bus:
            yield World(empty_conninfo, broker, Platform(empty_conninfo, bus))


async def test_a_signal_in_form_advances_and_its_redelivery_does_nothing(world: World) -> None:
    await world.started()
    world.finish_tasks()
    signal = world.signal()
    await world.platform.handle(signal)
    await world.platform.handle(signal)
    assert (world.platform.violations, world.job["stage"]) == ([], 2)
    world.finish_tasks()
    last = world.signal(2)
    await world.platform.handle(last)
    await world.platform.handle(last)
    assert (world.platform.violations, world.job["status"]) == ([], "completed")


async def test_a_second_signal_is_a_violation(world: World) -> None:
    await world.started()
    world.finish_tasks()
    await world.platform.handle(world.signal())
    await world.platform.handle(world.signal())
    (text,) = world.platform.violations
    assert "the job is in stage 2" in text


NOW = datetime(2025, 12, 12, 12)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"job_type": ...}, "lacks"),
        ({"job_type": None}, "another type"),
        ({"completed_stage": "1"}, "another type"),
        ({"completed_stage": True}, "another type"),
        ({"result": {}}, "beyond the protocol"),
        ({"completed_at": NOW.isoformat()}, "not in UTC"),
        ({"completed_at": "2025-12-12T17:30:00+05:30"}, "not in UTC"),
        ({"completed_at": (datetime.now(UTC) + timedelta(hours=5)).isoformat()}, "future"),
        ({"completed_at": "yesterday"}, "ISO 8601"),
        ({"correlation_id": "docker"}, "of a worker is not"),
        ({"job_id": "0" * 64}, "of a worker is not"),
        ({"job_type": "another"}, "the job's type"),
        ({"completed_by_app": "another"}, "executed by"),
    ],
)
async def test_a_signal_out_of_form_is_a_violation(world: World, changes: dict[str, Any], text: str) -> None:
    await world.started()
    world.finish_tasks()
    await world.platform.handle(world.signal(**changes))
    assert text in world.platform.violations[0]
    assert world.job["stage"] == 1


@pytest.mark.parametrize(
    "envelope", [{"message_id": "another"}, {"content_type": None}, {"session_id": "1"}, {"body": b"no JSON"}]
)
async def test_an_envelope_out_of_form_is_a_violation(world: World, envelope: dict[str, Any]) -> None:
    await world.started()
    world.finish_tasks()
    await world.platform.handle(replace(world.signal(), **envelope))
    assert len(world.platform.violations) == 1
    assert world.job["stage"] == 1


@pytest.mark.parametrize("status", ["processing", "failed"])
async def test_a_signal_for_a_stage_that_is_not_done_is_a_violation(world: World, status: str) -> None:
    await world.started()
    world.finish_tasks(status)
    await world.platform.handle(world.signal())
    assert len(world.platform.violations) == 2
    assert world.job["stage"] == 1


async def test_a_signal_for_a_job_that_is_over_is_a_violation(world: World) -> None:
    await world.started()
    world.finish_tasks("failed")
    world.sql("update app.jobs set status = 'failed'")
    await world.platform.handle(world.signal())
    assert "the job is failed" in world.platform.violations[0]


async def test_its_own_signal_sent_twice_is_none(world: World) -> None:
    await world.started()
    world.finish_tasks()
    world.sql("update app.tasks set executed_by_app = %s", FUNCTION_APP)
    for _ in range(2):
        await world.platform.handle(world.signal(completed_by_app=FUNCTION_APP, correlation_id="ours"))
    assert (world.platform.violations, world.job["stage"]) == ([], 2)


async def test_what_was_not_sent_is_sent_when_the_broker_is_back(world: World) -> None:
    world.broker.faults.fail_next("send", times=20)
    async with world.platform.running():
        await world.platform.submit(PARAMETERS, job_type=NOOP)
        assert world.broker.counts("docker-tasks").active == 0
        world.broker.faults.clear()
        await eventually(lambda: world.broker.counts("docker-tasks").active == 2, within_seconds=60)
        await eventually(lambda: not world.sql("select * from app.function_app_unsent"))


async def test_only_the_signal_of_a_job_done_anew_may_number_its_id(world: World) -> None:
    job_id = await world.started()
    world.finish_tasks()
    await world.platform.handle(replace(world.signal(), message_id=f"{job_id}:1:stage_complete:2"))
    assert "the message's id" in world.platform.violations.pop()
    world.sql("update app.jobs set resubmissions = 1")
    await world.platform.handle(replace(world.signal(), message_id=f"{job_id}:1:stage_complete:2"))
    assert (world.platform.violations, world.job["stage"]) == ([], 2)


async def test_a_resubmitted_job_has_its_old_ids_and_new_rows(world: World) -> None:
    job_id = await world.started()
    ids = "select task_id from app.tasks order by 1"
    before = world.sql(ids)
    world.finish_tasks("processing")
    await world.platform.resubmit(job_id)
    assert world.sql(ids) == []
    await world.platform.handle(world.received(json.loads(job_message(job_id, NOOP, PARAMETERS))))
    assert world.sql(ids) == before
    assert {row["status"] for row in world.sql("select * from app.tasks")} == {"queued"}
    assert world.job["job_id"] == job_id


async def test_the_janitor_fails_what_was_not_touched_and_nothing_else(world: World) -> None:
    await world.started()
    world.finish_tasks("processing")
    assert await world.platform.janitor_once(minutes=30) == []
    assert len(await world.platform.janitor_once(minutes=0)) == 2
    assert world.job["status"] == "failed"


async def test_a_stage_of_its_own_that_fails_fails_the_job(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GDALTOOLS_BLOB_ROOT", str(tmp_path))
    write_raster(tmp_path / "bronze-rasters" / "scene.tif", smooth(1, 64, 64))
    async with world.platform.running():
        parameters = {"container_name": "bronze-rasters", "blob_name": "scene.tif", "tile_size": 1}
        job_id = await world.platform.submit(parameters)
        jobs = await world.platform.quiet([job_id], 60)
    assert jobs[job_id]["status"] == "failed"
    assert "tile_size 1" in jobs[job_id]["error_details"]


def test_ids_are_the_protocols() -> None:
    scene = {"blob_name": "scene.tif", "container_name": "bronze-rasters"}
    expected = "2f7fcef9b0c5e3c41fe5fc1eb8b2dd8bdf78deacdbfd86c2ae8f33c69a6ed31a"
    assert job_id_of(LARGE_RASTER, scene) == expected
    job_id = "0" * 63 + "1"
    assert [fan_in_id(job_id, stage) for stage in (4, 5)] == ["38f6117120d02e4a", "abe643358da80a65"]


def test_a_fan_in_travels_in_its_row_only_when_it_must() -> None:
    job = {"job_id": "0" * 64, "job_type": LARGE_RASTER, "parameters": {}}
    for size, in_row in ((10, False), (MESSAGE_BYTES, True)):
        (task,) = stage_tasks(job, 4, [{"result": {"text": "x" * size}}])
        message = json.loads(task_message(job, 4, task))
        assert message.get("parameters_in_row", False) is in_row
        assert bool(message["parameters"]) is not in_row
