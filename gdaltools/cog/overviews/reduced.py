"""Overviews that are computed from the full resolution, not from the level before.

GDAL's COG driver does so once a level is not narrower than the level before, that is, once it is one pixel
wide (gcore/overview.cpp, GDALRegenerateOverviewsMultiBand, 3.10). This happens to rasters that are many times
as high as wide; they are narrow, so little is read. The driver also selects complex samples (nearest) from
the full resolution as long as that fits its buffer (GDALRegenerateOverviewsEx).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gdaltools.cog.overviews.axis import HalvingAxis
from gdaltools.cog.overviews.halving import Rule, halve_planes
from gdaltools.geo.window import Span
from gdaltools.raster.pixels.source import Pixels, Source, Valid

# GDAL_OVR_CHUNK_MAX_SIZE. GDAL compares it with some rows of the raster; we compare it with the whole raster,
# so that little is read twice.
_GDAL_BUFFER_BYTES = 10 << 20
# The pixels of the full resolution in memory at a time, unless one row of the overview needs more.
_PIXELS = 1 << 20
# The reach of GDAL's widest kernel in pixels of the overview, and one more for rounding.
_REACH = 4


def cascading_levels(
    levels: Sequence[tuple[int, int]], resampling: str, dtype: np.dtype[Any], *, colour_table: bool
) -> int:
    """Return how many of `levels`, (width, height) each, are computed from the level before.

    The full resolution counts as one of them.

    >>> tall = ((1, 900), (1, 450), (1, 225))
    >>> cascading_levels(tall, "average", np.dtype("uint8"), colour_table=False)
    2
    """
    count = len(levels)
    width, height = levels[0]
    if dtype.kind == "c":
        picked = resampling == "nearest" and width * height * dtype.itemsize <= _GDAL_BUFFER_BYTES
        return min(2, count) if picked else count
    if colour_table and resampling != "nearest":
        return count
    return next((level for level in range(2, count) if levels[level][0] >= levels[level - 1][0]), count)


@dataclass(frozen=True)
class ReducedSource:
    """A `Source` of the windows of one level, computed from the full resolution of another source.

    Attributes
    ----------
    full, size : (int, int)
        (width, height) of the full resolution and of the level.
    """

    source: Source
    rule: Rule
    full: tuple[int, int]
    size: tuple[int, int]

    @property
    def name(self) -> str:
        """The name of the source in errors."""
        return self.source.name

    def read(
        self, rows: Span, cols: Span, dtype: np.dtype[Any], *, planes: int
    ) -> tuple[Pixels, Valid | None]:
        """Return a window of the level as `Source.read` does; raises what the source raises."""
        across = _below(cols, self.full[0], self.size[0])
        ratio = self.full[1] / self.size[1]
        step = max(1, int(_PIXELS / (ratio * len(across.available))) - 2 * _REACH)
        pixels, valid = [], []
        for start in range(rows.start, rows.stop, step):
            down = _below(Span(start, min(start + step, rows.stop)), self.full[1], self.size[1])
            base, hidden = self.source.read(down.available, across.available, dtype, planes=planes)
            part, found = halve_planes(base, hidden, down, across, self.rule)
            pixels.append(part)
            valid.append(found)
        masks = [mask for mask in valid if mask is not None]
        return np.concatenate(pixels, axis=1), np.concatenate(masks) if masks else None


def _below(window: Span, source: int, target: int) -> HalvingAxis:
    ratio = source / target
    start = math.floor((window.start - _REACH) * ratio)
    stop = math.ceil((window.stop + _REACH) * ratio)
    return HalvingAxis(source, target, window, Span(max(0, start), min(source, stop)))
