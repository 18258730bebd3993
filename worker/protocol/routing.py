"""Route tasks to queues by type, then size, then estimated duration.

The rules are those of protocol.md §6. A task goes to ``docker-tasks`` if its type is one of
DOCKER_TASK_TYPES, if ``file_size_mb`` is over SIZE_THRESHOLD_MB, or if ``estimated_duration_minutes`` is over
DURATION_THRESHOLD_MINUTES; otherwise to the queue of its type's list. A type on no list is an error.

>>> str(route("create_cog", {"file_size_mb": 4000}, rules=RoutingRules()))
'docker-tasks: file_size_mb 4000 is over SIZE_THRESHOLD_MB 1000'

A megabyte of a well compressed raster takes longer than one of an uncompressed raster; an estimate accounts
for that.

>>> print(route("create_cog", {"file_size_mb": 300, "estimated_duration_minutes": 45}, explain=True))
docker-tasks: estimated_duration_minutes 45 is over DURATION_THRESHOLD_MINUTES 20
  type      create_cog is not in DOCKER_TASK_TYPES
  size      file_size_mb 300 is within SIZE_THRESHOLD_MB 1000
  duration  estimated_duration_minutes 45 is over DURATION_THRESHOLD_MINUTES 20: fired
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gdaltools.display.shown import Shown
from gdaltools.errors import InvalidParameter
from worker.errors import UnknownTaskType

if TYPE_CHECKING:
    from gdaltools.cost.estimation import Estimate

EXTRACTION_TASKS = frozenset({"extract_tiles", "handler_tile_extraction", "raster_extract_tiles"})
COG_TASKS = frozenset({"create_cog", "handler_large_cog_creation", "raster_create_cog"})
TILING_TASKS = frozenset({"generate_tiling_scheme", "raster_generate_tiling_scheme"})
MOSAIC_TASKS = frozenset({"create_mosaicjson", "raster_create_mosaicjson"})
STAC_TASKS = frozenset({"create_stac_collection", "raster_create_stac_collection"})
RASTER_TASKS = (
    EXTRACTION_TASKS
    | COG_TASKS
    | TILING_TASKS
    | MOSAIC_TASKS
    | STAC_TASKS
    | {"validate_raster", "extract_stac_metadata", "list_raster_files"}
)
_VECTOR_PREFIXES = ("vector_", "h3_")
_VECTOR_TASKS = frozenset({"list_container_contents", "container_inventory", "inventory_container_contents"})


@dataclass(frozen=True)
class RoutingRules:
    """Queue names, thresholds and the types that always run in the container.

    Attributes
    ----------
    function_app_cores : int or None
        The number of cores of the function app, for which durations are estimated; None means this machine's.
    """

    docker_task_types: frozenset[str] = EXTRACTION_TASKS
    size_threshold_mb: float = 1000
    duration_threshold_minutes: float = 20
    docker_tasks_queue: str = "docker-tasks"
    raster_tasks_queue: str = "raster-tasks"
    vector_tasks_queue: str = "vector-tasks"
    function_app_cores: int | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> RoutingRules:
        """Return the rules from the environment variables with the fields' names in upper case.

        Thresholds that are not set come from the calibration that GDALTOOLS_CALIBRATION names, if it has any;
        everything else is the default.

        Raises
        ------
        InvalidParameter
            A threshold is not a number, or the calibration cannot be used.

        Examples
        --------
        >>> RoutingRules.from_environment({"SIZE_THRESHOLD_MB": "500"}).size_threshold_mb
        500.0
        """
        from gdaltools.cost.calibration import VARIABLE

        named = environment.get(VARIABLE)
        stated = cls._thresholds_of(Path(named)) if named else {}
        for name in (f.name for f in fields(cls)):
            text = environment.get(name.upper())
            if not text:
                continue
            if name == "docker_task_types":
                stated[name] = frozenset(normal_task_type(part) for part in text.split(",") if part.strip())
            elif name.endswith("_queue"):
                stated[name] = text
            elif name == "function_app_cores":
                stated[name] = _cores(text)
            else:
                stated[name] = _number(name.upper(), text)
        return cls(**stated)

    @classmethod
    def from_calibration(cls, path: Path) -> RoutingRules:
        """Return rules with the thresholds of a calibration file.

        Raises
        ------
        InvalidParameter
            The file cannot be used or has no thresholds.

        Examples
        --------
        >>> from gdaltools.cost.calibration import Thresholds, load
        >>> found = Thresholds(
        ...     size_threshold_mb=300, duration_threshold_minutes=8, function_app_cores=2, target="ours"
        ... )
        >>> kept = Path("calibration.json")
        >>> _ = kept.write_text(load().model_copy(update={"thresholds": found}).model_dump_json())
        >>> RoutingRules.from_calibration(kept).size_threshold_mb
        300.0
        """
        found = cls._thresholds_of(path)
        if not found:
            raise InvalidParameter(
                f"calibration {path} holds no thresholds: make it anew with python -m benchmarks.run"
            )
        return cls(**found)

    @staticmethod
    def _thresholds_of(path: Path) -> dict[str, Any]:
        from gdaltools.cost.calibration import load

        thresholds = load(path).thresholds
        return {} if thresholds is None else thresholds.model_dump(exclude={"target"})


@dataclass(frozen=True)
class RuleCheck:
    """The result of one of the three rules for a task.

    Attributes
    ----------
    rule : str
        "type", "size" or "duration".
    finding : str
        The comparison, with its numbers.
    fired : bool
        Whether the rule sends the task to the container.
    """

    rule: str
    finding: str
    fired: bool

    def __str__(self) -> str:
        return f"{self.rule:<10}{self.finding}{': fired' * self.fired}"


@dataclass(frozen=True, repr=False)
class Route(Shown):
    """The queue of a task and the reason; `steps` are the rules up to the one that fired, if requested."""

    queue: str
    reason: str = field(compare=False)
    steps: tuple[RuleCheck, ...] = field(default=(), compare=False)

    def __str__(self) -> str:
        return "\n  ".join([f"{self.queue}: {self.reason}", *map(str, self.steps)])

    def _rows(self) -> dict[str, str]:
        steps = {f"rule {step.rule}": step.finding + (": fired" if step.fired else "") for step in self.steps}
        return {"queue": self.queue, "reason": self.reason, **steps}


def route(
    task_type: str,
    parameters: Mapping[str, Any],
    *,
    rules: RoutingRules | None = None,
    estimate: Estimate | None = None,
    explain: bool = False,
) -> Route:
    """Return the queue of a task, with the reason.

    Parameters
    ----------
    task_type : str
        One of the raster or vector task types; case is ignored, and hyphens count as underscores.
    parameters : mapping
        The task's parameters; only ``file_size_mb`` and ``estimated_duration_minutes`` are read.
    rules : RoutingRules, optional
        The rules; by default those of the environment.
    estimate : Estimate, optional
        The result of `gdaltools.estimate` for the task; its duration is used if `parameters` have none.
    explain : bool
        Whether the result includes every rule that was checked, with its numbers.

    Raises
    ------
    UnknownTaskType
        The type is on no list.
    InvalidParameter
        A size or duration is not a number.

    Examples
    --------
    >>> rules = RoutingRules(size_threshold_mb=500)
    >>> route("create_cog", {"file_size_mb": 120}, rules=rules).queue
    'raster-tasks'
    >>> print(route("create_cog", {"file_size_mb": 800}, rules=rules))
    docker-tasks: file_size_mb 800 is over SIZE_THRESHOLD_MB 500
    """
    rules = rules if rules is not None else RoutingRules.from_environment()
    name = normal_task_type(task_type)
    listed = _listed_queue(name, rules)
    if listed is None and name not in rules.docker_task_types:
        raise UnknownTaskType(
            f"task type {task_type!r} is on no routing list: name a raster or vector task type, "
            "or add it to DOCKER_TASK_TYPES"
        )
    steps: list[RuleCheck] = []
    for step in _steps(name, parameters, rules, estimate):
        steps.append(step)
        if step.fired:
            break
    fired = steps[-1].fired
    queue, reason = (rules.docker_tasks_queue, steps[-1].finding) if fired or listed is None else listed
    return Route(queue, reason, tuple(steps) if explain else ())


def _steps(
    name: str, parameters: Mapping[str, Any], rules: RoutingRules, estimate: Estimate | None
) -> Iterator[RuleCheck]:
    """Yield the results of the three rules, in order."""
    is_docker = name in rules.docker_task_types
    yield RuleCheck("type", f"{name} is {'' if is_docker else 'not '}in DOCKER_TASK_TYPES", is_docker)
    minutes = parameters.get("estimated_duration_minutes")
    if minutes is None and estimate is not None:
        minutes = round(estimate.minutes, 3)
    size = parameters.get("file_size_mb")
    yield _compared("size", "file_size_mb", size, "SIZE_THRESHOLD_MB", rules.size_threshold_mb)
    limit = rules.duration_threshold_minutes
    yield _compared("duration", "estimated_duration_minutes", minutes, "DURATION_THRESHOLD_MINUTES", limit)


def _compared(rule: str, key: str, stated: object, variable: str, limit: float) -> RuleCheck:
    if stated is None:
        return RuleCheck(rule, f"{key} is not given", False)
    value = _number(key, stated)
    over = value > limit
    return RuleCheck(rule, f"{key} {value:g} is {'over' if over else 'within'} {variable} {limit:g}", over)


def normal_task_type(task_type: str) -> str:
    """Return a task type in its normal spelling: lower case, with underscores.

    >>> normal_task_type("Extract-Tiles")
    'extract_tiles'
    """
    return task_type.strip().lower().replace("-", "_")


def _listed_queue(name: str, rules: RoutingRules) -> tuple[str, str] | None:
    if name in RASTER_TASKS:
        return rules.raster_tasks_queue, f"{name} is a raster task within the thresholds"
    if name in _VECTOR_TASKS or name.startswith(_VECTOR_PREFIXES):
        return rules.vector_tasks_queue, f"{name} is a vector task within the thresholds"
    return None


def _cores(text: str) -> int:
    number = _number("FUNCTION_APP_CORES", text)
    if number < 1 or number != int(number):
        raise InvalidParameter(f"FUNCTION_APP_CORES is {text!r}: give a whole number of at least 1")
    return int(number)


def _number(name: str, value: object) -> float:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise InvalidParameter(f"{name} is {value!r}: give a number") from error
    if math.isnan(number):
        raise InvalidParameter(f"{name} is NaN: give a number")
    return number
