"""The platform's HTTP API, for APP_MODE=standalone: submit jobs, read their status, redrive dead letters.

The job routes and the keys of their answers are the platform's, so a curl command written for the platform
works here.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, cast, get_args

from aiohttp import web

from gdaltools.errors import GdalToolsError, InvalidParameter, SourceNotFound
from worker.database import Database
from worker.errors import DeadLetterNotFound, JobNotFound, NotReady, QueueNotFound
from worker.job.definitions import UnknownJobType
from worker.job.machine import Machine
from worker.protocol.json_text import dumps
from worker.protocol.rows import JobRow, TaskRow
from worker.queue.dead_letter import (
    Selection,
    SortOrder,
    describe_done,
    describe_listing,
    describe_whole,
    parse_sequence_number,
)
from worker.queue.dead_letters import DeadLetters
from worker.task.running import RunningTasks
from worker.web.access import shows_token

Handler = Callable[[web.Request], Awaitable[web.Response]]

# The most digits of a `limit` parameter.
_LONGEST_LIMIT = 6


@dataclass
class Platform:
    """The sources of the web server's answers; None until the database has answered for the first time."""

    machine: Machine | None = None
    database: Database | None = None
    dead_letters: DeadLetters | None = None
    running_tasks: RunningTasks | None = None

    def opened(self) -> tuple[Machine, Database]:
        """Return the machine and the database; raise NotReady while the worker starts."""
        if self.machine is None or self.database is None:
            raise NotReady("the worker is starting: ask again in a moment")
        return self.machine, self.database

    def opened_dead_letters(self) -> DeadLetters:
        """Return the queues' dead letters; raise NotReady while the worker starts or stops."""
        if self.dead_letters is None:
            raise NotReady("the worker is starting or stopping: ask again in a moment")
        return self.dead_letters


def routes(platform: Platform, *, token: str | None) -> Iterable[web.RouteDef]:
    """Return the routes of jobs, tasks and dead letters; with a `token`, they require it.

    Without a token they are for programs on this machine. Requests from pages in a browser are refused,
    because any site can make a browser send requests to this port.
    """
    found = [*_job_routes(platform), *_dead_letter_routes(platform)]
    return [web.route(each.method, each.path, _guarded(cast(Handler, each.handler), token)) for each in found]


def _guarded(handler: Handler, token: str | None) -> Handler:
    """Wrap `handler` so that it is limited to those who may ask, and its errors are answered as JSON."""

    async def guard(request: web.Request) -> web.Response:
        if token is None and "Origin" in request.headers:
            return _refused(HTTPStatus.FORBIDDEN, "pages in browsers are not answered: ask from a program")
        if token is not None and not shows_token(request, token):
            return _refused(HTTPStatus.UNAUTHORIZED, "send WORKER_API_TOKEN as Authorization: Bearer TOKEN")
        try:
            return await handler(request)
        except GdalToolsError as error:
            body = {"error": str(error), "errorType": type(error).__name__, "retryable": error.retryable}
            return _answer(body, status=_status_of(error))

    return guard


def _refused(status: HTTPStatus, message: str) -> web.Response:
    return _answer({"error": message, "errorType": status.phrase, "retryable": False}, status=status)


def _job_routes(platform: Platform) -> Iterable[web.RouteDef]:
    async def submit(request: web.Request) -> web.Response:
        parameters = await _json_object(request, "job parameters")
        machine, database = platform.opened()
        submission = await machine.submit(request.match_info["job_type"], parameters)
        job = await database.jobs.get(submission.job_id)
        shown = {} if job is None else describe_job(job)
        return _answer({"jobId": submission.job_id, "created": submission.created, **shown})

    async def status(request: web.Request) -> web.Response:
        return _answer(describe_job(await _job(request)))

    async def tasks(request: web.Request) -> web.Response:
        job = await _job(request)
        _, database = platform.opened()
        return _answer({"tasks": [describe_task(task) for task in await database.tasks.of_job(job.job_id)]})

    async def _job(request: web.Request) -> JobRow:
        _, database = platform.opened()
        job_id = request.match_info["job_id"]
        job = await database.jobs.get(job_id)
        if job is None:
            raise JobNotFound(f"job {job_id!r} does not exist: submit it first")
        return job

    return [
        web.post("/api/jobs/submit/{job_type}", submit),
        web.get("/api/jobs/status/{job_id}", status),
        web.get("/api/jobs/tasks/{job_id}", tasks),
    ]


def _dead_letter_routes(platform: Platform) -> Iterable[web.RouteDef]:
    async def listing(request: web.Request) -> web.Response:
        order, limit = request.query.get("order", "newest"), request.query.get("limit", "50")
        if order not in get_args(SortOrder):
            raise InvalidParameter(f"order {order!r} is not one of {', '.join(get_args(SortOrder))}")
        if not (limit.isascii() and limit.isdecimal() and len(limit) <= _LONGEST_LIMIT):
            raise InvalidParameter(f"limit {limit!r} is not a number of letters")
        found = await platform.opened_dead_letters().listing(
            request.match_info["queue"], order=cast("SortOrder", order), limit=int(limit)
        )
        return _answer(describe_listing(found))

    async def show(request: web.Request) -> web.Response:
        number = parse_sequence_number(request.match_info["sequence"])
        found = await platform.opened_dead_letters().show(request.match_info["queue"], number)
        return _answer(describe_whole(found))

    async def settle(request: web.Request) -> web.Response:
        # A page in a browser can send the simple content types to this port without a preflight request.
        if request.content_type != "application/json":
            raise _UnsupportedType(
                f"the content type is {request.content_type}: send the choice as application/json"
            )
        choice = Selection.of(await _json_object(request, "a choice of letters"))
        queue, dead_letters = request.match_info["queue"], platform.opened_dead_letters()
        is_redrive = request.match_info["verb"] == "redrive"
        done = await (dead_letters.redrive if is_redrive else dead_letters.purge)(queue, choice)
        return _answer(describe_done(queue, done))

    return [
        web.get("/api/dead-letters/{queue}", listing),
        web.get("/api/dead-letters/{queue}/{sequence}", show),
        web.post("/api/dead-letters/{queue}/{verb:redrive|purge}", settle),
    ]


def describe_job(job: JobRow) -> dict[str, Any]:
    """Return the job in the form of the platform's status route."""
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
    """Return the task without its parameters and result."""
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


class _UnsupportedType(InvalidParameter):
    """The body has a content type that this route does not accept."""


async def _json_object(request: web.Request, meaning: str) -> dict[str, Any]:
    try:
        content = json.loads(await request.text() or "{}")
    except ValueError as error:
        raise InvalidParameter(f"the body is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise InvalidParameter(f"the body is not a JSON object of {meaning}")
    return content


def _status_of(error: GdalToolsError) -> HTTPStatus:
    if isinstance(error, SourceNotFound | UnknownJobType | JobNotFound | DeadLetterNotFound | QueueNotFound):
        return HTTPStatus.NOT_FOUND
    if isinstance(error, _UnsupportedType):
        return HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    return HTTPStatus.SERVICE_UNAVAILABLE if error.retryable else HTTPStatus.BAD_REQUEST


def _answer(body: dict[str, Any], *, status: HTTPStatus = HTTPStatus.OK) -> web.Response:
    return web.json_response(body, status=status, dumps=dumps)
