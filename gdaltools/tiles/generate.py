"""Generation of a raster's tiling scheme: the grid, the size of a tile, and the type of raster."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Literal

import numpy as np

from gdaltools import storage
from gdaltools.cost.tiles_memory import auto_tile_size, budgeted_tile_size
from gdaltools.errors import InvalidParameter
from gdaltools.geo.crs import WGS84_NAME, CrsLike, parse_crs
from gdaltools.geo.target import Resolution, target_grid
from gdaltools.raster.dataset import open_dataset
from gdaltools.raster.detect import RASTER_TYPES, RasterType
from gdaltools.raster.info import describe, own_grid, source_crs
from gdaltools.raster.tiff import BLOCK_UNIT
from gdaltools.storage import Location, StrPath
from gdaltools.tiles.axis import TileAxis
from gdaltools.tiles.scheme import MAX_TILES, TilingScheme


def generate_tiling_scheme(
    src: StrPath | Location,
    tile_size: int | None = None,
    overlap: int = 512,
    target_crs: CrsLike | None = None,
    *,
    tile_mb: float | None = None,
    tms: str | None = None,
    zoom: int | None = None,
    input_crs: CrsLike | None = None,
    resolution: Resolution | None = None,
    band_names: Mapping[str, str] | None = None,
    raster_type: RasterType | Literal["auto"] = "auto",
) -> TilingScheme:
    """Return the scheme that cuts the raster at `src` into tiles in `target_crs`.

    Only the raster's header and a few small windows are read.

    Parameters
    ----------
    tile_size : int, optional
        Side of a tile in pixels, a multiple of 16. By default a square of about 450 MB uncompressed,
        a multiple of 512 between 5,120 and 20,480.
    overlap : int
        Pixels that neighbouring tiles share; less than `tile_size`.
    target_crs : str, int, mapping or CRS, optional
        CRS of the tiles, in any form that PROJ reads (``"EPSG:25833+7837"``, 3857, PROJJSON); by default
        that of `tms`, else EPSG:4326.
    tile_mb : float, optional
        Instead of `tile_size`: the most that a tile may hold, uncompressed, in 10⁶ bytes. The side is the
        largest multiple of 512 pixels that fits.
    tms : str, optional
        Use the grid of this tile matrix set (morecantile's name, such as "WebMercatorQuad"), in whole map
        tiles.
    zoom : int, optional
        Zoom level of `tms`; by default the level closest to the raster's resolution.
    input_crs : str, int, mapping or CRS, optional
        The source's CRS, if the file has none or a wrong one.
    resolution : float or (float, float), optional
        Pixel size in units of `target_crs`; by default about that of the source.
    band_names : mapping, optional
        Names by band number: ``{"1": "Red"}``.
    raster_type : str
        "auto" or one of rgb, rgba, dem, categorical, multispectral, nir.

    Raises
    ------
    SourceNotFound, CorruptRaster, StorageError
        As in `inspect`.
    UnsupportedRaster
        As in `inspect`; or the raster has no CRS and `input_crs` is not passed, it has no transform, or it
        cannot be placed in the target CRS.
    InvalidParameter
        A parameter is outside its range above, two parameters contradict each other, or there would be more
        than a million tiles.

    Examples
    --------
    >>> scheme = generate_tiling_scheme("scene.tif", 256, 32, "EPSG:32637")
    >>> len(scheme), scheme.warps
    (12, False)
    """
    _check_sizes(tile_size, overlap)
    _check_budget(tile_size, tile_mb)
    # The default is that of protocol.md §5.
    named = target_crs if target_crs is not None or tms is not None else WGS84_NAME
    target = None if named is None else parse_crs(named, "target_crs")
    if raster_type != "auto" and raster_type not in RASTER_TYPES:
        raise InvalidParameter(f"raster_type {raster_type!r}: give auto or one of {', '.join(RASTER_TYPES)}")
    location = storage.locate(src)
    with open_dataset(location) as dataset:
        source = own_grid(dataset, source_crs(dataset, location, input_crs))
        info = describe(dataset, location)
    grid = target_grid(source, target, resolution=resolution, tms=tms, zoom=zoom)
    pixel_bytes = info.uncompressed_bytes // (info.width * info.height)
    size = int(tile_size) if tile_size is not None else auto_tile_size(pixel_bytes)
    if tile_mb is not None:
        size = budgeted_tile_size(pixel_bytes, tile_mb)
    if overlap >= size:
        raise InvalidParameter(f"overlap {overlap} is not smaller than the tile size {size}: lower it")
    down, across = (TileAxis(extent, size, overlap).count for extent in (grid.height, grid.width))
    if down * across > MAX_TILES:
        raise InvalidParameter(
            f"{down} x {across} tiles are more than {MAX_TILES}: choose a larger tile_size, "
            "a smaller overlap or a coarser resolution"
        )
    detected = info.detected
    return TilingScheme(
        source=str(location),
        source_grid=source,
        file_crs=info.crs,
        grid=grid,
        tile_size=size,
        overlap=int(overlap),
        band_count=info.count,
        data_type=np.result_type(*info.dtypes).name,
        raster_type=detected.raster_type if raster_type == "auto" else raster_type,
        detected_type=detected.raster_type,
        detection_confidence=detected.confidence if raster_type == "auto" else 1.0,
        auto_band_names=info.band_names,
        used_band_names=info.band_names | _checked_names(band_names or {}, info.count),
        side_cars=info.side_cars,
    )


def _check_sizes(tile_size: int | None, overlap: int) -> None:
    if isinstance(overlap, bool) or not isinstance(overlap, int) or overlap < 0:
        raise InvalidParameter(f"overlap {overlap!r}: give a number of pixels, 0 or more")
    if tile_size is None:
        return
    if isinstance(tile_size, bool) or not isinstance(tile_size, int) or tile_size < BLOCK_UNIT:
        raise InvalidParameter(f"tile_size {tile_size!r}: give a positive multiple of {BLOCK_UNIT}")
    if tile_size % BLOCK_UNIT:
        nearest = max(BLOCK_UNIT, round(tile_size / BLOCK_UNIT) * BLOCK_UNIT)
        raise InvalidParameter(
            f"tile_size {tile_size} is not a multiple of {BLOCK_UNIT}, as TIFF tiles need: try {nearest}"
        )
    if tile_size > 1 << 20:
        raise InvalidParameter(f"tile_size {tile_size} is over the limit of {1 << 20} pixels")
    if overlap >= tile_size:
        raise InvalidParameter(
            f"overlap {overlap} is not smaller than tile_size {tile_size}: "
            f"pass an overlap below {tile_size}, such as overlap={tile_size // 8}"
        )


def _check_budget(tile_size: int | None, tile_mb: float | None) -> None:
    if tile_mb is not None and tile_size is not None:
        raise InvalidParameter(f"tile_size {tile_size} and tile_mb {tile_mb} both say how large: give one")
    if tile_mb is not None and not (tile_mb > 0 and math.isfinite(tile_mb)):
        raise InvalidParameter(f"tile_mb {tile_mb!r}: give a positive number of 10⁶ bytes")


def _checked_names(names: Mapping[str, str], count: int) -> dict[str, str]:
    for key, value in names.items():
        if not re.fullmatch(r"[1-9]\d{0,4}", str(key)) or int(key) > count or not isinstance(value, str):
            raise InvalidParameter(f'band_names {key!r}: {value!r}: give names for "1" to "{count}"')
    return {str(key): value for key, value in names.items()}
