"""Grids of pixels, each a CRS, a transform and a size, and the grid that a raster is warped to.

`target_grid` decides the latter for tiles, COGs and arrays alike. A raster that is already in the target CRS
and north up keeps its own grid, so its tiles are plain windows. Any other raster gets a grid whose origin is
a whole multiple of the pixel size, so rasters at one resolution line up with each other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat
from pyproj import CRS as ProjCRS
from rasterio.crs import CRS
from rasterio.transform import Affine

from gdaltools.errors import InvalidParameter, UnsupportedRaster
from gdaltools.geo.crs import WGS84, Bounds, crs_name, parse_crs, transform_bounds, transform_points
from gdaltools.geo.tms import checked_zoom, tile_matrix_set, zoom_level

Points = NDArray[np.float64]
Resolution = float | tuple[float, float]

#: GDAL's limit on the width and height of a raster.
MAX_SIDE = 2**31 - 1

# A grid with this many times its source's pixels, and this many times its diagonal, is stretched over a seam
# of the projection. A long strip at an angle has many more pixels, but not a longer diagonal.
_MAX_GROWTH = 8
# A diagonal gives a resolution within this factor of the local one, unless the footprint is torn.
_TORN = 2.0
_SNAP_TOLERANCE = 1e-6  # of a pixel, or of a map tile


class Grid(BaseModel):
    """A georeferenced grid of pixels.

    Attributes
    ----------
    crs : str
        ``AUTHORITY:CODE`` or WKT.
    transform : tuple of 6 float
        ``(a, b, c, d, e, f)`` as in `RasterInfo`.
    width, height : int
        In pixels.
    """

    model_config = ConfigDict(frozen=True)

    crs: Annotated[str, Field(max_length=20_000)]
    transform: tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat]
    width: Annotated[int, Field(ge=1, le=MAX_SIDE)]
    height: Annotated[int, Field(ge=1, le=MAX_SIDE)]

    @property
    def affine(self) -> Affine:
        """The transform as rasterio's `Affine`."""
        return Affine(*self.transform)

    @property
    def resolution(self) -> tuple[float, float]:
        """Pixel width and height, in units of `crs`."""
        a, b, _, d, e, _ = self.transform
        return math.hypot(a, d), math.hypot(b, e)

    @property
    def north_up(self) -> bool:
        """Whether rows run from north to south and columns from west to east."""
        a, b, _, d, e, _ = self.transform
        return b == 0 and d == 0 and a > 0 and e < 0

    @property
    def bounds(self) -> Bounds:
        """left, bottom, right, top."""
        return self.bounds_of(0, 0, self.width, self.height)

    def bounds_of(self, col_off: int, row_off: int, width: int, height: int) -> Bounds:
        """Return left, bottom, right, top of a window.

        Examples
        --------
        >>> scheme.grid.bounds_of(0, 0, 100, 50)
        (470000.0, 999500.0, 471000.0, 1000000.0)
        """
        a, b, c, d, e, f = self.transform
        corners = [(col, row) for col in (col_off, col_off + width) for row in (row_off, row_off + height)]
        xs = [a * col + b * row + c for col, row in corners]
        ys = [d * col + e * row + f for col, row in corners]
        return min(xs), min(ys), max(xs), max(ys)

    def world(self, cols: NDArray[Any], rows: NDArray[Any]) -> tuple[Points, Points]:
        """Return the coordinates, in `crs`, of points in pixels from the upper left corner.

        Examples
        --------
        >>> x, y = scheme.grid.world(np.array([0, 100]), np.array([0, 50]))
        >>> x.tolist(), y.tolist()
        ([470000.0, 471000.0], [1000000.0, 999500.0])
        """
        a, b, c, d, e, f = self.transform
        return a * cols + b * rows + c, d * cols + e * rows + f

    def pixels(self, x: Points, y: Points) -> tuple[Points, Points]:
        """Return positions, in pixels from the upper left corner, of points in `crs`: the inverse of `world`.

        Examples
        --------
        >>> cols, rows = scheme.grid.pixels(np.array([471000.0]), np.array([999500.0]))
        >>> cols.tolist(), rows.tolist()
        ([100.0], [50.0])
        """
        a, b, c, d, e, f = self.transform
        area = a * e - b * d
        x, y = x - c, y - f
        return (e * x - b * y) / area, (a * y - d * x) / area

    def transform_of(self, col_off: int, row_off: int) -> tuple[float, float, float, float, float, float]:
        """Return the transform of a window that begins at `col_off` and `row_off`.

        Examples
        --------
        >>> scheme.grid.transform_of(100, 50)
        (10.0, 0.0, 471000.0, 0.0, -10.0, 999500.0)
        """
        a, b, c, d, e, f = self.transform
        return a, b, a * col_off + b * row_off + c, d, e, d * col_off + e * row_off + f


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

    It covers all of `source`, unless part of that lies where a projected `target_crs` cannot express it or
    loses its scale, as Mercator at the poles. The grid is then limited to the CRS's area of use, if most of
    `source` lies there. A source that is north up in `target_crs` keeps its own grid.

    Parameters
    ----------
    source : Grid
        The raster's own grid.
    target_crs : CRS, optional
        The CRS of the grid; by default that of `tms`.
    resolution : float or (float, float), optional
        Pixel size in units of `target_crs`. By default an unrotated source keeps its resolution in its own
        CRS. Elsewhere pixels are square, by GDAL's rule: as many on the diagonal from the upper left to the
        lower right corner as the source has (gdaltransformer.cpp, GDALSuggestedWarpOutput2). If that is far
        from the size of the source's pixels in the target, as around a pole, they get about their area.
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
        The footprint crosses the antimeridian or a seam of the target CRS, or leaves that CRS's area.
    """
    crs = _target_crs(target_crs, resolution, tms, zoom)
    size = _checked_resolution(resolution)
    source_crs = parse_crs(source.crs, "source CRS")
    if tms is None and source_crs == crs and source.north_up and size in (None, source.resolution):
        return source.model_copy(update={"crs": crs_name(crs)})
    bounds = _target_bounds(source, source_crs, crs)
    if size is None:
        size = _default_resolution(source, source_crs, crs, bounds)
    if tms is not None:
        return _snapped(bounds, _level_lattice(tms, zoom, max(size), align), crs)
    return _snapped(bounds, _free_lattice(bounds, size, crs), crs)


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


def _target_bounds(source: Grid, source_crs: CRS, target_crs: CRS) -> Bounds:
    if source_crs == target_crs:
        return source.bounds
    west, _, east, _ = source.bounds
    if source_crs.is_geographic and max(east - 180, -180 - west) > source.resolution[0]:
        raise UnsupportedRaster(
            f"the raster's longitudes run from {west:.6g} to {east:.6g}, across the antimeridian: "
            f"keep it in its own CRS, {_short(source_crs)}, or cut it there first"
        )
    bounds = transform_bounds(source_crs, target_crs, source.bounds)
    if target_crs.is_projected and _beyond_use(source, source_crs, target_crs, bounds):
        bounds = _within_area_of_use(source, source_crs, target_crs) or bounds
    if not all(math.isfinite(value) for value in bounds):
        raise UnsupportedRaster(
            f"the raster's bounds {_listed(source.bounds)} in {_short(source_crs)} have no place in "
            f"{_short(target_crs)}: check input_crs, or choose another target_crs"
        )
    left, bottom, right, top = bounds
    if left > right:
        raise UnsupportedRaster(
            f"the raster crosses the antimeridian (longitudes {left:.6g} to {right:.6g}), where "
            f"{_short(target_crs)} is torn: choose a projected target_crs, such as the source's own"
        )
    return left, bottom, right, top


def _beyond_use(source: Grid, source_crs: CRS, target_crs: CRS, bounds: Bounds) -> bool:
    """Return whether the source reaches where the target has no place or scale, as Mercator at the poles."""
    if not all(math.isfinite(value) for value in bounds):
        return True
    local = _local_resolution(source, source_crs, target_crs)
    return local is None or _diagonal_resolution(source, *bounds) > _TORN * local


def _within_area_of_use(source: Grid, source_crs: CRS, target_crs: CRS) -> Bounds | None:
    """Return the bounds of the part in the target's area of use; None unless that is most of the raster."""
    area = ProjCRS.from_user_input(crs_name(target_crs)).area_of_use
    west, south, east, north = transform_bounds(source_crs, WGS84, source.bounds)
    if area is None or area.west > area.east or not west < east:
        return None
    inside = max(west, area.west), max(south, area.south), min(east, area.east), min(north, area.north)
    if not (inside[0] < inside[2] and inside[1] < inside[3]):
        return None
    share = (inside[2] - inside[0]) * (inside[3] - inside[1]) / ((east - west) * (north - south))
    return transform_bounds(WGS84, target_crs, inside) if share > 0.5 else None


