"""A DataArray described as a raster, from its coordinates and attributes; nothing is computed."""

from __future__ import annotations

import math
from typing import Any

from gdaltools.cog.arrays import array_detection, array_source
from gdaltools.cost.tiles_memory import auto_tile_size
from gdaltools.errors import InvalidParameter, UnsupportedRaster
from gdaltools.geo.crs import crs_name
from gdaltools.geo.footprint import bounds_4326
from gdaltools.geo.grid import Grid
from gdaltools.raster.info import RasterInfo
from gdaltools.raster.tiff import BLOCK_UNIT
from gdaltools.tiles.scheme import TilingScheme


def array_info(array: Any) -> RasterInfo:
    """Return what `gdaltools.inspect` would report of a file with this array.

    Raises
    ------
    UnsupportedRaster
        The dimensions are not (y, x) or (band, y, x), or TIFF cannot hold the dtype.
    """
    source, facts = array_source(array)
    transform, crs = facts.transform, facts.crs
    grid = Grid(crs="", transform=tuple(transform)[:6], width=facts.width, height=facts.height)
    chunks = getattr(source.array, "chunksize", (facts.count, facts.height, facts.width))
    size = facts.pixel_bytes * facts.width * facts.height
    return RasterInfo(
        location=source.name,
        driver="xarray",
        width=facts.width,
        height=facts.height,
        count=facts.count,
        dtypes=(facts.dtype,) * facts.count,
        crs=crs_name(crs) if crs else None,
        transform=grid.transform,
        georeferenced=not transform.is_identity,
        bounds=grid.bounds,
        bounds_4326=bounds_4326(crs, transform, facts.width, facts.height),
        resolution=grid.resolution,
        nodata=(facts.nodata,) * facts.count,
        mask="none" if facts.nodata is None else "nodata",
        color_interpretation=tuple(colour.name for colour in facts.colorinterp),
        color_table=None,
        descriptions=facts.descriptions,
        units=facts.units,
        scales=facts.scales,
        offsets=facts.offsets,
        tags=dict(facts.domains[""]),
        block_shapes=((int(chunks[-2]), int(chunks[-1])),) * facts.count,
        tiled=True,
        interleave="band",
        compression=None,
        photometric=None,
        overviews=(),
        has_gcps=False,
        has_rpcs=False,
        size_bytes=0,
        uncompressed_bytes=size,
        detected=array_detection(source, facts),
    )


def array_scheme(array: Any, tile_size: int | None, overlap: int) -> TilingScheme:
    """Return the tiling scheme of the array's own grid.

    Raises
    ------
    UnsupportedRaster
        As in `array_info`; or the array has no CRS.
    InvalidParameter
        The sizes contradict each other, or there would be more than a million tiles.
    """
    scheme = own_scheme(array, tile_size, overlap)
    if scheme.file_crs is None:
        raise UnsupportedRaster(f"{scheme.source} has no CRS: set it with rio.write_crs")
    return scheme


def own_scheme(array: Any, tile_size: int | None, overlap: int) -> TilingScheme:
    """As `array_scheme`, also of an array without a CRS, whose tiles have a place in the array only.

    Raises
    ------
    UnsupportedRaster, InvalidParameter
        As in `array_scheme`, apart from the CRS.
    """
    info = array_info(array)
    if tile_size is None:
        tile_size = _tile_size(array)
    grid = Grid(crs=info.crs or "", transform=info.transform, width=info.width, height=info.height)
    try:
        return TilingScheme(
            source=info.location,
            source_grid=grid,
            file_crs=info.crs,
            grid=grid,
            tile_size=tile_size,
            overlap=overlap,
            band_count=info.count,
            data_type=info.dtypes[0],
            raster_type=info.detected.raster_type,
            detected_type=info.detected.raster_type,
            detection_confidence=info.detected.confidence,
            auto_band_names=info.band_names,
            used_band_names=info.band_names,
        )
    except ValueError as error:
        raise InvalidParameter(f"tile_size {tile_size}, overlap {overlap}: {error}") from error


def _tile_size(array: Any) -> int:
    """Return a side of about 450 MB; whole chunks, if they are smaller than that and fit TIFF's blocks."""
    source, facts = array_source(array)
    size = auto_tile_size(facts.pixel_bytes)
    chunks = getattr(source.array, "chunksize", None)
    if chunks is None:
        return size
    unit = math.lcm(*(int(side) for side in chunks[1:]))
    return size // unit * unit if unit <= size and unit % BLOCK_UNIT == 0 else size
