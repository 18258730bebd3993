"""The results of a comparison, in the form of their JSON: every single run, and the derived figures."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, computed_field

from benchmarks.compare.methods import Method, Output
from benchmarks.compare.sources.rasters import Raster
from benchmarks.machine import Machine

SCHEMA = "gdaltools-compare-1"


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

    @classmethod
    def of(cls, method: Method) -> MethodResult:
        """Return the result of a method without runs; a missing package is why it is skipped."""
        missing = method.missing_package()
        return cls(
            name=method.name,
            label=method.label,
            role=method.role,
            codec=method.encoding.codec,
            level=method.encoding.level,
            size_tolerance=method.size_tolerance,
            skipped=missing and f"{missing} is not installed (extra: bench)",
        )

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
    def peak_mb(self) -> Spread | None:
        """Peak memory, in units of 10⁶ bytes."""
        return spread([run.peak_bytes / 1e6 for run in self.runs])

    @computed_field  # type: ignore[prop-decorator]
    @property
    def size_mb(self) -> Spread | None:
        """Output size, in units of 10⁶ bytes."""
        return spread([run.size_bytes / 1e6 for run in self.runs])


class CodecLimit(_Frozen):
    """The speed of the codec alone on this machine, and the resulting limit for a source and its overviews.

    Attributes
    ----------
    seconds : float
        At one thread's rate times the cores: no writer with this codec and level can take less.
    all_threads_seconds : float
        At the rate that all threads reach together, which is lower where cores share computing units.
    """

    codec: str
    level: int | None
    threads: int
    mb_per_second: float
    all_threads_mb_per_second: float
    seconds: float
    all_threads_seconds: float


class CaseResult(Raster):
    """All results on one source: of its COG, or its tiles.

    Attributes
    ----------
    limit : CodecLimit or None
        The codec's own limit; None for tiles, whose warp takes time outside the codec, and without a codec.
    """

    output: Output = "cog"
    file: str
    predictor: int
    methods: tuple[MethodResult, ...]
    limit: CodecLimit | None = None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def others_cores(self) -> float | None:
        """The median over all runs of the cores that other processes kept busy."""
        found = spread([run.others_cores for method in self.methods for run in method.runs])
        return found.median if found else None

    def ratio(
        self, figure: Literal["seconds", "cpu_seconds", "size_mb"], above: str, below: str
    ) -> float | None:
        """Return the median of a method's figure as a multiple of another's; None if either has no runs."""
        by_name = {method.name: getattr(method, figure) for method in self.methods}
        one, other = by_name.get(above), by_name.get(below)
        return one.median / other.median if one and other else None


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
