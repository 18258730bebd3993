"""Parse and name coordinate reference systems, and transform points and bounds between them.

Only this module turns a user's text into a CRS, so one rule decides which forms are accepted.

>>> crs_name(parse_crs("epsg:32637", "target_crs"))
'EPSG:32637'
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import rasterio
from numpy.typing import NDArray
from pyproj import CRS as ProjCRS
from pyproj import Transformer
from pyproj.exceptions import ProjError
from rasterio._env import get_gdal_config, set_gdal_config
from rasterio.crs import CRS
from rasterio.errors import CRSError

from gdaltools.errors import InvalidParameter

# Outside of `rasterio.Env` GDAL prints its errors and warnings; those that matter are raised as ours.
if get_gdal_config("CPL_LOG") is None:
    set_gdal_config("CPL_LOG", os.devnull)

Bounds = tuple[float, float, float, float]
#: The forms in which a user may give a CRS.
CrsLike: TypeAlias = str | int | Mapping[str, Any] | CRS | ProjCRS

WGS84 = CRS.from_epsg(4326)
WGS84_NAME = "EPSG:4326"

# Names, WKT, PROJ strings and PROJJSON. GDAL would also open files and URLs, which a CRS must not cause.
_KNOWN_FORMS = re.compile(
    r"""(?xis) \s* (?: [a-z][a-z0-9_]* : [a-z0-9_.:]+ (?: \+ [a-z0-9_.:]+ )*
    | urn:ogc:def:crs [a-z0-9_.:,]+ | https?://www\.opengis\.net/def/crs/ [a-z0-9_./-]+
    | \+ (?:proj|init) = .* | [a-z][a-z_0-9]* \s* \[ .* \] | \{ .* \} ) \s* \Z"""
)
_EPSG_CODE = re.compile(r"(?i)(?:urn:ogc:def:crs:)?EPSG:[0-9.:]+")
_MAX_TEXT = 20_000
_DENSIFY = 21
#: Metres below which two places count as the same.
SAME_METRES = 1e-3
# Points per side of a sample of a CRS's area of use.
_SAMPLED_SIDE = 7
#: The length of a degree at the equator of WGS 84.
METRES_A_DEGREE = 111_319.490793


def parse_crs(text: CrsLike, what: str) -> CRS:
    """Return the CRS that `text` names: ``EPSG:4326``, ``EPSG:25833+7837``, WKT, a PROJ string or PROJJSON.

    Parameters
    ----------
    text : str, int, mapping or CRS
        The user's text, an EPSG code, or PROJJSON; rasterio's CRS is returned unchanged, pyproj's converted.
    what : str
        The parameter's name, for the error message.

    Raises
    ------
    InvalidParameter
        `text` has none of these forms, PROJ does not know it, it has no WKT, it is neither geographic nor
        projected, or it is a deprecated code in whose place GDAL would use a CRS with other coordinates.
    """
    if isinstance(text, CRS):
        return text
    shown = f"{what} {str(text)[:80]!r}"
    text = _as_text(text)
    if not isinstance(text, str) or len(text) > _MAX_TEXT or not _KNOWN_FORMS.match(text):
        raise InvalidParameter(f"{shown} is not a CRS: give an authority code like EPSG:4326, or WKT")
    try:
        crs = _from_text(text.strip())
    except CRSError as error:
        raise InvalidParameter(f"{shown} is a CRS that PROJ does not know: check the code") from error
    if not (crs.is_geographic or crs.is_projected):
        raise InvalidParameter(f"{shown} is not a geographic or projected CRS: give one like EPSG:4326")
    replaced = _replaced(text.strip())
    if replaced is not None:
        raise InvalidParameter(
            f"{shown} is deprecated, and GDAL reads {replaced} in its place, which has other coordinates: "
            "name the CRS that the coordinates are in"
        )
    return crs


@lru_cache(maxsize=256)
def _replaced(text: str) -> str | None:
    """Return the CRS that GDAL uses in the place of a deprecated code, if its coordinates are others."""
    if not _EPSG_CODE.fullmatch(text):
        return None
    try:
        own = ProjCRS.from_user_input(text)
    except ProjError:
        return None
    if not any(part.is_deprecated for part in (own, *own.sub_crs_list)):
        return None
    used = ProjCRS.from_wkt(_from_text(text).to_wkt())
    if distance_between(own, used) < SAME_METRES:
        return None
    authority = used.to_authority()
    return f"{used.name} ({':'.join(authority)})" if authority else str(used.name)


def _as_text(form: object) -> object:
    if isinstance(form, ProjCRS):
        return form.to_wkt()
    if isinstance(form, Mapping):
        return json.dumps(dict(form), default=str)
    code = form.strip() if isinstance(form, str) else form
    is_code = isinstance(code, int) and not isinstance(code, bool)
    is_digits = isinstance(code, str) and code.isascii() and code.isdigit()
    return f"EPSG:{code}" if is_code or is_digits else form


@lru_cache(maxsize=256)
def _from_text(text: str) -> CRS:
    with rasterio.Env():  # turns GDAL's error into the exception instead of printing it
        crs = CRS.from_user_input(text)
        crs.to_wkt()  # an error if its method has none in GDAL
        return crs


def crs_name(crs: CRS) -> str:
    """Return ``AUTHORITY:CODE`` if the CRS has one, else its WKT."""
    return _name(crs.to_wkt())


@lru_cache(maxsize=256)
def _name(wkt: str) -> str:
    try:
        authority = CRS.from_wkt(wkt).to_authority(confidence_threshold=100)
    except CRSError:
        authority = None
    return ":".join(authority) if authority else wkt


def short_name(crs: CRS) -> str:
    """Return `crs_name`, or the beginning of the WKT, for messages."""
    return crs_name(crs).split(",")[0][:60]


def turn(crs: CRS) -> float | None:
    """Return the width of the world in a CRS; None unless x, or the longitude, may go round it repeatedly.

    It does in a geographic CRS and in a cylindrical projection, where x is a multiple of the longitude.

    >>> turn(WGS84), turn(parse_crs("EPSG:32633", "zone"))
    (360.0, None)
    """
    return _turn(crs.to_wkt())


def whole_circle(crs: CRS) -> float:
    """Return `turn` of a geographic CRS."""
    return round(2 * math.pi / float(crs.units_factor[1]), 6)


@lru_cache(maxsize=64)
def _turn(wkt: str) -> float | None:
    crs = CRS.from_wkt(wkt)
    if crs.is_geographic:
        return whole_circle(crs)
    own = ProjCRS.from_wkt(wkt)
    if not crs.is_projected or own.geodetic_crs is None:
        return None
    from_globe = Transformer.from_crs(own.geodetic_crs, own, always_xy=True)
    for lon in (0.0, 120.0):  # its seam lies within a degree east of one of them at most
        x, y = from_globe.transform([lon, lon + 1, lon, lon + 1], [0.0, 0.0, 40.0, 40.0], errcheck=False)
        degree = float(x[1] - x[0])
        flat = [y[1] - y[0], y[3] - y[2], x[2] - x[0], x[3] - x[1]]
        if math.isfinite(degree) and degree and max(map(abs, flat)) < abs(degree) * 1e-9:
            return abs(degree) * 360
    return None


@lru_cache(maxsize=64)
def _transformer(source_wkt: str, target_wkt: str) -> Transformer:
    return Transformer.from_crs(source_wkt, target_wkt, always_xy=True)


def transformer(source: CRS, target: CRS) -> Transformer:
    """Return PROJ's transformer from one CRS to another, x (or longitude) first.

    Raises
    ------
    InvalidParameter
        PROJ has no transformation between the two.
    """
    try:
        return _transformer(source.to_wkt(), target.to_wkt())
    except ProjError as error:
        raise InvalidParameter(
            f"PROJ knows no way from {crs_name(source)[:60]} to {crs_name(target)[:60]}: choose another CRS"
        ) from error


@lru_cache(maxsize=64)
def _way(source: str, target: str) -> Transformer | None:
    """Return the transformer between two named CRSs; None if they are the same CRS."""
    crs = parse_crs(source, "source CRS"), parse_crs(target, "target CRS")
    return None if crs[0] == crs[1] else transformer(*crs)


def transform_points(
    source: str, target: str, x: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Transform points from one named CRS to another; infinite where `target` cannot express them."""
    way = _way(source, target)
    if way is None:
        return x, y
    tx, ty = way.transform(x, y, errcheck=False)
    return np.asarray(tx, dtype="float64"), np.asarray(ty, dtype="float64")