def _diagonal_resolution(source: Grid, left: float, bottom: float, right: float, top: float) -> float:
    return math.hypot(right - left, top - bottom) / math.hypot(source.width, source.height)


def _local_resolution(source: Grid, source_crs: CRS, target_crs: CRS) -> float | None:
    """Return the side of the square with a source pixel's area in the target: the median of 25 places.

    None if none of them has a place in the target.
    """
    shares = np.array([0.1, 0.3, 0.5, 0.7, 0.9])
    cols, rows = (part.ravel() for part in np.meshgrid(shares * source.width, shares * source.height))
    step = 0.5
    places = [(cols, rows), (cols + step, rows), (cols, rows + step)]
    (x, y), (x1, y1), (x2, y2) = (
        transform_points(crs_name(source_crs), crs_name(target_crs), *source.world(*place))
        for place in places
    )
    with np.errstate(invalid="ignore"):
        area = np.abs((x1 - x) * (y2 - y) - (x2 - x) * (y1 - y)) / step**2
    area = area[np.isfinite(area) & (area > 0)]
    return math.sqrt(float(np.median(area))) if area.size else None


def _default_resolution(
    source: Grid, source_crs: CRS, target_crs: CRS, bounds: Bounds
) -> tuple[float, float]:
    if source_crs == target_crs and source.transform[1] == source.transform[3] == 0:
        return source.resolution
    corners = source.world(np.array([0.0, source.width]), np.array([0.0, source.height]))
    found = transform_points(crs_name(source_crs), crs_name(target_crs), *corners)
    x, y = (axis.tolist() for axis in found)
    size = _diagonal_resolution(source, x[0], y[0], x[1], y[1])
    local = _local_resolution(source, source_crs, target_crs)
    if local is None or not local / _TORN <= size <= local * _TORN:
        size = min(_diagonal_resolution(source, *bounds), local or math.inf)
    cols, rows = (bounds[2] - bounds[0]) / size, (bounds[3] - bounds[1]) / size
    growth = cols * rows / (source.width * source.height)
    stretch = math.hypot(cols, rows) / math.hypot(source.width, source.height)
    if min(growth, stretch) > _MAX_GROWTH:
        raise UnsupportedRaster(
            f"in {_short(target_crs)} the raster would stretch over {cols:.0f} x {rows:.0f} pixels, "
            f"{growth:.0f} times its own: it crosses a seam of that CRS; choose another target_crs"
        )
    if target_crs.is_geographic and bounds[2] - bounds[0] >= 360 - size:
        # Around the whole Earth the pixel size divides 90°, so that no pixel is lost at ±180 and ±90.
        size = 90 / math.ceil(90 / size)
    return size, size


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


def _free_lattice(bounds: Bounds, size: tuple[float, float], crs: CRS) -> _Lattice:
    """Return the multiples of a pixel size, limited to the globe for degrees unless `bounds` leave it."""
    left, bottom, right, top = bounds
    limits = tuple(
        (
            -math.floor(edge / one + _SNAP_TOLERANCE) if low >= -edge - one else None,
            math.floor(edge / one + _SNAP_TOLERANCE) if high <= edge + one else None,
        )
        if crs.is_geographic
        else (None, None)
        for low, high, one, edge in ((left, right, size[0], 180), (-top, -bottom, size[1], 90))
    )
    return _Lattice(origin=(0.0, 0.0), size=size, unit=(1, 1), limits=limits)


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
            f"a grid of {cols} x {rows} pixels at resolution {across:g} in {_short(crs)} is outside "
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


def _listed(bounds: Bounds) -> str:
    return "(" + ", ".join(f"{value:.6g}" for value in bounds) + ")"


def _short(crs: CRS) -> str:
    return crs_name(crs).split(",")[0][:60]
