"""The worker put together: settings in, a running service out, and everything stopped again at the end.

The order of starting is the order in which others look: the probes' port first, then the embedded services
where they are wanted, the database, the bus, and last the slots that take messages.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import random

from psycopg.conninfo import make_conninfo

from gdaltools import storage
from gdaltools.errors import GdalToolsError
from gdaltools.estimation import estimate_task_minutes
from gdaltools.routing import RoutingRules, route
from worker import api, health
from worker.bus import Bus
from worker.coordinator import Coordinator
from worker.errors import Stopped
from worker.health import Readiness
from worker.jobs import Context
from worker.listener import Process, listen
from worker.local.broker import Broker, QueueSpec
from worker.local.postgres import EmbeddedPostgres
from worker.machine import Machine
from worker.outbox import Outbox
from worker.platform_database import PlatformDatabase
from worker.processor import Processor, ProcessorOptions
from worker.runner import Runner
from worker.settings import AppMode, Settings

# Where blobs live when nothing says so: the demo's own folder, so that what it made is found again.
LOCAL_BLOB_ROOT = Path("demo/blobs")
_STANDALONE_PREFIX = "gdaltools-standalone-"
_LONGEST_BACKOFF_SECONDS = 30.0
_HOUSEKEEPING_SECONDS = 3600.0
# What handing unfinished tasks back may take, after the grace period.
_RELEASE_SECONDS = 15.0
# Azure Database for PostgreSQL's scope for a token as password (learn.microsoft.com, "Microsoft Entra
# authentication with Azure Database for PostgreSQL").
_POSTGRES_SCOPE = "https://ossrdbms-aad.database.windows.net/.default"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Service:
    """A running worker, as those who start it in their own process see it."""

    settings: Settings
    database: PlatformDatabase
    machine: Machine
    readiness: Readiness
    port: int
    slots: tuple[asyncio.Task[None], ...]

    async def wait(self, stopping: asyncio.Event) -> None:
        """Return when `stopping` is set; raise when a slot has died of an error that nobody foresaw."""
        stop = asyncio.create_task(stopping.wait())
        done, _ = await asyncio.wait({stop, *self.slots}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        for task in done - {stop}:
            task.result()


@asynccontextmanager
async def serving(settings: Settings, *, stopping: asyncio.Event) -> AsyncIterator[Service]:
    """Run the worker from entry to exit.

    When `stopping` is set no further message is received; at exit what is in hand gets
    WORKER_SHUTDOWN_GRACE_SECONDS to finish, and what does not finish goes back to its queue.

    Raises
    ------
    ConfigurationError
        The port cannot be listened on.
    Stopped
        `stopping` was set before everything had started.
    """
    readiness = Readiness()
    platform = api.Platform()
    routes = api.routes(platform) if settings.app_mode is AppMode.STANDALONE else ()
    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(
            health.serving(
                readiness, name=settings.app_name, host=settings.host, port=settings.port, routes=routes
            )
        )
        _choose_blob_root(settings)
        runner = Runner(timeout_seconds=60 * settings.worker_timeout_minutes)
        runner.warm_up()
        conninfo = await stack.enter_async_context(_conninfo(settings))
        connection_string = await stack.enter_async_context(_connection_string(settings))
        database = await stack.enter_async_context(_database(settings, conninfo))
        bus = await stack.enter_async_context(
            Bus.connect(connection_string=connection_string, namespace=settings.service_bus_namespace)
        )
        await _until_it_answers("database", database.migrate, readiness, stopping)
        machine = _machine(settings, database)
        outbox = Outbox(database, bus)
        processor = Processor(
            database=database,
            bus=bus,
            outbox=outbox,
            runner=runner,
            options=ProcessorOptions(
                app_name=settings.app_name,
                jobs_queue=settings.jobs_queue,
                heartbeat_seconds=settings.worker_heartbeat_seconds,
                lease_seconds=settings.worker_lease_seconds,
            ),
        )
        coordinator = Coordinator(machine, outbox)
        platform.machine, platform.database = machine, database
        slots = tuple(
            asyncio.create_task(slot)
            for slot in _slots(settings, database, bus, processor, coordinator, outbox, readiness, stopping)
        )
        readiness.phase = None
        try:
            yield Service(settings, database, machine, readiness, port, slots)
        finally:
            readiness.phase = "stopping"
            stopping.set()
            await _drain(processor, slots, settings.worker_shutdown_grace_seconds)


def stop_on_signals(stopping: asyncio.Event) -> None:
    """The first SIGTERM or SIGINT asks to stop, the second ends the process at once."""

    def stop() -> None:
        if stopping.is_set():
            os._exit(1)
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)


def _slots(
    settings: Settings,
    database: PlatformDatabase,
    bus: Bus,
    processor: Processor,
    coordinator: Coordinator,
    outbox: Outbox,
    readiness: Readiness,
    stopping: asyncio.Event,
) -> list[Coroutine[None, None, None]]:
    def slot(queue: str, process: Process) -> Coroutine[None, None, None]:
        return listen(
            bus, queue, process, stopping=stopping, on_error=lambda error: readiness.report(queue, error)
        )

    slots = [
        slot(queue, processor.process)
        for queue in settings.task_queues
        for _ in range(settings.worker_concurrency)
    ]
    if settings.app_mode.listens_to_jobs:
        slots.append(slot(settings.jobs_queue, coordinator.process))
    slots.append(outbox.sweep(stopping, lambda error: readiness.report("outbox", error)))
    slots.append(_housekeeping(database, stopping))
    return slots


async def _housekeeping(database: PlatformDatabase, stopping: asyncio.Event) -> None:
    """Forget what was sent long ago."""
    while not stopping.is_set():
        try:
            await database.purge()
        except GdalToolsError as error:
            log.warning("old rows are kept for now: %s", error)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), _HOUSEKEEPING_SECONDS)


async def _drain(processor: Processor, slots: tuple[asyncio.Task[None], ...], grace_seconds: float) -> None:
    _, pending = await asyncio.wait(slots, timeout=grace_seconds)
    if pending:
        log.info("handing back %d messages", processor.busy)
        processor.shut_down()
        _, pending = await asyncio.wait(pending, timeout=_RELEASE_SECONDS)
    for task in pending:
        task.cancel()
    for task, outcome in zip(slots, await asyncio.gather(*slots, return_exceptions=True), strict=True):
        if isinstance(outcome, Exception):
            log.error("%s died", task.get_name(), exc_info=outcome)


async def _until_it_answers(
    part: str, attempt: Callable[[], Awaitable[object]], readiness: Readiness, stopping: asyncio.Event
) -> None:
    wait = 0.5
    while True:
        try:
            await attempt()
        except GdalToolsError as error:
            if not error.retryable:
                raise
            readiness.report(part, error)
        else:
            readiness.report(part, None)
            return
        try:
            await asyncio.wait_for(stopping.wait(), wait * (0.5 + random()))
        except TimeoutError:
            wait = min(2 * wait, _LONGEST_BACKOFF_SECONDS)
        else:
            raise Stopped(f"stopped while waiting for the {part}")


def _choose_blob_root(settings: Settings) -> None:
    """In standalone mode blobs are local unless something says that they are not.

    It goes into the environment because the tasks' processes read it there.
    """
    configured = settings.gdaltools_blob_root or any(name.startswith("AZURE_STORAGE_") for name in os.environ)
    if settings.app_mode.listens_to_jobs and settings.embeds_database and not configured:
        os.environ["GDALTOOLS_BLOB_ROOT"] = str(LOCAL_BLOB_ROOT.absolute())


@asynccontextmanager
async def _conninfo(settings: Settings) -> AsyncIterator[str]:
    if not settings.embeds_database:
        password = settings.postgis_password
        yield make_conninfo(
            host=settings.postgis_host,
            port=settings.postgis_port,
            dbname=settings.postgis_database,
            user=settings.postgis_user,
            password=password.get_secret_value() if password else None,
        )
        return
    await asyncio.to_thread(_sweep_killed_standalones)
    folder = Path(tempfile.mkdtemp(prefix=_STANDALONE_PREFIX))
    server = EmbeddedPostgres(folder / "postgres")
    try:
        await asyncio.to_thread(server.start)
        yield server.conninfo
    finally:
        await asyncio.to_thread(server.stop)
        await asyncio.to_thread(EmbeddedPostgres.remove, folder / "postgres")
        shutil.rmtree(folder, ignore_errors=True)


def _sweep_killed_standalones() -> None:
    """Stop the servers that killed processes left behind, and delete their data."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_STANDALONE_PREFIX}*"):
        with contextlib.suppress(OSError):
            ours = folder.stat().st_uid == os.geteuid() and (folder / "postgres" / "lock").exists()
            if ours and EmbeddedPostgres.remove(folder / "postgres"):
                shutil.rmtree(folder, ignore_errors=True)


