"""The goals of the engine relative to its peers, and whether a comparison meets them.

The goals are ratios of medians on about 1 GB uncompressed and two quiet cores; on smaller sources they say
little.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.compare.results import CaseResult

_REAL = ("relief", "bluemarble", "landsat")
_WITH_NODATA = ("relief-nodata",)
_PEAK_MB, _TILES_PEAK_MB = 400.0, 450.0
# Tolerance of "equal": a header's worth, and overviews that one driver rounds down and another up.
_EQUAL = 0.002


@dataclass(frozen=True)
class Goal:
    """The required speed-up over each peer, on these cases.

    Attributes
    ----------
    size : float or None
        By which share the file may be larger than GDAL's.
    peak_mb : float
        Limit on its memory.
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
# Goals for tiles warped to EPSG:4326.
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
        None if a method failed, was skipped, or was not requested.
    """

    case: str
    method: str
    measure: str
    required: float
    at_most: bool
    measured: float | None

    @property
    def reached(self) -> bool | None:
        """Whether the goal is reached; None if nothing was measured."""
        if self.measured is None:
            return None
        return self.measured <= self.required if self.at_most else self.measured >= self.required


def verdicts(result: CaseResult) -> Iterator[Verdict]:
    """Yield the verdicts of all goals that apply to this case and its methods."""
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
