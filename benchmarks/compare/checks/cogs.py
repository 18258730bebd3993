"""Check that a method wrote what was requested: a strictly valid COG with identical pixels.

A fast wrong answer is no answer. Outputs are read back in bounded memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.enums import Resampling
from rasterio.io import DatasetReader
from rasterio.windows import Window

# Rows compared at a time: a multiple of every block size in use.
_ROWS = 512
_CACHE_MB = 64
# Largest mean difference of the smallest overview from averaged pixels, in standard deviations of the latter.
# Averaging in steps with rounding in between gives hundredths; overviews of zeros give 1 and more.
_OVERVIEW_TOLERANCE = 0.25


def check(source: Path, target: Path) -> dict[str, Any]:
    """Return what is wrong with `target` as a COG of `source`.

    Returns
    -------
    dict
        ``valid``: it passes rio-cogeo's strict rules; ``pixels_identical``: full resolution equals the source
        bit for bit, within the source's extent; ``problems``: a sentence for each of these, and for padding,
        lost georeference or nodata, and wrong overviews.
    """
    from rio_cogeo.cogeo import cog_validate

    _, errors, warnings = cog_validate(str(target), strict=True, quiet=True)
    layout = [*errors, *warnings]
    with (
        rasterio.Env(GDAL_CACHEMAX=_CACHE_MB),
        rasterio.open(source) as expected,
        rasterio.open(target) as found,
    ):
        pixels = _pixel_problems(expected, found)
        rest = [*_header_problems(expected, found), *_overview_problems(expected, target, found)]
    return {"valid": not layout, "pixels_identical": not pixels, "problems": [*layout, *pixels, *rest]}


def _pixel_problems(expected: DatasetReader, found: DatasetReader) -> list[str]:
    kinds = [(each.count, each.dtypes[0]) for each in (expected, found)]
    if kinds[0] != kinds[1] or found.height < expected.height or found.width < expected.width:
        return [f"{_shape(found)} instead of {_shape(expected)}"]
    for row in range(0, expected.height, _ROWS):
        window = Window(0, row, expected.width, min(_ROWS, expected.height - row))
        # Compared as bytes, so that NaN equals NaN and -0.0 differs from 0.0.
        left, right = (each.read(window=window).view("uint8") for each in (expected, found))
        if not np.array_equal(left, right):
            return [f"pixels differ from the source's, first in rows {row} to {row + _ROWS}"]
    return []


def _header_problems(expected: DatasetReader, found: DatasetReader) -> list[str]:
    problems = []
    if found.shape != expected.shape:
        problems.append(f"padded: {_shape(found)} instead of {_shape(expected)}")
    if expected.crs != found.crs or not expected.transform.almost_equals(found.transform):
        problems.append("the georeference was lost")
    if not np.array_equal(expected.nodatavals, found.nodatavals, equal_nan=expected.nodata is not None):
        problems.append(f"nodata is {found.nodata} instead of {expected.nodata}")
    return problems


def _overview_problems(expected: DatasetReader, target: Path, found: DatasetReader) -> list[str]:
    levels = len(found.overviews(1))
    if not levels:
        return [] if max(found.shape) <= max(found.block_shapes[0]) else ["there are no overviews"]
    with rasterio.open(target, overview_level=levels - 1) as smallest:
        overview = smallest.read(masked=True).astype("float64")
    if found.shape != expected.shape:
        return []  # it covers another area
    averaged = expected.read(masked=True, out_shape=overview.shape, resampling=Resampling.average)
    spread = float(averaged.std()) or 1.0
    difference = float(abs(overview - averaged).mean()) / spread
    if difference > _OVERVIEW_TOLERANCE:
        return [f"the smallest overview is off by {difference:.2f} standard deviations"]
    return []


def _shape(dataset: DatasetReader) -> str:
    return f"{dataset.width} x {dataset.height} x {dataset.count} {dataset.dtypes[0]}"
