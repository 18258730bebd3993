"""The client of `worker.web.api`: jobs and dead letters of a standalone worker, over HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Generator, Mapping
from typing import Any

from gdaltools.errors import GdalToolsError, InvalidParameter
from worker.errors import DeadLetterNotFound, JobFailed, JobNotFound, QueueNotFound, WorkerError
from worker.protocol.rows import OVER_STATUSES
from worker.queue.dead_letter import SortOrder
from worker.web import job_view

_TIMEOUT_SECONDS = 60
# The worker answers only after it has settled every selected dead letter.
_SETTLE_SECONDS = 900

_POLL_SECONDS = 0.5


class ServiceUnreachable(WorkerError):
    """No standalone worker answers at the address."""


class Client:
    """Client of the standalone worker at `url`, such as ``http://127.0.0.1:8080``."""

    def __init__(self, url: str, *, token: str | None = None) -> None:
        self._url = url.rstrip("/")
        self._headers = {"Content-Type": "application/json"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"

    @classmethod
    def from_environment(cls) -> Client:
        """Return a client of WORKER_URL, else of PORT (8080) on this machine; it sends WORKER_API_TOKEN."""
        url = os.environ.get("WORKER_URL") or f"http://127.0.0.1:{os.environ.get('PORT') or 8080}"
        return cls(url, token=os.environ.get("WORKER_API_TOKEN"))

    def submit(self, job_type: str, parameters: dict[str, Any]) -> Job:
        """Submit a job; submitting the same parameters again returns the same job.

        Raises
        ------
        InvalidParameter, JobNotFound
            The worker refused it.
        ServiceUnreachable
            No worker answers.
        """
        answer = self._call(f"jobs/submit/{urllib.parse.quote(job_type, safe='')}", parameters)
        return Job(self, answer["jobId"], answer)

    def job(self, job_id: str) -> Job:
        """Return the job `job_id`; raise JobNotFound when it does not exist."""
        return Job(self, self.status(job_id)["jobId"])

    def status(self, job_id: str) -> dict[str, Any]:
        """Return a job's current state; raise JobNotFound when the job does not exist."""
        return self._call(f"jobs/status/{urllib.parse.quote(job_id, safe='')}")

    def tasks(self, job_id: str) -> list[dict[str, Any]]:
        """Return a job's tasks, by stage; raise JobNotFound when the job does not exist."""
        return list(self._call(f"jobs/tasks/{urllib.parse.quote(job_id, safe='')}")["tasks"])

    def dead_letters(self, queue: str, *, order: SortOrder, limit: int) -> dict[str, Any]:
        """Return up to `limit` dead letters and their total; raise QueueNotFound for an unknown queue."""
        return self._call(f"{_dead_letters_of(queue)}?order={order}&limit={limit}")

    def dead_letter(self, queue: str, sequence_number: int) -> dict[str, Any]:
        """Return one dead letter in full; raise DeadLetterNotFound when `sequence_number` has none."""
        return self._call(f"{_dead_letters_of(queue)}/{sequence_number}")

    def redrive(self, queue: str, choice: dict[str, Any]) -> dict[str, Any]:
        """Restart the tasks of the selected dead letters; return the outcome of each."""
        return self._call(f"{_dead_letters_of(queue)}/redrive", choice, timeout=_SETTLE_SECONDS)

    def purge(self, queue: str, choice: dict[str, Any]) -> dict[str, Any]:
        """Remove the selected dead letters for good; return the outcome of each."""
        return self._call(f"{_dead_letters_of(queue)}/purge", choice, timeout=_SETTLE_SECONDS)

    def _call(
        self, path: str, body: dict[str, Any] | None = None, *, timeout: float = _TIMEOUT_SECONDS
    ) -> dict[str, Any]:
        request = urllib.request.Request(
            f"{self._url}/api/{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers=self._headers,
        )
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return dict(json.load(answer))
        except urllib.error.HTTPError as error:
            raise _refusal(error) from error
        except OSError as error:
            raise ServiceUnreachable(
                f"no worker answers at {self._url}: start one with APP_MODE=standalone python -m worker, "
                "or set WORKER_URL"
            ) from error


def _dead_letters_of(queue: str) -> str:
    return f"dead-letters/{urllib.parse.quote(queue, safe='')}"


def _refusal(error: urllib.error.HTTPError) -> GdalToolsError:
    try:
        answer = json.load(error)
        message, kind = str(answer["error"]), answer["errorType"]
    except (ValueError, KeyError, TypeError):
        message, kind = f"the worker answered {error.code} {error.reason}", None
    if error.code == 404:
        missing = {each.__name__: each for each in (DeadLetterNotFound, QueueNotFound)}
        return missing.get(kind, JobNotFound)(message)
    return InvalidParameter(message) if error.code < 500 else WorkerError(message)


class Job:
    """A job on the worker that a `Client` talks to; awaiting it returns `result`.

    Attributes
    ----------
    job_id : str
        The job's id; every submission of the same parameters has the same one.
    submitted : mapping
        The worker's answer to the submission; empty when the job was looked up by its id.
    """

    def __init__(self, client: Client, job_id: str, submitted: Mapping[str, Any] | None = None) -> None:
        self._client = client
        self.job_id = job_id
        self.submitted = dict(submitted or {})

    def status(self) -> dict[str, Any]:
        """Return the job's current state; raise JobNotFound when the job does not exist."""
        return self._client.status(self.job_id)

    def tasks(self) -> list[dict[str, Any]]:
        """Return the current state of the job's tasks, by stage."""
        return self._client.tasks(self.job_id)

    def failed(self) -> list[dict[str, Any]]:
        """Return the failed tasks, with their errors."""
        return [task for task in self.tasks() if task["status"] == "failed"]

    @property
    def over(self) -> bool:
        """Whether the job has reached a final status."""
        return self.status()["status"] in OVER_STATUSES

    def wait(self) -> dict[str, Any]:
        """Wait until the job is over and return its state."""
        while (job := self.status())["status"] not in OVER_STATUSES:
            time.sleep(_POLL_SECONDS)
        return job

    def watch(self) -> None:
        """Show the job in a table that is updated in place until it is over.

        Interrupting this call does not stop the job.
        """
        began = time.monotonic()
        with job_view.screen() as show:
            while True:
                job = self.status()
                show(job, self.tasks(), time.monotonic() - began)
                if job["status"] in OVER_STATUSES:
                    return
                time.sleep(_POLL_SECONDS)

    def result(self) -> dict[str, Any]:
        """Wait until the job is over and return its result data.

        Raises
        ------
        JobFailed
            The job failed; the message has the errors of up to three tasks.
        """
        job = self.wait()
        if job["status"] == "failed":
            said = [f"{task['taskId']}: {task['errorDetails']}" for task in self.failed()]
            reasons = "; ".join(said[:3]) or job.get("errorDetails") or "no task says why"
            raise JobFailed(f"job {self.job_id} failed: {reasons}")
        return dict(job["resultData"] or {})

    def __await__(self) -> Generator[Any, None, dict[str, Any]]:
        return asyncio.to_thread(self.result).__await__()

    def __repr__(self) -> str:
        return f"<Job {self.job_id}>"

    def _repr_html_(self) -> str:
        return job_view.in_notebook(self.status(), self.tasks())
