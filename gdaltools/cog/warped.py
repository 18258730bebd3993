"""Warp a raster to another CRS while it is written as a COG: the target grid and the source that reads it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rasterio.crs import CRS
from rasterio.io import DatasetReader
from rasterio.transform import Affine
from rasterio.vrt import WarpedVRT

from gdaltools.errors import InvalidParameter, UnsupportedRaster
from gdaltools.geo.crs import crs_name
from gdaltools.geo.grid import Grid
from gdaltools.geo.tms import tile_matrix_set
from gdaltools.geo.window import PixelWindow
from gdaltools.raster.facts import Facts, facts_of
from gdaltools.raster.info import mask_kind
from gdaltools.raster.limits import Limits
from gdaltools.raster.pixels.source import WarpedSource
from gdaltools.raster.pixels.windows import raw_pixels
from gdaltools.storage import Location
from gdaltools.warp.strips import plan_warp
from gdaltools.warp.target import TargetPixels, TileSource

# The largest side of a cell of a warp, in pixels.
_CELL = 512
# Warp options that decide how pixels are computed and that WarpedVRT has no attribute for.
_KEPT_OPTIONS = ("XSCALE", "YSCALE", "UNIFIED_SRC_NODATA", "SAMPLE_GRID", "SAMPLE_STEPS", "SOURCE_EXTRA")


def warped_source(
    dataset: DatasetReader,
    location: Location,
    *,
    source_crs: CRS,
    target_crs: CRS,
    resampling: str,
    mask_nodata: bool,
    blocksize: int,
    grid: tuple[Affine, int, int] | None = None,
) -> tuple[TileSource, Facts]:
    """Return a source that reads the open raster warped to `target_crs`, and its facts.

    The target grid is `grid`, or the one that GDAL suggests. If the source has neither nodata nor alpha, a
    mask marks the target pixels that the source does not reach; with `mask_nodata`, a source that has nodata
    gets a mask as well.

    Raises
    ------
    InvalidParameter
        The source cannot be placed in `target_crs`.
    UnsupportedRaster
        The warped raster would be larger than the limits allow.
    """
    transform, width, height = grid or _suggested_grid(dataset, location, source_crs, target_crs)
    source = Grid(
        crs=crs_name(source_crs),
        transform=tuple(dataset.transform)[:6],
        width=dataset.width,
        height=dataset.height,
    )
    target = Grid(crs=crs_name(target_crs), transform=tuple(transform)[:6], width=width, height=height)
    # Cells divide blocks, because pieces consist of whole blocks.
    warp = plan_warp(dataset, source, target, resampling, cell=math.gcd(blocksize, _CELL))
    masked = warp.adds_mask or mask_nodata
    pixels = TargetPixels(
        location=location,
        warp=warp,
        masked=warp.adds_mask,
        hidden=dataset.nodata if mask_nodata else None,
        step=warp.cell,
        raw=raw_pixels(dataset, location),
    )
    facts = facts_of(dataset, masked=masked).warped(
        width=width, height=height, transform=transform, crs=target_crs, masked=masked
    )
    return TileSource(pixels, PixelWindow(col_off=0, row_off=0, width=width, height=height)), facts


def vrt_source(vrt: WarpedVRT, location: Location, *, mask_nodata: bool) -> tuple[WarpedSource, Facts]:
    """Return an open WarpedVRT as a source that any thread can open again, and its facts."""
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
    """A grid aligned to the tiles of a tiling scheme: (transform, width, height), and GDAL's tags for it."""

    crs: CRS
    grid: tuple[Affine, int, int]
    tags: dict[str, str]


def aligned_grid(dataset: DatasetReader, location: Location, tms: str, blocksize: int) -> AlignedGrid:
    """Return the grid of the zoom level of `tms` closest to the raster's resolution; blocks hold whole tiles.

    Raises
    ------
    InvalidParameter
        morecantile does not know `tms`, or the raster cannot be placed in it.
    UnsupportedRaster
        The warped raster would be larger than the limits allow.
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
