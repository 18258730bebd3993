"""``APP_MODE=worker_docker`` next to a platform that is not ours: its tables, its messages, its time limits.

The platform is `tests.support.platform.stand_in`, written from protocol.md independently of this project's
own; the workers are real processes. Deviations that the platform finds are in its ``violations``.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError

import psycopg
import pytest
import pytest_asyncio
import rasterio
from psycopg.rows import dict_row

import gdaltools as gt
from gdaltools import storage
from tests.support.eventually import eventually, eventually_or_stalled
from tests.support.platform.jobs import NOOP, fan_in_id
from tests.support.platform.messages import FUNCTION_APP
from tests.support.platform.stand_in import Platform
from tests.support.platform.tables import create_schema
from tests.support.processes import descendants, forkservers, frozen, task_processes
from tests.support.rasters import UTM, UTM_GRID, smooth, write_raster
from tests.support.services import postgres
from tests.support.worker_process import WorkerProcess
from worker.local.broker.server import BrokerThread, QueueSpec
from worker.queue.bus import Bus, OutgoingMessage

pytestmark = pytest.mark.timeout(300)

DEADLINE_SECONDS = 150
SCENE = {"container_name": "bronze-rasters", "blob_name": "scene.tif"}
TILED = {**SCENE, "tile_size": 128, "overlap": 16, "target_crs": UTM}
EVERY_STAGE = range(1, 6)
SMALL_MESSAGE_BYTES = 24 * 1024  # for a platform that leaves parameters in rows at smaller sizes
SHORT_LEASE = {"WORKER_HEARTBEAT_SECONDS": "0.2", "WORKER_LEASE_SECONDS": "10"}
DONE_HERE = "gdal-docker-worker"


@dataclass
class World:
    """A database with the platform's tables, a broker, blobs, and the processes started in it."""

    conninfo: str
    broker: BrokerThread
    bus: Bus
    folder: Path

    @property
    def blobs(self) -> Path:
        return self.folder / "blobs"

    def sql(self, statement: str, *values: object) -> list[dict[str, Any]]:
        with psycopg.connect(self.conninfo, autocommit=True, row_factory=dict_row) as connection:
            cursor = connection.execute(statement.encode(), values)
            return cursor.fetchall() if cursor.description else []

    def tasks(self, stage: int | None = None) -> list[dict[str, Any]]:
        rows = self.sql("select * from app.tasks order by task_id")
        return [row for row in rows if stage in (None, row["stage"])]

    def signals(self) -> list[int]:
        """Return the stages of the stage_completes that the platform accepted, in order."""
        statement = "select completed_stage from app.function_app_handled where job_id is not null"
        return [row["completed_stage"] for row in self.sql(f"{statement} order by handled_at")]

    def worker(self, name: str = DONE_HERE, **environment: str) -> WorkerProcess:
        return WorkerProcess(
            conninfo=self.conninfo,
            connection_string=self.broker.connection_string,
            blobs=self.blobs,
            log_path=self.folder / f"{name}.log",
            environment={"APP_NAME": name, **environment},
        )

    async def until_ready(self, worker: WorkerProcess) -> None:
        await eventually(lambda: _is_ready(worker), within_seconds=60)

    async def until_processing(self) -> None:
        await eventually(lambda: "processing" in {row["status"] for row in self.tasks()}, within_seconds=60)

    async def until_drained(self) -> None:
        """Wait until every message is settled: after that, no process sends another signal."""

        def is_empty(queue: str) -> bool:
            counts = self.broker.counts(queue)
            return counts.active == counts.locked == counts.scheduled == 0

        for queue in ("docker-tasks", "geospatial-jobs"):
            await eventually(lambda queue=queue: is_empty(queue), within_seconds=120)


def _is_ready(worker: WorkerProcess) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{worker.port}/readyz", timeout=5) as reply:
            return reply.status == 200
    except (URLError, OSError):
        return False


@pytest.fixture(scope="module")
def postgres_server() -> Iterator[postgres.Server]:
    with postgres.server() as server:
        yield server


