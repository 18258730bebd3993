"""Where another CRS holds a grid: the places that PROJ finds for its pixels, and their bounds.

A place counts if PROJ leads back from it. What looks into space, as the corners of a geostationary image, has
none. Pixels centred on a pole end there, and longitudes wrap.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pyproj import CRS as ProjCRS
from pyproj import Proj
from rasterio.crs import CRS

from gdaltools.errors import UnsupportedRaster
from gdaltools.geo.crs import (
    METRES_A_DEGREE,
    WGS84_NAME,
    Bounds,
    crs_name,
    parse_crs,
    short_name,
    transform_points,
    turn,
    whole_circle,
)
from gdaltools.geo.grid import Grid

Points = NDArray[np.float64]

# A projected CRS loses its scale where areas grow to this many times those usual in the raster: Mercator at
# 86° in a raster of the whole Earth.
_MOST_STRETCH = 100
# PROJ leads back from a place to within this share of a pixel, or this distance in metres: the operations
# that it chooses for the two directions may differ by metres. Without a place, it leads back far away.
_LEADS_BACK_PIXELS, _LEADS_BACK = 0.1, 100.0
# Positions along each axis of a grid at which places are found, and around an extreme one.
_POSITIONS, _AROUND = 65, 11
# The search for an extreme narrows by this factor until it is this exact, in source pixels.
_NARROWING, _EXACT = 0.4, 0.01
# The outline is found this far inside, in source pixels: at a seam of the target, an edge has two places.
_EDGE = 1e-4
# Pixels from the edge of a grid at which a pole counts as inside.
_NEAR_POLE = 1e-3
# Positions along each edge from which longitudes are found: near a pole, a short part may hold all of them.
_ALONG_EDGE = 1025
# Source pixels along each axis whose areas in the target are averaged.
_AREAS = 17
# Between neighbouring positions, places this share of the raster apart lie on two sides of a seam.
_SEAM = 0.25
# A target that has nothing of the raster in this share of its extent tears it apart.
_TEAR = 0.5
# Degrees (0.1 mm) by which a place must lie inside an area, so that a raster beside it has none there.
_INSIDE = 1e-9


@dataclass(frozen=True)
class Reach:
    """Where a target CRS holds a grid.

    Attributes
    ----------
    bounds : Bounds
        In the target. In a geographic one right > 180 where they cross the antimeridian.
    pixels : float
        How many of the grid's pixels have a place there.
    pixel_area : float or None
        The mean area there of one of these pixels; None if it is not known.
    area : (west, south, east, north) or None
        The target's area of use, in degrees, if what lies beyond it does not count. For a target without one,
        about the area that is not stretched too much.
    """

    bounds: Bounds
    pixels: float
    pixel_area: float | None = None
    area: Bounds | None = None


def reach(source: Grid, source_crs: CRS, target_crs: CRS) -> Reach:
    """Return where `target_crs` holds `source`.

    Where a projected target loses its scale within the source, as Mercator at the poles, only its area of use
    counts; if it has none, only what is not stretched too much.

    Raises
    ------
    InvalidParameter
        PROJ has no transformation between the two CRSs.
    UnsupportedRaster
        The target holds no part of the source, or a seam, such as the antimeridian, tears it.
    """
    if source_crs == target_crs:
        return Reach(source.bounds, source.width * source.height, abs(source.affine.determinant))
    mapping = _Mapping(source, source_crs, target_crs)
    places = mapping.all_places()
    limited = mapping.limited(places) if target_crs.is_projected and places.found.any() else mapping
    if limited is not mapping:
        mapping, places = limited, limited.all_places()
    if not places.found.any():
        beyond = f", or none in its area of use {listed(mapping.area)}" if mapping.area else ""
        raise UnsupportedRaster(
            f"the raster's bounds {listed(source.bounds)} in {short_name(source_crs)} have no place in "
            f"{short_name(target_crs)}{beyond}: check input_crs, or choose another target_crs"
        )
    share = float(places.found.mean())
    if target_crs.is_geographic:
        around = mapping.outline()
        longitudes = np.concatenate([part.x[part.found] for part in (places, around)])
        mapping = replace(mapping, west=_emptiest_longitude(longitudes, whole_circle(target_crs)))
        places, around = (part._replace(x=mapping.counted(part.x)) for part in (places, around))
        places = _Places.joined((mapping.with_ends(places), around))
    else:
        places = mapping.with_ends(places)
    left, right, bottom, top = (mapping.extreme(places, axis, sign) for axis in (0, 1) for sign in (-1, 1))
    if target_crs.is_geographic:
        left, right = _longitudes(left, right, whole_circle(target_crs), min(source.width, source.height))
        for pole in poles_inside(source, source_crs, target_crs):
            left, right = -whole_circle(target_crs) / 2, whole_circle(target_crs) / 2
            bottom, top = min(bottom, pole), max(top, pole)
    else:
        found = np.append(places.x, (left, right)), np.append(places.y, (bottom, top))
        _check_untorn(source, target_crs, found)
    part = mapping.source
    return Reach(
        bounds=(left, bottom, right, top),
        pixels=share * part.width * part.height,
        pixel_area=mapping.pixel_area(),
        area=mapping.area,
    )


def positions(grid: Grid, x: Points, y: Points) -> tuple[Points, Points]:
    """Return the positions, in the grid's pixels, of coordinates in its CRS.

    As `Grid.pixels`, but where x goes round the world, it wraps to within 180 degrees of the grid's middle.
    """
    whole = turn(parse_crs(grid.crs, "CRS of the grid"))
    with np.errstate(invalid="ignore"):
        if whole is not None:
            left, _, right, _ = grid.bounds
            x = x - whole * np.round((x - (left + right) / 2) / whole)
        return grid.pixels(x, y)


def leads_back(
    grid: Grid, crs: CRS, there: tuple[Points, Points], back: tuple[Points, Points]
) -> NDArray[np.bool_]:
    """Return which coordinates in the CRS of a grid PROJ finds again, on the way back from another CRS.

    Where a CRS has no place, PROJ may return one that lies elsewhere: beyond the edge of a map of the world,
    as in Equal Earth, that of another longitude.
    """
    whole = turn(crs)
    with np.errstate(invalid="ignore", over="ignore"):
        error_x, error_y = back[0] - there[0], back[1] - there[1]
        if whole is not None:
            error_x -= whole * np.round(error_x / whole)
        if crs.is_geographic:
            error_x *= np.cos(there[1] * 2 * math.pi / whole_circle(crs))
        most = max(_LEADS_BACK_PIXELS * max(grid.resolution), _LEADS_BACK / _metres(crs))
        return np.asarray(np.hypot(error_x, error_y) <= most)


def copies(grid: Grid, target: Grid) -> list[Grid]:
    """Return the grid and, where x goes round the world, those copies by a whole turn that `target` may meet.

    PROJ returns longitudes in -180..180, where a grid may lie in two parts: 170..190 does.
    """
    crs = parse_crs(grid.crs, "CRS of the grid")
    whole = turn(crs)
    if whole is None:
        return [grid]
    a, b, c, d, e, f = grid.transform
    # The middle of a projected world may have another x than 0.
    west, east = (-whole / 2, whole / 2) if crs.is_geographic else (-whole, whole)
    target_crs = parse_crs(target.crs, "target CRS")
    if target_crs == crs:
        west, _, east, _ = target.bounds
    elif target_crs.is_geographic:
        west, east = min(west, target.bounds[0]), max(east, target.bounds[2])
    turned = (
        grid.model_copy(update={"transform": (a, b, c + shift, d, e, f)}) for shift in (0.0, whole, -whole)
    )
    return [copy for copy in turned if copy.bounds[0] < east and copy.bounds[2] > west]


def poles_inside(source: Grid, source_crs: CRS, globe: CRS) -> list[float]:
    """Return the latitudes, in units of the geographic CRS `globe`, of the poles inside a grid.

    A pole that is a line, as in cylindrical projections, is part of the outline and not inside.
    """
    found = []
    quarter = whole_circle(globe) / 4
    for latitude in (-quarter, quarter):
        longitudes = np.array([0.0, quarter])
        x, y = transform_points(crs_name(globe), crs_name(source_crs), longitudes, np.full(2, latitude))
        with np.errstate(divide="ignore", invalid="ignore"):
            cols, rows = source.pixels(x, y)
            point = np.ptp(cols) + np.ptp(rows) < 1
        across = -_NEAR_POLE <= cols[0] <= source.width + _NEAR_POLE
        if point and across and -_NEAR_POLE <= rows[0] <= source.height + _NEAR_POLE:
            found.append(latitude)
    return found


def listed(bounds: Bounds) -> str:
    """Return bounds as a short text for messages."""
    return "(" + ", ".join(f"{value:.6g}" for value in bounds) + ")"


class _Places(NamedTuple):
    """Positions in a source's pixels, and their coordinates in the target: NaN where there are none."""

    cols: Points
    rows: Points
    x: Points
    y: Points

    @classmethod
    def joined(cls, parts: Iterable[_Places]) -> _Places:
        """Return the places of all parts."""
        return cls(*(np.concatenate(values) for values in zip(*parts, strict=True)))

    @property
    def found(self) -> NDArray[np.bool_]:
        """Which positions have a place."""
        return np.isfinite(self.x)

    @property
    def diagonal(self) -> float:
        """The diagonal of the box around all places, in the target."""
        return math.hypot(*(float(np.ptp(part[self.found])) for part in (self.x, self.y)))

    def distance(self, other: _Places) -> Points:
        """Return the distances to other places, in the target."""
        return np.hypot(self.x - other.x, self.y - other.y)

    def where(self, chosen: NDArray[np.bool_], other: _Places) -> _Places:
        """Return these places where `chosen`, and others elsewhere."""
        return _Places(*(np.where(chosen, *parts) for parts in zip(self, other, strict=True)))

    def only(self, chosen: NDArray[np.bool_]) -> _Places:
        """Return the chosen places."""
        return _Places(*(part[chosen] for part in self))


