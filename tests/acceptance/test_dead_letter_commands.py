"""``python -m worker dead-letters`` as an engineer types it: directly on the queues, and through a worker."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
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
)
from tests.support.rasters import smooth, write_raster
from tests.support.services import postgres
from worker.database import Database, migration
from worker.database.connections import Connections
from worker.local.broker.server import BrokerThread, QueueSpec
from worker.queue.bus import Bus, OutgoingMessage

pytestmark = pytest.mark.timeout(240)

QUEUES = ("docker-tasks", "raster-tasks", "vector-tasks", "geospatial-jobs")
JOB = "0" * 63 + "1"
BODY = json.dumps(
    {
        "task_id": "t",
        "parent_job_id": JOB,
        "job_type": "any_job",
        "task_type": "create_cog",
        "stage": 3,
        "parameters": {},
    }
)
HOSTILE = "[bold red]boo[/bold red] \x1b[2J\x1b]0;owned\x07 \x9b31m \u202egnp\r\n[/nonsense]"


@dataclass
class Services:
    """Configured queues and a database, and commands that find them."""

    broker: BrokerThread
    conninfo: str
    environment: dict[str, str]

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run("dead-letters", *arguments, environment=self.environment)

    def bury(self, *bodies: str, queue: str = "docker-tasks", reason: str = "Test", text: str = "") -> None:
        async def send() -> None:
            async with Bus.connect(connection_string=self.broker.connection_string) as bus:
                messages = [OutgoingMessage(each, os.urandom(8).hex()) for each in bodies]
                await bus.send(queue, messages)
                async with bus.receiver(queue) as receiver:
                    for _ in bodies:
                        message = await receiver.receive(wait_seconds=10)
                        assert message is not None
                        await message.dead_letter(reason, text)

        asyncio.run(send())

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.conninfo, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []


@pytest.fixture(scope="module")
def conninfo() -> Iterator[str]:
    async def migrate(made: str) -> None:
        async with Database(Connections(made)) as database:
            await migration.migrate(database.connections)

    with postgres.server() as server, server.database() as made:
        asyncio.run(migrate(made))
        yield made


@pytest.fixture
def services(conninfo: str) -> Iterator[Services]:
    postgres.empty(conninfo, "app")
    with BrokerThread([QueueSpec(name) for name in QUEUES]) as broker:
        given = {name.upper(): str(value) for name, value in postgres.parts(conninfo).items() if value}
        environment = environment_with(SERVICE_BUS_CONNECTION_STRING=broker.connection_string, **given)
        yield Services(broker, conninfo, environment)


def make_failed_task(services: Services) -> None:
    services.sql(
        f"insert into app.jobs (job_id, job_type, status, stage, total_stages, error_details)"
        f" values ('{JOB}', 'any_job', 'failed', 3, 5, 'broke')"
    )
    services.sql(
        "insert into app.tasks (task_id, parent_job_id, job_type, task_type, stage, status, error_details)"
        f" values ('t', '{JOB}', 'any_job', 'create_cog', 3, 'failed', 'broke')"
    )


def test_at_the_queues_letters_are_listed_shown_redriven_and_purged(services: Services) -> None:
    make_failed_task(services)
    services.bury(BODY, reason="SourceNotFound", text="scene.tif does not exist")
    services.bury("hello", reason="InvalidMessage")

    overview = services.command("list")
    assert overview.returncode == 0, overview.stderr
    assert all(queue in overview.stdout for queue in QUEUES)
    listed = services.command("list", "--queue", "docker-tasks")
    line = next(line for line in listed.stdout.splitlines() if "SourceNotFound" in line)
    assert "scene.tif does not exist" in line
    assert " t " in line
    assert "2 of 2" in listed.stdout
    found = json.loads(services.command("list", "--queue", "docker-tasks", "--json").stdout)
    newest, oldest = found["letters"]
    assert (found["total"], newest["reason"], oldest["taskId"], oldest["jobId"]) == (
        *(2, "InvalidMessage", "t"),
        JOB,
    )

    shown = services.command("show", str(oldest["sequenceNumber"]))
    assert '"parent_job_id": "' in shown.stdout
    assert "broke" in shown.stdout
    whole = json.loads(services.command("show", str(oldest["sequenceNumber"]), "--json").stdout)
    assert (whole["task"]["status"], whole["job"]["status"]) == ("failed", "failed")

    redriven = services.command("redrive", "--task", "t")
    assert redriven.returncode == 0, redriven.stderr
    assert "redriven" in redriven.stdout
    assert services.sql("select status::text from app.tasks union all select status::text from app.jobs") == [
        ("queued",),
        ("processing",),
    ]
    counts = services.broker.counts("docker-tasks")
    assert (counts.active, counts.dead_letter) == (1, 1)

    purged = services.command("purge", "--reason", "InvalidMessage", "--yes")
    assert purged.returncode == 0, purged.stderr
    assert services.broker.counts("docker-tasks").dead_letter == 0


def test_what_a_letter_says_does_not_reach_the_terminal_raw(services: Services) -> None:
    services.bury(HOSTILE, reason=HOSTILE, text=HOSTILE)
    services.bury(BODY.replace('"t"', json.dumps(HOSTILE[:60])), text=HOSTILE)
    number = json.loads(services.command("list", "--queue", "docker-tasks", "--json").stdout)["letters"][1][
        "sequenceNumber"
    ]
    for arguments in (
        ("list",),
        ("list", "--queue", "docker-tasks"),
        ("show", str(number)),
        ("redrive", "--all"),
    ):
        done = services.command(*arguments)
        assert "Traceback" not in done.stderr
        assert not set(done.stdout + done.stderr) & set("\x1b\x07\x9b\u202e\r"), arguments
        assert "[bold red]boo[/bold red]" in done.stdout or arguments[0] == "redrive"
    assert done.returncode == 3, "one of them is a task without a row"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 2, "list|show|redrive|purge"),
        (("burn",), 2, "burn"),
        (("redrive",), 2, "--all"),
        (("purge", "--yes"), 2, "--all"),
        (("purge", "--all"), 2, "--yes"),
        (("redrive", "--all", "--task", "t"), 2, "choose"),
        (("redrive", "--sequence", "x"), 2, "'x'"),
        (("redrive", "--sequence", "0"), 2, "'0'"),
        (("redrive", "--sequence", "9" * 40), 2, "sequence number"),
        (("redrive", "--reason", ""), 2, "reason"),
        (("list", "--limit", "0"), 2, "limit"),
        (("list", "--order", "sideways"), 2, "sideways"),
        (("list", "--queue", "no-such"), 3, "no-such"),
        (("list", "--queue", "docker-tasks/$management"), 3, "management"),
        (("redrive", "--queue", "no-such\x1b[2J", "--all"), 3, "no-such"),
        (("show", "77"), 3, "77"),
        (("show", "-1"), 2, "-1"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_a_code_that_says_why(
    services: Services, arguments: tuple[str, ...], code: int, said: str
) -> None:
    done = services.command(*arguments)
    assert_refused(done, code, said)


def test_a_queue_that_is_configured_but_not_there_is_told(services: Services) -> None:
    services.environment["VECTOR_TASKS_QUEUE"] = "gone"
    overview = services.command("list")
    assert overview.returncode == 0, overview.stderr
    assert "no such queue" in overview.stdout
    done = services.command("list", "--queue", "gone")
    assert done.returncode == 3
    assert is_one_clear_line(done.stderr)


def test_without_a_database_tasks_are_purged_but_not_redriven(services: Services) -> None:
    services.bury(BODY)
    del services.environment["POSTGIS_HOST"]
    done = services.command("redrive", "--all")
    assert done.returncode == 2
    assert "POSTGIS_HOST" in done.stderr
    assert is_one_clear_line(done.stderr)
    assert services.command("show", "1").returncode == 0
    assert services.command("purge", "--all", "--yes").returncode == 0
    assert services.broker.counts("docker-tasks").dead_letter == 0


def test_a_bus_that_does_not_answer_is_one_line_and_may_pass(services: Services) -> None:
    services.environment["SERVICE_BUS_CONNECTION_STRING"] = services.broker.connection_string.replace(
        str(services.broker.port), str(free_port())
    )
    done = services.command("list", "--queue", "docker-tasks")
    assert done.returncode == 4
    assert is_one_clear_line(done.stderr)


@pytest.mark.parametrize(("answer", "left"), [(b"n\n", 1), (b"y\n", 0)])
def test_a_purge_asks_on_a_terminal(services: Services, answer: bytes, left: int) -> None:
    services.bury(BODY)
    ours, theirs = pty.openpty()
    try:
        os.write(ours, answer)
        done = subprocess.run(
            [*WORKER, "dead-letters", "purge", "--all"],
            env=services.environment,
            cwd=ROOT,
            stdin=theirs,
            capture_output=True,
            text=True,
            timeout=60,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert "docker-tasks" in done.stderr
    assert done.returncode == (2 if left else 0), done.stderr
    assert services.broker.counts("docker-tasks").dead_letter == left


@pytest.fixture(scope="module")
def standalone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standalone]:
    blobs = tmp_path_factory.mktemp("blobs")
    (blobs / "bronze-rasters").mkdir()
    with standalone_worker(blobs) as made:
        yield made


def test_through_a_worker_a_failed_job_is_mended_and_completes(standalone: Standalone) -> None:
    scene = standalone.blobs / "bronze-rasters" / "scene.tif"
    scene.write_text("no raster")
    submit = ["submit", "process_large_raster_v2", "--container", "bronze-rasters", "--blob", "scene.tif"]
    failed = standalone.command(*submit, "--parameter", "overlap=64", "--wait")
    assert failed.returncode == 1
    job_id = json.loads(failed.stdout)["jobId"]

    overview = json.loads(standalone.command("dead-letters", "list", "--json").stdout)
    (queue,) = [each["queue"] for each in overview["queues"] if each["total"]]
    listed = standalone.command("dead-letters", "list", "--queue", queue)
    assert "UnsupportedRaster" in listed.stdout or "CorruptRaster" in listed.stdout
    (dead_letter,) = json.loads(
        standalone.command("dead-letters", "list", "--queue", queue, "--json").stdout
    )["letters"]
    number = str(dead_letter["sequenceNumber"])
    shown = standalone.command("dead-letters", "show", number, "--queue", queue)
    assert job_id in shown.stdout

    write_raster(scene, smooth(3, 200, 300))
    redriven = standalone.command("dead-letters", "redrive", "--queue", queue, "--sequence", number)
    assert redriven.returncode == 0, redriven.stderr
    done = standalone.command(*submit, "--parameter", "overlap=64", "--wait")
    assert done.returncode == 0, done.stdout
    assert json.loads(done.stdout)["jobId"] == job_id
    again = standalone.command("dead-letters", "redrive", "--queue", queue, "--sequence", number)
    assert again.returncode == 3
    assert "absent" in again.stdout
    assert standalone.command("dead-letters", "purge", "--queue", queue, "--all", "--yes").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("list", "--queue", "no-such"), 3, "no-such"),
        (("show", "99"), 3, "99"),
        (("redrive",), 2, "--all"),
    ],
)
def test_through_a_worker_a_refusal_is_one_line_too(
    standalone: Standalone, arguments: tuple[str, ...], code: int, said: str
) -> None:
    done = standalone.command("dead-letters", *arguments)
    assert_refused(done, code, said)


@pytest.mark.parametrize(
    ("path", "body", "content_type", "status"),
    [
        ("docker-tasks/purge", b'{"all": true}', "text/plain", 415),
        ("docker-tasks/purge", b'{"all": true}', "application/x-www-form-urlencoded", 415),
        ("docker-tasks/redrive", b'{"all": true}', None, 415),
        ("docker-tasks/purge", b"{}", "application/json", 400),
        ("docker-tasks/purge", b'{"all": true, "reason": "x"}', "application/json", 400),
        ("docker-tasks/purge", b"[]", "application/json", 400),
        ("docker-tasks/purge", b"\xff", "application/json", 400),
        ("no-such/purge", b'{"all": true}', "application/json", 404),
        ("docker-tasks%2F$management/purge", b'{"all": true}', "application/json", 404),
        ("docker-tasks?limit=x", None, None, 400),
        ("docker-tasks?order=sideways", None, None, 400),
        ("docker-tasks/x", None, None, 400),
        ("docker-tasks/12345678901234567890123", None, None, 400),
    ],
)
def test_the_door_refuses_what_it_does_not_understand_and_what_a_browser_may_send_unasked(
    standalone: Standalone, path: str, body: bytes | None, content_type: str | None, status: int
) -> None:
    code, answer = standalone.get(f"/api/dead-letters/{path}", body, content_type=content_type)
    assert code == status
    assert answer["error"]
