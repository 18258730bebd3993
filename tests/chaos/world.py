"""The world of a chaos run: PostgreSQL, the broker, the platform and the workers, as real as possible."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos import crashes
from tests.chaos.own_platform import OwnPlatform
from tests.support.platform.stand_in import Platform
from tests.support.platform.tables import create_schema
from tests.support.services.broker_process import BrokerProcess
from tests.support.worker_process import WorkerProcess
from worker.local.postgres import EmbeddedPostgres
from worker.queue.bus import Bus

DOCKER, JOBS = "docker-tasks", "geospatial-jobs"
RASTER, VECTOR = "raster-tasks", "vector-tasks"
LOCK_SECONDS = 10
LEASE_SECONDS = 6
SETTINGS = {
    "WORKER_HEARTBEAT_SECONDS": "1",
    "WORKER_LEASE_SECONDS": str(LEASE_SECONDS),
    # Runs killed on purpose are not evidence against their task: only the retries count here.
    "WORKER_CRASH_LIMIT": "1000",
    "WORKER_MIN_FREE_DISK_MB": "16",
    "LOG_LEVEL": "INFO",
}


@dataclass
class World:
    """Everything that a monkey may shake."""

    folder: Path
    postgres: EmbeddedPostgres
    broker: BrokerProcess
    bus: Bus
    platform: Platform | OwnPlatform
    workers: list[WorkerProcess]
    orders: Path
    queues: Sequence[str]
    restless: bool = True
    """Whether a worker that has ended is started again."""
    problems: list[str] = field(default_factory=list)
    """Observations that must not occur, in addition to the platform's violations."""

    @property
    def blobs(self) -> Path:
        """The folder of the containers."""
        return self.folder / "blobs"

    @property
    def temporary(self) -> Path:
        """The workers' temporary folder."""
        return self.folder / "tmp"

    async def keep_alive(self, random_: random.Random) -> None:
        """Restart workers that have ended, as a container platform does."""
        while True:
            for worker in self.workers:
                if self.restless and not worker.is_running:
                    await asyncio.sleep(random_.uniform(0, 1))
                    worker.start()
            await asyncio.sleep(0.1)


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


def _new_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="gt-chaos-"))
    folder.chmod(0o755)
    for name in ("blobs", "tmp", "orders", "broker"):
        (folder / name).mkdir()
    return folder


@asynccontextmanager
async def world(
    *, workers: int, seed: int, standalone: bool = False, environment: Mapping[str, str] | None = None
) -> AsyncIterator[World]:
    """Run a world with `workers` workers from entry to exit; nothing of it is left afterwards.

    The workers run next to a separate platform, or are the platform themselves (`standalone`).
    """
    folder = _new_folder()
    async with AsyncExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        postgres = EmbeddedPostgres(folder / "postgres", fsync=False)
        await asyncio.to_thread(postgres.start)
        stack.callback(EmbeddedPostgres.remove, folder / "postgres")
        stack.callback(postgres.stop)
        queues = (DOCKER, RASTER, VECTOR, JOBS) if standalone else (DOCKER, JOBS)
        broker = stack.enter_context(
            BrokerProcess(folder / "broker", queues, options=[f"--lock-seconds={LOCK_SECONDS}"])
        )
        stack.enter_context(_environment("GDALTOOLS_BLOB_ROOT", str(folder / "blobs")))
        bus = await stack.enter_async_context(Bus.connect(connection_string=broker.connection_string))
        platform: Platform | OwnPlatform
        if standalone:
            platform = OwnPlatform(postgres.conninfo)
        else:
            await asyncio.to_thread(create_schema, postgres.conninfo)
            platform = Platform(postgres.conninfo, bus)
        variables = {
            **SETTINGS,
            "APP_MODE": "standalone" if standalone else "worker_docker",
            "TMPDIR": str(folder / "tmp"),
            crashes.ORDERS: str(folder / "orders"),
            **(environment or {}),
        }
        made = World(
            folder,
            postgres,
            broker,
            bus,
            platform,
            [
                stack.enter_context(
                    WorkerProcess(
                        conninfo=postgres.conninfo,
                        connection_string=broker.connection_string,
                        blobs=folder / "blobs",
                        log_path=folder / f"worker-{number}.log",
                        environment={**variables, "APP_NAME": f"worker-{number}"},
                        module="tests.chaos.worker",
                    )
                )
                for number in range(workers)
            ],
            folder / "orders",
            queues,
        )
        if isinstance(platform, OwnPlatform):
            platform.workers = made.workers
        await stack.enter_async_context(platform.running())
        keeper = asyncio.create_task(made.keep_alive(random.Random(seed)))
        try:
            yield made
        finally:
            made.restless = False
            keeper.cancel()
            with suppress(asyncio.CancelledError):
                await keeper
