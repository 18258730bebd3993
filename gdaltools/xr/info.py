"""A DataArray described as a raster, from its coordinates and attributes; nothing is computed."""

from __future__ import annotations

from typing import Any

from gdaltools.cog.arrays import array_source, array_type
from gdaltools.errors import InvalidParameter, UnsupportedRaster
from gdaltools.geo.crs import WGS84, crs_name, transform_bounds
from gdaltools.geo.grid import Grid
from gdaltools.raster.bands import named
from gdaltools.raster.detect import Detection
from gdaltools.raster.facts import Facts
from gdaltools.raster.info import RasterInfo
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
    placed = crs is not None and not transform.is_identity
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
        bounds_4326=transform_bounds(crs, WGS84, grid.bounds) if placed else None,
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
        detected=_detected(facts),
    )


def array_scheme(array: Any, tile_size: int, overlap: int) -> TilingScheme:
    """Return the tiling scheme of the array's own grid.

    Raises
    ------
    UnsupportedRaster
        As in `array_info`; or the array has no CRS.
    InvalidParameter
        The sizes contradict each other.
    """
    info = array_info(array)
    if info.crs is None:
        raise UnsupportedRaster(f"{info.location} has no CRS: set it with rio.write_crs")
    grid = Grid(crs=info.crs, transform=info.transform, width=info.width, height=info.height)
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


def _detected(facts: Facts) -> Detection:
    kind = array_type(facts, "auto")
    names = ", ".join(named(facts.descriptions, [colour.name for colour in facts.colorinterp])[:4])
    return Detection(raster_type=kind, confidence=0.5, reason=f"by number and dtype of the bands ({names})")
