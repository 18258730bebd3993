"""An area of interest, as GeoJSON, and the tiles that touch it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.affinity import translate
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from gdaltools import storage
from gdaltools.errors import InvalidParameter
from gdaltools.geo import footprint
from gdaltools.geo.crs import WGS84_NAME, parse_crs, transform_points
from gdaltools.geo.grid import Grid
from gdaltools.geo.reach import positions
from gdaltools.storage.location import Location
from gdaltools.tiles.scheme import TilingScheme

# Edges are straight in longitude and latitude (RFC 7946 §3.1.1) but bent in other CRSs, so they are densified
# to this many points per side of the grid.
_POINTS = 256
# The area is clipped to the grid's bounds plus this share of their size on each side.
_MARGIN = 0.05
_MAX_BYTES = 64 << 20


def tiles_within(scheme: TilingScheme, area: Any) -> frozenset[tuple[int, int]]:
    """Return the row and column of every tile that touches `area`.

    Parameters
    ----------
    area : GeoJSON object, path or URL
        A geometry, Feature or FeatureCollection in EPSG:4326.

    Raises
    ------
    InvalidParameter
        `area` is not such an object, or cannot be transformed to the grid's CRS.
    SourceNotFound, StorageError
        `area` cannot be read.
    """
    found = _in_pixels(_geometry(area), scheme.grid)
    if found.is_empty:
        return frozenset()
    shapely.prepare(found)
    left, top, width, height = (
        np.array([getattr(scheme.window(row, col), name) for row, col in places])
        for name, places in (
            ("col_off", [(0, col) for col in range(scheme.cols)]),
            ("row_off", [(row, 0) for row in range(scheme.rows)]),
            ("width", [(0, col) for col in range(scheme.cols)]),
            ("height", [(row, 0) for row in range(scheme.rows)]),
        )
    )
    places: set[tuple[int, int]] = set()
    for row in range(scheme.rows):
        boxes = shapely.box(left, top[row], left + width, top[row] + height[row])
        places |= {(row, int(col)) for col in np.flatnonzero(shapely.intersects(boxes, found))}
    return frozenset(places)


def _geometry(area: Any) -> BaseGeometry:
    document = area
    if isinstance(area, str | os.PathLike | Location):
        if storage.stat(area).size > _MAX_BYTES:
            raise InvalidParameter(f"the area {area} is over the limit of {_MAX_BYTES >> 20} MB: simplify it")
        try:
            document = json.loads(storage.read_bytes(area))
        except ValueError as error:
            raise InvalidParameter(f"the area {area} is not JSON: {error}") from error
    if not isinstance(document, Mapping):
        raise InvalidParameter(f"an area is a GeoJSON object, a path or a URL, not a {type(area).__name__}")
    try:
        found = shapely.union_all([shape(part) for part in _geometries(document)])
    except (
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        shapely.errors.ShapelyError,
    ) as error:
        raise InvalidParameter(f"the area is no GeoJSON that can be read: {error!r}") from error
    west, south, east, north = found.bounds if not found.is_empty else (0, 0, 0, 0)
    if found.is_empty or not (-360 <= west <= east <= 360 and -90 <= south <= north <= 90):
        raise InvalidParameter(
            f"the area's bounds are {found.bounds}: it is to hold something, in longitude and latitude"
        )
    return shapely.make_valid(found)


def _geometries(document: Mapping[str, Any]) -> list[Any]:
    if document.get("type") == "FeatureCollection":
        return [feature["geometry"] for feature in document["features"] if feature["geometry"] is not None]
    return [document["geometry"] if document.get("type") == "Feature" else document]


def _in_pixels(area: BaseGeometry, grid: Grid) -> BaseGeometry:
    """Return the part of the area on and around the grid, in pixels of the grid."""
    placed_grid = footprint.footprint(grid, (0, 0, grid.width, grid.height))
    if placed_grid is None:
        raise InvalidParameter(
            f"an area in EPSG:4326 cannot choose tiles of {grid.crs.split(',')[0][:60]}: not on Earth"
        )
    bounds, outline = placed_grid
    around = shape(outline).envelope if bounds[0] <= bounds[2] else shape(outline)
    if parse_crs(grid.crs, "CRS of the grid").is_geographic:
        # Its columns may run beyond 180, where the area's longitudes do not.
        x, y = grid.world(np.array([grid.width / 2]), np.array([grid.height / 2]))
        middle = float(transform_points(grid.crs, WGS84_NAME, x, y)[0][0])
        west, south, east, north = bounds
        half = ((east - west) % 360 or 360) / 2
        around = shapely.box(middle - half, south, middle + half, north)
        turns = shapely.union_all([translate(area, 360 * turn) for turn in (-1, 0, 1)])
        area = shapely.intersection(turns, shapely.box(middle - 180, -90, middle + 180, 90))
    size = max(*(part for part in _sides(around)), 1e-9)
    near = shapely.intersection(area, around.buffer(_MARGIN * size, join_style="mitre"))
    if near.is_empty:
        return near
    dense = shapely.segmentize(near, size / _POINTS)
    lost = False

    def placed(points: NDArray[np.float64]) -> NDArray[np.float64]:
        nonlocal lost
        x, y = transform_points(WGS84_NAME, grid.crs, points[:, 0], points[:, 1])
        cols, rows = positions(grid, x, y)
        there = np.stack([cols, rows], axis=1)
        lost = lost or not np.isfinite(there).all()
        return np.where(np.isfinite(there), there, 0.0)

    found = shapely.transform(dense, placed)
    if lost:
        raise InvalidParameter(
            f"the area has points that have no place in {grid.crs.split(',')[0][:60]}: make it smaller"
        )
    return shapely.make_valid(found)


def _sides(geometry: BaseGeometry) -> tuple[float, float]:
    west, south, east, north = geometry.bounds
    return float(east - west), float(north - south)
