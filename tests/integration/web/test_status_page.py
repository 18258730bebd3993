"""The status page on a real database, real queues and real tasks: what it shows, and what its forms do."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from html import unescape
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import psycopg
import pytest
import pytest_asyncio

from tests.support.bench import JOB, JOBS, QUEUE, Bench
from tests.support.rasters import smooth, write_raster
from worker.database import Database
from worker.database.connections import Connections
from worker.queue.bus import Bus
from worker.queue.dead_letters import DeadLetters
from worker.task.running import RunningTasks
from worker.telemetry import logs
from worker.web import health
from worker.web.access import Access
from worker.web.api import Platform
from worker.web.health import Readiness
from worker.web.status import page
from worker.web.status.board import Board
from worker.web.status.facts import WorkerFacts
from worker.web.status.html import SECTIONS

pytestmark = pytest.mark.timeout(120)

HOSTILE = "<script>alert(1)</script>\"'&\u202e\x1b[2J"


@dataclass
class Site:
    """A running status page."""

    url: str
    session: aiohttp.ClientSession
    form_key: str

    async def html(self, query: str = "") -> str:
        async with self.session.get(self.url + query) as answer:
            assert answer.status == 200
            return await answer.text()

    async def section(self, name: str) -> str:
        """Return a section's text, as a person reads it."""
        found = re.search(
            rf'<(?:section|div) id="{name}".*?(?=<section |</main>)', await self.html(), re.DOTALL
        )
        assert found is not None
        return " ".join(unescape(re.sub(r"<[^>]+>", " ", found[0])).split())

    async def until(self, name: str, *texts: str) -> str:
        """Return a section's text once it contains all of `texts`."""
        async with asyncio.timeout(60):
            while True:
                shown = await self.section(name)
                if all(text in shown for text in texts):
                    return shown
                await asyncio.sleep(0.1)

    async def redrive(self, **choice: str) -> str:
        """Send the redrive form, and return the page's message."""
        data = {"form_key": self.form_key, "queue": QUEUE, **choice}
        async with self.session.post(f"{self.url}/status/redrive", data=data) as answer:
            assert answer.status == 200
            shown = await answer.text()
        text = re.search(r'<p class="notice" role="status">(.*?)<a', shown, re.DOTALL)
        assert text is not None
        return unescape(text[1])


@asynccontextmanager
async def site(database: Database, bus: Bus, running_tasks: RunningTasks) -> AsyncIterator[Site]:
    """Run the page of a worker with these services, from entry to exit."""
    access, readiness, streams = Access(), Readiness(phase=None), page.Streams()
    about = WorkerFacts("test-worker", "worker_docker", (QUEUE,), "0", datetime.now(UTC))
    queues = (QUEUE, JOBS)
    dead_letters = DeadLetters(bus, queues=queues, database=database)
    platform = Platform(database=database, dead_letters=dead_letters, running_tasks=running_tasks)
    board = Board(about, readiness, platform, queues=queues, form_key=access.form_key)
    async with (
        health.serving(
            readiness,
            name="test-worker",
            host="127.0.0.1",
            port=0,
            access=access,
            routes=page.routes(board, access, streams),
            on_shutdown=streams.close,
        ) as port,
        aiohttp.ClientSession() as session,
    ):
        try:
            yield Site(f"http://127.0.0.1:{port}", session, access.form_key)
        finally:
            await board.leave_queues()


@pytest.fixture
def blobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GDALTOOLS_BLOB_ROOT", str(tmp_path))
    folder = tmp_path / "bronze-rasters"
    folder.mkdir()
    return folder


@pytest_asyncio.fixture
async def shown(bench: Bench, caplog: pytest.LogCaptureFixture) -> AsyncIterator[Site]:
    caplog.set_level(logging.WARNING, "azure")  # as in a worker, whatever level other tests left
    with logs.TAIL.listening():
        async with site(bench.database, bench.bus, bench.processor.running_tasks) as made:
            yield made


