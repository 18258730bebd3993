"""The platform's part, for APP_MODE=standalone: submit jobs, advance them from stage to stage, finish them.

The machine handles messages of the jobs queue and writes only rows and outbox messages; the outbox publishes
them. Every step can be repeated. A message that is duplicate, late or early has no effect. A stage that
cannot be created fails its job, with a reason.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from gdaltools.errors import GdalToolsError, InvalidParameter
from worker.database import Database
from worker.errors import DatabaseRejected, TaskIdTaken
from worker.job.definitions import (
    Context,
    JobDefinition,
    JobSoFar,
    PlannedTask,
    StageError,
    definition,
    job_id,
)
from worker.job.large_raster import REGISTRY
from worker.protocol.messages import JobMessage, StageComplete, TaskMessage, utc_now
from worker.protocol.rows import JobRow, Json, NewJob, NewTask, OutboxMessage, Submission, TaskRow

log = logging.getLogger(__name__)

ChooseQueue = Callable[[str, Json], str]
"""``(task_type, parameters) → queue name``."""

BlobSize = Callable[[str, str], Awaitable[int]]
"""``(container, blob) → bytes``; raises SourceNotFound when there is no such blob."""

BYTES_PER_MB = 2**20


@dataclass(frozen=True)
class JobOutcome:
    """The outcome of a message of the jobs queue, for the log."""

    action: Literal["started", "advanced", "finished", "failed", "ignored"]
    job_id: str
    detail: str = ""


class Machine:
    """Creates jobs and tasks and advances jobs, by the job definitions of a registry.

    Parameters
    ----------
    database : Database
    route : callable
        Returns the queue of a task.
    blob_size : callable
        Returns the size of a job's source, as a check before the job is accepted.
    context : Context
        The input of the definitions besides parameters and results.
    jobs_queue : str
        The queue of job and stage_complete messages.
    """

    def __init__(
        self,
        database: Database,
        *,
        route: ChooseQueue,
        blob_size: BlobSize,
        context: Context,
        jobs_queue: str = "geospatial-jobs",
        registry: Mapping[str, JobDefinition] = REGISTRY,
    ) -> None:
        self._database = database
        self._route = route
        self._blob_size = blob_size
        self._context = context
        self._jobs_queue = jobs_queue
        self._registry = registry

    async def submit(self, job_type: str, parameters: Json) -> Submission:
        """Accept a job, or return the existing job with the same parameters.

        An existing job is returned unchanged unless it is failed. A failed job is deleted with its tasks and
        run again.

        Raises
        ------
        UnknownJobType
            No definition has this name.
        InvalidJob
            A parameter is missing or wrong.
        SourceNotFound
            The source does not exist.
        DatabaseError
            The database does not answer.
        """
        chosen = definition(job_type, self._registry)
        accepted = chosen.validate(parameters)
        identity = job_id(job_type, parameters)
        found = await self._database.jobs.get(identity)
        if found is not None and found.status != "failed":
            return Submission(identity, found.status, created=False)
        source = chosen.source(accepted)
        if source is not None:
            size = await self._blob_size(*source)
            accepted |= {"_blob_size_bytes": size, "_blob_size_mb": round(size / BYTES_PER_MB, 3)}
        job = NewJob(identity, job_type, accepted, total_stages=max(chosen.stages(accepted)))
        first = chosen.stages(accepted)[0]
        body = JobMessage(
            job_id=identity, job_type=job_type, parameters=accepted, stage=first, timestamp=utc_now()
        ).body()
        return await self._database.jobs.submit(job, message=OutboxMessage(self._jobs_queue, body))

    async def handle(self, message: JobMessage | StageComplete) -> JobOutcome:
        """Apply a message of the jobs queue; the message can be settled afterwards.

        Raises
        ------
        DatabaseError
            The database does not answer; the message can be handled again.
        """
        job = await self._database.jobs.get(message.job_id)
        if job is None:
            return JobOutcome("ignored", message.job_id, "there is no such job")
        if job.over:
            return JobOutcome("ignored", job.job_id, f"the job is {job.status}")
        stage = message.completed_stage if isinstance(message, StageComplete) else message.stage
        if stage != job.stage:
            return JobOutcome(
                "ignored", job.job_id, f"the message is about stage {stage}, the job at {job.stage}"
            )
        try:
            chosen = definition(job.job_type, self._registry)
            if isinstance(message, StageComplete):
                return await self._move_on(job, chosen, message)
            return await self._start(job, chosen)
        except (StageError, InvalidParameter, TaskIdTaken, DatabaseRejected) as error:
            return await self._fail(job, f"stage {job.stage}: {error}")
        except GdalToolsError:
            raise
        except Exception as error:  # a redelivered message would fail the same way, and the job never end
            log.exception("job %s: an error that was not foreseen", job.job_id)
            return await self._fail(job, f"stage {job.stage}: {type(error).__name__}: {error}")

    async def _start(self, job: JobRow, chosen: JobDefinition) -> JobOutcome:
        tasks = self._new_tasks(job, job.stage, await self._plan(job, chosen, job.stage))
        new = await self._database.jobs.start_stage(job.job_id, job.stage, tasks)
        if new == 0:
            return JobOutcome("ignored", job.job_id, f"stage {job.stage} has its tasks already")
        return JobOutcome("started", job.job_id, f"stage {job.stage}: {new} tasks")

    async def _move_on(self, job: JobRow, chosen: JobDefinition, signal: StageComplete) -> JobOutcome:
        tasks = await self._database.tasks.of_job(job.job_id, stage=job.stage)
        unfinished = [task for task in tasks if not task.finished]
        if not tasks or unfinished:
            return JobOutcome(
                "ignored", job.job_id, f"{len(unfinished)} tasks of stage {job.stage} are unfinished"
            )
        failed = [task for task in tasks if task.status == "failed"]
        if failed:
            return await self._fail(
                job,
                f"stage {job.stage}: {len(failed)} of {len(tasks)} tasks failed; {failed[0].task_id}: "
                f"{failed[0].error_details}",
            )
        summary = {
            "stage": job.stage,
            "task_count": len(tasks),
            "completed": len(tasks),
            "failed": 0,
            "completed_at": signal.completed_at.isoformat(),
            "completed_by_app": signal.completed_by_app,
        }
        following = [stage for stage in chosen.stages(job.parameters) if stage > job.stage]
        if not following:
            return await self._finish(job, chosen, summary)
        target = following[0]
        planned = self._new_tasks(job, target, await self._plan(job, chosen, target, before=tasks))
        passed_over = [{"stage": stage, "skipped": True} for stage in range(job.stage + 1, target)]
        moved = await self._database.jobs.advance(
            job.job_id, job.stage, results=[summary, *passed_over], tasks=planned
        )
        if not moved.advanced:
            return JobOutcome("ignored", job.job_id, f"stage {job.stage} was signalled before")
        return JobOutcome("advanced", job.job_id, f"stage {moved.stage}: {len(planned)} tasks")

    async def _finish(self, job: JobRow, chosen: JobDefinition, summary: Json) -> JobOutcome:
        tasks = await self._database.tasks.of_job(job.job_id)
        counts: Counter[str] = Counter(task.status for task in tasks)
        results = {stage: _results(tasks, stage) for stage in chosen.stages(job.parameters)}
        with _clear_errors("the job's result"):
            result = chosen.result(JobSoFar(job.job_id, job.parameters, results), counts)
        if not await self._database.jobs.finish(job.job_id, job.stage, stage_results=summary, result=result):
            return JobOutcome("ignored", job.job_id, "the job was finished before")
        return JobOutcome("finished", job.job_id, f"{len(tasks)} tasks")

    async def _fail(self, job: JobRow, error_details: str) -> JobOutcome:
        if not await self._database.jobs.fail(job.job_id, error_details=error_details):
            return JobOutcome("ignored", job.job_id, "the job was over before")
        return JobOutcome("failed", job.job_id, error_details)

    async def _plan(
        self, job: JobRow, chosen: JobDefinition, stage: int, *, before: Sequence[TaskRow] | None = None
    ) -> list[PlannedTask]:
        earlier = [number for number in chosen.stages(job.parameters) if number < stage]
        needed = {*chosen.reads(stage), *earlier[-1:]}
        results: dict[int, list[Json]] = {}
        for number in sorted(needed):
            if before is not None and before and before[0].stage == number:
                results[number] = _results(before, number)
            else:
                results[number] = _results(
                    await self._database.tasks.of_job(job.job_id, stage=number), number
                )
        with _clear_errors(f"the tasks of stage {stage}"):
            planned = chosen.tasks(stage, JobSoFar(job.job_id, job.parameters, results), self._context)
        if not planned:
            raise StageError(f"stage {stage} has no tasks")
        return planned

    def _new_tasks(self, job: JobRow, stage: int, planned: Sequence[PlannedTask]) -> list[NewTask]:
        now = utc_now()
        tasks = []
        for task in planned:
            with _clear_errors(f"task {task.task_id}"):
                body = TaskMessage(
                    task_id=task.task_id,
                    parent_job_id=job.job_id,
                    job_type=job.job_type,
                    task_type=task.task_type,
                    stage=stage,
                    parameters=dict(task.parameters),
                    task_index=task.task_index,
                    timestamp=now,
                ).body()
            message = OutboxMessage(self._route(task.task_type, task.parameters), body, job_id=job.job_id)
            tasks.append(NewTask(task.task_id, task.task_type, task.parameters, task.task_index, message))
        return tasks


@contextmanager
def _clear_errors(what: str) -> Iterator[None]:
    """Convert the errors that a malformed result of an earlier stage causes to `StageError`."""
    try:
        yield
    except GdalToolsError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise StageError(
            f"{what} cannot be made from the results before: {type(error).__name__}: {error}"
        ) from error


def _results(tasks: Sequence[TaskRow], stage: int) -> list[Json]:
    return [
        task.result_data
        for task in tasks
        if task.stage == stage and task.status == "completed" and task.result_data is not None
    ]
