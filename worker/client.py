"""The other side of `worker.api`: submit jobs to a standalone worker and look at them, over HTTP."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from gdaltools.errors import GdalToolsError, InvalidParameter
from worker.errors import JobNotFound, WorkerError

_TIMEOUT_SECONDS = 60
_POLL_SECONDS = 1.0
_OVER = ("completed", "failed", "completed_with_errors")


class ServiceUnreachable(WorkerError):
    """No standalone worker answers at the address."""


class Client:
    """A standalone worker at an address such as ``http://127.0.0.1:8080``."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")

    @classmethod
    def from_environment(cls) -> Client:
        """The worker at WORKER_URL, else the one on this machine's PORT (8080)."""
        return cls(os.environ.get("WORKER_URL") or f"http://127.0.0.1:{os.environ.get('PORT') or 8080}")

    def submit(self, job_type: str, parameters: dict[str, Any]) -> dict[str, Any]:
        """Submit a job; the same parameters again give the same job.

        Raises
        ------
        InvalidParameter, JobNotFound
            The worker refused it.
        ServiceUnreachable
            No worker answers.
        """
        return self._call(f"submit/{urllib.parse.quote(job_type, safe='')}", parameters)

    def status(self, job_id: str) -> dict[str, Any]:
        """A job; JobNotFound when there is none."""
        return self._call(f"status/{urllib.parse.quote(job_id, safe='')}")

    def tasks(self, job_id: str) -> list[dict[str, Any]]:
        """A job's tasks, by stage; JobNotFound when there is no such job."""
        return list(self._call(f"tasks/{urllib.parse.quote(job_id, safe='')}")["tasks"])

    def wait(self, job_id: str) -> dict[str, Any]:
        """The job when it is over."""
        while (job := self.status(job_id))["status"] not in _OVER:
            time.sleep(_POLL_SECONDS)
        return job

    def _call(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        request = urllib.request.Request(
            f"{self._url}/api/jobs/{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:
                return dict(json.load(answer))
        except urllib.error.HTTPError as error:
            raise _refusal(error) from error
        except OSError as error:
            raise ServiceUnreachable(
                f"no worker answers at {self._url}: start one with APP_MODE=standalone python -m worker, "
                "or set WORKER_URL"
            ) from error


def _refusal(error: urllib.error.HTTPError) -> GdalToolsError:
    try:
        message = str(json.load(error)["error"])
    except (ValueError, KeyError, TypeError):
        message = f"the worker answered {error.code} {error.reason}"
    if error.code == 404:
        return JobNotFound(message)
    return InvalidParameter(message) if error.code < 500 else WorkerError(message)
