"""A raster warped to another CRS on the way into a COG: the target grid, and the source that reads it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from rasterio.crs import CRS
from rasterio.io import DatasetReader
from rasterio.transform import Affine
from rasterio.vrt import WarpedVRT

from gdaltools.cog.facts import Facts, facts_of
from gdaltools.cog.source import WarpedSource
from gdaltools.crs import crs_name, transform_points
from gdaltools.errors import InvalidParameter, UnsupportedRaster
from gdaltools.limits import Limits
from gdaltools.storage import Location

# warp.md §A4: below half the source's resolution 4 samples would alias, GDAL's wider kernel does not.
_MIN_SCALE = 0.5
_SCALE_NODES = 17
# Options of a WarpedVRT that say how pixels are computed and are not attributes of it.
_KEPT_OPTIONS = ("XSCALE", "YSCALE", "UNIFIED_SRC_NODATA", "SAMPLE_GRID", "SAMPLE_STEPS", "SOURCE_EXTRA")


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


def vrt_source(vrt: WarpedVRT, location: Location, *, mask_nodata: bool) -> tuple[WarpedSource, Facts]:
    """What an open WarpedVRT reads, as a source that any thread can open again."""
    # Imported where it is used: xarray, which it brings, takes seconds.
    from gdaltools.raster import mask_kind

    kind = mask_kind(vrt)
    masked = kind == "mask" or (mask_nodata and kind == "nodata")
    options = {str(name).upper(): value for name, value in dict(vrt.warp_extras or {}).items()}
    made = WarpedSource(
        location=location,
        count=vrt.count,
        source_wkt=vrt.src_crs.to_wkt(),
        target_wkt=vrt.dst_crs.to_wkt(),
        transform=vrt.transform,
        width=vrt.width,
        height=vrt.height,
        resampling=vrt.resampling.name,
        source_nodata=vrt.src_nodata,
        nodata=vrt.dst_nodata,
        adds_alpha=vrt.count == vrt.src_dataset.count + 1,
        masked=masked,
        options=tuple((name, value) for name, value in options.items() if name in _KEPT_OPTIONS),
    )
    return made, facts_of(vrt, masked=masked).warped(
        width=vrt.width, height=vrt.height, transform=vrt.transform, crs=vrt.dst_crs, masked=masked
    )


@dataclass(frozen=True)
class AlignedGrid:
    """A grid on the tiles of a tiling scheme: (transform, width, height), and what GDAL's files say of it."""

    crs: CRS
    grid: tuple[Affine, int, int]
    tags: dict[str, str]


def aligned_grid(dataset: DatasetReader, location: Location, tms: str, blocksize: int) -> AlignedGrid:
    """The grid of a tile matrix set's zoom level closest to the raster's resolution; blocks hold whole tiles.

    Raises
    ------
    InvalidParameter
        morecantile knows no such set, or the raster has no place in it.
    """
    from rio_cogeo.utils import get_web_optimized_params

    matrices = tile_matrix_set(tms)
    crs = CRS.from_wkt(matrices.crs._pyproj_crs.to_wkt())
    with _translated_warp(location, crs):
        finest = matrices.matrix(matrices.minzoom)
        spread = max(0, (blocksize // finest.tileWidth).bit_length() - 1)
        found = get_web_optimized_params(dataset, tms=matrices, aligned_levels=spread)
    transform, width, height = found["transform"], found["width"], found["height"]
    zoom = matrices.zoom_for_res(transform.a, max_z=30)
    if width * height * dataset.count > Limits.from_environment().samples:
        raise UnsupportedRaster(f"{location} would have {width} x {height} pixels in {tms}: choose another")
    tags = {"NAME": tms, "ZOOM_LEVEL": str(zoom)}
    return AlignedGrid(crs, (transform, width, height), tags)


def tile_matrix_set(name: str) -> Any:
    """morecantile's tile matrix set of this name.

    Raises
    ------
    InvalidParameter
        There is none.
    """
    import morecantile
    from morecantile.errors import MorecantileError

    try:
        return morecantile.tms.get(name)
    except MorecantileError as error:
        names = ", ".join(morecantile.tms.list())
        raise InvalidParameter(f"tms {name!r} is unknown: use one of {names}") from error


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
    if width * height * source.count > Limits.from_environment().samples or max(width, height) > 2**31 - 1:
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
