"""Overviews that are computed from the full resolution and not from the level before.

GDAL's COG driver does so once a level is not narrower than the one before, which is to say one pixel wide
(gcore/overview.cpp, GDALRegenerateOverviewsMultiBand, 3.10): of a raster that is many times as high as wide.
Little is read for it, as such a raster is narrow. It also picks complex samples from the full resolution
while that fits its buffer (GDALRegenerateOverviewsEx).
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

# GDAL_OVR_CHUNK_MAX_SIZE; GDAL compares some rows of the raster with it, we the whole, to read little twice.
_GDAL_BUFFER_BYTES = 10 << 20
# Pixels of the full resolution that are held at a time, where one row of the overview does not take more.
_PIXELS = 1 << 20
# GDAL's widest kernel, in pixels of the overview, and one for what is rounded.
_REACH = 4


def cascading_levels(
    levels: Sequence[tuple[int, int]], resampling: str, dtype: np.dtype[Any], *, colour_table: bool
) -> int:
    """How many of the levels, given as (width, height), are made of the one before, counting the first.

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
    """A source as it is at a level: a `Source` of that level's windows.

    Attributes
    ----------
    full, size : (int, int)
        Width and height of the full resolution and of the level.
    """

    source: Source
    rule: Rule
    full: tuple[int, int]
    size: tuple[int, int]

    @property
    def name(self) -> str:
        """What errors call it."""
        return self.source.name

    def read(
        self, rows: Span, cols: Span, dtype: np.dtype[Any], *, planes: int
    ) -> tuple[Pixels, Valid | None]:
        """As `Source.read`, and raising what the source raises."""
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
