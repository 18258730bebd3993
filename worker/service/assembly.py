"""Assemble the worker: start a service from settings, and stop everything at the end.

The parts start in the order in which others need them: first the probes' port, then embedded services if
there are any, the database, the bus, and last the slots that receive messages.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from random import random

from gdaltools import storage
from gdaltools.errors import GdalToolsError
from gdaltools.runtime import scratch
from worker.database import Database, migration
from worker.database.connections import DatabaseError
from worker.errors import BusError, ConfigurationError, NotReady, Stopped
from worker.job.coordinator import Coordinator
from worker.job.definitions import Context
from worker.job.machine import Machine
from worker.protocol.routing import RoutingRules, route
from worker.queue.bus import Bus
from worker.queue.dead_letters import DeadLetters
from worker.queue.listener import Process, listen
from worker.queue.observed import observed
from worker.queue.outbox import Outbox
from worker.queue.rescue import Rescue
from worker.service import backing
from worker.service.shift import Shift
from worker.settings import AppMode, Settings
from worker.task.heartbeat import Heartbeat
from worker.task.pressure import Pressure
from worker.task.processor import Processor, ProcessorOptions
from worker.task.runner import Runner, RunnerOptions
from worker.telemetry import logs, traces
from worker.waiting import is_set_within
from worker.web import api, health
from worker.web.access import Access
from worker.web.gauges import Gauges
from worker.web.health import Readiness
from worker.web.status import page
from worker.web.status.board import Board
from worker.web.status.facts import WorkerFacts

_LONGEST_BACKOFF_SECONDS = 30.0
# The attempts for a fault that looks like a wrong configuration, because a new role needs a moment to apply.
_CONFIGURATION_TRIES = 3
_HOUSEKEEPING_SECONDS = 3600.0
# The part of the grace period that is reserved for returning tasks: ending a process and one transaction.
_HAND_BACK_SECONDS = 1.5
# The longest time for returning tasks, if the sender of SIGTERM waits for longer.
_RELEASE_SECONDS = 15.0
# How long a worker that ends by itself retries sending its outbox, because there may be no other worker.
_LAST_SENDING_SECONDS = 60.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Service:
    """A running worker, as seen by the code that started it in the same process."""

    settings: Settings
    database: Database
    machine: Machine
    readiness: Readiness
    port: int
    outbox: Outbox
    slots: tuple[asyncio.Task[None], ...]

    async def wait(self, stopping: asyncio.Event) -> None:
        """Wait until `stopping` is set; raise if a slot has died of an unexpected error."""
        stop = asyncio.create_task(stopping.wait())
        done, _ = await asyncio.wait({stop, *self.slots}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        for task in done - {stop}:
            task.result()

    async def leave_nothing(self) -> None:
        """Send all unsent messages of the outbox, because there may be no other worker to do it.

        Raises
        ------
        GdalToolsError
            The messages could not be sent within a minute; they stay in the outbox.
        NotReady
            Messages may still wait, because a queue, the database or the disk does not work.
        """
        deadline = time.monotonic() + _LAST_SENDING_SECONDS
        while True:
            try:
                await self.outbox.publish()
                break
            except GdalToolsError:
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(1)
        needed = {*self.settings.queues, "database", "disk"}
        problems = [f"{part}: {text}" for part, text in self.readiness.problems.items() if part in needed]
        if problems:
            raise NotReady(f"the worker ends although messages may wait: {'; '.join(problems)}")


@asynccontextmanager
async def serving(
    settings: Settings, *, stopping: asyncio.Event, shift: Shift | None = None
) -> AsyncIterator[Service]:
    """Run the worker from entry to exit.

    When `stopping` is set, no further message is received. At exit, running tasks have
    WORKER_SHUTDOWN_GRACE_SECONDS to finish; those that do not finish go back to their queue. A `shift` sets
    `stopping` when the work is done.

    Raises
    ------
    ConfigurationError
        The port is not available, the telemetry settings are wrong, or the database or a queue refuses the
        configuration.
    Stopped
        `stopping` was set before everything had started.
    """
    shift = shift or Shift(stopping)
    readiness = Readiness()
    platform = api.Platform()
    token = settings.worker_api_token.get_secret_value() if settings.worker_api_token else None
    access = Access(token)
    jobs_door = api.routes(platform, token=token) if settings.app_mode is AppMode.STANDALONE else ()
    gauges = Gauges(settings.all_queues)
    board = Board(
        _about(settings),
        readiness,
        form_key=access.form_key,
        memory_limit_mb=settings.worker_memory_limit_mb,
    )
    streams = page.Streams()
    async with AsyncExitStack() as stack:
        stack.enter_context(logs.TAIL.listening())
        port = await stack.enter_async_context(
            health.serving(
                readiness,
                name=settings.app_name,
                host=settings.host,
                port=settings.port,
                gauges=gauges,
                access=access,
                routes=(*page.routes(board, access, streams), *jobs_door),
                on_shutdown=streams.close,
            )
        )
        await stack.enter_async_context(traces.exporting(settings.app_name))
        backing.choose_blob_root(settings)
        runner = Runner(
            RunnerOptions(
                timeout_seconds=60 * settings.worker_timeout_minutes,
                stall_seconds=60 * settings.worker_stall_minutes,
                memory_limit_mb=settings.worker_memory_limit_mb,
                warm_seconds=60 * settings.worker_warm_minutes,
            )
        )
        if shift.ends_by_itself:  # the process was started for waiting messages
            stack.enter_context(runner.warm())
        conninfo = await stack.enter_async_context(backing.conninfo(settings))
        connection_string = await stack.enter_async_context(backing.connection_string(settings))
        database = await stack.enter_async_context(backing.database(settings, conninfo))
        beating = await stack.enter_async_context(backing.database(settings, conninfo, connections=1))
        bus = await stack.enter_async_context(
            Bus.connect(connection_string=connection_string, namespace=settings.service_bus_namespace)
        )
        await _until_it_answers(
            "database", functools.partial(migration.prepare, database.connections), readiness, stopping
        )
        checks = dict.fromkeys(settings.queues, bus.check_receiving)
        checks.setdefault(settings.jobs_queue, bus.check_sending)
        await asyncio.gather(
            *(
                _until_it_answers(queue, functools.partial(check, queue), readiness, stopping)
                for queue, check in checks.items()
            )
        )
        machine = _machine(settings, database)
        outbox = Outbox(database, bus)
        heartbeat = Heartbeat(
            beating,
            every_seconds=settings.worker_heartbeat_seconds,
            on_error=lambda error: readiness.report("database", error),
        )
        pressure = Pressure(readiness.report, min_free_disk_mb=settings.worker_min_free_disk_mb)
        processor = Processor(
            database=database,
            outbox=outbox,
            runner=runner,
            heartbeat=heartbeat,
            pressure=pressure,
            options=ProcessorOptions(
                app_name=settings.app_name,
                jobs_queue=settings.jobs_queue,
                lease_seconds=settings.worker_lease_seconds,
                crash_limit=settings.worker_crash_limit,
            ),
        )
        coordinator = Coordinator(machine, outbox)
        rescue = Rescue(
            database,
            outbox,
            DeadLetters(bus, queues=settings.task_queues, database=database),
            queues=settings.task_queues,
            lease_seconds=settings.worker_lease_seconds,
        )
        gauges.use(database)
        platform.machine, platform.database = machine, database
        platform.dead_letters = DeadLetters(bus, queues=settings.all_queues, database=database)
        board.use(
            database=database,
            dead_letters=platform.dead_letters,
            running_tasks=processor.running_tasks,
            queues=settings.all_queues,
        )
        slots = tuple(
            asyncio.create_task(slot)
            for slot in (
                *_listeners(settings, bus, processor, coordinator, pressure, readiness, stopping, shift),
                outbox.sweep(stopping, lambda error: _tell(readiness, "outbox", error)),
                rescue.sweep_tasks(stopping, lambda error: _tell(readiness, "rescue", error)),
                rescue.sweep_dead_letters(stopping, lambda error: _tell(readiness, "dead letters", error)),
                _housekeeping(database, stopping),
                shift.run(),
            )
        )
        beats = asyncio.create_task(heartbeat.run())
        readiness.phase = None
        try:
            yield Service(settings, database, machine, readiness, port, outbox, (*slots, beats))
        finally:
            readiness.phase = "stopping"
            stopping.set()
            await asyncio.gather(
                board.leave_queues(), _drain(processor, slots, settings.worker_shutdown_grace_seconds)
            )
            beats.cancel()
            await asyncio.gather(beats, return_exceptions=True)


def stop_on_signals(stopping: asyncio.Event) -> None:
    """Set `stopping` on the first SIGTERM or SIGINT, and exit the process at once on the second."""

    def stop() -> None:
        if stopping.is_set():
            os._exit(1)
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)


def _listeners(
    settings: Settings,
    bus: Bus,
    processor: Processor,
    coordinator: Coordinator,
    pressure: Pressure,
    readiness: Readiness,
    stopping: asyncio.Event,
    shift: Shift,
) -> Iterator[Coroutine[None, None, None]]:
    def slot(
        queue: str, process: Process, relieved: Callable[[], Awaitable[None]]
    ) -> Coroutine[None, None, None]:
        heard = shift.new_slot()

        def on_error(error: BusError | None) -> None:
            heard()
            readiness.report(queue, error)

        return listen(
            bus,
            queue,
            shift.watched(observed(process)),
            relieved=relieved,
            stopping=stopping,
            on_error=on_error,
            wait_seconds=shift.wait_seconds,
        )

    for queue in settings.task_queues:
        for _ in range(1 if shift.once else settings.worker_concurrency):
            yield slot(queue, processor.process, pressure.relieved)
    if settings.app_mode.listens_to_jobs:
        yield slot(settings.jobs_queue, coordinator.process, _at_once)


async def _at_once() -> None:
    return


def _tell(readiness: Readiness, part: str, error: GdalToolsError | None) -> None:
    """Report an error for `part`, or for the database if it is a database error."""
    of_database = isinstance(error, DatabaseError)
    readiness.report("database", error if of_database else None)
    readiness.report(part, None if of_database else error)


async def _housekeeping(database: Database, stopping: asyncio.Event) -> None:
    """Delete old rows, and remove what killed tasks left incomplete in a local folder, every hour."""
    while not stopping.is_set():
        root = os.environ.get("GDALTOOLS_BLOB_ROOT")
        if root is not None:
            await asyncio.to_thread(scratch.sweep_below, Path(root))
        try:
            await database.outbox.purge()
        except GdalToolsError as error:
            log.warning("old rows are kept for now: %s", error)
        await is_set_within(stopping, _HOUSEKEEPING_SECONDS)


async def _drain(processor: Processor, slots: tuple[asyncio.Task[None], ...], grace_seconds: float) -> None:
    _, pending = await asyncio.wait(slots, timeout=max(0.0, grace_seconds - _HAND_BACK_SECONDS))
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
    refusals = 0
    while True:
        try:
            await attempt()
        except GdalToolsError as error:
            refusals += not error.retryable
            if refusals == _CONFIGURATION_TRIES:
                raise ConfigurationError(f"{part}: {error}") from error
            readiness.report(part, error)
        else:
            readiness.report(part, None)
            return
        if await is_set_within(stopping, wait * (0.5 + random())):
            raise Stopped(f"stopped while waiting for the {part}")
        wait = min(2 * wait, _LONGEST_BACKOFF_SECONDS)


def _about(settings: Settings) -> WorkerFacts:
    return WorkerFacts(
        name=settings.app_name,
        mode=settings.app_mode,
        queues=settings.queues,
        version=metadata.version("gdaltools"),
        began=datetime.now(UTC),
    )


def _machine(settings: Settings, database: Database) -> Machine:
    rules = RoutingRules.from_environment()

    async def blob_size(container: str, name: str) -> int:
        return (await asyncio.to_thread(storage.stat, storage.blob(container, name))).size

    return Machine(
        database,
        route=lambda task_type, parameters: route(task_type, parameters, rules=rules).queue,
        blob_size=blob_size,
        context=Context(
            cores=rules.function_app_cores,
            intermediate_container=settings.intermediate_tiles_container,
        ),
        jobs_queue=settings.jobs_queue,
    )