@dataclass(frozen=True)
class _Mapping:
    """The mapping from a source's pixels to a target CRS.

    Attributes
    ----------
    west : float or None
        The longitude from which those of a geographic target are counted; None elsewhere.
    area : (west, south, east, north) or None
        Longitudes and latitudes of what counts.
    most : float
        The largest areal scale that counts.
    """

    source: Grid
    source_crs: CRS
    target_crs: CRS
    west: float | None = None
    area: Bounds | None = None
    most: float = math.inf

    @property
    def _target(self) -> ProjCRS:
        return ProjCRS.from_wkt(self.target_crs.to_wkt())

    def all_places(self) -> _Places:
        """Return the places of positions spread evenly over the source, including its outline."""
        return self.places(*_spread(self.source, np.linspace(0, 1, _POSITIONS)))

    def outline(self) -> _Places:
        """Return the places of positions along the edges of the source."""
        share = np.linspace(0, 1, _ALONG_EDGE)
        edge = np.stack(np.meshgrid(share, [0.0, 1.0]), axis=-1).reshape(-1, 2)
        cols, rows = np.concatenate([edge, edge[:, ::-1]]).T
        return self.places(*_within(self.source, cols, rows))

    def places(self, cols: Points, rows: Points) -> _Places:
        """Return the places of positions."""
        names = crs_name(self.source_crs), crs_name(self.target_crs)
        x, y = self._world(cols, rows)
        target_x, target_y = (part.copy() for part in transform_points(*names, x, y))
        back_x, back_y = transform_points(*names[::-1], target_x, target_y)
        found = np.isfinite(target_x) & np.isfinite(target_y)
        found &= leads_back(self.source, self.source_crs, (x, y), (back_x, back_y))
        target_x = self.counted(target_x)
        if self.area is not None:
            found &= _lies_in(self.area, *self._on_globe(cols, rows))
        if math.isfinite(self.most):
            found &= self._areal_scale(cols, rows) <= self.most
        target_x[~found] = target_y[~found] = np.nan
        return _Places(cols, rows, target_x, target_y)

    def counted(self, x: Points) -> Points:
        """Return x of the target, which is a longitude from `west` on in a geographic one."""
        if self.west is None:
            return x
        with np.errstate(invalid="ignore"):
            return self.west + np.mod(x - self.west, whole_circle(self.target_crs))

    def limited(self, places: _Places) -> Self:
        """Return the mapping of what counts, if the target loses its scale within the source; else itself.

        Its source may be a window, so that a small area of use is not missed between positions.
        """
        cols, rows = places.cols[places.found], places.rows[places.found]
        scale = self._areal_scale(cols, rows)
        most = _MOST_STRETCH * float(np.median(scale))
        if scale.max() <= most:
            return self
        area = self._area_of_use()
        if area is None:
            held = scale <= most
            return replace(self, area=_box_around(*self._on_globe(cols[held], rows[held])), most=most)
        west, south, _, north = area
        share = np.linspace(0, 1, _POSITIONS)
        lon, lat = np.meshgrid(west + share * _width(area), south + share * (north - south))
        x, y = transform_points(self._globe, crs_name(self.source_crs), lon.ravel(), lat.ravel())
        within = _lies_in(area, *self._on_globe(cols, rows))
        window = _around(
            self.source,
            *(
                np.concatenate((part, own[within]))
                for part, own in zip(positions(self.source, x, y), (cols, rows), strict=True)
            ),
        )
        return replace(self, area=area, source=window or self.source)

    def extreme(self, places: _Places, axis: int, sign: int) -> float:
        """Return the least (sign -1) or largest (1) coordinate of all, searched for around `places`."""
        size = np.array([self.source.width, self.source.height])
        step = size / (_POSITIONS - 1)
        steps = np.linspace(-1, 1, _AROUND)
        best, at = -math.inf, size / 2
        while True:
            values = np.where(places.found, sign * (places.x, places.y)[axis], -math.inf)
            index = int(np.argmax(values))
            if values[index] > best:
                best, at = float(values[index]), np.array([places.cols[index], places.rows[index]])
            if step.max() < _EXACT:
                return sign * best
            around = (np.clip(at[n] + steps * step[n], _EDGE, size[n] - _EDGE) for n in (0, 1))
            places = self.places(*(part.ravel() for part in np.meshgrid(*around)))
            step = step * _NARROWING

    def with_ends(self, places: _Places) -> _Places:
        """Return all of `places`, as from `all_places`, and those at the limb and along seams."""
        lattice = [part.reshape(_POSITIONS, _POSITIONS) for part in places]
        pairs = []
        for one, other in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
            first, second = (_Places(*(part[side].ravel() for part in lattice)) for side in (one, other))
            torn = first.found & second.found & (first.distance(second) > _SEAM * places.diagonal)
            ends = first.found != second.found
            inside, beyond = first.where(first.found, second), second.where(first.found, first)
            pairs.append((inside.only(ends | torn), beyond.only(ends | torn)))
        inside, beyond = (_Places.joined(sides) for sides in zip(*pairs, strict=True))
        for _ in range(math.ceil(math.log2(max(self.source.width, self.source.height) / _EXACT))):
            middle = self.places((inside.cols + beyond.cols) / 2, (inside.rows + beyond.rows) / 2)
            near = ~beyond.found | (middle.distance(inside) < middle.distance(beyond))
            inside = middle.where(middle.found & near, inside)
            beyond = beyond.where(middle.found & near, middle)
        return _Places.joined((places, inside, beyond))

    def pixel_area(self) -> float | None:
        """Return the mean area of a source pixel in the target; None if none has a place."""
        cols, rows = _spread(self.source, (np.arange(_AREAS) + 0.5) / _AREAS)
        step = 0.01  # so short that hardly any lies across a seam
        at, right, below = (
            self.places(*position) for position in ((cols, rows), (cols + step, rows), (cols, rows + step))
        )
        area = (right.x - at.x) * (below.y - at.y) - (below.x - at.x) * (right.y - at.y)
        area = np.abs(area[np.isfinite(area) & (area != 0)]) / step**2
        if not area.size:
            return None
        return float(area[area <= _MOST_STRETCH * np.median(area)].mean())

    def _world(self, cols: Points, rows: Points) -> tuple[Points, Points]:
        """Return coordinates in the source CRS; the halves of pixels beyond a pole are put on the pole."""
        x, y = self.source.world(cols, rows)
        if self.source_crs.is_geographic:
            quarter = whole_circle(self.source_crs) / 4
            outside = np.abs(y) > quarter + max(self.source.resolution)
            y = np.where(outside, np.nan, np.clip(y, -quarter, quarter))
        return x, y

    @property
    def _globe(self) -> str:
        """The target's own geographic CRS."""
        globe = self._target.geodetic_crs
        return WGS84_NAME if globe is None else globe.to_wkt()

    def _on_globe(self, cols: Points, rows: Points) -> tuple[Points, Points]:
        """Return longitudes and latitudes, in degrees."""
        return transform_points(crs_name(self.source_crs), self._globe, *self._world(cols, rows))

    def _areal_scale(self, cols: Points, rows: Points) -> Points:
        """Return how much larger areas are in the target than on the ground; infinite where unknown.

        Source: PROJ's proj_factors.
        """
        lon, lat = self._on_globe(cols, rows)
        known = np.isfinite(lon) & np.isfinite(lat)
        scale = np.full(lon.shape, np.inf)
        scale[known] = Proj(self._target).get_factors(lon[known], lat[known], errcheck=False).areal_scale
        return scale

    def _area_of_use(self) -> Bounds | None:
        """Return the area of use in degrees; west > east across the antimeridian."""
        named = ProjCRS.from_user_input(crs_name(self.target_crs))
        horizontal = named.sub_crs_list[0] if named.is_compound else named
        return None if horizontal.area_of_use is None else horizontal.area_of_use.bounds


