"""What is wanted of the engine beside its peers, and whether a comparison shows it.

The goals are ratios of medians on about 1 GB uncompressed and two quiet cores; on less they say little.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.compare.results import CaseResult

_REAL = ("relief", "bluemarble", "landsat")
_WITH_NODATA = ("relief-nodata",)
_PEAK_MB, _TILES_PEAK_MB = 400.0, 450.0
# What "equal" may mean: a header's worth, and overviews that one driver rounds down and another up.
_EQUAL = 0.002


@dataclass(frozen=True)
class Goal:
    """At least so many times as fast as a peer, on these cases.

    Attributes
    ----------
    size : float or None
        By which share the file may be larger than GDAL's.
    peak_mb : float
        Memory that it may take.
    """

    method: str
    cases: tuple[str, ...]
    times_faster: tuple[tuple[str, float], ...]
    size: float | None
    peak_mb: float = _PEAK_MB


GOALS = (
    Goal("same", _REAL, (("gdal", 1.8), ("rio-cogeo", 2.2)), _EQUAL),
    Goal("same", _WITH_NODATA, (("gdal", 1.6), ("rio-cogeo", 2.0)), _EQUAL),
    Goal("adaptive-1.5", _REAL + _WITH_NODATA, (("gdal", 2.2), ("rio-cogeo", 2.8)), 0.015),
    Goal("adaptive-3", _REAL + _WITH_NODATA, (("gdal", 2.8), ("rio-cogeo", 3.5)), 0.03),
    Goal("adaptive-1.5", ("noise-rgb",), (("gdal", 4.5), ("rio-cogeo", 6.0)), 0.015),
    Goal("adaptive-1.5", ("noise-u16", "dem-f32"), (("gdal", 3.0), ("rio-cogeo", 4.0)), 0.015),
    Goal(
        "zstd-3",
        (*_REAL, *_WITH_NODATA, "noise-rgb", "noise-u16", "dem-f32"),
        (("gdal", 5.0), ("gdal-zstd-3", 2.0)),
        None,
    ),
)

_SCENES = ("noise-rgb", *_REAL)
_LOOP = (("sequential", 6.0), ("sequential-scale-1", 3.5), ("processes", 3.0))
# Of tiles, warped to EPSG:4326.
TILE_GOALS = (
    Goal("adaptive-1.5", _SCENES, _LOOP, None, _TILES_PEAK_MB),
    Goal("same", _SCENES, (("sequential", 3.0),), None, _TILES_PEAK_MB),
)


@dataclass(frozen=True)
class Verdict:
    """One goal on one case.

    Attributes
    ----------
    measured : float or None
        None where a method failed, was skipped, or was not asked for.
    """

    case: str
    method: str
    measure: str
    required: float
    at_most: bool
    measured: float | None

    @property
    def reached(self) -> bool | None:
        """Whether the goal is reached; None where nothing was measured."""
        if self.measured is None:
            return None
        return self.measured <= self.required if self.at_most else self.measured >= self.required


def verdicts(result: CaseResult) -> Iterator[Verdict]:
    """The goals that there are for this case and the methods compared on it."""
    for goal in TILE_GOALS if result.output == "tiles" else GOALS:
        method = result.method(goal.method)
        if result.name not in goal.cases or method is None:
            continue
        for peer, required in goal.times_faster:
            yield Verdict(
                result.name, goal.method, f"times {peer}", required, False, result.ratio(peer, goal.method)
            )
        if goal.size is not None:
            larger = result.size_against(goal.method, "gdal")
            yield Verdict(result.name, goal.method, "size against gdal", goal.size, True, larger)
        peak = method.peak_mb.median if method.peak_mb else None
        yield Verdict(result.name, goal.method, "peak MB", goal.peak_mb, True, peak)
