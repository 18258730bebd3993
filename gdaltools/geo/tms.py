"""Tile matrix sets (OGC 17-083r4, Two Dimensional Tile Matrix Set), by their names, and their zoom levels."""

from __future__ import annotations

from typing import Any

from gdaltools.errors import InvalidParameter

_MAX_ZOOM = 30


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


def zoom_level(name: str, resolution: float) -> int:
    """Return the level of a tile matrix set whose pixels are closest to `resolution`, in units of its CRS.

    >>> zoom_level("WebMercatorQuad", 10.0), zoom_level("WebMercatorQuad", 1e9)
    (14, 0)
    """
    return int(tile_matrix_set(name).zoom_for_res(resolution, max_z=_MAX_ZOOM))


def checked_zoom(name: str, zoom: int) -> int:
    """Return `zoom`, if the tile matrix set has this level.

    Raises
    ------
    InvalidParameter
        There is no set of this name, or it has no such level.
    """
    least = tile_matrix_set(name).minzoom
    if isinstance(zoom, bool) or not isinstance(zoom, int) or not least <= zoom <= _MAX_ZOOM:
        raise InvalidParameter(f"zoom {zoom!r} of {name}: give a level from {least} to {_MAX_ZOOM}")
    return zoom
