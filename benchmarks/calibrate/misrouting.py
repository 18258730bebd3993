"""Count how often each rule sends a job to the wrong place, on simulated jobs.

A job is a kind of raster, a size and a tier. Its real time is the model's estimate times a ratio seen between
runs and predictions. The counts therefore show what a rule loses by knowing less than the model, and not how
good the model is; the held-out runs show that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.calibrate.answer import FUNCTION_TASKS, MIB, Answer, Target, Task
from benchmarks.calibrate.kinds import KINDS, Kind
from gdaltools.cost.calibration import Calibration
from gdaltools.cost.estimation import Estimate, estimate_workload
from worker.protocol.routing import RoutingRules, route

JOBS = 200
# Files of 50 MB to 50 GB, uniform in the logarithm of the size.
_SMALLEST_MB, _LARGEST_MB = 50.0, 50_000.0
_NEVER = 1e12


@dataclass(frozen=True)
class Job:
    """A simulated task of the function app.

    Attributes
    ----------
    seconds : float
        The time it really takes there.
    fits : bool
        Whether it finishes there within the time limit and the memory.
    """

    kind: Kind
    stored_mb: float
    estimate: Estimate
    seconds: float
    fits: bool


@dataclass(frozen=True)
class Misrouted:
    """How many jobs a rule sends to the wrong place.

    Attributes
    ----------
    killed : int
        Jobs sent to the function app that do not finish there.
    needless : int
        Jobs sent to the container that the function app would have finished.
    """

    rule: str
    killed: int
    needless: int

    @property
    def wrong(self) -> int:
        """All misrouted jobs."""
        return self.killed + self.needless


def simulated_jobs(
    target: Target, calibration: Calibration, ratios: Sequence[float], *, count: int = JOBS, seed: int = 0
) -> list[Job]:
    """Return `count` jobs for a function app; the same `seed` gives the same jobs."""
    rng = np.random.default_rng(seed)
    jobs = []
    for _ in range(count):
        kind = KINDS[rng.integers(len(KINDS))]
        task = FUNCTION_TASKS[rng.integers(len(FUNCTION_TASKS))]
        stored = float(np.exp(rng.uniform(np.log(_SMALLEST_MB), np.log(_LARGEST_MB))))
        found = estimate_workload(task.on(target, kind, stored / kind.share), calibration=calibration)
        seconds = found.seconds * float(rng.choice(ratios) if len(ratios) else 1.0)
        enough = found.peak_memory_mb <= target.memory_mb - target.reserve_mb
        jobs.append(Job(kind, stored, found, seconds, enough and seconds <= 60 * target.minutes))
    return jobs


def misrouted(jobs: Sequence[Job], found: Answer) -> list[Misrouted]:
    """Return what each rule does with the jobs."""
    limits = found.thresholds
    both = RoutingRules(
        docker_task_types=frozenset(),
        size_threshold_mb=limits.size_threshold_mb,
        duration_threshold_minutes=limits.duration_threshold_minutes,
    )
    backstop = replace(both, size_threshold_mb=found.backstop_mb)
    size = RoutingRules(frozenset(), limits.size_threshold_mb, _NEVER)
    before = RoutingRules(frozenset(), 1000, _NEVER)
    duration = RoutingRules(frozenset(), _NEVER, limits.duration_threshold_minutes)
    rules: dict[str, tuple[RoutingRules, Callable[[Job], Estimate | None]]] = {
        "size only, 1000 MB": (before, lambda _: None),
        f"size only, {limits.size_threshold_mb:g} MB": (size, lambda _: None),
        f"duration only, {limits.duration_threshold_minutes:g} minutes": (duration, lambda job: job.estimate),
        "both": (both, lambda job: job.estimate),
        f"both, the size a backstop of {found.backstop_mb:g} MB": (backstop, lambda job: job.estimate),
    }
    return [_counted(name, jobs, *rule) for name, rule in rules.items()]


def _counted(
    name: str, jobs: Sequence[Job], rules: RoutingRules, estimate_of: Callable[[Job], Estimate | None]
) -> Misrouted:
    killed = needless = 0
    for job in jobs:
        size = {"file_size_mb": job.stored_mb / MIB}
        queue = route("create_cog", size, rules=rules, estimate=estimate_of(job)).queue
        in_container = queue == rules.docker_tasks_queue
        killed += not in_container and not job.fits
        needless += in_container and job.fits
    return Misrouted(name, killed, needless)


def examples(target: Target, calibration: Calibration) -> list[tuple[str, float, Estimate]]:
    """Return two files that a threshold on megabytes misjudges: name, stored megabytes, estimate."""
    packed, plain = KINDS[2], KINDS[0]
    task = Task("create_cog", "analysis")
    return [
        (name, stored, estimate_workload(task.on(target, kind, stored / kind.share), calibration=calibration))
        for name, kind, stored in (
            ("300 MB that inflate to 9 GB", packed, 300.0),
            ("2 GB that are plain", plain, 2000.0),
        )
    ]
