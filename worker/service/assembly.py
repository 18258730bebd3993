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
from itertools import repeat, takewhile

from gdaltools import storage
from gdaltools.errors import GdalToolsError
from worker.database import Database, migration
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
from worker.service import backing
from worker.service.shift import Shift
from worker.service.sweep import duties
from worker.settings import AppMode, Settings
from worker.task.heartbeat import Heartbeat
from worker.task.pressure import Pressure
from worker.task.processor import Processor
from worker.task.runner import Runner, RunnerOptions
from worker.telemetry import logs, traces
from worker.waiting import growing, is_set_within, retried
from worker.web import api, health
from worker.web.access import Access
from worker.web.gauges import Gauges
from worker.web.health import Readiness
from worker.web.status import page
from worker.web.status.board import Board
from worker.web.status.facts import WorkerFacts

_FIRST_BACKOFF_SECONDS, _LONGEST_BACKOFF_SECONDS = 0.5, 30.0
# The attempts for a fault that looks like a wrong configuration, because a new role needs a moment to apply.
_CONFIGURATION_TRIES = 3
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
        await retried(
            self.outbox.publish,
            errors=GdalToolsError,
            pauses=takewhile(lambda _: time.monotonic() <= deadline, repeat(1.0)),
            may_pass=lambda _: True,
        )
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
    async with AsyncExitStack() as stack:
        stack.enter_context(logs.TAIL.listening())
        front = await stack.enter_async_context(_front(settings, readiness))
        await stack.enter_async_context(traces.exporting(settings.app_name))
        backing.choose_blob_root(settings)
        runner = _runner(settings)
        if shift.ends_by_itself:  # the process was started for waiting messages
            stack.enter_context(runner.warm())
        services = await stack.enter_async_context(_services(settings))
        await _all_answer(services, settings, readiness, stopping)
        database, bus = services.database, services.bus
        machine, outbox = _machine(settings, database), Outbox(database, bus)
        heartbeat = Heartbeat(
            services.beating,
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
            app_name=settings.app_name,
            jobs_queue=settings.jobs_queue,
            lease_seconds=settings.worker_lease_seconds,
            crash_limit=settings.worker_crash_limit,
        )
        coordinator = Coordinator(machine, outbox)
        platform = front.platform
        platform.machine, platform.database = machine, database
        dead_letters = DeadLetters(bus, queues=settings.all_queues, database=database)
        platform.dead_letters, platform.running_tasks = dead_letters, processor.running_tasks
        queues, lease_seconds = settings.task_queues, settings.worker_lease_seconds
        repeated = duties(database, outbox, dead_letters, queues=queues, lease_seconds=lease_seconds)
        slots = tuple(
            asyncio.create_task(slot)
            for slot in (
                *_listeners(settings, bus, processor, coordinator, pressure, readiness, stopping, shift),
                *(duty.repeat(stopping, readiness.report) for duty in repeated),
                shift.run(),
            )
        )
        beats = asyncio.create_task(heartbeat.run())
        readiness.phase = None
        try:
            yield Service(settings, database, machine, readiness, front.port, outbox, (*slots, beats))
        finally:
            readiness.phase = "stopping"
            stopping.set()
            await asyncio.gather(
                front.board.leave_queues(), _drain(processor, slots, settings.worker_shutdown_grace_seconds)
            )
            beats.cancel()
            await asyncio.gather(beats, return_exceptions=True)


@dataclass(frozen=True)
class _Services:
    """The connections of one worker; `beating` is for the heartbeat alone."""

    database: Database
    beating: Database
    bus: Bus


@asynccontextmanager
async def _services(settings: Settings) -> AsyncIterator[_Services]:
    async with AsyncExitStack() as stack:
        conninfo = await stack.enter_async_context(backing.conninfo(settings))
        bus = await stack.enter_async_context(backing.bus(settings))
        yield _Services(
            await stack.enter_async_context(backing.database(settings, conninfo)),
            await stack.enter_async_context(backing.database(settings, conninfo, connections=1)),
            bus,
        )


@dataclass(frozen=True)
class _Front:
    """The web server, which starts before the sources of its answers."""

    port: int
    platform: api.Platform
    board: Board


@asynccontextmanager
async def _front(settings: Settings, readiness: Readiness) -> AsyncIterator[_Front]:
    token = settings.worker_api_token.get_secret_value() if settings.worker_api_token else None
    access, streams, platform = Access(token), page.Streams(), api.Platform()
    jobs_door = api.routes(platform, token=token) if settings.app_mode is AppMode.STANDALONE else ()
    board = Board(
        _about(settings),
        readiness,
        platform,
        queues=settings.all_queues,
        form_key=access.form_key,
        memory_limit_mb=settings.worker_memory_limit_mb,
    )
    async with health.serving(
        readiness,
        name=settings.app_name,
        host=settings.host,
        port=settings.port,
        gauges=Gauges(platform, settings.all_queues),
        access=access,
        routes=(*page.routes(board, access, streams), *jobs_door),
        on_shutdown=streams.close,
    ) as port:
        yield _Front(port, platform, board)


def _runner(settings: Settings) -> Runner:
    return Runner(
        RunnerOptions(
            timeout_seconds=60 * settings.worker_timeout_minutes,
            stall_seconds=60 * settings.worker_stall_minutes,
            memory_limit_mb=settings.worker_memory_limit_mb,
            warm_seconds=60 * settings.worker_warm_minutes,
        )
    )


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


async def _all_answer(
    services: _Services, settings: Settings, readiness: Readiness, stopping: asyncio.Event
) -> None:
    """Wait until the database and every queue can be used; see `_until_it_answers`."""
    bus, connections = services.bus, services.database.connections
    await _until_it_answers("database", lambda: migration.prepare(connections), readiness, stopping)
    await asyncio.gather(
        *(
            _until_it_answers(
                queue if doing == "receive from" else f"{doing} {queue}",
                functools.partial(check, queue),
                readiness,
                stopping,
            )
            for doing, queue, check in backing.required_rights(settings, bus)
        )
    )


async def _until_it_answers(
    part: str, attempt: Callable[[], Awaitable[object]], readiness: Readiness, stopping: asyncio.Event
) -> None:
    """Repeat `attempt` until it succeeds.

    Raises
    ------
    ConfigurationError
        The part refused several attempts, so that more of them do not help.
    Stopped
        `stopping` was set meanwhile.
    """
    refusals = 0

    def may_pass(error: GdalToolsError) -> bool:
        nonlocal refusals
        refusals += not error.retryable
        return refusals < _CONFIGURATION_TRIES

    async def sleep(seconds: float) -> None:
        if await is_set_within(stopping, seconds):
            raise Stopped(f"stopped while waiting for the {part}")

    try:
        await retried(
            attempt,
            errors=GdalToolsError,
            pauses=growing(_FIRST_BACKOFF_SECONDS, _LONGEST_BACKOFF_SECONDS),
            may_pass=may_pass,
            on_error=lambda error: readiness.report(part, error),
            sleep=sleep,
        )
    except Stopped:
        raise
    except GdalToolsError as error:
        raise ConfigurationError(f"{part}: {error}") from error
    readiness.report(part, None)


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
