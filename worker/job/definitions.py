"""Job definitions: the parameters of a job, and the tasks of each of its stages.

A definition is pure: its input is parameters and the results of earlier stages, its output is tasks
(protocol.md §5). machine.py creates the tasks and sends them to queues.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from gdaltools.errors import GdalToolsError, InvalidParameter
from worker.protocol.rows import Json


class UnknownJobType(InvalidParameter):
    """No job definition has this name."""


class InvalidJob(InvalidParameter):
    """The parameters of a submission are not valid for the job."""


class StageError(GdalToolsError):
    """A stage cannot be created from the results of the stages before it."""

    retryable = False


@dataclass(frozen=True)
class Context:
    """The input of a definition besides parameters and results.

    ``intermediate_container`` holds tiles that are not yet COGs (INTERMEDIATE_TILES_CONTAINER). ``cores`` are
    those of the function app, for which durations are estimated; None means this machine's.
    """

    cores: int | None = None
    intermediate_container: str = "silver-mosaicjson"
    products_container: str = "silver-cogs"


@dataclass(frozen=True)
class PlannedTask:
    """A task of a stage, before it is routed to a queue."""

    task_id: str
    task_type: str
    parameters: Json
    task_index: str = "0"


@dataclass(frozen=True)
class JobSoFar:
    """A job with the results of its completed stages, by the stage's number."""

    job_id: str
    parameters: Json
    results: Mapping[int, Sequence[Json]]


class JobDefinition(Protocol):
    """One job type."""

    job_type: str

    def validate(self, parameters: Json) -> dict[str, Any]:
        """Return the validated parameters, as the job's row stores them; raises `InvalidJob`."""
        ...

    def source(self, parameters: Json) -> tuple[str, str] | None:
        """Return the container and the blob that must exist before the job is accepted."""
        ...

    def stages(self, parameters: Json) -> tuple[int, ...]:
        """Return the numbers of the stages that have tasks, in order."""
        ...

    def reads(self, stage: int) -> tuple[int, ...]:
        """Return the earlier stages whose results `stage` needs, in addition to the previous stage."""
        ...

    def tasks(self, stage: int, job: JobSoFar, context: Context) -> list[PlannedTask]:
        """Return the tasks of a stage; raises `StageError`."""
        ...

    def result(self, job: JobSoFar, tasks_by_status: Mapping[str, int]) -> dict[str, Any]:
        """Return a finished job's result_data."""
        ...


def job_id(job_type: str, parameters: Json) -> str:
    """Return the job id of a submission; equal parameters have the same id.

    The id is the SHA-256 of the submitted parameters, without nulls and without the defaults that validation
    adds (protocol.md §5).

    Examples
    --------
    >>> job_id("process_large_raster_v2", {"container_name": "bronze-rasters", "blob_name": "scene.tif"})
    '2f7fcef9b0c5e3c41fe5fc1eb8b2dd8bdf78deacdbfd86c2ae8f33c69a6ed31a'
    """
    try:
        text = json.dumps(
            {**without_nulls(parameters), "job_type": job_type}, sort_keys=True, allow_nan=False
        )
    except (TypeError, ValueError) as error:
        raise InvalidJob(f"the parameters are not JSON: {error}") from error
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def fan_in_task_id(job: str, stage: int) -> str:
    """Return the id of a stage's single aggregating task (protocol.md §5).

    Examples
    --------
    >>> fan_in_task_id("0" * 63 + "1", 4)
    '38f6117120d02e4a'
    """
    return hashlib.sha256(f"{job}|s{stage}|fan_in_aggregate".encode()).hexdigest()[:16]


def without_nulls(parameters: Json) -> dict[str, Any]:
    """Return the parameters that have a value."""
    return {key: value for key, value in parameters.items() if value is not None}


def definition(job_type: str, registry: Mapping[str, JobDefinition]) -> JobDefinition:
    """Return a job type's definition.

    Raises
    ------
    UnknownJobType
        No definition has this name.
    """
    try:
        return registry[job_type]
    except KeyError:
        known = ", ".join(sorted(registry))
        raise UnknownJobType(f"job type {job_type!r} does not exist; there is {known}") from None