@asynccontextmanager
async def _connection_string(settings: Settings) -> AsyncIterator[str | None]:
    given = settings.service_bus_connection_string
    if not settings.embeds_broker:
        yield given.get_secret_value() if given else None
        return
    names = (
        settings.docker_tasks_queue,
        settings.raster_tasks_queue,
        settings.vector_tasks_queue,
        settings.jobs_queue,
    )
    async with Broker([QueueSpec(name) for name in names]) as broker:
        yield broker.connection_string


@asynccontextmanager
async def _database(settings: Settings, conninfo: str) -> AsyncIterator[PlatformDatabase]:
    async with AsyncExitStack() as stack:
        password = None
        if settings.use_managed_identity and not settings.embeds_database:
            from azure.identity.aio import DefaultAzureCredential

            credential = await stack.enter_async_context(DefaultAzureCredential())

            async def password() -> str:
                return (await credential.get_token(_POSTGRES_SCOPE)).token

        yield await stack.enter_async_context(
            PlatformDatabase.connect(
                conninfo, schema=settings.app_schema, password=password, application_name=settings.app_name
            )
        )


def _machine(settings: Settings, database: PlatformDatabase) -> Machine:
    rules = RoutingRules.from_environment()

    async def blob_size(container: str, name: str) -> int:
        return (await asyncio.to_thread(storage.stat, storage.blob(container, name))).size

    return Machine(
        database,
        route=lambda task_type, parameters: route(task_type, parameters, rules=rules).queue,
        blob_size=blob_size,
        context=Context(estimate_task_minutes, intermediate_container=settings.intermediate_tiles_container),
        jobs_queue=settings.jobs_queue,
    )
