"""The grid that a raster is warped to: the same for tiles, COGs and arrays.

A raster that is already in the target CRS and upright keeps its own pixels, so its tiles are plain windows.
Any other raster gets a grid whose origin is a whole multiple of the pixel size, so rasters at one resolution
line up with each other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from rasterio.crs import CRS

from gdaltools.errors import InvalidParameter, UnsupportedRaster
from gdaltools.geo.crs import Bounds, crs_name, parse_crs, short_name, transform_points, whole_circle
from gdaltools.geo.grid import MAX_SIDE, Grid
from gdaltools.geo.reach import Reach, reach
from gdaltools.geo.tms import checked_zoom, tile_matrix_set, zoom_level

Resolution = float | tuple[float, float]

# GDAL's resolution is used if it gives at most this many pixels per pixel of the source, and no less than the
# inverse: in the whole grid, and where the source lies.
_MOST_GROWTH = 2
_SNAP_TOLERANCE = 1e-6  # of a pixel, or of a map tile


def target_grid(
    source: Grid,
    target_crs: CRS | None = None,
    *,
    resolution: Resolution | None = None,
    tms: str | None = None,
    zoom: int | None = None,
    align: int = 1,
) -> Grid:
    """Return the grid that covers `source` in another CRS; its edges are whole multiples of its pixel size.

    It covers every part of `source` that has a place in `target_crs`; what looks into space, as the corners
    of a geostationary image, has none. If a projected CRS loses its scale within `source`, as Mercator at the
    poles, the grid is limited to the area of use of the CRS, and `Grid.limited_to` says so. A source that is
    north up in `target_crs` keeps its own grid, and a mirrored one (south up) has its rows and columns
    reversed. In a geographic CRS a grid across the antimeridian runs beyond 180.

    Parameters
    ----------
    source : Grid
        The raster's own grid.
    target_crs : CRS, optional
        The CRS of the grid; by default that of `tms`.
    resolution : float or (float, float), optional
        Pixel size in units of `target_crs`. By default an unrotated source keeps its resolution in its own
        CRS. Elsewhere pixels are square, by GDAL's rule: as many on the diagonal from the upper left to the
        lower right corner as the source has (gdaltransformer.cpp, GDALSuggestedWarpOutput2). If that gives
        more than twice or less than half the source's pixels, as around a pole, they get the mean area that
        the source's pixels have in the target.
    tms : str, optional
        The grid is that of a zoom level of this tile matrix set (morecantile's name, such as
        "WebMercatorQuad"; OGC 17-083r4), in whole map tiles: cutting them from it resamples nothing again.
    zoom : int, optional
        The level of `tms`; by default the one closest to the source's resolution.
    align : int
        With `tms`, edges are also multiples of this many pixels within the level, if that is a multiple of
        the side of a map tile.

    Raises
    ------
    InvalidParameter
        The resolution is not positive, the set or its level does not exist or has another CRS, PROJ has no
        transformation between the two CRSs, or the grid would be too large.
    UnsupportedRaster
        No part has a place in the target CRS, or a seam of that CRS, such as the antimeridian, tears it.
    """
    crs = _target_crs(target_crs, resolution, tms, zoom)
    size = _checked_resolution(resolution)
    source_crs = parse_crs(source.crs, "source CRS")
    if tms is None and source_crs == crs and source.upright and size in (None, source.resolution):
        return source.flipped
    found = reach(source, source_crs, crs)
    bounds = found.bounds
    if size is None:
        size = _default_resolution(source, source_crs, crs, found)
    if tms is not None:
        if crs.is_geographic and bounds[2] > whole_circle(crs) / 2 + max(size):
            raise UnsupportedRaster(
                f"the raster's longitudes run from {bounds[0]:.6g} to {bounds[2]:.6g}, across the "
                f"antimeridian, where {tms} is torn: cut the raster there first, or give target_crs instead"
            )
        lattice = _level_lattice(tms, zoom, max(size), align)
    else:
        lattice = _Lattice((0.0, 0.0), size, unit=(1, 1), limits=((None, None), (None, None)))
    return _snapped(bounds, lattice, crs).model_copy(update={"limited_to": found.area})


def _target_crs(crs: CRS | None, resolution: Resolution | None, tms: str | None, zoom: int | None) -> CRS:
    if tms is None:
        if zoom is not None:
            raise InvalidParameter(f"zoom {zoom} of which tile matrix set? Give tms, as 'WebMercatorQuad'")
        if crs is None:
            raise InvalidParameter("a grid needs a CRS: give target_crs, or tms")
        return crs
    own: CRS = tile_matrix_set(tms).rasterio_crs
    if resolution is not None or crs not in (None, own):
        raise InvalidParameter(f"tms {tms!r} has a CRS and resolutions of its own: give these or tms")
    return own


def _checked_resolution(resolution: Resolution | None) -> tuple[float, float] | None:
    if resolution is None:
        return None
    pair = resolution if isinstance(resolution, tuple) else (resolution, resolution)
    if len(pair) != 2 or not all(isinstance(r, int | float) and math.isfinite(r) and r > 0 for r in pair):
        raise InvalidParameter(f"resolution {resolution!r}: give a positive number, or (x, y) of them")
    return float(pair[0]), float(pair[1])


def _default_resolution(source: Grid, source_crs: CRS, target_crs: CRS, reach: Reach) -> tuple[float, float]:
    """Return a pixel size: GDAL's, unless it gives far more or fewer pixels than the source has."""
    if source_crs == target_crs and source.upright:
        return source.resolution
    left, bottom, right, top = reach.bounds
    corners = source.world(np.array([0.0, source.width]), np.array([0.0, source.height]))
    x, y = transform_points(crs_name(source_crs), crs_name(target_crs), *corners)
    x, y = (np.where(np.isfinite(part), part, np.nan) for part in (x, y))
    diagonal = math.hypot(source.width, source.height)
    sizes = (
        math.hypot(x[1] - x[0], y[1] - y[0]) / diagonal,
        math.hypot(right - left, top - bottom) / diagonal,
    )
    box = (right - left) * (top - bottom) / reach.pixels
    pixel = reach.pixel_area or box
    usual = [size for size in sizes if all(_alike(area, size**2) for area in (box, pixel))]
    size = usual[0] if usual else math.sqrt(pixel)
    if target_crs.is_geographic and right - left >= whole_circle(target_crs) - size:
        # Around the whole Earth the pixel size divides 90°, so that no pixel is lost at ±180 and ±90.
        quarter = whole_circle(target_crs) / 4
        size = quarter / math.ceil(quarter / size)
    return size, size


