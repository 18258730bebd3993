"""Which queue a task goes to: by its type, then its size, then its expected duration.

The rules are protocol.md §6: ``docker-tasks`` when the type is one of DOCKER_TASK_TYPES, else when
``file_size_mb`` is over SIZE_THRESHOLD_MB, else when ``estimated_duration_minutes`` is over
DURATION_THRESHOLD_MINUTES; otherwise the queue of the type's list. A type on no list is an error.

>>> str(route("create_cog", {"file_size_mb": 4000}, rules=RoutingRules()))
'docker-tasks: file_size_mb 4000 is over SIZE_THRESHOLD_MB 1000'
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from gdaltools.display.shown import Shown
from gdaltools.errors import InvalidParameter, UnknownTaskType

EXTRACTION_TASKS = frozenset({"extract_tiles", "handler_tile_extraction", "raster_extract_tiles"})
RASTER_TASKS = EXTRACTION_TASKS | {
    "generate_tiling_scheme",
    "raster_generate_tiling_scheme",
    "create_cog",
    "handler_large_cog_creation",
    "raster_create_cog",
    "create_mosaicjson",
    "raster_create_mosaicjson",
    "create_stac_collection",
    "raster_create_stac_collection",
    "validate_raster",
    "extract_stac_metadata",
    "list_raster_files",
}
_VECTOR_PREFIXES = ("vector_", "h3_")
_VECTOR_TASKS = frozenset({"list_container_contents", "container_inventory", "inventory_container_contents"})


@dataclass(frozen=True)
class RoutingRules:
    """Queue names, thresholds and the types that always run in the container."""

    docker_task_types: frozenset[str] = EXTRACTION_TASKS
    size_threshold_mb: float = 1000
    duration_threshold_minutes: float = 20
    docker_tasks_queue: str = "docker-tasks"
    raster_tasks_queue: str = "raster-tasks"
    vector_tasks_queue: str = "vector-tasks"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> RoutingRules:
        """The rules that the variables of the same names (in upper case) state; defaults for the rest.

        Raises
        ------
        InvalidParameter
            A threshold is not a number.
        """
        given: dict[str, Any] = {}
        for name in (f.name for f in fields(cls)):
            text = environment.get(name.upper())
            if not text:
                continue
            if name == "docker_task_types":
                given[name] = frozenset(normal_task_type(part) for part in text.split(",") if part.strip())
            elif name.endswith("_queue"):
                given[name] = text
            else:
                given[name] = _number(name.upper(), text)
        return cls(**given)


@dataclass(frozen=True, repr=False)
class Route(Shown):
    """A queue, and why a task goes there."""

    queue: str
    reason: str = field(compare=False)

    def __str__(self) -> str:
        return f"{self.queue}: {self.reason}"

    def _rows(self) -> dict[str, str]:
        return {"queue": self.queue, "reason": self.reason}


def route(task_type: str, parameters: Mapping[str, Any], *, rules: RoutingRules | None = None) -> Route:
    """The queue of a task, with the reason.

    Parameters
    ----------
    task_type : str
        One of the raster or vector task types; case and hyphens do not matter.
    parameters : mapping
        The task's parameters, of which ``file_size_mb`` and ``estimated_duration_minutes`` are read.
    rules : RoutingRules, optional
        Default: those of the environment.

    Raises
    ------
    UnknownTaskType
        The type is on no list.
    InvalidParameter
        A size or duration is not a number.
    """
    rules = rules if rules is not None else RoutingRules.from_environment()
    name = normal_task_type(task_type)
    listed = _listed_queue(name, rules)
    if name in rules.docker_task_types:
        return Route(rules.docker_tasks_queue, f"{name} is in DOCKER_TASK_TYPES")
    if listed is None:
        raise UnknownTaskType(
            f"task type {task_type!r} is on no routing list: name a raster or vector task type, "
            "or add it to DOCKER_TASK_TYPES"
        )
    for key, limit, variable in (
        ("file_size_mb", rules.size_threshold_mb, "SIZE_THRESHOLD_MB"),
        ("estimated_duration_minutes", rules.duration_threshold_minutes, "DURATION_THRESHOLD_MINUTES"),
    ):
        given = parameters.get(key)
        if given is not None and (value := _number(key, given)) > limit:
            return Route(rules.docker_tasks_queue, f"{key} {value:g} is over {variable} {limit:g}")
    return listed


def normal_task_type(task_type: str) -> str:
    """A task type in its normal spelling: lower case, underscores.

    >>> normal_task_type("Extract-Tiles")
    'extract_tiles'
    """
    return task_type.strip().lower().replace("-", "_")


def _listed_queue(name: str, rules: RoutingRules) -> Route | None:
    if name in RASTER_TASKS:
        return Route(rules.raster_tasks_queue, f"{name} is a raster task within the thresholds")
    if name in _VECTOR_TASKS or name.startswith(_VECTOR_PREFIXES):
        return Route(rules.vector_tasks_queue, f"{name} is a vector task within the thresholds")
    return None


def _number(name: str, value: object) -> float:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise InvalidParameter(f"{name} is {value!r}: give a number") from error
    if math.isnan(number):
        raise InvalidParameter(f"{name} is NaN: give a number")
    return number