@pytest_asyncio.fixture
async def seen(database: Database, bus: Bus) -> AsyncIterator[Site]:
    """A page with nothing running next to it."""
    async with site(database, bus, RunningTasks()) as made:
        yield made


async def test_a_task_is_shown_with_all_that_is_known_of_it(bench: Bench, shown: Site) -> None:
    for name, parameters in (("say_something", {}), ("stand_still", {"seconds": 30})):
        bench.create(name, task_type=name, parameters=parameters)
        await bench.send(name, task_type=name, parameters=parameters)
    await shown.until("log", "WARNING tests said by a task's process")
    text = await shown.until("running", "33%", "1 of 3 steps", "MB of memory")
    assert "stand_still" in text
    assert "steps/s" in text
    assert "left" in text
    assert QUEUE in text
    assert f"stage 3 of job {JOB[:8]}" in text
    assert "here" in text
    assert "1 running" in await shown.section("summary")


async def test_what_failed_is_shown_with_its_reason_and_redriven(
    bench: Bench, shown: Site, blobs: Path
) -> None:
    bench.create("t-1")
    await bench.send("t-1")
    assert "scene.tif" in await shown.until("failed", "SourceNotFound")
    text = await shown.until("letters", "SourceNotFound", "task t-1", "Redrive")
    number = re.search(r"letter (\d+)", text)
    assert number is not None
    assert "1 dead letter 0 in the outbox" in await shown.section("summary")
    write_raster(blobs / "scene.tif", smooth(3, 64, 64))
    text = await shown.redrive(sequence=number[1])
    assert f"letter {number[1]}: redriven, the task is queued again" in text
    await bench.until("t-1", "completed")
    assert "There are none." in await shown.until("letters", "There are none.")
    assert "Nothing failed." in await shown.until("failed", "Nothing failed.")
    assert "absent" in await shown.redrive(sequence=number[1])


async def test_everything_that_somebody_else_wrote_is_escaped(seen: Site, conninfo: str) -> None:
    insert(
        conninfo,
        "jobs",
        job_id=HOSTILE[:60],
        job_type=HOSTILE,
        parameters=json.dumps({"blob_name": HOSTILE}),
        status="failed",
        error_details=HOSTILE,
    )
    for number, status in enumerate(("processing", "queued", "failed", "completed")):
        insert(
            conninfo,
            "tasks",
            task_id=f"{HOSTILE}{number}",
            parent_job_id=HOSTILE[:60],
            job_type=HOSTILE,
            task_type=HOSTILE,
            stage=1,
            status=status,
            retry_count=1,
            target_queue=HOSTILE,
            executed_by_app=HOSTILE,
            error_details=HOSTILE,
            execution_started_at=datetime.now(UTC).replace(tzinfo=None),
            metadata=json.dumps(
                {
                    "progress": {"label": HOSTILE, "unit": HOSTILE, "done": 1, "total": 3},
                    "last_error": HOSTILE,
                }
            ).replace("\\u001b", "?"),
        )
    logs.TAIL.add([logs.Line(0.0, "WARNING", HOSTILE, HOSTILE, None)])
    html = await seen.html()
    assert html.count("&lt;script&gt;alert(1)") > 15
    assert "<script>alert" not in html
    assert "\u202e" not in html
    assert "\x1b" not in html
    assert not re.search(r'"[^"=<>]*alert\(1\)[^"]*"\'', html), "no attribute ends early"


async def test_progress_that_is_none_does_no_harm(seen: Site, conninfo: str) -> None:
    insert(conninfo, "jobs", job_id=JOB, job_type="any_job", status="processing")
    wrong = (
        "7",
        '"x"',
        '{"done": "NaN", "total": {}}',
        '{"done": 1e999, "total": 0}',
        '{"done": 3, "total": -1}',
    )
    for progress in wrong:
        metadata = f'{{"progress": {progress}}}'
        task(conninfo, f"t-{progress}", task_type="odd", status="processing", metadata=metadata)
    text = await seen.until("running", "odd")
    assert text.count("odd") == len(wrong)
    assert "%" not in text


