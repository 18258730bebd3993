"""Dead letters as values: what one holds, which are meant, what became of each; and all of it as JSON."""

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
        PeekedMessage,  # it brings the SDK, which a command that asks a worker can spare
    )

SortOrder = Literal["newest", "oldest"]
Outcome = Literal["redriven", "resent", "purged", "removed", "refused", "left", "absent"]


@dataclass(frozen=True)
class DeadLetter:
    """A dead letter as it was seen, and the task that it asks for, where it is a task's."""

    message: PeekedMessage
    task: TaskMessage | None = None

    @property
    def sequence_number(self) -> int:
        """Its number in the sub-queue, for life."""
        return self.message.sequence_number

    @property
    def text(self) -> str:
        """The body, as far as it is text."""
        return self.message.body.decode("utf-8", "replace")

    @property
    def task_id(self) -> str | None:
        """The task that it asks for, where it is a task's."""
        return None if self.task is None else self.task.task_id


@dataclass(frozen=True)
class Listing:
    """The letters at one end of a sub-queue, and how many there are in all."""

    queue: str
    total: int
    dead_letters: tuple[DeadLetter, ...]


@dataclass(frozen=True)
class DeadLetterDetails:
    """A letter with its task's row and job; ``note`` says why they are not there."""

    dead_letter: DeadLetter
    row: TaskRow | None = None
    job: JobRow | None = None
    note: str | None = None


@dataclass(frozen=True)
class DeadLetterResult:
    """What became of a chosen letter.

    ``redriven``: its task begins anew; ``resent``: a copy is in its queue again; ``purged``; ``removed``, as
    there was nothing to redrive. ``refused``: it stays, as trying would be of no use; ``left``: what was
    asked for is done, yet the letter could not be removed; ``absent``: no such letter could be had.
    """

    sequence_number: int
    outcome: Outcome
    detail: str
    task_id: str | None = None


_MAX_SEQUENCE_NUMBER = 2**63 - 1


def parse_sequence_number(text: str) -> int:
    """Read a sequence number; `InvalidParameter` when it is none."""
    if text.isascii() and text.isdecimal() and len(text) < 20 and 1 <= int(text) <= _MAX_SEQUENCE_NUMBER:
        return int(text)
    raise InvalidParameter(f"{text!r} is not a sequence number: list the letters to see theirs")


class Selection(BaseModel):
    """Which letters are meant: all, or those to which everything applies that is given."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    sequences: frozenset[Annotated[StrictInt, Field(ge=1, le=_MAX_SEQUENCE_NUMBER)]] = frozenset()
    task_id: str | None = Field(default=None, alias="taskId", min_length=1)
    reason: str | None = Field(default=None, min_length=1)
    everything: StrictBool = Field(default=False, alias="all")

    @classmethod
    def of(cls, given: object) -> Self:
        """The choice that a JSON object states.

        Raises
        ------
        InvalidParameter
            It chooses nothing, or all and some at once, or a value is wrong.
        """
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            raise InvalidParameter(f"which letters: {describe_problems(error)}") from error

    @model_validator(mode="after")
    def _chosen(self) -> Self:
        some = bool(self.sequences or self.task_id or self.reason)
        if some == self.everything:
            raise ValueError("choose by sequence numbers, task, reason, or else all")
        return self

    def takes(self, dead_letter: DeadLetter) -> bool:
        """Whether the letter is meant. Reasons are compared whole, without regard to case."""
        reason = dead_letter.message.dead_letter_reason or ""
        return (
            (not self.sequences or dead_letter.sequence_number in self.sequences)
            and (self.task_id is None or self.task_id == dead_letter.task_id)
            and (self.reason is None or self.reason.casefold() == reason.casefold())
        )


def dead_letter_of(message: PeekedMessage) -> DeadLetter:
    """The letter that a message of a dead-letter sub-queue is."""
    try:
        return DeadLetter(message, parse_task(message.body))
    except InvalidMessage:
        return DeadLetter(message)


def describe(dead_letter: DeadLetter) -> dict[str, Any]:
    """A letter as JSON has it."""
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
    """A listing as JSON has it."""
    return {
        "queue": listing.queue,
        "total": listing.total,
        "letters": [describe(dead_letter) for dead_letter in listing.dead_letters],
    }


def describe_whole(whole: DeadLetterDetails) -> dict[str, Any]:
    """A letter with every property, its task's row and its job, as JSON has them."""
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
    """What became of a queue's chosen letters, as JSON has it."""
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
    """A body for a person: JSON indented, anything else as it is."""
    try:
        return json.dumps(json.loads(body), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return body
