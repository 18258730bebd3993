"""The platform's HTTP door, for APP_MODE=standalone: submit a job, see how it goes.

The routes and the keys of their answers are the platform's, so that a curl line written for it works here.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from aiohttp import web

from gdaltools.errors import GdalToolsError, InvalidParameter, SourceNotFound
from worker.errors import JobNotFound, NotReady
from worker.jobs import UnknownJobType
from worker.json_text import dumps
from worker.machine import Machine
from worker.platform_database import PlatformDatabase
from worker.rows import JobRow, TaskRow


@dataclass
class Platform:
    """What the routes answer from: nothing until the database has answered for the first time."""

    machine: Machine | None = None
    database: PlatformDatabase | None = None

    def opened(self) -> tuple[Machine, PlatformDatabase]:
        """The machine and the database; NotReady until they are there."""
        if self.machine is None or self.database is None:
            raise NotReady("the worker is starting: ask again in a moment")
        return self.machine, self.database


def routes(platform: Platform) -> Iterable[web.RouteDef]:
    """The routes of jobs and tasks."""

    async def submit(request: web.Request) -> web.Response:
        try:
            parameters = json.loads(await request.text() or "{}")
        except ValueError as error:
            raise InvalidParameter(f"the body is not JSON: {error}") from error
        if not isinstance(parameters, dict):
            raise InvalidParameter("the body is not a JSON object of job parameters")
        machine, database = platform.opened()
        submission = await machine.submit(request.match_info["job_type"], parameters)
        job = await database.job(submission.job_id)
        shown = {} if job is None else describe_job(job)
        return _answer({"jobId": submission.job_id, "created": submission.created, **shown})

    async def status(request: web.Request) -> web.Response:
        return _answer(describe_job(await _job(request)))

    async def tasks(request: web.Request) -> web.Response:
        job = await _job(request)
        _, database = platform.opened()
        return _answer({"tasks": [describe_task(task) for task in await database.tasks(job.job_id)]})

    async def _job(request: web.Request) -> JobRow:
        _, database = platform.opened()
        job_id = request.match_info["job_id"]
        job = await database.job(job_id)
        if job is None:
            raise JobNotFound(f"job {job_id!r} does not exist: submit it first")
        return job

    return [
        web.post("/api/jobs/submit/{job_type}", _reporting(submit)),
        web.get("/api/jobs/status/{job_id}", _reporting(status)),
        web.get("/api/jobs/tasks/{job_id}", _reporting(tasks)),
    ]


def describe_job(job: JobRow) -> dict[str, Any]:
    """A job as the platform's status route shows it."""
    shown = {
        "jobId": job.job_id,
        "jobType": job.job_type,
        "status": job.status,
        "stage": job.stage,
        "totalStages": job.total_stages,
        "parameters": job.parameters,
        "resultData": job.result_data,
        "createdAt": job.created_at.isoformat(),
        "updatedAt": job.updated_at.isoformat(),
    }
    return shown if job.error_details is None else {**shown, "errorDetails": job.error_details}


def describe_task(task: TaskRow) -> dict[str, Any]:
    """A task, without its parameters and result."""
    return {
        "taskId": task.task_id,
        "taskType": task.task_type,
        "stage": task.stage,
        "status": task.status,
        "queue": task.target_queue,
        "retryCount": task.retry_count,
        "progress": task.metadata.get("progress"),
        "executedByApp": task.executed_by_app,
        "errorDetails": task.error_details,
        "executionStartedAt": task.execution_started_at.isoformat() if task.execution_started_at else None,
        "updatedAt": task.updated_at.isoformat(),
    }


Handler = Callable[[web.Request], Awaitable[web.Response]]


def _reporting(handler: Handler) -> Handler:
    """The handler, with our errors as JSON and the status that fits."""

    async def report(request: web.Request) -> web.Response:
        try:
            return await handler(request)
        except GdalToolsError as error:
            body = {"error": str(error), "errorType": type(error).__name__, "retryable": error.retryable}
            return _answer(body, status=_status_of(error))

    return report


def _status_of(error: GdalToolsError) -> HTTPStatus:
    if isinstance(error, SourceNotFound | UnknownJobType | JobNotFound):
        return HTTPStatus.NOT_FOUND
    return HTTPStatus.SERVICE_UNAVAILABLE if error.retryable else HTTPStatus.BAD_REQUEST


def _answer(body: dict[str, Any], *, status: HTTPStatus = HTTPStatus.OK) -> web.Response:
    return web.json_response(body, status=status, dumps=dumps)