async def test_jobs_waiting_tasks_and_the_timeline_are_shown(seen: Site, conninfo: str) -> None:
    insert(
        conninfo,
        "jobs",
        job_id="f" * 64,
        job_type="process_large_raster_v2",
        status="processing",
        stage=3,
        total_stages=5,
        parameters='{"blob_name": "scene.tif"}',
    )
    began = datetime.now(UTC).replace(tzinfo=None)
    for stage, queue, status in (
        (1, "raster-tasks", "completed"),
        (3, QUEUE, "queued"),
        (3, QUEUE, "queued"),
    ):
        task(
            conninfo,
            str(uuid4()),
            parent_job_id="f" * 64,
            stage=stage,
            status=status,
            target_queue=queue,
            execution_started_at=began if status == "completed" else None,
        )
    text = await seen.until("jobs", "scene.tif")
    assert "processing" in text
    assert "stage 3 of 5" in text
    assert "0 of 2 done" in text
    html = await seen.html()
    assert re.search(r'aria-label="timeline of [^"]*stage 1, create_cog on raster-tasks: 1 of 1 done', html)
    waits = await seen.section("waiting")
    assert "2 create_cog scene.tif (stage 3 of job ffffffff)" in waits
    assert "2 waiting" in await seen.section("summary")


async def test_a_change_reaches_whoever_watches(seen: Site, conninfo: str) -> None:
    insert(conninfo, "jobs", job_id=JOB, job_type="any_job", status="processing")
    async with seen.session.get(f"{seen.url}/status/events") as stream, asyncio.timeout(30):
        first = [(await event(stream))["name"] for _ in SECTIONS]
        assert first == list(SECTIONS)
        task(conninfo, "t-1", task_type="a_new_task", status="queued")
        while (changed := await event(stream))["name"] != "waiting":
            pass
        assert "a_new_task" in changed["html"]


async def test_without_a_database_the_page_says_so(bus: Bus) -> None:
    away = Database(Connections("host=127.0.0.1 port=1 dbname=none user=none"))
    async with away as database, site(database, bus, RunningTasks()) as made:
        html = await made.html()
        assert html.count("Not known right now: no connection to the database") == 5
        assert "There are none." in await made.until("letters", "There are none.")
        assert "memory" in await made.section("health")


async def test_without_a_broker_the_page_says_so(database: Database) -> None:
    nowhere = "Endpoint=sb://127.0.0.1:1;SharedAccessKeyName=n;SharedAccessKey=k;UseDevelopmentEmulator=true"
    async with Bus.connect(connection_string=nowhere) as bus, site(database, bus, RunningTasks()) as made:
        assert "Nothing runs." in await made.section("running")
        assert "Not known right now" in await made.section("letters")
        assert f"{QUEUE} not known right now" in await made.until("letters", "not known right now")


async def event(stream: aiohttp.ClientResponse) -> dict[str, Any]:
    """Return the next section that a stream reports."""
    while not (line := (await stream.content.readline()).decode()).startswith("data: "):
        pass
    found: dict[str, Any] = json.loads(line.removeprefix("data: "))
    return found


def insert(conninfo: str, table: str, **values: Any) -> None:
    names = psycopg.sql.SQL(", ").join(map(psycopg.sql.Identifier, values))
    places = psycopg.sql.SQL(", ").join(psycopg.sql.Placeholder() * len(values))
    statement = psycopg.sql.SQL("insert into {} ({}) values ({})").format(
        psycopg.sql.Identifier("app", table), names, places
    )
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(statement, list(values.values()))


def task(conninfo: str, task_id: str, **values: Any) -> None:
    row = {"parent_job_id": JOB, "job_type": "any_job", "task_type": "create_cog", "stage": 1, **values}
    insert(conninfo, "tasks", task_id=task_id, **row)
