"""Models of the messages on the queues, exactly as protocol.md §3 defines them.

Parsing is lenient where the protocol is: unknown fields, spellings of a task type, the alias ``job_id``. Any
other deviation raises `InvalidMessage`, whose text is suitable as a dead-letter description. Timestamps are
naive UTC, as the platform writes them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
)

from gdaltools.errors import GdalToolsError
from worker.protocol.json_text import dumps
from worker.protocol.routing import normal_task_type

MAX_MESSAGE_BYTES = 256 * 1024
"""The size limit of Service Bus's standard tier, including properties."""

MAX_PARAMETERS_BYTES = 200 * 1024
"""Longer parameters stay in the task's row, and the message says so (protocol.md §3)."""


class InvalidMessage(GdalToolsError, ValueError):
    """A message is not JSON, or not of the kind that its queue is for."""

    retryable = False


def _task_type(value: object) -> object:
    return normal_task_type(value) if isinstance(value, str) else value


def utc_now() -> datetime:
    """Return the current time as the platform writes it: UTC, as a naive datetime."""
    return datetime.now(UTC).replace(tzinfo=None)


def _naive_utc(value: datetime) -> datetime:
    return value if value.tzinfo is None else value.astimezone(UTC).replace(tzinfo=None)


def _aware_utc(value: datetime) -> datetime:
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _lower(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


NaiveUtc = Annotated[datetime, AfterValidator(_naive_utc)]
AwareUtc = Annotated[datetime, AfterValidator(_aware_utc)]
JobId = Annotated[str, BeforeValidator(_lower), Field(pattern="^[0-9a-f]{64}$")]
JobType = Annotated[str, Field(min_length=1, max_length=100)]
CorrelationId = Annotated[str, Field(max_length=16)]
StageResults = Annotated[dict[str, Any], BeforeValidator(lambda value: {} if value is None else value)]
RetryCount = Annotated[int, BeforeValidator(lambda value: 0 if value is None else value), Field(ge=0)]


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    def body(self) -> str:
        """Return the JSON text of the message."""
        return dumps(self.model_dump(mode="json"))


class TaskMessage(_Message):
    """One task to run (queues ``raster-tasks``, ``vector-tasks``, ``docker-tasks``)."""

    task_id: Annotated[str, Field(min_length=1, max_length=100)]
    parent_job_id: Annotated[
        str, Field(min_length=1, max_length=64, validation_alias=AliasChoices("parent_job_id", "job_id"))
    ]
    job_type: JobType
    task_type: Annotated[str, BeforeValidator(_task_type), Field(min_length=1, max_length=100)]
    stage: Annotated[int, Field(ge=1)]
    parameters: dict[str, Any]
    task_index: Annotated[str, BeforeValidator(_text), Field(max_length=50)] = "0"
    parent_task_id: str | None = None
    retry_count: RetryCount = 0
    timestamp: NaiveUtc | None = None
    parameters_in_row: bool = False

    def body(self) -> str:
        """Return the JSON text of the message, without parameters that would not fit.

        The body is below `MAX_MESSAGE_BYTES`: parameters longer than `MAX_PARAMETERS_BYTES` are omitted, and
        ``"parameters_in_row": true`` makes the worker read them from the task's row (protocol.md §3).
        """
        content = self.model_dump(mode="json")
        if self.parameters_in_row or len(dumps(self.parameters)) > MAX_PARAMETERS_BYTES:
            content |= {"parameters": {}, "parameters_in_row": True}
        else:
            del content["parameters_in_row"]
        return dumps(content)


class JobMessage(_Message):
    """A request to begin a stage of a job (queue ``geospatial-jobs``)."""

    job_id: JobId
    job_type: JobType
    parameters: dict[str, Any]
    stage: Annotated[int, Field(ge=1, le=100)] = 1
    stage_results: StageResults = Field(default_factory=dict)
    retry_count: RetryCount = 0
    timestamp: NaiveUtc | None = None
    correlation_id: CorrelationId | None = None


class StageComplete(_Message):
    """The signal that the last task of a stage has finished (queue ``geospatial-jobs``)."""

    message_type: Literal["stage_complete"] = "stage_complete"
    job_id: Annotated[str, Field(min_length=1, max_length=64)]
    job_type: JobType
    completed_stage: Annotated[int, Field(ge=1)]
    completed_at: AwareUtc
    completed_by_app: Annotated[str, Field(min_length=1)]
    correlation_id: CorrelationId | None = None

    @classmethod
    def of(
        cls,
        job_id: str,
        stage: int,
        *,
        job_type: str,
        completed_by: str,
        completed_at: datetime | None = None,
    ) -> StageComplete:
        """Return the signal that stage `stage` of a job is complete, as this worker sends it."""
        return cls(
            job_id=job_id,
            job_type=job_type,
            completed_stage=stage,
            completed_at=completed_at or datetime.now(UTC),
            completed_by_app=completed_by,
            correlation_id=f"docker-{job_id[:8]}",
        )

    @property
    def message_id(self) -> str:
        """The broker's message id; the same each time the signal is sent (protocol.md §3)."""
        return f"{self.job_id}:{self.completed_stage}:stage_complete"

    def body(self) -> str:
        """Return the JSON text of the signal; ``completed_at`` has a numeric offset, as in the platform."""
        return dumps(self.model_dump(mode="json") | {"completed_at": self.completed_at.isoformat()})


def parse_task(body: bytes | str) -> TaskMessage:
    """Parse a message of a task queue.

    Raises
    ------
    InvalidMessage
        The body is not a JSON object, or not a task; the error text names each wrong field.

    Examples
    --------
    >>> parse_task(b"hello")
    Traceback (most recent call last):
    ...
    worker.protocol.messages.InvalidMessage: not JSON: Expecting value: line 1 column 1 (char 0)
    """
    return _validated(TaskMessage, _json_object(body), "a task")


def parse_jobs_queue(body: bytes | str) -> JobMessage | StageComplete:
    """Parse a message of the jobs queue: a stage_complete if its ``message_type`` says so, else a job.

    Raises
    ------
    InvalidMessage
        The body is not a JSON object, its ``message_type`` is unknown, or a field is wrong.
    """
    content = _json_object(body)
    kind = content.get("message_type")
    if kind == "stage_complete":
        return _validated(StageComplete, content, "a stage_complete")
    if kind not in (None, "job"):
        raise InvalidMessage(f"message_type {kind!r} is unknown: only stage_complete and jobs are read here")
    return _validated(JobMessage, content, "a job")


def _json_object(body: bytes | str) -> Mapping[str, object]:
    try:
        text = body.decode("utf-8-sig") if isinstance(body, bytes) else body.removeprefix("\ufeff")
        content = json.loads(text, parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise InvalidMessage(f"not UTF-8: {error.reason} at byte {error.start}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidMessage(f"not JSON: {error}") from error
    if not isinstance(content, dict):
        raise InvalidMessage(f"not a JSON object but a JSON {type(content).__name__}")
    return content


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not a JSON value")


_M = TypeVar("_M", bound=_Message)


def _validated(model: type[_M], content: Mapping[str, object], kind: str) -> _M:
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise InvalidMessage(f"not {kind} message: {describe_problems(error)}") from error


def describe_problems(error: ValidationError) -> str:
    """Return a validation error as one line: each field, its problem and its value, shortened."""
    problems = []
    for problem in error.errors(include_url=False):
        field = ".".join(str(part) for part in problem["loc"])
        received = "" if problem["type"] == "missing" else f" (got {_short(problem['input'])})"
        said = problem["msg"].removeprefix("Value error, ")
        problems.append(f"{field}: {said}{received}" if field else said)
    return "; ".join(problems)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
