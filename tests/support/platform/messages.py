"""The messages that the platform sends and receives (protocol.md §3)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from tests.support.platform.tables import NewTask, Row
from worker.queue.bus import Message

FUNCTION_APP = "rmhazuregeoapi"
MESSAGE_BYTES = 256 * 1024 - 4096  # of a body; the rest is for the broker's own properties

JOB_FIELDS = {
    "job_id",
    "job_type",
    "parameters",
    "stage",
    "stage_results",
    "retry_count",
    "timestamp",
    "correlation_id",
}


@dataclass(frozen=True)
class Received:
    """A message of the jobs queue, as the broker delivered it."""

    body: bytes
    identity: str
    """Distinguishes this message from every other, however often it is delivered."""
    message_id: str | None
    content_type: str | None
    session_id: str | None

    @classmethod
    def of(cls, message: Message) -> Received:
        """Convert a message from a receiver."""
        # The worker needs neither of these two, so its Message does not expose them.
        given = message._received
        return cls(
            body=message.body,
            identity=f"{given.sequence_number} of {given.enqueued_time_utc}",
            message_id=message.message_id,
            content_type=message.content_type,
            session_id=given.session_id,
        )

    def document(self) -> dict[str, Any] | None:
        """Return the body as a JSON object, or None if it is not one."""
        try:
            document = json.loads(self.body)
        except ValueError:
            return None
        return document if isinstance(document, dict) else None


def job_message(job_id: str, job_type: str, parameters: Mapping[str, Any]) -> str:
    """Return the message that requests a job's first stage."""
    message = {
        "job_id": job_id,
        "job_type": job_type,
        "parameters": dict(parameters),
        "stage": 1,
        "stage_results": {},
        "retry_count": 0,
        "timestamp": _now(),
        "correlation_id": job_id[:16],
    }
    return json.dumps(message)


def task_message(job: Row, stage: int, task: NewTask, *, message_bytes: int = MESSAGE_BYTES) -> str:
    """Return the message that requests a task.

    The parameters stay in the row if they do not fit in a body of `message_bytes`.
    """
    message = {
        "task_id": task.task_id,
        "parent_job_id": job["job_id"],
        "job_type": job["job_type"],
        "task_type": task.task_type,
        "stage": stage,
        "task_index": task.task_index,
        "parameters": dict(task.parameters),
        "parent_task_id": None,
        "retry_count": 0,
        "timestamp": _now(),
    }
    body = json.dumps(message)
    if len(body.encode()) <= message_bytes:
        return body
    return json.dumps({**message, "parameters": {}, "parameters_in_row": True})


def own_signal(task: Row) -> str:
    """Return the signal that the stage of a task, which the platform ran itself, is complete."""
    message = {
        "message_type": "stage_complete",
        "job_id": task["parent_job_id"],
        "job_type": task["job_type"],
        "completed_stage": task["stage"],
        "completed_at": datetime.now(UTC).isoformat(),
        "completed_by_app": FUNCTION_APP,
        "correlation_id": uuid4().hex[:8],
    }
    return json.dumps(message)


def _now() -> str:
    """Return the time in UTC without an offset, as the platform writes it."""
    return datetime.now(UTC).replace(tzinfo=None).isoformat()
