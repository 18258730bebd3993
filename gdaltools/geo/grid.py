"""Grids of pixels, each a CRS, a transform and a size, and the grid that a raster is warped to.

`target_grid` decides the latter for tiles, COGs and arrays alike. A raster that is already in the target CRS
and north up keeps its own grid, so its tiles are plain windows. Any other raster gets a grid whose origin is
a whole multiple of the pixel size, so rasters at one resolution line up with each other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat
from pyproj import CRS as ProjCRS
from rasterio.crs import CRS
from rasterio.transform import Affine

from gdaltools.errors import InvalidParameter, UnsupportedRaster
from gdaltools.geo.crs import WGS84_NAME, Bounds, crs_name, parse_crs, transform_points, turn
from gdaltools.geo.tms import checked_zoom, tile_matrix_set, zoom_level

Points = NDArray[np.float64]
Resolution = float | tuple[float, float]

#: GDAL's limit on the width and height of a raster.
MAX_SIDE = 2**31 - 1

# A grid with this many times its source's pixels, and this many times its diagonal, is stretched over a seam
# of the projection. A long strip at an angle has many more pixels, but not a longer diagonal.
_MAX_GROWTH, _MAX_STRETCH = 8, 2.5
# A diagonal gives a resolution within this factor of the local one, unless the footprint is torn.
_TORN = 2.0
# Samples of a source along each axis; around an extreme one, and how often the search narrows.
_PLACES, _AROUND, _ROUNDS = 65, 11, 6
_MEDIAN_OF = 5
# A raster whose longitudes leave less of the circle free than this is one around the whole Earth.
_WHOLE = 0.02
# A target that has nothing of the raster in this share of its extent tears it apart.
_TEAR = 0.2
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
    def upright(self) -> bool:
        """Whether rows and columns run along the axes of `crs`, in whichever direction."""
        _, b, _, d, _, _ = self.transform
        return b == 0 and d == 0

    @property
    def flipped(self) -> Grid:
        """The same pixels with the rows and columns of an upright grid in the order that is north up."""
        a, b, c, d, e, f = self.transform
        left, top = min(c, c + a * self.width), max(f, f + e * self.height)
        return self.model_copy(update={"transform": (abs(a), b, left, d, -abs(e), top)})

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

    It covers every part of `source` that has a place in `target_crs`; what looks into space, as the corners of
    a geostationary image, has none. Where a projected CRS loses its scale, as Mercator at the poles, the grid
    is limited to the CRS's area of use, if most of `source` lies there. A source that is north up in
    `target_crs` keeps its own grid, and a mirrored one (south up) has its rows and columns reversed. In a
    geographic CRS a grid across the antimeridian runs beyond 180.

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
        No part has a place in the target CRS, or a seam of that CRS, such as the antimeridian, tears it.
    """
    crs = _target_crs(target_crs, resolution, tms, zoom)
    size = _checked_resolution(resolution)
    source_crs = parse_crs(source.crs, "source CRS")
    if tms is None and source_crs == crs and source.upright and size in (None, source.resolution):
        return source.flipped.model_copy(update={"crs": crs_name(crs)})
    reach = _reach(source, source_crs, crs)
    bounds = reach.bounds
    if size is None:
        size = _default_resolution(source, source_crs, crs, reach)
    if tms is not None:
        if crs.is_geographic and bounds[2] > turn(crs) / 2 + max(size):
            raise UnsupportedRaster(
                f"the raster's longitudes run from {bounds[0]:.6g} to {bounds[2]:.6g}, across the antimeridian, "
                f"where {tms} is torn: cut the raster there first, or give target_crs instead"
            )
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


@dataclass(frozen=True)
class _Reach:
    """Where the target CRS holds a source: the bounds there, and the size of a source pixel there.

    Attributes
    ----------
    bounds : Bounds
        In a geographic target right > 180 where they cross the antimeridian, and all longitudes where no
        part of the circle is free.
    local : float or None
        The side of the square with a source pixel's area in the target: the median of the places.
    """

    bounds: Bounds
    local: float | None


