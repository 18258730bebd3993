"""Where a raster, or a window of a grid, lies on Earth: its bounds and polygon in EPSG:4326.

Longitudes wrap and are never clipped: 190 is -170, and left > right means across the antimeridian (RFC 7946).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyproj import CRS as ProjCRS
from rasterio.crs import CRS
from rasterio.io import DatasetReader
from rasterio.transform import Affine

from gdaltools.errors import InvalidParameter, UnsupportedRaster
from gdaltools.geo.crs import WGS84, Bounds, crs_name, parse_crs, transformer, turn
from gdaltools.geo.grid import Grid
from gdaltools.geo.reach import poles_inside, positions, reach
from gdaltools.storage import Location

_Points = tuple[NDArray[np.float64], NDArray[np.float64]]
_Window = tuple[int, int, int, int]

# Points per edge of a polygon, and per edge of an outline for its bounds.
_POINTS_PER_EDGE = 8
_POINTS_PER_OUTLINE = 32
# Beyond this latitude an outline may pass a pole between two points, so it has more.
_POLAR, _POINTS_NEAR_POLE = 75.0, 1024
# Share of a box's longer side that counts as close to it.
_MARGIN = 0.01
# Degrees (0.1 mm) by which a longitude or latitude may pass the world's end by rounding.
_ROUNDING = 1e-9
# Ellipsoids of Earth have a semi-major axis within this share of WGS 84's.
_RADIUS, _RADIUS_SHARE = 6378137.0, 0.01


def footprint(grid: Grid, window: _Window) -> tuple[Bounds, dict[str, Any]] | None:
    """Return the bounds and the GeoJSON geometry of a window ``(col_off, row_off, width, height)``.

    Straight edges of another CRS are curved in EPSG:4326, so the polygon has intermediate points. A window
    that crosses the antimeridian is split there into two boxes (RFC 7946 §3.1.9) and has left > right
    (§5.2); one that contains a pole becomes the box from -180 to 180. None if no part lies on Earth, as of a
    grid on another planet.
    """
    crs = _crs_of_earth(grid.crs)
    if crs is None:
        return None
    if crs != WGS84:
        lon, lat = _on_earth(crs, *_ring(grid, window, _POINTS_PER_EDGE))
        if np.isfinite(lat).all() and np.abs(lon).max() <= 180 and np.abs(np.diff(lon)).max() < 180:
            ring = [[float(x), float(y)] for x, y in zip(lon, lat, strict=True)]
            ring[-1] = ring[0]
            found = (float(lon.min()), float(lat.min()), float(lon.max()), float(lat.max()))
            return found, {"type": "Polygon", "coordinates": [ring]}
    bounds = _bounds(crs, grid, window)
    return None if bounds is None else (bounds, geometry_of(bounds))


def geometry_of(bounds: Bounds) -> dict[str, Any]:
    """Return the box as GeoJSON: a Polygon, or a MultiPolygon across the antimeridian.

    >>> len(geometry_of((170, -20, -170, -10))["coordinates"])
    2
    """
    rings = [[_box_ring(part)] for part in parts(bounds)]
    if len(rings) == 1:
        return {"type": "Polygon", "coordinates": rings[0]}
    return {"type": "MultiPolygon", "coordinates": rings}


def parts(bounds: Bounds) -> list[Bounds]:
    """Return the box, cut in two where it crosses the antimeridian.

    >>> parts((170, -20, -170, -10))
    [(170, -20, 180.0, -10), (-180.0, -20, -170, -10)]
    """
    left, bottom, right, top = bounds
    if left <= right:
        return [bounds]
    return [(left, bottom, 180.0, top), (-180.0, bottom, right, top)]


def hull(boxes: Sequence[Bounds]) -> Bounds:
    """Return the smallest box around boxes; left > right where the boxes, or the smallest, cross 180.

    >>> hull([(175, 0, 180, 1), (-180, -1, -170, 0)])
    (175, -1, -170.0, 1)
    """
    lefts, bottoms, rights, tops = zip(*boxes, strict=True)
    spans = sorted(
        (left, right if left <= right else right + 360) for left, right in zip(lefts, rights, strict=True)
    )
    reached = [*accumulate((right for _, right in spans), max)]
    reached = [max(right, reached[-1] - 360) for right in reached]
    starts = [*(left for left, _ in spans[1:]), spans[0][0] + 360]
    gap, west = max((start - end, start) for end, start in zip(reached, starts, strict=True))
    left, right = _wrapped(west, west + 360 - max(gap, 0.0))
    return left, min(bottoms), right, max(tops)


def near(bounds: Bounds, lon: NDArray[Any], lat: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the indexes of the latitudes and of the longitudes in a box, or close to it.

    Longitudes may lie in any copy of the world. Bounds are those of a sampled outline, which may bulge a
    little between its points; hence "close to it".
    """
    left, bottom, right, top = bounds
    width = right - left if left <= right else right - left + 360
    pad = _MARGIN * max(width, top - bottom)
    rows = np.flatnonzero((lat >= bottom - pad) & (lat <= top + pad))
    return rows, np.flatnonzero((lon - left + pad) % 360 <= width + 2 * pad)


