"""Run the same tasks in a bare loop, in child processes, and by the whole worker: the overhead per task.

Every variant writes the same COG of a small raster `tasks` times, one after the other.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import shutil
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

from benchmarks.compare.jobs import WorkerJob

Loop = Callable[[], object]

_SOURCE_CONTAINER, _TARGET_CONTAINER = "bronze-rasters", "silver-cogs"
_TIMEOUT_SECONDS = 600.0


def bare_loop(job: WorkerJob) -> Loop:
    """Return a loop over the handler's function."""
    from worker.task import handlers

    _prepare(job)
    handlers.run("create_cog", _parameters(0))  # the first run imports

    def loop() -> None:
        for number in range(job.tasks):
            handlers.run("create_cog", _parameters(number))

    return loop


def runner_loop(job: WorkerJob) -> Loop:
    """Return a loop with a child process for each task, from the worker's forkserver."""
    from worker.task.runner import Runner, RunnerOptions

    _prepare(job)
    runner = Runner(RunnerOptions(timeout_seconds=_TIMEOUT_SECONDS, stall_seconds=_TIMEOUT_SECONDS))

    async def run(numbers: range) -> None:
        for number in numbers:
            await runner.run("create_cog", _parameters(number), on_progress=lambda _: None)

    asyncio.run(run(range(1)))
    return lambda: asyncio.run(run(range(job.tasks)))


def whole_worker(job: WorkerJob) -> Loop:
    """Return a loop over queue, database, claim, child process and completion; messages are sent at once."""
    _prepare(job)
    loop = asyncio.new_event_loop()
    stack = AsyncExitStack()

    def close() -> None:
        loop.run_until_complete(stack.aclose())
        loop.close()

    atexit.register(close)
    bench = loop.run_until_complete(_started(stack))

    async def run(name: str, tasks: int) -> None:
        for number in range(tasks):
            bench.create(f"{name}-{number}", parameters=_parameters(number))
            await bench.send(f"{name}-{number}", parameters=_parameters(number))
        for number in range(tasks):
            await bench.until(f"{name}-{number}", "completed")

    loop.run_until_complete(run("first", 1))
    return lambda: loop.run_until_complete(run("task", job.tasks))


async def _started(stack: AsyncExitStack) -> Any:
    """Start a processor between a real queue and a real database, as the tests do."""
    from tests.support.bench import JOBS, QUEUE, working
    from tests.support.services import postgres
    from worker.database import Database, migration
    from worker.database.connections import Connections
    from worker.local.broker.server import BrokerThread, QueueSpec

    services = ExitStack()
    stack.callback(services.close)
    server = services.enter_context(postgres.server())
    conninfo = services.enter_context(server.database())
    broker = services.enter_context(BrokerThread([QueueSpec(QUEUE), QueueSpec(JOBS)]))
    database = await stack.enter_async_context(Database(Connections(conninfo)))
    await migration.migrate(database.connections)
    return await stack.enter_async_context(working(database, conninfo, broker))


LOOPS: dict[str, Callable[[WorkerJob], Loop]] = {
    "worker-bare": bare_loop,
    "worker-runner": runner_loop,
    "worker-whole": whole_worker,
}


def _prepare(job: WorkerJob) -> None:
    """Turn the job's folder into the blob containers, with the source in one of them."""
    root = Path(job.target)
    container = root / _SOURCE_CONTAINER
    container.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(job.source, container / "source.tif")
    os.environ["GDALTOOLS_BLOB_ROOT"] = str(root)


def _parameters(number: int) -> dict[str, Any]:
    return {
        "container_name": _SOURCE_CONTAINER,
        "blob_name": "source.tif",
        "output_container": _TARGET_CONTAINER,
        "output_blob_name": f"{number}.tif",
    }


def first_output(target: Path) -> Path:
    """Return the path of the first COG that a loop writes to a folder."""
    return target / _TARGET_CONTAINER / "0_analysis.tif"
