"""The grid of a zoom level of a tile matrix set (OGC 17-083r4, Two Dimensional Tile Matrix Set).

A raster that is tiled on such a grid has the very pixels that map tiles of that level show: nothing is
resampled again when they are cut.
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
    """The part of a zoom level that holds all of `source`, in whole tiles of the set.

    Parameters
    ----------
    name : str
        morecantile's name of the set, as "WebMercatorQuad".
    zoom : int, optional
        By default the level that is closest to the source's resolution.

    Raises
    ------
    InvalidParameter
        There is no such set or level, or the grid would be too large.
    UnsupportedRaster
        The raster has no place in the set's CRS.
    """
    matrices = tile_matrix_set(name)
    crs = CRS.from_wkt(matrices.crs._pyproj_crs.to_wkt())
    # Of a source that lies in the CRS already it is its own grid: only bounds and resolution count.
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
    """The first tile that is touched and the one behind the last, within those that there are."""
    first, last = math.floor(low / size + _SNAP_TOLERANCE), math.ceil(high / size - _SNAP_TOLERANCE)
    return max(0, first), min(count, last)


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