def _metres(crs: CRS) -> float:
    """Return about how many metres a unit of the CRS has."""
    if crs.is_geographic:
        return METRES_A_DEGREE * 360 / whole_circle(crs)
    return float(crs.linear_units_factor[1])


def _spread(source: Grid, share: Points) -> tuple[Points, Points]:
    cols, rows = np.meshgrid(share, share)
    return _within(source, cols.ravel(), rows.ravel())


def _within(source: Grid, cols: Points, rows: Points) -> tuple[Points, Points]:
    """Return positions in pixels, a little inside the outline, from shares of the width and the height."""
    return (
        np.clip(cols * source.width, _EDGE, source.width - _EDGE),
        np.clip(rows * source.height, _EDGE, source.height - _EDGE),
    )


def _width(area: Bounds) -> float:
    west, _, east, _ = area
    return 360.0 if east - west >= 360 else (east - west) % 360


def _lies_in(area: Bounds, lon: Points, lat: Points) -> NDArray[np.bool_]:
    west, south, _, north = area
    with np.errstate(invalid="ignore"):
        beyond, width = np.mod(lon - west, 360), _width(area)
        inside = (width == 360) | ((beyond > _INSIDE) & (beyond < width - _INSIDE))
        return inside & (lat > south + _INSIDE) & (lat < north - _INSIDE)


