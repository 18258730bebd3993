"""The answer: the two thresholds of a function app, with the reasons in words.

A raster counts as finished when the model's 95th percentile is within the time limit and the plan's memory
bound is within the available memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from benchmarks.calibrate.kinds import KINDS, Kind
from gdaltools.cost.calibration import Calibration, Thresholds, model_for
from gdaltools.cost.estimation import estimate_workload
from gdaltools.cost.workload import Operation, Workload

# The search ends here: no raster is this large.
_LARGEST_MB = 1e8
_HALVINGS_TO = 1.005
#: file_size_mb counts units of 2**20 bytes.
MIB = 1.048576


@dataclass(frozen=True)
class Target:
    """A machine, and the time limit for its tasks, whose rasters are in Azure.

    Attributes
    ----------
    reserve_mb : float
        Memory used by the host and its other work.
    disk_mb : float
        Size of the temporary disk.
    """

    name: str
    minutes: float
    cores: int
    memory_mb: float
    disk_mb: float
    reserve_mb: float = 500.0

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.minutes:g} minutes, {self.cores} vCPU, {self.memory_mb / 1000:g} GB, "
            f"{self.disk_mb:,.0f} MB of disk"
        )


@dataclass(frozen=True)
class Task:
    """One operation on a raster: its variant, and whether it warps."""

    operation: Operation
    variant: str
    warps: bool = False

    def __str__(self) -> str:
        if self.operation == "extract_tiles":
            return "warped tiles" if self.variant == "warp" else "tiles"
        return "warped COG" if self.warps else f"{self.variant} COG"

    def on(self, target: Target, kind: Kind, megabytes: float) -> Workload:
        """Return the workload on a raster with this many megabytes of pixels."""
        layout = kind.layout(megabytes, remote=True)
        return Workload(self.operation, self.variant, layout, target.cores, warps=self.warps)


FUNCTION_TASKS = (
    Task("create_cog", "fast"),
    Task("create_cog", "analysis"),
    Task("create_cog", "archive"),
    Task("create_cog", "analysis", warps=True),
)
WORKER_TASKS = (*FUNCTION_TASKS, Task("extract_tiles", "window"), Task("extract_tiles", "warp"))


@dataclass(frozen=True)
class Largest:
    """The largest raster of a kind that a target finishes.

    Attributes
    ----------
    megabytes, stored_mb : float
        Size of its pixels, and of its file.
    bound_by : str
        "time" or "memory", whichever limit is reached first; "nothing" if no raster is too large.
    """

    kind: Kind
    task: Task
    megabytes: float
    bound_by: str

    @property
    def stored_mb(self) -> float:
        """Size of its file, in megabytes of 10⁶ bytes."""
        return self.megabytes * self.kind.share


@dataclass(frozen=True)
class Change:
    """The effect of a different target on the size threshold."""

    what: str
    size_threshold_mb: float


@dataclass(frozen=True)
class Answer:
    """The thresholds and the evidence for them.

    Attributes
    ----------
    backstop_mb : float
        A size threshold that is sufficient when every task also states its duration: no larger raster of any
        kind finishes in time.
    """

    target: Target
    backstop_mb: float
    largest: tuple[Largest, ...]
    thresholds: Thresholds
    reasons: tuple[str, ...]
    changes: tuple[Change, ...]

    def environment_file(self) -> str:
        """Return the settings as a shell file to source."""
        found = self.thresholds
        return "\n".join(
            [
                f"# Routing thresholds for {found.target}.",
                *(f"# {reason}" for reason in self.reasons),
                f"SIZE_THRESHOLD_MB={found.size_threshold_mb:g}",
                f"# Where every task states its duration as well: SIZE_THRESHOLD_MB={self.backstop_mb:g}",
                f"DURATION_THRESHOLD_MINUTES={found.duration_threshold_minutes:g}",
                f"FUNCTION_APP_CORES={found.function_app_cores}",
                "",
            ]
        )


def largest_of(target: Target, tasks: Sequence[Task], calibration: Calibration) -> tuple[Largest, ...]:
    """Return, for every task and kind, the largest raster that the target finishes with 95% confidence."""
    return tuple(
        _largest(target, task, kind, calibration)
        for task in tasks
        for kind in KINDS
        if task.variant != "visualization" or (kind.bands, kind.itemsize) == (3, 1)
    )


def answer(target: Target, calibration: Calibration) -> Answer:
    """Return the thresholds of a function app."""
    largest = largest_of(target, FUNCTION_TASKS, calibration)
    size, tightest = _size_threshold(largest)
    model, _ = model_for("create_cog", calibration)
    late = max(model.spread.high, 1.0)
    duration = max(_floor(target.minutes / late, 0.1), 0.1)
    backstop = max(_floor(max(each.stored_mb for each in largest) / MIB, 10), size)
    changes = tuple(_changes(target, calibration))
    reasons = (
        *_reasons(target, largest, tightest, size, backstop),
        *_reasons_of_time(target, tightest, duration, late, changes, calibration),
    )
    thresholds = Thresholds(
        size_threshold_mb=size,
        duration_threshold_minutes=duration,
        function_app_cores=target.cores,
        target=str(target),
    )
    return Answer(target, backstop, largest, thresholds, reasons, changes)


def fits(target: Target, workload: Workload, calibration: Calibration) -> tuple[bool, str]:
    """Return whether `target` finishes `workload` with 95% confidence, and the limit that decides."""
    found = estimate_workload(workload, calibration=calibration)
    if found.peak_memory_mb > target.memory_mb - target.reserve_mb:
        return False, "memory"
    # The disk never decides: a copy of a blob takes half of the free disk at most, or it is read in place.
    return found.seconds_high <= 60 * target.minutes, "time"


def _largest(target: Target, task: Task, kind: Kind, calibration: Calibration) -> Largest:
    def finishes(megabytes: float) -> tuple[bool, str]:
        return fits(target, task.on(target, kind, megabytes), calibration)

    low, high, bound_by = 0.0, 1.0, "nothing"
    while high < _LARGEST_MB and (found := finishes(high))[0]:
        low, high = high, 2 * high
    if high < _LARGEST_MB:
        bound_by = found[1]
    while low and high > low * _HALVINGS_TO and bound_by != "nothing":
        middle = (low + high) / 2
        found = finishes(middle)
        if found[0]:
            low = middle
        else:
            high, bound_by = middle, found[1]
    return Largest(kind, task, low, bound_by)


def _size_threshold(largest: Sequence[Largest]) -> tuple[float, Largest]:
    """Return the size that every usual kind finishes, in units of file_size_mb, and the tightest kind."""
    tightest = min((each for each in largest if each.kind.usual), key=lambda each: each.stored_mb)
    return max(_floor(tightest.stored_mb / MIB, 10), 1.0), tightest


def _changes(target: Target, calibration: Calibration) -> Iterator[Change]:
    """Yield the effects of other targets on the size threshold, the largest first."""
    others = {
        f"{2 * target.cores} vCPU instead of {target.cores}": replace(target, cores=2 * target.cores),
        f"{target.memory_mb / 500:g} GB of memory instead of {target.memory_mb / 1000:g}": replace(
            target, memory_mb=2 * target.memory_mb
        ),
        f"a limit of {2 * target.minutes:g} minutes instead of {target.minutes:g}": replace(
            target, minutes=2 * target.minutes
        ),
    }
    found = [
        Change(what, _size_threshold(largest_of(other, FUNCTION_TASKS, calibration))[0])
        for what, other in others.items()
    ]
    quick = tuple(task for task in FUNCTION_TASKS if task.variant != "archive")
    found.append(
        Change(
            "no tier archive in the function app", _size_threshold(largest_of(target, quick, calibration))[0]
        )
    )
    yield from sorted(found, key=lambda change: -change.size_threshold_mb)


def _reasons(
    target: Target, largest: Sequence[Largest], tightest: Largest, size: float, backstop: float
) -> Iterator[str]:
    """Yield the reasons for the size threshold."""
    yield (
        f"SIZE_THRESHOLD_MB={size:g}: the tightest usual kind is {tightest.kind.name} ({tightest.task}): "
        f"{tightest.megabytes:,.0f} MB of pixels, {tightest.stored_mb:,.0f} MB on storage, end within "
        f"{target.minutes:g} minutes in 95 of 100 runs; more is bound by {tightest.bound_by}."
    )
    yield (
        f"It is for tasks of which nothing but the size is known, and sends many to the container that need "
        f"not go there. Where every task states estimated_duration_minutes, as those of standalone jobs do, "
        f"{backstop:g} is enough: no kind that is larger ends in time, and the duration finds the others."
    )
    packed = min(largest, key=lambda each: each.stored_mb)
    if not packed.kind.usual:
        yield (
            f"Well compressed files are not held by the size: {packed.kind.name} ({packed.task}) takes too "
            f"long from {packed.stored_mb:,.0f} MB on storage on; the duration catches them."
        )


def _reasons_of_time(
    target: Target,
    tightest: Largest,
    duration: float,
    late: float,
    changes: Sequence[Change],
    calibration: Calibration,
) -> Iterator[str]:
    """Yield the reasons for the duration threshold, and how far both can be trusted."""
    yield (
        f"DURATION_THRESHOLD_MINUTES={duration:g}: of 100 runs 95 take at most {late:.2f} times their "
        f"estimate, so an estimate of {duration:g} minutes ends within {target.minutes:g}. Estimates are for "
        f"{target.cores} vCPU: keep FUNCTION_APP_CORES at {target.cores}."
    )
    model, owner = model_for("create_cog", calibration)
    if tightest.megabytes > model.largest_mb:
        yield (
            f"This is {tightest.megabytes / model.largest_mb:,.0f} times the largest size that was measured "
            f"({model.largest_mb:,.0f} MB): an extrapolation along a straight line. Measure with --full, or "
            f"refit on production (--from-database), before relying on it."
        )
    if changes:
        first = changes[0]
        yield f"What would change it most: {first.what} makes it {first.size_threshold_mb:g}."
    yield f"Model: {owner.source}."


def _floor(value: float, step: float) -> float:
    return round(int(value / step) * step, 6)