@pytest_asyncio.fixture
async def world(
    postgres_server: postgres.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[World]:
    # Short locks: a message whose receiver is frozen comes back within the test.
    queues = [QueueSpec("docker-tasks", lock_seconds=10), QueueSpec("geospatial-jobs")]
    with postgres_server.database() as conninfo, BrokerThread(queues) as broker:
        create_schema(conninfo)
        async with Bus.connect(connection_string=broker.connection_string) as bus:
            made = World(conninfo, broker, bus, tmp_path)
            for container in ("bronze-rasters", "silver-cogs", "silver-mosaicjson"):
                (made.blobs / container).mkdir(parents=True)
            monkeypatch.setenv("GDALTOOLS_BLOB_ROOT", str(made.blobs))
            yield made


def make_scene(
    world: World, rows: int = 300, cols: int = 400, *, bands: int = 3, name: str = "scene.tif"
) -> Path:
    path = world.blobs / "bronze-rasters" / name
    return write_raster(path, smooth(bands, rows, cols), crs=UTM, transform=UTM_GRID)


def noop(*, stages: int = 1, tasks: int = 1, task_type: str = "generate_tiling_scheme") -> dict[str, Any]:
    """Return tasks that take little more than their child process."""
    output = {"generate_tiling_scheme": "noop/{index}.geojson", "create_cog": "noop/{index}_cog.tif"}
    parameters = {**SCENE, "output_blob_name": output[task_type]}
    return {"stages": stages, "tasks": tasks, "task_type": task_type, "task_parameters": parameters}


@pytest.mark.parametrize("docker_stages", [(2, 3), EVERY_STAGE], ids=["both sides", "the worker alone"])
async def test_a_raster_crosses_every_stage_without_a_violation(
    world: World, docker_stages: tuple[int, ...]
) -> None:
    pixels = smooth(3, 300, 400)
    make_scene(world)
    platform = Platform(world.conninfo, world.bus, docker_stages=docker_stages)
    async with platform.running():
        with world.worker():
            job_id = await platform.submit({**TILED, "band_names": {"1": "Red", "2": "Green", "3": "Blue"}})
            jobs = await platform.quiet([job_id], DEADLINE_SECONDS)
        await world.until_drained()
    job = jobs[job_id]
    assert platform.violations == []
    assert job["status"] == "completed", job["error_details"]
    assert world.signals() == [1, 2, 3, 4, 5]
    for task in world.tasks():
        expected = DONE_HERE if task["stage"] in docker_stages else FUNCTION_APP
        assert task["executed_by_app"] == expected, task["task_id"]
    cogs = [task["result_data"]["result"] for task in world.tasks(3)]
    assert len(cogs) == job["result_data"]["cogs"]["successful"] == job["result_data"]["tiling"]["tile_count"]
    for cog in cogs:
        location = storage.blob(cog["cog_container"], cog["cog_blob"])
        assert gt.validate_cog(location).valid
        with (
            rasterio.open(location.gdal_path) as tile,
            rasterio.open(world.blobs / "bronze-rasters/scene.tif"),
        ):
            col, row = (round(value) for value in ~UTM_GRID @ (tile.bounds.left, tile.bounds.top))
            assert (tile.read() == pixels[:, row : row + tile.height, col : col + tile.width]).all()


async def test_a_stage_done_by_two_workers_is_signalled_once(world: World) -> None:
    make_scene(world, 64, 64)
    platform = Platform(world.conninfo, world.bus)
    names = {"docker-one", "docker-two"}
    one, two = (world.worker(name) for name in sorted(names))
    async with platform.running():
        with one, two:
            await world.until_ready(one)
            await world.until_ready(two)
            job_ids: list[str] = []
            # On a busy machine one worker may take all tasks of a job before the other is awake.
            while {task["executed_by_app"] for task in world.tasks()} != names:
                parameters = noop(stages=2, tasks=40 + len(job_ids))
                job_ids.append(await platform.submit(parameters, job_type=NOOP))
                jobs = await platform.quiet(job_ids, DEADLINE_SECONDS)
        await world.until_drained()
    assert platform.violations == []
    assert [jobs[job_id]["status"] for job_id in job_ids] == ["completed"] * len(job_ids)
    assert sorted(world.signals()) == sorted([1, 2] * len(job_ids))


# Every form of a Task message that §3 allows, as changes to a complete one; None removes a field.
SPELLINGS: Mapping[str, Mapping[str, Any]] = {
    "complete": {},
    "required fields alone": dict.fromkeys(["task_index", "parent_task_id", "retry_count", "timestamp"]),
    "job_id for parent_job_id": {"parent_job_id": None, "job_id": "{job_id}"},
    "both spellings of the job": {"job_id": "{job_id}"},
    "dashes and capitals": {"task_type": "Generate-Tiling-Scheme"},
    "alias of the handler": {"task_type": "raster_generate_tiling_scheme"},
    "fields that nobody knows": {"priority": 3, "tags": ["a"], "nested": {"deep": None}},
    "a parent task": {"parent_task_id": "00000000-s0-parent"},
    "retried before, says the message": {"retry_count": 3},
    "time with a fraction": {"timestamp": "2025-12-12T12:00:00.123456"},
    "time with an offset": {"timestamp": "2025-12-12T12:00:00+00:00"},
    "time with a Z": {"timestamp": "2025-12-12T12:00:00Z"},
    "parameters in the row": {"parameters": {}, "parameters_in_row": True},
    "parameters nobody knows": {"parameters": {**SCENE, "unbekannt": "größe", "output_blob_name": "ü.json"}},
}


async def test_every_spelling_of_a_task_message_is_understood(world: World) -> None:
    make_scene(world, 64, 64)
    job_id = "0" * 63 + "1"
    world.sql("insert into app.jobs (job_id, job_type, status) values (%s, 'noop_job', 'processing')", job_id)
    messages = []
    for index, (name, changes) in enumerate(SPELLINGS.items()):
        parameters = {**SCENE, "output_blob_name": f"{index}.geojson"}
        world.sql(
            "insert into app.tasks (task_id, parent_job_id, job_type, task_type, stage, parameters)"
            " values (%s, %s, 'noop_job', 'generate_tiling_scheme', 1, %s)",
            name,
            job_id,
            json.dumps(parameters),
        )
        message = {
            "task_id": name,
            "parent_job_id": job_id,
            "job_type": "noop_job",
            "task_type": "generate_tiling_scheme",
            "stage": 1,
            "task_index": str(index),
            "parameters": parameters,
            "parent_task_id": None,
            "retry_count": 0,
            "timestamp": "2025-12-12T12:00:00",
        }
        changed = {key: job_id if value == "{job_id}" else value for key, value in changes.items()}
        kept = {
            key: value for key, value in {**message, **changed}.items() if changes.get(key, "") is not None
        }
        messages.append(OutgoingMessage(body=json.dumps(kept), message_id=name))
    platform = Platform(world.conninfo, world.bus)
    async with platform.running():
        with world.worker():
            await world.bus.send("docker-tasks", messages)
            await eventually(
                lambda: {task["status"] for task in world.tasks()} <= {"completed", "failed"},
                within_seconds=DEADLINE_SECONDS,
            )
            await world.until_drained()
    assert {task["task_id"]: task["error_details"] for task in world.tasks()} == dict.fromkeys(SPELLINGS)
    assert platform.violations == []
    assert world.signals() == [1]
    assert world.broker.counts("docker-tasks").dead_letter == 0


async def test_a_scheme_that_another_program_wrote_is_cut(world: World) -> None:
    scheme = gt.generate_tiling_scheme(make_scene(world), 128, 16, UTM).to_geojson()
    foreign = {**scheme, "metadata": {"created_by": "another program"}}
    (world.blobs / "silver-cogs" / "scene_tiling_scheme.geojson").write_text(json.dumps(foreign))
    parameters = {**SCENE, "tiling_scheme_blob": "scene_tiling_scheme.geojson", "job_id": "0" * 64}
    platform = Platform(world.conninfo, world.bus)
    async with platform.running():
        with world.worker():
            job_id = await platform.submit(
                {"stages": 1, "tasks": 1, "task_type": "extract_tiles", "task_parameters": parameters},
                job_type=NOOP,
            )
            await platform.quiet([job_id], DEADLINE_SECONDS)
    (task,) = world.tasks()
    assert (platform.violations, task["error_details"]) == ([], None)
    result = task["result_data"]["result"]
    assert result["tiles_blob_prefix"] == f"{job_id[:8]}/tiles/"
    assert result["tile_blobs"][0] == f"{job_id[:8]}/tiles/scene_tile_0_0.tif"
    for name in result["tile_blobs"]:
        with rasterio.open(world.blobs / "silver-mosaicjson" / name) as tile:
            assert tile.crs == UTM


async def test_a_task_that_cannot_be_done_fails_its_job_without_a_signal(world: World) -> None:
    parameters = {**noop(), "task_parameters": {**SCENE, "blob_name": "gone.tif"}}
    platform = Platform(world.conninfo, world.bus)
    async with platform.running():
        with world.worker():
            job_id = await platform.submit(parameters, job_type=NOOP)
            jobs = await platform.quiet([job_id], DEADLINE_SECONDS)
            await world.until_drained()
    (task,) = world.tasks()
    assert (task["status"], jobs[job_id]["status"]) == ("failed", "failed")
    assert "gone.tif" in task["error_details"]
    assert "gone.tif" in jobs[job_id]["error_details"]
    assert task["result_data"].keys() == {"success", "error", "error_type", "retryable"}
    assert world.broker.counts("docker-tasks").dead_letter == 1
    assert (platform.violations, world.signals()) == ([], [])


async def test_the_platforms_tables_are_as_they_were(world: World) -> None:
    make_scene(world, 64, 64)
    before = _definitions(world)
    platform = Platform(world.conninfo, world.bus)
    async with platform.running():
        with world.worker():
            job_id = await platform.submit(noop(), job_type=NOOP)
            await platform.quiet([job_id], DEADLINE_SECONDS)
    after = _definitions(world)
    assert before.items() <= after.items()
    added = {name for kind, name in after.keys() - before.keys() if kind == "table"}
    assert added
    assert all(name.startswith("worker_") for name in added)


def _definitions(world: World) -> dict[tuple[str, str], str]:
    """Return the schema's contents by kind and name; for tables, columns, constraints, indexes, triggers."""
    rows = world.sql("""
        select 'table' as kind, t.table_name::text as name,
            (select string_agg(to_jsonb(c)::text, ' ' order by c.ordinal_position)
                from information_schema.columns c
                where c.table_schema = 'app' and c.table_name = t.table_name)
            || coalesce((select string_agg(pg_get_constraintdef(oid), ' ' order by conname)
                from pg_constraint where conrelid = ('app.' || t.table_name)::regclass), '')
            || coalesce((select string_agg(indexdef, ' ' order by indexname)
                from pg_indexes where schemaname = 'app' and tablename = t.table_name), '')
            || coalesce((select string_agg(pg_get_triggerdef(oid), ' ' order by tgname)
                from pg_trigger where tgrelid = ('app.' || t.table_name)::regclass and not tgisinternal), '')
            as definition
        from information_schema.tables t where t.table_schema = 'app'
        union all
        select 'function', p.oid::regprocedure::text, pg_get_functiondef(p.oid)
        from pg_proc p where p.pronamespace = 'app'::regnamespace
        union all
        select 'enum', e.enumtypid::regtype::text, string_agg(e.enumlabel, ' ' order by e.enumsortorder)
        from pg_enum e group by e.enumtypid""")
    return {(row["kind"], row["name"]): row["definition"] for row in rows}


async def test_times_are_in_utc_whatever_the_machines_zone(world: World) -> None:
    make_scene(world, 64, 64)
    platform = Platform(world.conninfo, world.bus)
    async with platform.running():
        with world.worker(TZ="Asia/Kolkata", PGTZ="Asia/Kolkata"):
            job_id = await platform.submit(noop(), job_type=NOOP)
            await platform.quiet([job_id], DEADLINE_SECONDS)
    assert platform.violations == []


async def test_a_frozen_workers_task_is_done_anew_and_what_it_does_on_waking_counts_for_nothing(
    world: World,
) -> None:
    make_scene(world, 2500, 2500)
    platform = Platform(world.conninfo, world.bus)
    sleeper = world.worker("sleeper", WORKER_CONCURRENCY="1", **SHORT_LEASE)
    async with platform.running():
        with sleeper:
            job_id = await platform.submit(noop(task_type="create_cog"), job_type=NOOP)
            await world.until_processing()
            with frozen({sleeper.pid, *descendants(sleeper.pid)}):
                assert [task["status"] for task in world.tasks()] == ["processing"]
                await platform.resubmit(job_id)
                with world.worker("other", **SHORT_LEASE):
                    jobs = await platform.quiet([job_id], DEADLINE_SECONDS)
            await world.until_drained()
    assert platform.violations == []
    assert jobs[job_id]["status"] == "completed"
    assert {task["executed_by_app"] for task in world.tasks()} == {"other"}
    assert world.signals() == [1]


async def test_a_finished_job_can_be_done_again_under_its_id(world: World) -> None:
    make_scene(world, 64, 64)
    platform = Platform(world.conninfo, world.bus)
    async with platform.running():
        with world.worker(WORKER_WARM_MINUTES="0.02") as worker:
            await world.until_ready(worker)
            assert not forkservers(worker.pid), "there was no task yet"
            job_id = await platform.submit(noop(stages=2), job_type=NOOP)
            await platform.quiet([job_id], DEADLINE_SECONDS)
            await platform.resubmit(job_id)
            jobs = await platform.quiet([job_id], DEADLINE_SECONDS)
            await world.until_drained()
            await eventually(lambda: not forkservers(worker.pid), within_seconds=10)
    assert (platform.violations, jobs[job_id]["status"]) == ([], "completed")
    assert world.signals() == [1, 2, 1, 2]


@asynccontextmanager
async def _slow_task(world: World) -> AsyncIterator[tuple[Platform, WorkerProcess, str]]:
    """Run a platform and a worker with one job, whose task is running; yield the job's id with them."""
    make_scene(world, 2500, 2500)
    platform = Platform(world.conninfo, world.bus)
    worker = world.worker(**SHORT_LEASE)
    async with platform.running():
        with worker:
            job_id = await platform.submit(noop(task_type="create_cog"), job_type=NOOP)
            await world.until_processing()
            yield platform, worker, job_id


async def test_a_slow_task_is_alive_to_the_janitor(world: World) -> None:
    async with _slow_task(world) as (platform, worker, job_id):
        with frozen(task_processes(worker.pid)):
            (before,) = world.tasks()
            for _ in range(3):
                (seen,) = world.tasks()
                await eventually(lambda seen=seen: world.tasks()[0]["updated_at"] > seen["updated_at"])
            (after,) = world.tasks()
            age = after["updated_at"] - before["updated_at"]
            assert await platform.janitor_once(minutes=1 + age.total_seconds() / 60) == []
        jobs = await platform.quiet([job_id], DEADLINE_SECONDS)
        await world.until_drained()
    assert after["heartbeat"] > before["heartbeat"]
    assert after["execution_started_at"] == before["execution_started_at"]
    assert (platform.violations, jobs[job_id]["status"], world.signals()) == ([], "completed", [1])


async def test_a_task_that_the_janitor_failed_is_given_up(world: World) -> None:
    async with _slow_task(world) as (platform, worker, job_id):
        with frozen(task_processes(worker.pid)):
            assert len(await platform.janitor_once(minutes=0)) == 1
            failed = world.tasks()
            await world.until_drained()
        jobs = await platform.quiet([job_id], DEADLINE_SECONDS)
    assert jobs[job_id]["status"] == "failed"
    assert world.tasks() == failed
    assert (platform.violations, world.signals()) == ([], [])
    assert not (world.blobs / "silver-cogs" / "noop").exists()


@pytest.mark.timeout(900)
async def test_results_too_large_for_a_message_reach_the_fan_in_by_its_row(world: World) -> None:
    long_name = "s" * 200  # appears in every result several times
    make_scene(world, 420, 420, bands=1, name=f"{long_name}.tif")
    parameters = {**TILED, "blob_name": f"{long_name}.tif", "output_folder": "/".join([long_name] * 3)}
    platform = Platform(
        world.conninfo, world.bus, docker_stages=EVERY_STAGE, message_bytes=SMALL_MESSAGE_BYTES
    )
    async with platform.running():
        with world.worker():
            job_id = await platform.submit(parameters)
            await eventually_or_stalled(
                lambda: bool(world.sql("select 1 from app.jobs where status in ('completed', 'failed')")),
                progress=lambda: world.sql("select count(*) from app.tasks where status = 'completed'"),
            )
            jobs = await platform.quiet([job_id], DEADLINE_SECONDS)
            await world.until_drained()
    assert platform.violations == []
    assert jobs[job_id]["status"] == "completed", jobs[job_id]["error_details"]
    assert len(world.tasks(3)) == 16
    (fan_in,) = world.tasks(4)
    assert fan_in["task_id"] == fan_in_id(job_id, 4)
    assert len(json.dumps(fan_in["parameters"])) > SMALL_MESSAGE_BYTES
    assert fan_in["result_data"]["tile_count"] == 16


async def test_interruptions_of_every_side_lose_and_double_nothing(world: World) -> None:
    make_scene(world, 64, 64)
    platform = Platform(world.conninfo, world.bus)
    with world.worker():
        async with platform.running():
            job_id = await platform.submit(noop(stages=3, tasks=6), job_type=NOOP)
            await world.until_processing()
        for _ in range(4):
            done = len(_finished(world))
            async with platform.running():
                world.broker.faults.drop_connections()
                world.sql(
                    "select pg_terminate_backend(pid) from pg_stat_activity"
                    " where pid <> pg_backend_pid() and datname = current_database()"
                )
                await eventually(
                    lambda done=done: len(_finished(world)) > done or len(_finished(world)) == 18,
                    within_seconds=60,
                )
        async with platform.running():
            jobs = await platform.quiet([job_id], DEADLINE_SECONDS)
            await world.until_drained()
    assert platform.violations == []
    assert jobs[job_id]["status"] == "completed", jobs[job_id]["error_details"]
    assert world.signals() == [1, 2, 3]


def _finished(world: World) -> list[dict[str, Any]]:
    return [task for task in world.tasks() if task["status"] == "completed"]
