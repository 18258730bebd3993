"""MosaicJSON 0.0.3: the document that says which COGs each map tile needs.

The format is github.com/developmentseed/mosaicjson-spec, 0.0.3/Readme.md; § are its sections. Map tiles are
those of WebMercatorQuad (OGC 17-083r4), named by Bing Maps' quadkeys
(learn.microsoft.com/bingmaps/articles/bing-maps-tile-system, "Tile Coordinates and Quadkeys").

>>> boxes = [("west.tif", (-180, -60, 0, 60)), ("north.tif", (-10, 10, 10, 60))]
>>> tiles_of(boxes, zoom=1)
{'0': ('west.tif', 'north.tif'), '1': ('north.tif',), '2': ('west.tif',)}
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from gdaltools.geo.crs import Bounds

# Degrees, where the square world of Web Mercator ends.
LATITUDE_LIMIT = 85.0511287798
# More entries than this make a document that no reader wants; a coarser quadkey says the same.
_MAX_QUADKEYS = 10_000
# Degrees (about a centimetre) by which boxes shrink, so that neighbours of a tile's edge stay out of it.
_INSET = 1e-7


class MosaicDocument(BaseModel):
    """A MosaicJSON document; its fields are the specification's keys, in the specification's order.

    Attributes
    ----------
    name : str
        What the mosaic is called (§3.2).
    version : str
        The mosaic's own, not the format's (§3.4).
    minzoom, maxzoom : int
        Zoom levels at which the mosaic is meant to be shown (§3.6, §3.7).
    quadkey_zoom : int
        Zoom level of the keys of `tiles` (§3.8).
    bounds : tuple of 4 float
        left, bottom, right, top in EPSG:4326 (§3.9).
    center : tuple of 3
        Longitude, latitude and zoom (§3.10).
    tiles : dict of str to tuple of str
        The COGs of each map tile, the first drawn first (§3.11).
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    mosaicjson: Literal["0.0.3"] = "0.0.3"
    name: str
    version: str = "1.0.0"
    minzoom: int = Field(ge=0, le=30)
    maxzoom: int = Field(ge=0, le=30)
    quadkey_zoom: int = Field(ge=0, le=30)
    bounds: Bounds
    center: tuple[float, float, int]
    tiles: dict[str, tuple[str, ...]]


def tiles_of(boxes: Iterable[tuple[str, Bounds]], zoom: int) -> dict[str, tuple[str, ...]]:
    """The names of the boxes that each map tile of a zoom level touches, by the tile's quadkey.

    Tiles come row by row from the north-west, names in the order of `boxes` and each once. A box counts as a
    centimetre smaller on each side, so that it does not touch the neighbours of a tile that it fills.

    Parameters
    ----------
    boxes : iterable of (str, tuple of 4 float)
        Names and left, bottom, right, top in EPSG:4326; left < right, within Web Mercator's latitudes. One
        name may have several boxes.
    """
    found: dict[tuple[int, int], dict[str, None]] = {}
    for name, box in boxes:
        cols, rows = _tile_range(_inset(box), zoom)
        for row in rows:
            for col in cols:
                found.setdefault((row, col), {})[name] = None
    return {quadkey(col, row, zoom): tuple(names) for (row, col), names in sorted(found.items())}


def quadkey(col: int, row: int, zoom: int) -> str:
    """The quadkey of a map tile: a digit a level, the coarsest first, of the bits of column and row.

    Rows count from the north. The one tile of zoom 0 has the empty quadkey.

    >>> quadkey(3, 5, 3)
    '213'
    """
    levels = range(zoom - 1, -1, -1)
    return "".join(str((col >> level & 1) + 2 * (row >> level & 1)) for level in levels)


def quadkey_zoom(boxes: Sequence[Bounds], minzoom: int) -> int:
    """The finest zoom, `minzoom` at most, at which the boxes touch 10,000 map tiles at most."""
    zoom = minzoom
    while zoom > 0 and _tiles_covered(boxes, zoom) > _MAX_QUADKEYS:
        zoom -= 1
    return zoom


def _inset(box: Bounds) -> Bounds:
    left, bottom, right, top = box
    dx, dy = min(_INSET, (right - left) / 4), min(_INSET, (top - bottom) / 4)
    return left + dx, bottom + dy, right - dx, top - dy


def _tile_range(box: Bounds, zoom: int) -> tuple[range, range]:
    """Columns and rows of the map tiles that a box touches."""
    left, bottom, right, top = box
    count = 1 << zoom

    def index(share: float) -> int:
        return min(max(math.floor(share * count), 0), count - 1)

    cols = range(index((left + 180) / 360), index((right + 180) / 360) + 1)
    return cols, range(index(1 - _mercator(top)), index(1 - _mercator(bottom)) + 1)


def _tiles_covered(boxes: Sequence[Bounds], zoom: int) -> float:
    """At most how many map tiles the boxes touch, overlaps counted twice."""
    count = 0.0
    for left, bottom, right, top in boxes:
        across = (right - left) / 360 * 2**zoom
        down = (_mercator(top) - _mercator(bottom)) * 2**zoom
        count += (across + 2) * (down + 2)
    return min(count, 4.0**zoom)


def _mercator(latitude: float) -> float:
    """Share of Web Mercator's height, from its south end (EPSG guidance note 7-2, Popular Visualisation)."""
    radians = math.radians(latitude)
    return math.log(math.tan(math.pi / 4 + radians / 2)) / (2 * math.pi) + 0.5
