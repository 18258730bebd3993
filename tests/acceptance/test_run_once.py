"""``python -m worker --once`` and ``--idle-exit``: processes that end by themselves, with real services."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.support.commands import environment_with, free_port, is_one_clear_line, run
from tests.support.services import postgres
from worker.database import Database, migration
from worker.database.connections import Connections
from worker.local.broker.server import BrokerThread, QueueSpec
from worker.queue.bus import Bus, OutgoingMessage

pytestmark = pytest.mark.timeout(240)

QUEUE, JOBS_QUEUE = "docker-tasks", "geospatial-jobs"


class World:
    """A database, the queues, and a folder of blobs for workers that come and go."""

    def __init__(self, conninfo: str, broker: BrokerThread, blobs: Path) -> None:
        self.conninfo = conninfo
        self.broker = broker
        parts = {name.upper(): str(value) for name, value in postgres.parts(conninfo).items() if value}
        self.environment = environment_with(
            APP_MODE="worker_docker",
            SERVICE_BUS_CONNECTION_STRING=broker.connection_string,
            GDALTOOLS_BLOB_ROOT=str(blobs),
            PORT=str(free_port()),
            **parts,
        )

    def run(self, *arguments: str) -> tuple[int, str]:
        done = run(*arguments, environment=self.environment)
        return done.returncode, done.stderr

    def add_task(self, task_id: str, *, job_id: str) -> None:
        """Create a job with one task and its message, as the platform leaves them."""
        parameters = {"container_name": "bronze-rasters", "blob_name": "nowhere.tif"}
        with psycopg.connect(self.conninfo, autocommit=True) as connection:
            connection.execute(
                "insert into app.jobs (job_id, job_type, status) values (%s, 'test', 'processing')"
                " on conflict do nothing",
                (job_id,),
            )
            connection.execute(
                "insert into app.tasks (task_id, parent_job_id, job_type, task_type, stage)"
                " values (%s, %s, 'test', 'validate_raster', 1)",
                (task_id, job_id),
            )
        body = {
            "task_id": task_id,
            "parent_job_id": job_id,
            "job_type": "test",
            "task_type": "create_cog",
            "stage": 1,
            "parameters": parameters,
        }

        async def send() -> None:
            async with Bus.connect(connection_string=self.broker.connection_string) as bus:
                await bus.send(QUEUE, [OutgoingMessage(body=json.dumps(body), message_id=task_id)])

        asyncio.run(send())

    def statuses(self) -> dict[str, str]:
        with psycopg.connect(self.conninfo) as connection:
            found = connection.execute("select task_id, status::text from app.tasks").fetchall()
        return dict(found)


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    blobs = tmp_path_factory.mktemp("blobs")
    (blobs / "bronze-rasters").mkdir()
    with (
        postgres.server() as server,
        server.database() as conninfo,
        BrokerThread([QueueSpec(QUEUE), QueueSpec(JOBS_QUEUE)]) as broker,
    ):

        async def migrate() -> None:
            async with Database(Connections(conninfo)) as database:
                await migration.migrate(database.connections)

        asyncio.run(migrate())
        yield World(conninfo, broker, blobs)


@pytest.fixture
def world(services: World) -> World:
    postgres.empty(services.conninfo, "app")
    return services


def test_once_takes_one_message_and_idle_exit_the_rest(world: World) -> None:
    for number in range(3):
        world.add_task(f"task-{number}", job_id=f"{number:064x}")
    code, said = world.run("--once")
    assert code == 0, said  # a task that failed by the protocol's rules is no failure of the worker
    assert sorted(world.statuses().values()) == ["failed", "queued", "queued"]
    code, said = world.run("run", "--idle-exit", "1")
    assert code == 0, said
    assert list(world.statuses().values()) == ["failed"] * 3


def test_a_queue_that_is_not_there_is_exit_code_2(world: World) -> None:
    world.environment["DOCKER_TASKS_QUEUE"] = "nowhere"
    try:
        code, said = world.run("--once")
    finally:
        del world.environment["DOCKER_TASKS_QUEUE"]
    assert code == 2
    assert "nowhere" in said.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--once"], "standalone"),
        (["--idle-exit", "0"], "--idle-exit"),
        (["--idle-exit", "soon"], "--idle-exit"),
    ],
)
def test_what_cannot_be_is_one_line_and_exit_code_2(arguments: list[str], named: str) -> None:
    done = run(*arguments, environment=environment_with(APP_MODE="standalone"))
    assert done.returncode == 2
    assert named in done.stderr
    assert is_one_clear_line(done.stderr)
