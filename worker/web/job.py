"""A submitted job, as a value to look at, to watch, and to wait for.

>>> job = Client.from_environment().submit("process_large_raster_v2", {...})  # doctest: +SKIP
>>> job.watch()  # doctest: +SKIP
>>> job.result()  # doctest: +SKIP
>>> await job  # the same, in a coroutine  # doctest: +SKIP
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, Any

from worker.errors import JobFailed
from worker.web import job_view

if TYPE_CHECKING:
    from worker.web.client import Client

OVER = ("completed", "failed", "completed_with_errors")
_POLL_SECONDS = 0.5


class Job:
    """A job of a worker that a `Client` talks to.

    Attributes
    ----------
    job_id : str
        Its id: that of any other submission of the same parameters, too.
    submitted : mapping
        What the worker said to its submission; empty where it was found by its id.
    """

    def __init__(self, client: Client, job_id: str, submitted: Mapping[str, Any] | None = None) -> None:
        self._client = client
        self.job_id = job_id
        self.submitted = dict(submitted or {})

    def status(self) -> dict[str, Any]:
        """The job as it is now; JobNotFound when there is none."""
        return self._client.status(self.job_id)

    def tasks(self) -> list[dict[str, Any]]:
        """Its tasks as they are now, by stage."""
        return self._client.tasks(self.job_id)

    def failed(self) -> list[dict[str, Any]]:
        """Its tasks that failed, with what they said."""
        return [task for task in self.tasks() if task["status"] == "failed"]

    @property
    def over(self) -> bool:
        """Whether nothing of it runs any more."""
        return self.status()["status"] in OVER

    def wait(self) -> dict[str, Any]:
        """The job when it is over."""
        while (job := self.status())["status"] not in OVER:
            time.sleep(_POLL_SECONDS)
        return job

    def watch(self) -> None:
        """Show the job in a table that is updated in place until it is over.

        An interruption ends the watching; the job goes on.
        """
        began = time.monotonic()
        with job_view.screen() as show:
            while True:
                job = self.status()
                show(job, self.tasks(), time.monotonic() - began)
                if job["status"] in OVER:
                    return
                time.sleep(_POLL_SECONDS)

    def result(self) -> dict[str, Any]:
        """What the job made, once it is over.

        Raises
        ------
        JobFailed
            It failed; the message has the errors of its tasks.
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