def _around(source: Grid, cols: Points, rows: Points) -> Grid | None:
    """Return the window of a grid around positions in its pixels; None if none lies inside it."""
    inside = (cols >= 0) & (cols <= source.width) & (rows >= 0) & (rows <= source.height)
    if not inside.any():
        return None
    (left, width), (top, height) = (
        _pixels_around(part[inside], size) for part, size in ((cols, source.width), (rows, source.height))
    )
    return source.part(left, top, width, height)


def _pixels_around(positions: Points, size: int) -> tuple[int, int]:
    """Return the first pixel and the number of pixels around positions, with room beyond the outermost."""
    room = size / (_POSITIONS - 1) + 1
    first = max(min(math.floor(positions.min() - room), size - 1), 0)
    return first, min(math.ceil(positions.max() + room), size) - first


def _box_around(lon: Points, lat: Points) -> Bounds:
    """Return the area around places, in degrees; west > east across the antimeridian."""
    start = _emptiest_longitude(lon, 360)
    from_start = np.mod(lon - start, 360)
    west, width = start + float(from_start.min()), float(np.ptp(from_start))
    if width > 360 - 360 / _POSITIONS:
        west, width = -180.0, 360.0
    west, east = ((edge + 180) % 360 - 180 for edge in (west, west + width))
    return west, float(lat.min()), east if width < 360 else 180.0, float(lat.max())