def distance_between(one: ProjCRS, two: ProjCRS) -> float:
    """Return how far apart, in metres, two CRSs place the same coordinates at most: 0 for equal ones.

    Judged at points all over the area of use of `one`; infinite if they have no common place to compare.
    """
    if one.equals(two, ignore_axis_order=True):
        return 0.0
    if len(one.axis_info) != len(two.axis_info):
        return math.inf
    if one.geodetic_crs is None:  # a local CRS
        return 0.0 if two.geodetic_crs is None else math.inf
    try:
        points = _points_of(one)
        places = [_on_earth(each, *points) for each in (one, two)]
    except ProjError:
        return math.inf
    there = np.isfinite(places[0]).all(axis=0)
    if not there.any():
        return math.inf
    with np.errstate(invalid="ignore"):
        apart = np.abs(places[1] - places[0])[:, there]
    apart[0] = np.minimum(apart[0], 360 - apart[0]) * np.cos(np.radians(places[0][1, there]))
    apart[:2] *= METRES_A_DEGREE
    return float(np.nan_to_num(apart, nan=np.inf).max())


def _points_of(crs: ProjCRS) -> tuple[NDArray[Any], ...]:
    """Return coordinates in a CRS, x first, of points all over its area of use; by default, of the world."""
    area = crs.area_of_use
    west, south, east, north = area.bounds if area is not None else (-179.0, -89.0, 179.0, 89.0)
    east += 360 if east < west else 0
    shares = np.linspace(0.05, 0.95, _SAMPLED_SIDE)
    lon, lat = np.meshgrid(west + shares * (east - west), south + shares * (north - south))
    lon, lat = (lon.ravel() + 180) % 360 - 180, lat.ravel()
    flat = crs.to_2d() if len(crs.axis_info) > 2 else crs
    way = Transformer.from_crs(crs.geodetic_crs.to_2d(), flat, always_xy=True)
    x, y = way.transform(lon, lat, errcheck=False)
    there = np.isfinite(x) & np.isfinite(y)
    return x[there], y[there], np.full(int(there.sum()), 100.0)


