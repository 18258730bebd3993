"""Where a window of a grid lies on Earth: its bounds and polygon in EPSG:4326."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.io import DatasetReader

from gdaltools.errors import InvalidParameter, UnsupportedRaster
from gdaltools.geo.crs import WGS84, WGS84_NAME, Bounds, parse_crs, transform_bounds, transform_points
from gdaltools.geo.grid import Grid
from gdaltools.storage import Location

_POINTS_PER_EDGE = 8


def footprint(grid: Grid, window: tuple[int, int, int, int]) -> tuple[Bounds, dict[str, Any]]:
    """Return the bounds and the GeoJSON geometry of a window ``(col_off, row_off, width, height)``.

    Straight edges of another CRS are curved in EPSG:4326, so the polygon has intermediate points. A window
    that crosses the antimeridian is split there into two boxes (RFC 7946 §3.1.9) and has left > right
    (§5.2); one that contains a pole becomes the box from -180 to 180.

    Raises
    ------
    UnsupportedRaster
        The window lies outside the area that the grid's CRS can express.
    """
    bounds = grid.bounds_of(*window)
    if grid.crs == WGS84_NAME:
        return bounds, _box(bounds)
    lon, lat = transform_points(grid.crs, WGS84_NAME, *_ring(grid, window))
    if np.isfinite(lon).all() and np.isfinite(lat).all() and np.abs(np.diff(lon)).max() < 180:
        ring = [[float(x), float(y)] for x, y in zip(lon, lat, strict=True)]
        ring[-1] = ring[0]
        found = (float(lon.min()), float(lat.min()), float(lon.max()), float(lat.max()))
        return found, {"type": "Polygon", "coordinates": [ring]}
    found = transform_bounds(parse_crs(grid.crs, "CRS of the grid"), WGS84, bounds)
    if not np.isfinite(found).all():
        found = _bounds_of_inner_points(grid, window)
    if not np.isfinite(found).all():
        raise UnsupportedRaster(f"a tile at {bounds} has no place on Earth: choose another target_crs")
    left, bottom, right, top = found
    if right == -180 < left:
        found = left, bottom, right, top = left, bottom, 180.0, top
    if left <= right:
        return found, _box(found)
    halves = (_box((left, bottom, 180.0, top)), _box((-180.0, bottom, right, top)))
    return found, {"type": "MultiPolygon", "coordinates": [half["coordinates"] for half in halves]}


def _bounds_of_inner_points(grid: Grid, window: tuple[int, int, int, int]) -> Bounds:
    """Return the bounds of those points of a window that have a place on Earth; infinite if none has.

    For a window whose corners lie outside the projection's domain, as around an elliptical world map.
    """
    col, row, width, height = window
    share = np.linspace(0, 1, 4 * _POINTS_PER_EDGE + 1)
    cols, rows = (part.ravel() for part in np.meshgrid(col + share * width, row + share * height))
    lon, lat = transform_points(grid.crs, WGS84_NAME, *grid.world(cols, rows))
    placed = np.isfinite(lon) & np.isfinite(lat)
    if not placed.any():
        return (np.inf,) * 4
    lon, lat = lon[placed], lat[placed]
    return float(lon.min()), float(lat.min()), float(lon.max()), float(lat.max())


def _box(bounds: Bounds) -> dict[str, Any]:
    left, bottom, right, top = bounds
    ring = [[left, bottom], [right, bottom], [right, top], [left, top], [left, bottom]]
    return {"type": "Polygon", "coordinates": [ring]}


def _ring(grid: Grid, window: tuple[int, int, int, int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the window's outline in the grid's CRS: counter-clockwise from the lower left, closed."""
    col, row, width, height = window
    share = np.arange(_POINTS_PER_EDGE) / _POINTS_PER_EDGE
    low, high = np.zeros(_POINTS_PER_EDGE), np.ones(_POINTS_PER_EDGE)
    cols = np.concatenate([share, high, 1 - share, low, [0.0]]) * width + col
    rows = np.concatenate([high, 1 - share, low, share, [1.0]]) * height + row
    return grid.world(cols, rows)


def corner_bounds(dataset: DatasetReader) -> Bounds:
    """Return the box around the raster's four corners in its own CRS; correct for rotated rasters too."""
    corners = [dataset.transform * (col, row) for col in (0, dataset.width) for row in (0, dataset.height)]
    xs, ys = zip(*corners, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def geographic_bounds(dataset: DatasetReader, location: Location | str) -> Bounds:
    """Return left, bottom, right, top in EPSG:4326, clipped to the globe.

    left > right means that the raster crosses the antimeridian.

    Raises
    ------
    UnsupportedRaster
        The raster has no CRS or transform, or its CRS does not place it on Earth.
    """
    if not dataset.crs or dataset.transform.is_identity:
        raise UnsupportedRaster(f"{location} has no CRS or transform: write it again with input_crs")
    try:
        left, bottom, right, top = transform_bounds(dataset.crs, WGS84, corner_bounds(dataset))
    except InvalidParameter as error:
        raise UnsupportedRaster(f"{location} has no place on Earth by its CRS: {error}") from error
    if not all(map(math.isfinite, (left, bottom, right, top))):
        raise UnsupportedRaster(f"{location} has no place on Earth by its CRS: check it")
    return max(left, -180.0), max(bottom, -90.0), min(right, 180.0), min(top, 90.0)
