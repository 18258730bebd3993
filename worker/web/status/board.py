"""The status page's content as HTML sections, collected on request and shared by all viewers.

A collection is bounded in time and in rows; the database is then left alone for at least twenty times as long
as it took. A source that does not answer is shown as unknown. Without viewers nothing is collected.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Mapping
from datetime import UTC, datetime

from markupsafe import Markup

from gdaltools.errors import GdalToolsError
from worker.database.overview import Overview, read_overview
from worker.errors import DatabaseError
from worker.protocol.rows import OVER_STATUSES, JobStage
from worker.queue.dead_letter import Selection
from worker.task.memory import container_memory, working_set_mb
from worker.task.pressure import free_disk
from worker.telemetry import logs
from worker.web.api import Platform
from worker.web.health import Readiness
from worker.web.status import facts
from worker.web.status.dead_letter_watch import DeadLetterWatch
from worker.web.status.facts import PageFacts, Resources, WorkerFacts
from worker.web.status.html import rendered

# How long a collection is reused: the minimum, after a database error, and as a multiple of its duration.
_FRESH_SECONDS, _UNKNOWN_SECONDS, _REST = 1.0, 3.0, 20.0
_RESOURCES_SECONDS = 2.0
_MOST_NOTICES = 50

log = logging.getLogger(__name__)


class Board:
    """Collects the facts of one worker and renders the sections in `worker.web.status.html.SECTIONS`."""

    def __init__(
        self,
        about: WorkerFacts,
        readiness: Readiness,
        platform: Platform,
        *,
        queues: tuple[str, ...],
        form_key: str,
        memory_limit_mb: float | None = None,
    ) -> None:
        self.about = about
        self._readiness = readiness
        self._form_key = form_key
        self._memory_limit_mb = memory_limit_mb
        self._platform = platform
        self._queues = queues
        self._turn = asyncio.Lock()
        self._fresh_until = float("-inf")
        self._rest_seconds = 0.0
        self._is_changed = False
        self._fragments: Mapping[str, Markup] = {}
        self._stages: dict[tuple[str, datetime], tuple[JobStage, ...]] = {}
        self._resources: Resources | None = None
        self._resources_at = float("-inf")
        self._watch: DeadLetterWatch | None = None
        self._notices: dict[str, str] = {}

    async def leave_queues(self) -> None:
        """Stop watching the queues and refuse redrives, because the worker is stopping."""
        watch, self._watch, self._platform.dead_letters = self._watch, None, None
        if watch is not None:
            await watch.close()

    async def fragments(self) -> Mapping[str, Markup]:
        """Return the current HTML of each section, by name; a section whose facts did not change is equal."""
        async with self._turn:
            if self._is_changed or time.monotonic() >= self._fresh_until:
                self._is_changed = False
                self._fragments = rendered(await self._look(), form_key=self._form_key)
                self._fresh_until = time.monotonic() + self._rest_seconds
            return self._fragments

    async def redrive(self, queue: str, choice: Selection) -> str:
        """Redrive the selected dead letters; return the key under which `notice` has the outcome."""
        dead_letters = self._platform.dead_letters
        if dead_letters is None:
            return self._note(
                "The worker is starting or stopping: nothing was redriven, try again in a moment."
            )
        try:
            outcomes = await dead_letters.redrive(queue, choice)
        except GdalToolsError as error:
            return self._note(f"Not everything was redriven: {facts.said(str(error))}")
        finally:
            if self._watch is not None:
                self._watch.look_again()
            self._refresh()
        log.info("redriven by the status page: %d letters of %s", len(outcomes), queue)
        text = "; ".join(
            f"letter {each.sequence_number}: {each.outcome}, {facts.said(each.detail)}"
            for each in outcomes[:5]
        )
        more = f"; and {len(outcomes) - 5} more" if len(outcomes) > 5 else ""
        return self._note(f"{queue}: {text or 'there was nothing to redrive'}{more}")

    def notice(self, key: str) -> str | None:
        """Return the notice stored under `key`; None when there is none."""
        return self._notices.get(key)

    def _refresh(self) -> None:
        self._is_changed = True

    def _note(self, text: str) -> str:
        key = secrets.token_urlsafe(12)
        self._notices[key] = text
        while len(self._notices) > _MOST_NOTICES:
            del self._notices[next(iter(self._notices))]
        return key

    async def _look(self) -> PageFacts:
        platform = self._platform
        runs = () if platform.running_tasks is None else platform.running_tasks.runs
        if self._watch is None and platform.dead_letters is not None:
            self._watch = DeadLetterWatch(platform.dead_letters, self._queues, on_news=self._refresh)
        (overview, unknown), resources, dead_letters = await asyncio.gather(
            self._overview(),
            self._look_at_resources(tuple(run.pid for run in runs if run.pid is not None)),
            _nothing() if self._watch is None else self._watch.dead_letters(),
        )
        now = datetime.now(UTC) if overview is None else facts.aware(overview.now)
        lines = logs.TAIL.lines
        return PageFacts(
            now=now,
            about=self.about,
            state=self._readiness.state,
            problems={part: facts.said(text) for part, text in self._readiness.problems.items()},
            overview=overview,
            unknown=unknown,
            running=facts.running(overview, runs, lines, resources, name=self.about.name, now=now),
            jobs=facts.jobs(overview, self._stages_of(overview)),
            dead_letters=dead_letters,
            resources=resources,
            lines=lines[-facts.WORKER_LINES :],
        )

    async def _overview(self) -> tuple[Overview | None, str | None]:
        self._rest_seconds = _FRESH_SECONDS
        database = self._platform.database
        if database is None:
            return None, "the worker is starting"
        began = time.monotonic()
        try:
            overview = await read_overview(database.connections, known=self._stages.keys())
        except DatabaseError as error:
            self._rest_seconds = _UNKNOWN_SECONDS
            return None, facts.said(str(error))
        self._rest_seconds = max(_FRESH_SECONDS, _REST * (time.monotonic() - began))
        return overview, None

    def _stages_of(self, overview: Overview | None) -> Mapping[str, tuple[JobStage, ...]]:
        """Return the stages by job id; those of finished jobs are cached, as they no longer change."""
        if overview is None:
            return {}
        read: dict[str, list[JobStage]] = {}
        for stage in overview.stages:
            read.setdefault(stage.job_id, []).append(stage)
        found = {job.key: self._stages.get(job.key, tuple(read.get(job.job_id, ()))) for job in overview.jobs}
        self._stages = {job.key: found[job.key] for job in overview.jobs if job.status in OVER_STATUSES}
        return {job_id: stages for (job_id, _), stages in found.items()}

    async def _look_at_resources(self, pids: tuple[int, ...]) -> Resources:
        resources = self._resources
        if resources is None or time.monotonic() - self._resources_at >= _RESOURCES_SECONDS:
            resources = self._resources = await asyncio.to_thread(_resources, pids, self._memory_limit_mb)
            self._resources_at = time.monotonic()
        return resources


async def _nothing() -> None:
    return None


def _resources(pids: tuple[int, ...], limit_mb: float | None) -> Resources:
    memory = container_memory(limit_mb=limit_mb)
    return Resources(
        total_mb=memory.total_mb,
        available_mb=memory.available_mb,
        free_disk_mb=free_disk()[0],
        tasks_mb={pid: working_set_mb(pid) for pid in pids},
    )
