"""Value types for dead letters: contents, selections and results, and their JSON form."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, ValidationError, model_validator

from gdaltools.errors import InvalidParameter
from worker.protocol.messages import InvalidMessage, TaskMessage, describe_problems, parse_task
from worker.protocol.rows import JobRow, TaskRow

if TYPE_CHECKING:
    from worker.queue.bus import (
        PeekedMessage,  # imports the SDK, which commands that only query a worker do not need
    )

SortOrder = Literal["newest", "oldest"]
Outcome = Literal["redriven", "resent", "purged", "removed", "refused", "left", "absent"]


@dataclass(frozen=True)
class DeadLetter:
    """A dead letter as peeked, with its task message if it is one."""

    message: PeekedMessage
    task: TaskMessage | None = None

    @property
    def sequence_number(self) -> int:
        """The dead letter's permanent number in the sub-queue."""
        return self.message.sequence_number

    @property
    def text(self) -> str:
        """The body as text; bytes that are not UTF-8 are replaced."""
        return self.message.body.decode("utf-8", "replace")

    @property
    def task_id(self) -> str | None:
        """The id of the task; None if the message is not a task's."""
        return None if self.task is None else self.task.task_id


@dataclass(frozen=True)
class Listing:
    """The dead letters at one end of a sub-queue, and the total number."""

    queue: str
    total: int
    dead_letters: tuple[DeadLetter, ...]


@dataclass(frozen=True)
class DeadLetterDetails:
    """A dead letter with its task's row and job; ``note`` says why they are missing."""

    dead_letter: DeadLetter
    row: TaskRow | None = None
    job: JobRow | None = None
    note: str | None = None


@dataclass(frozen=True)
class DeadLetterResult:
    """The result of an operation on a selected dead letter.

    ``redriven``: its task starts again. ``resent``: a copy is in its queue again. ``purged``: it is removed.
    ``removed``: it is removed, because there was nothing to redrive. ``refused``: it stays, because a redrive
    is useless. ``left``: the operation is done, but the dead letter could not be removed. ``absent``: the
    dead letter does not exist or could not be received.
    """

    sequence_number: int
    outcome: Outcome
    detail: str
    task_id: str | None = None


_MAX_SEQUENCE_NUMBER = 2**63 - 1


def parse_sequence_number(text: str) -> int:
    """Parse a sequence number; raise `InvalidParameter` if `text` is not one."""
    if text.isascii() and text.isdecimal() and len(text) < 20 and 1 <= int(text) <= _MAX_SEQUENCE_NUMBER:
        return int(text)
    raise InvalidParameter(f"{text!r} is not a sequence number: list the letters to see theirs")


class Selection(BaseModel):
    """The selected dead letters: all, or those that meet every criterion that is set."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    sequences: frozenset[Annotated[StrictInt, Field(ge=1, le=_MAX_SEQUENCE_NUMBER)]] = frozenset()
    task_id: str | None = Field(default=None, alias="taskId", min_length=1)
    reason: str | None = Field(default=None, min_length=1)
    everything: StrictBool = Field(default=False, alias="all")

    @classmethod
    def of(cls, value: object) -> Self:
        """Return the selection that a JSON object describes.

        Raises
        ------
        InvalidParameter
            The object selects nothing, combines all with a criterion, or has a wrong value.
        """
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            raise InvalidParameter(f"which letters: {describe_problems(error)}") from error

    @model_validator(mode="after")
    def _chosen(self) -> Self:
        some = bool(self.sequences or self.task_id or self.reason)
        if some == self.everything:
            raise ValueError("choose by sequence numbers, task, reason, or else all")
        return self

    def takes(self, dead_letter: DeadLetter) -> bool:
        """Return whether the dead letter is selected; reasons must match completely, in any case."""
        reason = dead_letter.message.dead_letter_reason or ""
        return (
            (not self.sequences or dead_letter.sequence_number in self.sequences)
            and (self.task_id is None or self.task_id == dead_letter.task_id)
            and (self.reason is None or self.reason.casefold() == reason.casefold())
        )


def dead_letter_of(message: PeekedMessage) -> DeadLetter:
    """Return the dead letter of a message in a dead-letter sub-queue."""
    try:
        return DeadLetter(message, parse_task(message.body))
    except InvalidMessage:
        return DeadLetter(message)


def describe(dead_letter: DeadLetter) -> dict[str, Any]:
    """Return a dead letter in its JSON form."""
    message, task = dead_letter.message, dead_letter.task
    return {
        "queue": message.queue,
        "sequenceNumber": dead_letter.sequence_number,
        "messageId": message.message_id,
        "enqueuedAt": message.enqueued_at.isoformat() if message.enqueued_at else None,
        "deliveryCount": message.delivery_count,
        "reason": message.dead_letter_reason,
        "description": message.dead_letter_description,
        "taskId": dead_letter.task_id,
        "jobId": task.parent_job_id if task else None,
        "taskType": task.task_type if task else None,
        "stage": task.stage if task else None,
        "body": dead_letter.text,
    }


def describe_listing(listing: Listing) -> dict[str, Any]:
    """Return a listing in its JSON form."""
    return {
        "queue": listing.queue,
        "total": listing.total,
        "letters": [describe(dead_letter) for dead_letter in listing.dead_letters],
    }


def describe_whole(whole: DeadLetterDetails) -> dict[str, Any]:
    """Return a dead letter with all properties, its task's row and its job in their JSON form."""
    message, row, job = whole.dead_letter.message, whole.row, whole.job
    return {
        **describe(whole.dead_letter),
        "correlationId": message.correlation_id,
        "contentType": message.content_type,
        "applicationProperties": dict(message.application_properties),
        "task": row
        and {
            "status": row.status,
            "retryCount": row.retry_count,
            "errorDetails": row.error_details,
            "executedByApp": row.executed_by_app,
            "updatedAt": row.updated_at.isoformat(),
        },
        "job": job and {"status": job.status, "stage": job.stage, "errorDetails": job.error_details},
        "note": whole.note,
    }


def describe_done(queue: str, outcomes: Iterable[DeadLetterResult]) -> dict[str, Any]:
    """Return the results for a queue's selected dead letters in their JSON form."""
    return {
        "queue": queue,
        "letters": [
            {
                "sequenceNumber": each.sequence_number,
                "taskId": each.task_id,
                "outcome": each.outcome,
                "detail": each.detail,
            }
            for each in outcomes
        ],
    }


def pretty(body: str) -> str:
    """Return a body for display: JSON indented, anything else unchanged."""
    try:
        return json.dumps(json.loads(body), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return body
