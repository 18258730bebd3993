"""Run the built images as a platform would: with PostgreSQL, a broker and Azurite outside of them.

One job goes through all five stages, one is shared by two containers, and one is interrupted by SIGTERM.
Prints sizes and times, and fails with a list of what is wrong. ``python -m tests.image [TARGET ...]``, after
``make image``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg

from gdaltools import storage
from tests.image.engine import Container, Engine
from tests.support.eventually import eventually
from tests.support.platform.stand_in import Platform
from tests.support.platform.tables import create_schema
from tests.support.rasters import smooth, write_raster
from tests.support.services import postgres
from tests.support.services.azurite import azurite
from worker.local.broker.server import BrokerThread, QueueSpec
from worker.queue.bus import Bus

STAGES = (1, 2, 3, 4, 5)
JOB_SECONDS = 240.0
START_SECONDS = 120.0
# A container that has just started or finished a task still has some work to do.
SETTLE_SECONDS = 5.0
IDLE_SECONDS = 20.0
LARGEST_MB = {"worker": 500, "full": 750}
# Limits for an idle worker: share of a core, and megabytes.
MOST_IDLE_CPU, MOST_IDLE_MB = 0.01, 150
SLOWEST_LIVEZ_SECONDS = 5.0
USER = 10001
SECOND = "second-worker"


def main(targets: list[str]) -> int:
    """Test each target's image; return 1 if something is wrong."""
    engine = Engine.found()
    problems = [
        f"{target}: {problem}"
        for target in targets or list(LARGEST_MB)
        for problem in (*still(engine, target), *asyncio.run(moving(engine, target)))
    ]
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def still(engine: Engine, target: str) -> list[str]:
    """Return what is wrong with the image before it runs."""
    problems = []
    image = f"gdaltools-{target}"
    size_mb = engine.inspect(image)["Size"] / 1e6
    print(f"{target}: {size_mb:.0f} MB unpacked, base included")
    if size_mb > LARGEST_MB[target]:
        problems.append(f"it has {size_mb:.0f} MB, more than {LARGEST_MB[target]}")
    configuration = engine.inspect(image)["Config"]
    for name, expected in {
        "Cmd": ["python", "-m", "worker"],
        "StopSignal": "SIGTERM",
        "User": str(USER),
    }.items():
        if configuration.get(name) != expected:
            problems.append(f"{name} is {configuration.get(name)}, not {expected}")
    for script, meaning in {
        f'test "$(id -u)" = {USER}': "it runs as another user",
        "! command -v cc gcc g++ make": "there are compilers in it",
        "! touch /opt/gdaltools/written /written 2>/dev/null": "its root file system can be written to",
        "touch /scratch/written": "/scratch cannot be written to",
    }.items():
        if engine.in_image(image, script).returncode != 0:
            problems.append(meaning)
    return problems


async def moving(engine: Engine, target: str) -> list[str]:
    """Return what is wrong with the image while it works."""
    with contextlib.ExitStack() as stack:
        connection_string = stack.enter_context(azurite())
        server = stack.enter_context(postgres.server())
        conninfo = stack.enter_context(server.database())
        broker = stack.enter_context(BrokerThread([QueueSpec("docker-tasks"), QueueSpec("geospatial-jobs")]))
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        os.chown(scratch, USER, USER)
        os.environ["AZURE_STORAGE_CONNECTION_STRING"] = connection_string
        os.environ.pop("GDALTOOLS_BLOB_ROOT", None)
        await asyncio.to_thread(create_schema, conninfo)
        async with _over_tcp(conninfo) as database_port:
            port = _free_port()
            parts = postgres.parts(conninfo)
            environment = {
                "SERVICE_BUS_CONNECTION_STRING": broker.connection_string,
                "AZURE_STORAGE_CONNECTION_STRING": connection_string,
                "POSTGIS_HOST": "127.0.0.1",
                "POSTGIS_PORT": str(database_port),
                "POSTGIS_DATABASE": parts["postgis_database"],
                "POSTGIS_USER": parts["postgis_user"],
                "PORT": str(port),
                "WORKER_SHUTDOWN_GRACE_SECONDS": "10",
            }
            with engine.running(f"gdaltools-{target}", environment=environment, scratch=scratch) as container:
                try:
                    problems = await _starts(target, container, port)
                    async with Bus.connect(connection_string=broker.connection_string) as bus:
                        platform = Platform(conninfo, bus, docker_stages=STAGES)
                        async with platform.running():
                            problems += await _works(target, platform, "scene.tif", side=1500)
                            problems += await _shares(engine, target, environment, platform, conninfo)
                            problems += await _stops(target, container, platform, conninfo)
                    left = await asyncio.to_thread(_names_below, scratch)
                    if left:
                        problems.append(f"it leaves in its scratch folder: {', '.join(left)}")
                except BaseException:
                    print(container.log, file=sys.stderr)
                    raise
    return problems


