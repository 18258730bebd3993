"""The grid of a zoom level of a tile matrix set (OGC 17-083r4, Two Dimensional Tile Matrix Set).

A raster tiled on this grid has exactly the pixels that map tiles of that level show, so cutting map tiles
from it resamples nothing again.
"""

from __future__ import annotations

import math
from typing import Any

from rasterio.crs import CRS

from gdaltools.errors import InvalidParameter
from gdaltools.geo.crs import crs_name
from gdaltools.geo.grid import MAX_SIDE, Grid, target_grid

_MAX_ZOOM = 30
_SNAP_TOLERANCE = 1e-6  # of a tile


def tms_grid(source: Grid, name: str, zoom: int | None = None) -> Grid:
    """Return the part of a zoom level that covers all of `source`, in whole tiles of the set.

    Parameters
    ----------
    name : str
        morecantile's name of the set, such as "WebMercatorQuad".
    zoom : int, optional
        By default the level closest to the source's resolution.

    Raises
    ------
    InvalidParameter
        The set or the level does not exist, or the grid would be too large.
    UnsupportedRaster
        The raster has no place in the set's CRS.
    """
    matrices = tile_matrix_set(name)
    crs = CRS.from_wkt(matrices.crs._pyproj_crs.to_wkt())
    # A source that is already in this CRS keeps its own grid here; only bounds and resolution are used.
    own = target_grid(source, crs)
    if zoom is None:
        zoom = int(matrices.zoom_for_res(max(own.resolution), max_z=_MAX_ZOOM))
    if isinstance(zoom, bool) or not isinstance(zoom, int) or not matrices.minzoom <= zoom <= _MAX_ZOOM:
        raise InvalidParameter(
            f"zoom {zoom!r} of {name}: give a level from {matrices.minzoom} to {_MAX_ZOOM}"
        )
    matrix = matrices.matrix(zoom)
    size, across, down = float(matrix.cellSize), int(matrix.tileWidth), int(matrix.tileHeight)
    corner = matrices.xy_bounds(0, 0, zoom)
    left, bottom, right, top = own.bounds
    first_col, last_col = _tiles(left - corner.left, right - corner.left, size * across, matrix.matrixWidth)
    first_row, last_row = _tiles(corner.top - top, corner.top - bottom, size * down, matrix.matrixHeight)
    width, height = (last_col - first_col) * across, (last_row - first_row) * down
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
        raise InvalidParameter(
            f"zoom {zoom} of {name} has {width} x {height} pixels for this raster: choose another level"
        )
    return Grid(
        crs=crs_name(crs),
        transform=(
            size, 0.0, corner.left + first_col * across * size,
            0.0, -size, corner.top - first_row * down * size,
        ),
        width=width,
        height=height,
    )  # fmt: skip


def _tiles(low: float, high: float, size: float, count: int) -> tuple[int, int]:
    """Return the first tile touched and the one after the last, limited to the tiles of the level."""
    first, last = math.floor(low / size + _SNAP_TOLERANCE), math.ceil(high / size - _SNAP_TOLERANCE)
    return max(0, first), min(count, last)


def tile_matrix_set(name: str) -> Any:
    """Return morecantile's tile matrix set called `name`.

    Raises
    ------
    InvalidParameter
        There is no set of this name.
    """
    import morecantile
    from morecantile.errors import MorecantileError

    try:
        return morecantile.tms.get(name)
    except MorecantileError as error:
        names = ", ".join(morecantile.tms.list())
        raise InvalidParameter(f"tms {name!r} is unknown: use one of {names}") from error
