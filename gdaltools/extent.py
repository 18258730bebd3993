"""Where an open raster lies on Earth, from the header alone."""

from __future__ import annotations

import math

from rasterio.io import DatasetReader

from gdaltools.errors import InvalidParameter, UnsupportedRaster
from gdaltools.geo.crs import WGS84, Bounds, transform_bounds
from gdaltools.storage import Location


def corner_bounds(dataset: DatasetReader) -> Bounds:
    """The box around the four corners in the raster's own CRS, also of a rotated raster."""
    corners = [dataset.transform * (col, row) for col in (0, dataset.width) for row in (0, dataset.height)]
    xs, ys = zip(*corners, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def geographic_bounds(dataset: DatasetReader, location: Location | str) -> Bounds:
    """left, bottom, right, top in EPSG:4326, within the globe; left > right across the antimeridian.

    Raises
    ------
    UnsupportedRaster
        The raster has no CRS or transform, or its CRS gives it no place on Earth.
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
