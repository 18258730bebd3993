"""Check that tiles are as requested: strictly valid COGs, in the right places, with a warp's pixels.

The reference is GDAL's warp with four samples per pixel (XSCALE and YSCALE 1); a plain window must be
identical.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.enums import Resampling
from rasterio.io import DatasetReader
from rasterio.transform import Affine
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from benchmarks.compare.jobs import CheckTilesJob, TileOfGrid, Tiles

# Rows compared, in the middle of each tile.
_ROWS = 256
# Largest mean difference from the reference that counts as equal, in standard deviations of the pixels:
# rounding and an approximate transformer give thousandths, another kernel hundredths and more.
_TOLERANCE = 0.01


def check_tiles(job: CheckTilesJob) -> dict[str, Any]:
    """Return what is wrong with the tiles in a folder, as `benchmarks.compare.checks.cogs.check` does."""
    from rio_cogeo.cogeo import cog_validate

    layout: list[str] = []
    pixels: list[str] = []
    places: list[str] = []
    with rasterio.Env(GDAL_CACHEMAX=64 << 20), rasterio.open(job.source) as source:
        for tile in job.tiles.tiles:
            path = Path(job.target) / f"{tile.name}.tif"
            if not path.exists():
                places.append(f"{tile.name} is missing")
                continue
            _, errors, warnings = (
                cog_validate(str(path), strict=True, quiet=True) if job.cogs else (True, [], [])
            )
            layout += [f"{tile.name}: {problem}" for problem in (*errors, *warnings)]
            with rasterio.open(path) as found:
                misplaced = _misplaced(found, tile, job.tiles)
                places += misplaced
                if not misplaced:
                    pixels += _different(source, found, tile, job.tiles)
    problems = [*_summed(layout), *_summed(places), *_summed(pixels)]
    return {"valid": not layout, "pixels_identical": not pixels and not places, "problems": problems}


def _misplaced(found: DatasetReader, tile: TileOfGrid, tiles: Tiles) -> list[str]:
    if (found.width, found.height) != tile.size:
        return [f"{tile.name} has {found.width} x {found.height} pixels instead of {tile.size}"]
    same = found.transform.almost_equals(Affine(*tile.transform), 1e-9)
    if not same or found.crs != rasterio.crs.CRS.from_user_input(tiles.crs):
        return [f"{tile.name} lies elsewhere"]
    return []


def _different(source: DatasetReader, found: DatasetReader, tile: TileOfGrid, tiles: Tiles) -> list[str]:
    width, height = tile.size
    top = max(0, (height - _ROWS) // 2)
    window = Window(0, top, width, min(_ROWS, height - top))
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
    return [] if off <= _TOLERANCE else [f"{tile.name}: pixels are off by {off:.3f} standard deviations"]


def _summed(problems: list[str]) -> list[str]:
    """Return the first problem, and the number of others."""
    return problems[:1] + [f"and {len(problems) - 1} more like it"] * (len(problems) > 1)
