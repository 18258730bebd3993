"""Warp a raster to another CRS while it is written as a COG: the target grid and the source that reads it."""

from __future__ import annotations

import math
from dataclasses import replace

from rasterio.crs import CRS
from rasterio.io import DatasetReader
from rasterio.vrt import WarpedVRT

from gdaltools.errors import UnsupportedRaster
from gdaltools.geo.crs import parse_crs
from gdaltools.geo.target import target_grid
from gdaltools.geo.tms import zoom_level
from gdaltools.geo.window import PixelWindow
from gdaltools.raster.facts import Facts, facts_of, mask_kind
from gdaltools.raster.info import own_grid
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
    target_crs: CRS | None,
    tms: str | None,
    resampling: str,
    mask_nodata: bool,
    blocksize: int,
) -> tuple[TileSource, Facts]:
    """Return a source that reads the open raster warped to `target_crs` or `tms`, and its facts.

    With `tms`, blocks hold whole map tiles. If the source has neither nodata nor alpha, a mask marks the
    target pixels that the source does not reach; with `mask_nodata`, a source that has nodata gets a mask as
    well.

    Raises
    ------
    InvalidParameter
        As in `target_grid`.
    UnsupportedRaster
        As in `target_grid`; or the warped raster would be larger than the limits allow.
    """
    source = own_grid(dataset, source_crs)
    target = target_grid(source, target_crs, tms=tms, align=blocksize)
    if target.width * target.height * dataset.count > Limits.from_environment().samples:
        raise UnsupportedRaster(
            f"{location} would have {target.width} x {target.height} pixels in {tms or target.crs[:60]}: "
            "choose another"
        )
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
        width=target.width,
        height=target.height,
        transform=target.affine,
        crs=parse_crs(target.crs, "target_crs"),
        masked=masked,
    )
    if tms is not None:
        tags = {"NAME": tms, "ZOOM_LEVEL": str(zoom_level(tms, target.resolution[0]))}
        facts = replace(facts, domains={**facts.domains, "TILING_SCHEME": tags})
    window = PixelWindow(col_off=0, row_off=0, width=target.width, height=target.height)
    return TileSource(pixels, window), facts


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