def _alike(area: float, other: float) -> bool:
    return 0 < other < math.inf and 1 / _MOST_GROWTH <= area / other <= _MOST_GROWTH


@dataclass(frozen=True)
class _Lattice:
    """The lines along which the edges of a grid may lie.

    Attributes
    ----------
    origin : (float, float)
        x and y where columns and rows are counted from.
    size : (float, float)
        Width and height of a pixel.
    unit : (int, int)
        Edges are multiples of these columns and rows from the origin.
    limits : two of (int or None, int or None)
        The first column and row that a grid may have, and the ones after the last.
    """

    origin: tuple[float, float]
    size: tuple[float, float]
    unit: tuple[int, int]
    limits: tuple[tuple[int | None, int | None], ...]


def _level_lattice(tms: str, zoom: int | None, resolution: float, align: int) -> _Lattice:
    """Return the tiles of a zoom level, or squares of `align` pixels that consist of whole tiles."""
    level = zoom_level(tms, resolution) if zoom is None else checked_zoom(tms, zoom)
    matrix, corner = tile_matrix_set(tms).matrix(level), tile_matrix_set(tms).xy_bounds(0, 0, level)
    across, down = int(matrix.tileWidth), int(matrix.tileHeight)
    return _Lattice(
        origin=(float(corner.left), float(corner.top)),
        size=(float(matrix.cellSize), float(matrix.cellSize)),
        unit=(align if align % across == 0 else across, align if align % down == 0 else down),
        limits=((0, across * int(matrix.matrixWidth)), (0, down * int(matrix.matrixHeight))),
    )


def _snapped(bounds: Bounds, lattice: _Lattice, crs: CRS) -> Grid:
    """Return the smallest grid along the lines of a lattice that covers `bounds`, within its limits."""
    (x, y), (across, down) = lattice.origin, lattice.size
    left, bottom, right, top = bounds
    (col, cols), (row, rows) = (
        _snapped_axis(low / size, high / size, unit, limits)
        for low, high, size, unit, limits in zip(
            (left - x, y - top),
            (right - x, y - bottom),
            lattice.size,
            lattice.unit,
            lattice.limits,
            strict=True,
        )
    )
    if not (1 <= cols <= MAX_SIDE and 1 <= rows <= MAX_SIDE):
        raise InvalidParameter(
            f"a grid of {cols} x {rows} pixels at resolution {across:g} in {short_name(crs)} is outside "
            f"GDAL's limit of {MAX_SIDE}: choose another resolution, zoom or target_crs"
        )
    return Grid(
        crs=crs_name(crs),
        transform=(across, 0.0, x + col * across, 0.0, -down, y - row * down),
        width=cols,
        height=rows,
    )


def _snapped_axis(
    low: float, high: float, unit: int, limits: tuple[int | None, int | None]
) -> tuple[int, int]:
    """Return the first pixel and the number of pixels, in whole units except at the limits."""
    first = math.floor(low / unit + _SNAP_TOLERANCE) * unit
    last = math.ceil(high / unit - _SNAP_TOLERANCE) * unit
    least, most = limits
    first = first if least is None else max(first, least)
    last = last if most is None else min(last, most)
    return first, last - first
