"""A raster warped to another CRS on the way into a COG: the target grid, and the source that reads it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from rasterio.crs import CRS
from rasterio.io import DatasetReader
from rasterio.transform import Affine
from rasterio.vrt import WarpedVRT

from gdaltools.cog.facts import Facts, facts_of
from gdaltools.cog.source import WarpedSource
from gdaltools.crs import crs_name, transform_points
from gdaltools.dataset import MAX_SAMPLES
from gdaltools.errors import InvalidParameter, UnsupportedRaster
from gdaltools.storage import Location

# warp.md §A4: below half the source's resolution 4 samples would alias, GDAL's wider kernel does not.
_MIN_SCALE = 0.5
_SCALE_NODES = 17


def warped_source(
    source: DatasetReader,
    location: Location,
    *,
    source_crs: CRS,
    target_crs: CRS,
    resampling: str,
    mask_nodata: bool,
    grid: tuple[Affine, int, int] | None = None,
) -> tuple[WarpedSource, Facts]:
    """The source warped to `target_crs`, on `grid` or on the one that GDAL suggests, and what is known of it.

    Where the source has neither nodata nor alpha, a mask tells the target's pixels that it does not reach;
    with `mask_nodata` also where it has nodata.

    Raises
    ------
    InvalidParameter
        The source has no place in `target_crs`.
    UnsupportedRaster
        It would be beyond all measure in it.
    """
    # Imported where it is used: xarray, which it brings, takes seconds.
    from gdaltools.raster import mask_kind

    transform, width, height = grid or _suggested_grid(source, location, source_crs, target_crs)
    needs_mask = source.nodata is None and mask_kind(source) != "alpha"
    finest = _finest_scale(source, source_crs, target_crs, transform, width, height)
    made = WarpedSource(
        location=location,
        count=source.count,
        source_wkt=source_crs.to_wkt(),
        target_wkt=target_crs.to_wkt(),
        transform=transform,
        width=width,
        height=height,
        resampling=resampling,
        source_nodata=source.nodata,
        nodata=source.nodata,
        adds_alpha=needs_mask,
        masked=needs_mask or mask_nodata,
        options=(("XSCALE", 1), ("YSCALE", 1)) if finest >= _MIN_SCALE else (),
    )
    with _translated_warp(location, target_crs), made.opened(source):
        facts = facts_of(source, masked=made.masked)
    return made, facts.warped(
        width=width, height=height, transform=transform, crs=target_crs, masked=made.masked
    )


@contextmanager
def _translated_warp(location: Location, target_crs: CRS) -> Iterator[None]:
    from rasterio._err import CPLE_BaseError
    from rasterio.errors import CRSError, WarpOptionsError

    try:
        yield
    except (CPLE_BaseError, CRSError, WarpOptionsError) as error:
        raise InvalidParameter(
            f"{location} cannot be warped to {crs_name(target_crs)[:60]}: {error}; choose another target_crs"
        ) from error


def _suggested_grid(
    source: DatasetReader, location: Location, source_crs: CRS, target_crs: CRS
) -> tuple[Affine, int, int]:
    name = crs_name(target_crs)[:60]
    with (
        _translated_warp(location, target_crs),
        WarpedVRT(source, src_crs=source_crs, crs=target_crs) as suggested,
    ):
        transform, width, height = suggested.transform, suggested.width, suggested.height
    if not all(math.isfinite(value) for value in transform) or width < 1 or height < 1:
        raise InvalidParameter(f"{location} has no place in {name}: choose another target_crs")
    if width * height * source.count > MAX_SAMPLES or max(width, height) > 2**31 - 1:
        raise UnsupportedRaster(
            f"{location} would have {width} x {height} pixels in {name}: choose another target_crs"
        )
    return transform, width, height


def _finest_scale(
    source: DatasetReader, source_crs: CRS, target_crs: CRS, transform: Affine, width: int, height: int
) -> float:
    """The least ratio of the target's to the source's resolution, over nodes spread on the target's grid.

    The scale of an axis is the inverse length of the Jacobian's column: how many source pixels one step of a
    target pixel passes. Nodes without a place in the source count for nothing.
    """
    cols, rows = np.meshgrid(
        np.linspace(0.5, max(width - 1.5, 0.5), _SCALE_NODES),
        np.linspace(0.5, max(height - 1.5, 0.5), _SCALE_NODES),
    )

    def pixels(cols: Any, rows: Any) -> Any:
        x, y = transform * (cols, rows)
        sx, sy = transform_points(target_crs, source_crs, x.ravel(), y.ravel())
        return np.stack(~source.transform * (sx, sy))

    here = pixels(cols, rows)
    steps = (pixels(cols + 1, rows) - here, pixels(cols, rows + 1) - here)
    inside = (here[0] >= 0) & (here[0] <= source.width) & (here[1] >= 0) & (here[1] <= source.height)
    longest = 1.0
    for step in steps:
        lengths = np.hypot(*step)[inside]
        lengths = lengths[np.isfinite(lengths)]
        if lengths.size:
            longest = max(longest, float(lengths.max()))
    return 1 / longest