def pixels_at(
    grid: Grid, crs: CRS, x: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the columns and rows of a raster, with fractions, at points in any CRS.

    The points and the raster may lie in any copy of the world: a raster from 0 to 360 has pixels at -10.
    Columns and rows are not finite, or outside the raster, where it has no pixel.
    """
    own = parse_crs(grid.crs, "CRS of the grid")
    whole = turn(crs)
    with np.errstate(invalid="ignore"):
        if own != crs:
            x = x if whole is None else (x + whole / 2) % whole - whole / 2
            x, y = transformer(crs, own).transform(x, y, errcheck=False)
        return positions(grid, x, y)


def corner_bounds(dataset: DatasetReader) -> Bounds:
    """Return the box around the raster's four corners in its own CRS; correct for rotated rasters too."""
    corners = [dataset.transform * (col, row) for col in (0, dataset.width) for row in (0, dataset.height)]
    xs, ys = zip(*corners, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def own_grid(dataset: DatasetReader, crs: CRS) -> Grid:
    """Return the raster's own pixels as a grid in `crs`, which may be another than its own."""
    return Grid(
        crs=crs_name(crs),
        transform=tuple(dataset.transform)[:6],
        width=dataset.width,
        height=dataset.height,
    )


def bounds_4326(crs: CRS | None, transform: Affine, width: int, height: int) -> Bounds | None:
    """Return left, bottom, right, top in EPSG:4326 of the part of a raster that lies on Earth.

    Longitudes are in -180..180; left > right means that the raster crosses the antimeridian, and one that
    contains a pole or goes round the world reaches from -180 to 180. None if no part lies on Earth: the
    raster has no CRS or transform, or the CRS is a local one or another planet's.
    """
    if not crs or transform.is_identity or not np.isfinite(transform).all() or not _of_earth(crs):
        return None
    grid = Grid(crs="", transform=tuple(transform)[:6], width=width, height=height)
    return _bounds(crs, grid, (0, 0, width, height))


def geographic_bounds(dataset: DatasetReader, location: Location | str) -> Bounds:
    """Return `bounds_4326` of a raster that must lie on Earth.

    Raises
    ------
    UnsupportedRaster
        The raster has no CRS or transform, or its CRS does not place it on Earth.
    """
    if not dataset.crs or dataset.transform.is_identity:
        raise UnsupportedRaster(f"{location} has no CRS or transform: write it again with input_crs")
    found = bounds_4326(dataset.crs, dataset.transform, dataset.width, dataset.height)
    if found is None:
        raise UnsupportedRaster(f"{location} has no place on Earth by its CRS: check it")
    return found


@lru_cache(maxsize=64)
def _crs_of_earth(name: str) -> CRS | None:
    crs = parse_crs(name, "CRS of the grid")
    return crs if _of_earth(crs) else None


def _of_earth(crs: CRS) -> bool:
    return (crs.is_geographic or crs.is_projected) and _reaches_earth(crs.to_wkt())


@lru_cache(maxsize=64)
def _reaches_earth(wkt: str) -> bool:
    """Whether the CRS has an ellipsoid of Earth's size, and PROJ can transform it to EPSG:4326."""
    try:
        transformer(CRS.from_wkt(wkt), WGS84)
    except InvalidParameter:
        return False
    ellipsoid = ProjCRS.from_wkt(wkt).ellipsoid
    return ellipsoid is None or abs(ellipsoid.semi_major_metre / _RADIUS - 1) < _RADIUS_SHARE


def _on_earth(crs: CRS, x: NDArray[np.float64], y: NDArray[np.float64]) -> _Points:
    """Return longitudes and latitudes, infinite where there are none."""
    lon, lat = transformer(crs, WGS84).transform(x, y, errcheck=False)
    return np.asarray(lon, dtype="float64"), np.asarray(lat, dtype="float64")


def _bounds(crs: CRS, grid: Grid, window: _Window) -> Bounds | None:
    if crs == WGS84:
        west, south, east, north = grid.bounds_of(*window)
    else:
        lon, lat = _on_earth(crs, *_ring(grid, window, _POINTS_PER_OUTLINE))
        if crs.is_projected and np.abs(lat).max() > _POLAR:
            lon, lat = _on_earth(crs, *_ring(grid, window, _POINTS_NEAR_POLE))
        part = grid.part(*window)
        if np.isfinite(lon).all() and np.isfinite(lat).all() and not poles_inside(part, crs, WGS84):
            unwrapped = np.unwrap(lon, period=360)
            west, east = float(unwrapped.min()), float(unwrapped.max())
            south, north = float(lat.min()), float(lat.max())
        else:  # as of an elliptical world map, or of a full disk of Earth
            try:
                west, south, east, north = reach(part, crs, WGS84).bounds
            except UnsupportedRaster:
                return None
    left, right = _wrapped(west, east)
    return left, max(south, -90.0), right, min(north, 90.0)


def _wrapped(west: float, east: float) -> tuple[float, float]:
    """Return the ends of an interval of longitudes in -180..180."""
    if east - west >= 360 - _ROUNDING:
        return -180.0, 180.0
    if not -180 - _ROUNDING <= west < 180 - _ROUNDING:
        west = (west + 180 + _ROUNDING) % 360 - 180 - _ROUNDING
    if not -180 + _ROUNDING < east <= 180 + _ROUNDING:
        east = 180 + _ROUNDING - (180 + _ROUNDING - east) % 360
    return max(west, -180.0), min(east, 180.0)


def _box_ring(bounds: Bounds) -> list[list[float]]:
    left, bottom, right, top = bounds
    return [[left, bottom], [right, bottom], [right, top], [left, top], [left, bottom]]


def _ring(grid: Grid, window: _Window, points: int) -> _Points:
    """Return the window's outline in the grid's CRS: counter-clockwise from the lower left, closed."""
    col, row, width, height = window
    share = np.arange(points) / points
    low, high = np.zeros(points), np.ones(points)
    cols = np.concatenate([share, high, 1 - share, low, [0.0]]) * width + col
    rows = np.concatenate([high, 1 - share, low, share, [1.0]]) * height + row
    return grid.world(cols, rows)