@dataclass(frozen=True)
class _Way:
    """The places of a source in a target CRS, as PROJ finds them.

    Attributes
    ----------
    start : float or None
        The longitude from which those of a geographic target are counted; None elsewhere.
    area : two of (float, float) or None
        Longitudes and latitudes of the target's area of use, if places outside it do not count.
    """

    source: Grid
    source_crs: CRS
    target_crs: CRS
    start: float | None = None
    area: tuple[tuple[float, float], tuple[float, float]] | None = None

    def world(self, cols: Points, rows: Points) -> tuple[Points, Points]:
        """Return coordinates in the source CRS, with the pixels' halves beyond the poles put on the poles."""
        x, y = self.source.world(cols, rows)
        if self.source_crs.is_geographic:
            quarter = turn(self.source_crs) / 4
            y = np.clip(y, -quarter, quarter)
        return x, y

    def places(self, cols: Points, rows: Points) -> tuple[Points, Points]:
        """Return coordinates in the target of points in source pixels; NaN where there are none.

        A place counts if PROJ leads back from it to where it came from, to a pixel.
        """
        names = crs_name(self.source_crs), crs_name(self.target_crs)
        x, y = self.world(cols, rows)
        there_x, there_y = (part.copy() for part in transform_points(*names, x, y))
        back_x, back_y = transform_points(names[1], names[0], there_x, there_y)
        with np.errstate(invalid="ignore", over="ignore"):
            apart_x, apart_y = back_x - x, back_y - y
            if self.source_crs.is_geographic:
                whole = turn(self.source_crs)
                apart_x = (apart_x - whole * np.round(apart_x / whole)) * np.cos(y * 2 * math.pi / whole)
            across, down = self.source.resolution
            exact = max(across, down, 1e-3 * max(across * self.source.width, down * self.source.height))
            holds = np.isfinite(there_x) & np.isfinite(there_y) & (np.hypot(apart_x, apart_y) <= exact)
            if self.area is not None:
                holds &= _in_area(self.area, *self.on_earth(x, y))
            if self.start is not None:
                whole = turn(self.target_crs)
                there_x = self.start + np.mod(there_x - self.start, whole)
        there_x[~holds] = there_y[~holds] = np.nan
        return there_x, there_y

    def on_earth(self, x: Points, y: Points) -> tuple[Points, Points]:
        """Return longitudes and latitudes, in degrees, on the target's own globe."""
        globe = ProjCRS.from_wkt(self.target_crs.to_wkt()).geodetic_crs
        name = WGS84_NAME if globe is None else globe.to_wkt()
        return transform_points(crs_name(self.source_crs), name, x, y)


def _in_area(area: tuple[tuple[float, float], tuple[float, float]], lon: Points, lat: Points) -> Any:
    (west, east), (south, north) = area
    width = 360.0 if east - west >= 360 else (east - west) % 360
    beyond = np.mod(lon - west, 360)
    return ((beyond <= width) | (360 - beyond < 1e-9)) & (lat >= south) & (lat <= north)


def _lattice_of(source: Grid) -> tuple[Points, Points]:
    share = np.linspace(0, 1, _PLACES)
    cols, rows = np.meshgrid(share * source.width, share * source.height)
    return cols.ravel(), rows.ravel()


def _reach(source: Grid, source_crs: CRS, target_crs: CRS) -> _Reach:
    """Return where the target holds the source.

    Raises
    ------
    UnsupportedRaster
        It holds none of it, or tears it apart.
    """
    if source_crs == target_crs:
        return _Reach(source.bounds, None)
    way = _Way(source, source_crs, target_crs)
    cols, rows = _lattice_of(source)
    x, y = way.places(cols, rows)
    if target_crs.is_projected:
        way, x, y = _limited(way, cols, rows, x, y)
    if not np.isfinite(x).any():
        raise UnsupportedRaster(
            f"the raster's bounds {_listed(source.bounds)} in {_short(source_crs)} have no place in "
            f"{_short(target_crs)}: check input_crs, or choose another target_crs"
        )
    whole = False
    if target_crs.is_geographic:
        start, free = _free_longitudes(x[np.isfinite(x)], turn(target_crs))
        whole = free < turn(target_crs) * _WHOLE
        way = replace(way, start=start)
        x = start + np.mod(x - start, turn(target_crs))
    left, right, bottom, top = (
        _extreme(way, cols, rows, x, y, axis, sign) for axis in (0, 1) for sign in (-1, 1)
    )
    if target_crs.is_geographic:
        half = turn(target_crs) / 2
        if whole:
            left, right = -half, half
        else:
            shift = 2 * half * math.floor((left + half) / (2 * half))
            left, right = left - shift, right - shift
    else:
        _check_whole(source, target_crs, np.append(x, (left, right)), np.append(y, (bottom, top)))
    return _Reach((left, bottom, right, top), _local_resolution(way, x, y))


def _limited(way: _Way, cols: Points, rows: Points, x: Points, y: Points) -> tuple[_Way, Points, Points]:
    """Limit a source to the area of use, if it reaches where the target has no scale, as Mercator at a pole.

    Only if most of the source's places lie there.
    """
    area = ProjCRS.from_user_input(crs_name(way.target_crs)).area_of_use
    found = np.isfinite(x)
    if area is None or not found.any():
        return way, x, y
    local = _local_resolution(way, x, y)
    bounds = float(x[found].min()), float(y[found].min()), float(x[found].max()), float(y[found].max())
    growth = (bounds[2] - bounds[0]) * (bounds[3] - bounds[1]) / (way.source.width * way.source.height)
    if local is not None and growth <= (_TORN * local) ** 2:
        return way, x, y
    limited = replace(way, area=((area.west, area.east), (area.south, area.north)))
    inside = limited.places(cols, rows)
    if np.isfinite(inside[0]).sum() <= 0.5 * found.sum():
        return way, x, y
    return limited, *inside


