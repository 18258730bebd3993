"""The project's own platform in a chaos run: APP_MODE=standalone in every worker, called over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from gdaltools.errors import GdalToolsError
from tests.support.worker_process import WorkerProcess
from worker.database import Database
from worker.database.connections import Connections
from worker.errors import DatabaseError
from worker.web.client import Client

_PAUSE_SECONDS = 0.5


class OwnPlatform:
    """The counterpart of `tests.support.platform.stand_in.Platform`, without a process of its own."""

    def __init__(self, conninfo: str) -> None:
        self.violations: list[str] = []
        self.workers: Sequence[WorkerProcess] = ()
        """Any of them accepts a job; at times none is running."""
        self._database = Database(Connections(conninfo))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[OwnPlatform]:
        """Keep the database connected from entry to exit."""
        async with self._database:
            yield self

    async def submit(self, parameters: Mapping[str, Any], *, job_type: str) -> str:
        """Submit a job to the first worker that answers; repeat until one does."""
        while True:
            for worker in self.workers:
                client = Client(f"http://127.0.0.1:{worker.port}")
                try:
                    job = await asyncio.to_thread(client.submit, job_type, dict(parameters))
                except (GdalToolsError, OSError):
                    continue
                return job.job_id
            await asyncio.sleep(_PAUSE_SECONDS)

    async def quiet(self, job_ids: Sequence[str], deadline: float) -> dict[str, dict[str, Any]]:
        """Return the jobs' states once all are over."""
        async with asyncio.timeout(deadline):
            while True:
                try:
                    jobs = [await self._database.jobs.get(job_id) for job_id in job_ids]
                except DatabaseError:
                    jobs = [None]
                if all(job is not None and job.over for job in jobs):
                    return {job.job_id: vars(job) for job in jobs if job is not None}
                await asyncio.sleep(_PAUSE_SECONDS)
