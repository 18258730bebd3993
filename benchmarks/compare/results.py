"""The results of a comparison, in the form of their JSON: every single run, and the derived figures."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, computed_field

from benchmarks.machine import Machine

SCHEMA = "gdaltools-compare-1"

Output = Literal["cog", "tiles"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Run(_Frozen):
    """One child process.

    Attributes
    ----------
    seconds, cpu_seconds : float
        Of the call alone, without imports; CPU is user and system time of the process and its children.
    flush_seconds : float
        Time after the call until the file is on the disk; near 0 for a method that waits for the disk.
    peak_bytes : int
        The larger of the process's own high-water mark and the samples of its whole tree.
    process_seconds, process_cpu_seconds : float
        With interpreter and imports.
    others_cores : float
        Cores that other processes kept busy meanwhile; wall time means little if it is not near 0.
    """

    round: int
    seconds: float
    cpu_seconds: float
    flush_seconds: float
    peak_bytes: int
    size_bytes: int
    process_seconds: float
    process_cpu_seconds: float
    others_cores: float


class Check(_Frozen):
    """The outcome of reading an output back."""

    valid: bool
    pixels_identical: bool
    problems: tuple[str, ...]


class Spread(_Frozen):
    """A median and the range of the runs."""

    median: float
    low: float
    high: float


class MethodResult(_Frozen):
    """All runs of one method on one source.

    Attributes
    ----------
    skipped : str or None
        Why it was not run at all.
    failed : str or None
        The error of a run or of the check; the method was not run again.
    """

    name: str
    label: str
    role: Literal["engine", "peer"]
    codec: str
    level: int | None
    size_tolerance: float | None
    runs: tuple[Run, ...] = ()
    check: Check | None = None
    skipped: str | None = None
    failed: str | None = None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def seconds(self) -> Spread | None:
        """Wall seconds of the call."""
        return spread([run.seconds for run in self.runs])

    @computed_field  # type: ignore[prop-decorator]
    @property
    def cpu_seconds(self) -> Spread | None:
        """CPU seconds of the call."""
        return spread([run.cpu_seconds for run in self.runs])

    @computed_field  # type: ignore[prop-decorator]
    @property
    def durable_seconds(self) -> Spread | None:
        """Wall seconds until the file was on the disk."""
        return spread([run.seconds + run.flush_seconds for run in self.runs])

    @computed_field  # type: ignore[prop-decorator]
    @property
    def peak_mb(self) -> Spread | None:
        """Peak memory, in units of 10⁶ bytes."""
        return spread([run.peak_bytes / 1e6 for run in self.runs])

    @computed_field  # type: ignore[prop-decorator]
    @property
    def size_mb(self) -> Spread | None:
        """Output size, in units of 10⁶ bytes."""
        return spread([run.size_bytes / 1e6 for run in self.runs])


class CodecLimit(_Frozen):
    """The speed of the codec alone on this machine, and the resulting limit for the source and its overviews.

    Attributes
    ----------
    seconds : float
        At one thread's rate times the cores: no writer with this codec and level can take less.
    all_threads_seconds : float
        At the rate that all threads reach together, which is lower where cores share computing units.
    thread_gain : float
        The rate of all threads as a multiple of one thread's: no writer can scale better.
    """

    codec: str
    level: int | None
    threads: int
    blocks: int
    mb_per_second: float
    all_threads_mb_per_second: float
    thread_gain: float
    size_ratio: float
    seconds: float
    all_threads_seconds: float


class Scaling(_Frozen):
    """An engine variant on one thread and on all of them."""

    method: str
    threads: int
    one_thread: tuple[Run, ...]
    all_threads: tuple[Run, ...]
    failed: str | None = None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def gain(self) -> float | None:
        """How many times as fast all threads are."""
        return _quotient(
            *(spread([run.seconds for run in runs]) for runs in (self.one_thread, self.all_threads))
        )


class CaseResult(_Frozen):
    """All results on one source: of its COG, or its tiles."""

    name: str
    output: Output = "cog"
    description: str
    file: str
    width: int
    height: int
    bands: int
    dtype: str
    nodata: float | None
    layout: str
    compression: str
    size_bytes: int
    predictor: int
    methods: tuple[MethodResult, ...]
    limit: CodecLimit | None = None
    limit_missing: str | None = None
    scaling: Scaling | None = None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def others_cores(self) -> float | None:
        """The median over all runs of the cores that other processes kept busy."""
        found = spread([run.others_cores for method in self.methods for run in method.runs])
        return found.median if found else None

    def method(self, name: str) -> MethodResult | None:
        """Return the method of this name, or None if it was not compared."""
        return next((each for each in self.methods if each.name == name), None)

    def ratio(self, slow: str, fast: str) -> float | None:
        """Return the median wall seconds of `slow` as a multiple of those of `fast`."""
        both = [self.method(name) for name in (slow, fast)]
        return _quotient(*(each.seconds if each else None for each in both))

    def cpu_ratio(self, slow: str, fast: str) -> float | None:
        """Return the median CPU seconds of `slow` as a multiple of those of `fast`."""
        both = [self.method(name) for name in (slow, fast)]
        return _quotient(*(each.cpu_seconds if each else None for each in both))

    def size_against(self, name: str, reference: str) -> float | None:
        """Return by which share a method's output is larger than that of `reference`."""
        both = [self.method(each) for each in (name, reference)]
        quotient = _quotient(*(each.size_mb if each else None for each in both))
        return None if quotient is None else quotient - 1


class Report(_Frozen):
    """A whole comparison."""

    schema_name: str = SCHEMA
    created: str
    options: dict[str, Any]
    machine: Machine
    cases: tuple[CaseResult, ...]


def spread(values: Sequence[float]) -> Spread | None:
    """Return median, lowest and highest value; None for no values.

    >>> spread([3.0, 1.0, 2.0])
    Spread(median=2.0, low=1.0, high=3.0)
    """
    if not values:
        return None
    return Spread(median=statistics.median(values), low=min(values), high=max(values))


def _quotient(above: Spread | None, below: Spread | None) -> float | None:
    return above.median / below.median if above and below else None