def _emptiest_longitude(longitudes: Points, whole: float) -> float:
    """Return the middle of the widest range without any of the longitudes."""
    around = np.sort(np.mod(longitudes, whole))
    gaps = np.diff(around, append=around[0] + whole)
    widest = int(np.argmax(gaps))
    return float(around[widest] + gaps[widest] / 2)


def _longitudes(left: float, right: float, whole: float, pixels: int) -> tuple[float, float]:
    """Return an interval of longitudes that starts in -180..180; all if it leaves less than a pixel free."""
    if right - left > whole - whole / max(pixels, _POSITIONS):
        return -whole / 2, whole / 2
    shift = whole * math.floor((left + whole / 2) / whole)
    return left - shift, right - shift


def _check_untorn(source: Grid, target_crs: CRS, coordinates: tuple[Points, Points]) -> None:
    for axis, name in zip(coordinates, ("x", "y"), strict=True):
        found = np.sort(axis[np.isfinite(axis)])
        gaps = np.diff(found)
        if gaps.size and gaps.max() > _TEAR * (found[-1] - found[0]):
            first = float(found[int(np.argmax(gaps))])
            raise UnsupportedRaster(
                f"{short_name(target_crs)} is torn where the raster lies (nothing from {name} {first:.6g} to "
                f"{first + float(gaps.max()):.6g}), as at the antimeridian: choose another "
                f"target_crs, such as the source's own, {source.crs[:60]}, or cut the raster there first"
            )