def _free_longitudes(x: Points, whole: float) -> tuple[float, float]:
    """Return the middle of the widest range of longitudes without places, and its width."""
    around = np.sort(np.mod(x, whole))
    gaps = np.diff(around, append=around[0] + whole)
    widest = int(np.argmax(gaps))
    return float(around[widest] + gaps[widest] / 2), float(gaps[widest])


def _check_whole(source: Grid, target_crs: CRS, x: Points, y: Points) -> None:
    for axis, name in ((x, "x"), (y, "y")):
        found = np.sort(axis[np.isfinite(axis)])
        gaps = np.diff(found)
        if gaps.size and gaps.max() > _TEAR * (found[-1] - found[0]):
            first = float(found[int(np.argmax(gaps))])
            raise UnsupportedRaster(
                f"{_short(target_crs)} is torn where the raster lies (nothing from {name} {first:.6g} to "
                f"{first + float(gaps.max()):.6g}), as at the antimeridian: choose another "
                f"target_crs, such as the source's own, {source.crs[:60]}, or cut the raster there first"
            )


def _extreme(way: _Way, cols: Points, rows: Points, x: Points, y: Points, axis: int, sign: int) -> float:
    """Return the least (sign -1) or largest (1) coordinate of all places, searched for around them."""
    width, height = way.source.width, way.source.height
    reach = np.array([width, height]) / (_PLACES - 1)
    best, at = -math.inf, (0.0, 0.0)
    for _ in range(_ROUNDS):
        values = np.where(np.isfinite(x), sign * (x, y)[axis], -math.inf)
        index = int(np.argmax(values))
        if values[index] >= best:
            best, at = float(values[index]), (float(cols[index]), float(rows[index]))
        steps = np.linspace(-1, 1, _AROUND)
        cols, rows = (
            part.ravel()
            for part in np.meshgrid(
                np.clip(at[0] + steps * reach[0], 0, width), np.clip(at[1] + steps * reach[1], 0, height)
            )
        )
        x, y = way.places(cols, rows)
        reach = reach * 2.0 / (_AROUND - 1)
    return sign * best


def _diagonal_resolution(source: Grid, left: float, bottom: float, right: float, top: float) -> float:
    return math.hypot(right - left, top - bottom) / math.hypot(source.width, source.height)


def _local_resolution(way: _Way, x: Points, y: Points) -> float | None:
    """Return the side of the square with a source pixel's area in the target: the median of the places.

    None if none of them has an area there.
    """
    shares = (np.arange(_MEDIAN_OF) + 0.5) / _MEDIAN_OF
    cols, rows = (part.ravel() for part in np.meshgrid(shares * way.source.width, shares * way.source.height))
    step = 0.5
    (x, y), (x1, y1), (x2, y2) = (
        way.places(*place) for place in ((cols, rows), (cols + step, rows), (cols, rows + step))
    )
    with np.errstate(invalid="ignore"):
        area = np.abs((x1 - x) * (y2 - y) - (x2 - x) * (y1 - y)) / step**2
    area = area[np.isfinite(area) & (area > 0)]
    return math.sqrt(float(np.median(area))) if area.size else None


def _default_resolution(source: Grid, source_crs: CRS, target_crs: CRS, reach: _Reach) -> tuple[float, float]:
    bounds, local = reach.bounds, reach.local
    if source_crs == target_crs and source.transform[1] == source.transform[3] == 0:
        return source.resolution
    corners = source.world(np.array([0.0, source.width]), np.array([0.0, source.height]))
    found = transform_points(crs_name(source_crs), crs_name(target_crs), *corners)
    x, y = (axis.tolist() for axis in found)
    size = _diagonal_resolution(source, x[0], y[0], x[1], y[1])
    if local is None or not local / _TORN <= size <= local * _TORN:
        size = min(_diagonal_resolution(source, *bounds), local or math.inf)
    cols, rows = (bounds[2] - bounds[0]) / size, (bounds[3] - bounds[1]) / size
    growth = cols * rows / (source.width * source.height)
    stretch = math.hypot(cols, rows) / math.hypot(source.width, source.height)
    if growth > _MAX_GROWTH and stretch > _MAX_STRETCH:
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
            -math.floor(edge / one + _SNAP_TOLERANCE) if low >= -edge * (1 + _SNAP_TOLERANCE) else None,
            math.floor(edge / one + _SNAP_TOLERANCE) if high <= edge * (1 + _SNAP_TOLERANCE) else None,
        )
        if crs.is_geographic and low < edge
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
