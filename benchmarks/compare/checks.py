"""Check that a method wrote what was requested: strictly valid COGs, the right pixels, in the right places.

A fast wrong answer is no answer. Outputs are read back in bounded memory. A COG of the whole source, and a
tile in the source's own grid, must be identical to it; the reference of a warped tile is GDAL's warp with
four samples per pixel (XSCALE and YSCALE 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.enums import Resampling
from rasterio.io import DatasetReader
from rasterio.transform import Affine
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window
from rio_cogeo.cogeo import cog_validate

from benchmarks.compare.jobs import Tile, Tiles

# Rows compared at a time: a multiple of every block size in use; of a tile, the rows in its middle.
_ROWS, _TILE_ROWS = 512, 256
_CACHE_MB = 64
# Largest mean difference of the smallest overview from averaged pixels, in standard deviations of the latter.
# Averaging in steps with rounding in between gives hundredths; overviews of zeros give 1 and more.
_OVERVIEW_TOLERANCE = 0.25
# Largest mean difference of a warped tile from the reference that counts as equal, in standard deviations of
# the pixels: rounding and an approximate transformer give thousandths, another kernel hundredths and more.
_WARP_TOLERANCE = 0.01


def check_cog(source: Path, target: Path) -> dict[str, Any]:
    """Return what is wrong with `target` as a COG of `source`.

    Returns
    -------
    dict
        ``valid``: it passes rio-cogeo's strict rules; ``pixels_identical``: full resolution equals the source
        bit for bit, within the source's extent; ``problems``: a sentence for each of these, and for padding,
        lost georeference or nodata, and wrong overviews.
    """
    layout = _layout_problems(target)
    with (
        rasterio.Env(GDAL_CACHEMAX=_CACHE_MB),
        rasterio.open(source) as expected,
        rasterio.open(target) as found,
    ):
        pixels = _pixel_problems(expected, found)
        rest = [*_header_problems(expected, found), *_overview_problems(expected, target, found)]
    return {"valid": not layout, "pixels_identical": not pixels, "problems": [*layout, *pixels, *rest]}


def check_tiles(source: Path, target: Path, tiles: Tiles) -> dict[str, Any]:
    """Return what is wrong with the tiles in the folder `target`, in the form of `check_cog`."""
    layout: list[str] = []
    pixels: list[str] = []
    places: list[str] = []
    with rasterio.Env(GDAL_CACHEMAX=_CACHE_MB), rasterio.open(source) as expected:
        for tile in tiles.tiles:
            path = target / f"{tile.name}.tif"
            if not path.exists():
                places.append(f"{tile.name} is missing")
                continue
            layout += [f"{tile.name}: {problem}" for problem in _layout_problems(path)]
            with rasterio.open(path) as found:
                misplaced = _misplaced(found, tile, tiles)
                places += misplaced or ()
                pixels += () if misplaced else _different(expected, found, tile, tiles)
    problems = [*_summed(layout), *_summed(places), *_summed(pixels)]
    return {"valid": not layout, "pixels_identical": not pixels and not places, "problems": problems}


def _layout_problems(target: Path) -> list[str]:
    _, errors, warnings = cog_validate(str(target), strict=True, quiet=True)
    return [*errors, *warnings]


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
    difference = float(abs(overview - averaged).mean()) / (float(averaged.std()) or 1.0)
    if difference > _OVERVIEW_TOLERANCE:
        return [f"the smallest overview is off by {difference:.2f} standard deviations"]
    return []


def _shape(dataset: DatasetReader) -> str:
    return f"{dataset.width} x {dataset.height} x {dataset.count} {dataset.dtypes[0]}"


def _misplaced(found: DatasetReader, tile: Tile, tiles: Tiles) -> list[str]:
    if (found.width, found.height) != tile.size:
        return [f"{tile.name} has {found.width} x {found.height} pixels instead of {tile.size}"]
    same = found.transform.almost_equals(Affine(*tile.transform), 1e-9)
    if not same or found.crs != rasterio.crs.CRS.from_user_input(tiles.crs):
        return [f"{tile.name} lies elsewhere"]
    return []


def _different(source: DatasetReader, found: DatasetReader, tile: Tile, tiles: Tiles) -> list[str]:
    width, height = tile.size
    top = max(0, (height - _TILE_ROWS) // 2)
    window = Window(0, top, width, min(_TILE_ROWS, height - top))
    bands = list(range(1, source.count + 1))
    pixels = found.read(bands, window=window).astype("float64")
    if not tiles.warps:
        left, upper = tile.window[:2]
        expected = source.read(window=Window(left, upper + top, width, window.height)).astype("float64")
        return [] if np.array_equal(pixels, expected, equal_nan=True) else [f"{tile.name}: pixels differ"]
    with WarpedVRT(
        source,
        crs=tiles.crs,
        transform=Affine(*tile.transform),
        width=width,
        height=height,
        resampling=Resampling.bilinear,
        XSCALE=1,
        YSCALE=1,
        add_alpha=source.nodata is None,
    ) as warped:
        expected = warped.read(bands, window=window).astype("float64")
        data = warped.dataset_mask(window=window) == 255
    # Each method chooses its own fill outside the source's extent.
    pixels, expected = pixels[:, data], expected[:, data]
    if not expected.size:
        return []
    off = float(np.abs(pixels - expected).mean()) / (float(expected.std()) or 1.0)
    return [] if off <= _WARP_TOLERANCE else [f"{tile.name}: pixels are off by {off:.3f} standard deviations"]


def _summed(problems: Sequence[str]) -> list[str]:
    """Return the first problem, and the number of others."""
    return [*problems[:1], *[f"and {len(problems) - 1} more like it"] * (len(problems) > 1)]