def _names_below(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


async def _starts(target: str, container: Container, port: int) -> list[str]:
    problems = []
    for path in ("/livez", "/readyz"):
        await eventually(lambda path=path: _answers(port, path), within_seconds=START_SECONDS)  # type: ignore[misc]
        took = time.monotonic() - container.began
        print(f"{target}: {took:.1f} s from its start to {path}")
        if path == "/livez" and took > SLOWEST_LIVEZ_SECONDS:
            problems.append(f"/livez answered after {took:.1f} s, more than {SLOWEST_LIVEZ_SECONDS:g}")
    await asyncio.to_thread(container.probe)
    await asyncio.sleep(SETTLE_SECONDS)
    before = _tree(container.pid)
    await asyncio.sleep(IDLE_SECONDS)
    after = _tree(container.pid)
    share = (after.cpu_seconds - before.cpu_seconds) / IDLE_SECONDS
    print(
        f"{target}: idle, {share:.2%} of a core, {after.unique_mb:.0f} MB of its own (unique set size), "
        f"{after.proportional_mb:.0f} MB proportional, {after.resident_mb:.0f} MB resident"
    )
    if share > MOST_IDLE_CPU:
        problems.append(f"it takes {share:.1%} of a core while it waits, more than {MOST_IDLE_CPU:.0%}")
    if after.proportional_mb > MOST_IDLE_MB:
        problems.append(f"it takes {after.proportional_mb:.0f} MB while it waits, more than {MOST_IDLE_MB}")
    return problems


async def _works(target: str, platform: Platform, name: str, *, side: int) -> list[str]:
    began = time.monotonic()
    job_id = await _submit(platform, name, side=side)
    rows = await platform.quiet([job_id], JOB_SECONDS)
    print(f"{target}: a job of five stages in {time.monotonic() - began:.1f} s: {rows[job_id]['status']}")
    problems = list(platform.violations)
    if rows[job_id]["status"] != "completed":
        problems.append(f"the job is {rows[job_id]['status']}: {rows[job_id]['error_details']}")
    return problems


async def _shares(
    engine: Engine, target: str, environment: Mapping[str, str], platform: Platform, conninfo: str
) -> list[str]:
    """Return what is wrong with a second container next to the first, as while an app is redeployed."""
    port = _free_port()
    environment = {**environment, "PORT": str(port), "APP_NAME": SECOND}
    with tempfile.TemporaryDirectory() as scratch:
        os.chown(scratch, USER, USER)
        with engine.running(
            f"gdaltools-{target}", environment=environment, scratch=Path(scratch)
        ) as container:
            await eventually(lambda: _answers(port, "/readyz"), within_seconds=START_SECONDS)
            problems = await _works(target, platform, "shared.tif", side=3500)
            code = await asyncio.to_thread(container.stop)
            left = await asyncio.to_thread(_names_below, Path(scratch))
    with psycopg.connect(conninfo) as connection:
        statement = "select executed_by_app, count(*) from app.tasks group by executed_by_app"
        done_by = dict(connection.execute(statement).fetchall())
    print(f"{target}: two containers at once, the second did {done_by.get(SECOND, 0)} tasks")
    if SECOND not in done_by:
        problems.append(f"a second container has done nothing: {done_by}")
    if code != 0 or left:
        problems.append(f"the second container ended with {code} and left {', '.join(left) or 'nothing'}")
    return problems


async def _stops(target: str, container: Container, platform: Platform, conninfo: str) -> list[str]:
    job_id = await _submit(platform, "large.tif", side=6000)

    def running() -> bool:
        return "processing" in _statuses(conninfo, job_id)

    await eventually(running, within_seconds=60)
    began = time.monotonic()
    code = await asyncio.to_thread(container.stop)
    took = time.monotonic() - began
    print(f"{target}: SIGTERM during a task, ended after {took:.1f} s with exit code {code}")
    problems = [] if code == 0 else [f"it ended with {code}"]
    if running():
        problems.append("a task is left processing")
    return problems


async def _submit(platform: Platform, name: str, *, side: int) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = write_raster(Path(folder) / name, smooth(3, side, side), descriptions=("Red", "Green", "Blue"))
        storage.write_bytes(f"abfs://bronze-rasters/{name}", path.read_bytes(), overwrite=True)
    return await platform.submit(
        {"container_name": "bronze-rasters", "blob_name": name, "tile_size": 1024, "overlap": 64}
    )


def _statuses(conninfo: str, job_id: str) -> list[str]:
    with psycopg.connect(conninfo) as connection:
        statement = "select status::text from app.tasks where parent_job_id = %s"
        return [status for (status,) in connection.execute(statement, (job_id,)).fetchall()]


def _answers(port: int, path: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as answer:
            return bool(json.load(answer)) and answer.status == 200
    except (OSError, urllib.error.HTTPError):
        return False


@dataclass
class Tree:
    """CPU time and memory of a process tree; `proportional_mb` divides shared pages among their holders."""

    cpu_seconds: float = 0.0
    unique_mb: float = 0.0
    proportional_mb: float = 0.0
    resident_mb: float = 0.0


def _tree(pid: int) -> Tree:
    first = psutil.Process(pid)
    found = Tree()
    for process in (first, *first.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            times, memory = process.cpu_times(), process.memory_full_info()
            found.cpu_seconds += times.user + times.system
            found.unique_mb += memory.uss / 1e6
            found.proportional_mb += memory.pss / 1e6
            found.resident_mb += memory.rss / 1e6
    return found


@contextlib.asynccontextmanager
async def _over_tcp(conninfo: str) -> AsyncIterator[int]:
    """Yield a TCP port that relays to a server which listens on a Unix socket alone."""
    host = str(postgres.parts(conninfo)["postgis_host"])

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, ours = await asyncio.open_unix_connection(f"{host}/.s.PGSQL.5432")
        await asyncio.gather(_pump(reader, ours), _pump(theirs, writer), return_exceptions=True)

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while chunk := await reader.read(1 << 16):
            writer.write(chunk)
            await writer.drain()
    finally:
        writer.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