def _on_earth(crs: ProjCRS, x: NDArray[Any], y: NDArray[Any], z: NDArray[Any]) -> NDArray[np.float64]:
    if len(crs.axis_info) > 2:
        return np.stack(Transformer.from_crs(crs, 4979, always_xy=True).transform(x, y, z, errcheck=False))
    return np.stack(Transformer.from_crs(crs, 4326, always_xy=True).transform(x, y, errcheck=False))


def union(boxes: Sequence[Bounds]) -> Bounds:
    """Return the bounds of all `boxes`, of which none crosses the antimeridian.

    >>> union([(0, 0, 2, 1), (1, -1, 3, 0)])
    (0, -1, 3, 1)
    """
    lefts, bottoms, rights, tops = zip(*boxes, strict=True)
    return min(lefts), min(bottoms), max(rights), max(tops)


def transform_bounds(source: CRS, target: CRS, bounds: Bounds) -> Bounds:
    """Return the box around `bounds` (left, bottom, right, top) in `target`, with densified edges.

    In a geographic target the box includes a pole that `bounds` includes, and left > right means that it
    crosses the antimeridian (RFC 7946 §5.2). Values are infinite where PROJ gives no result.
    """
    if source == target:
        return bounds
    left, bottom, right, top = bounds
    try:
        found = transformer(source, target).transform_bounds(
            left, min(bottom, top), right, max(bottom, top), densify_pts=_DENSIFY, errcheck=False
        )
    except ProjError:
        found = (math.inf,) * 4
    return tuple(float(value) for value in found)  # type: ignore[return-value]
