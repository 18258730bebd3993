"""Coordinate reference systems: read from text, named again, and bounds carried from one to another.

The only module that turns a user's text into a CRS, so that one rule decides what is understood.

>>> crs_name(parse_crs("epsg:32637", "target_crs"))
'EPSG:32637'
"""

from __future__ import annotations

import math
import re
from functools import lru_cache

import numpy as np
import rasterio
from numpy.typing import NDArray
from pyproj import Transformer
from pyproj.exceptions import ProjError
from rasterio.crs import CRS
from rasterio.errors import CRSError

from gdaltools.errors import InvalidParameter

Bounds = tuple[float, float, float, float]

WGS84 = CRS.from_epsg(4326)
WGS84_NAME = "EPSG:4326"

# Names, WKT, PROJ strings and PROJJSON. GDAL would also open files and URLs; a CRS must not be able to.
_KNOWN_FORMS = re.compile(
    r"""(?xis) \s* (?: [a-z][a-z0-9_]* : [a-z0-9_.:]+ | urn:ogc:def:crs: [a-z0-9_.:]+
    | \+ (?:proj|init) = .* | [a-z][a-z_0-9]* \s* \[ .* \] | \{ .* \} ) \s* \Z"""
)
_MAX_TEXT = 20_000
_DENSIFY = 21


def parse_crs(text: str | CRS, what: str) -> CRS:
    """The CRS that `text` means: ``EPSG:4326``, WKT, a PROJ string or PROJJSON.

    Parameters
    ----------
    text : str or CRS
        The user's text.
    what : str
        The parameter's name, for the error.

    Raises
    ------
    InvalidParameter
        PROJ knows no such CRS.
    """
    if isinstance(text, CRS):
        return text
    shown = f"{what} {str(text)[:80]!r}"
    if not isinstance(text, str) or len(text) > _MAX_TEXT or not _KNOWN_FORMS.match(text):
        raise InvalidParameter(f"{shown} is not a CRS: give an authority code like EPSG:4326, or WKT")
    try:
        crs = _from_text(text.strip())
    except CRSError as error:
        raise InvalidParameter(f"{shown} is a CRS that PROJ does not know: check the code") from error
    if not (crs.is_geographic or crs.is_projected):
        raise InvalidParameter(f"{shown} is not a geographic or projected CRS: give one like EPSG:4326")
    return crs


@lru_cache(maxsize=256)
def _from_text(text: str) -> CRS:
    with rasterio.Env():  # where GDAL's complaint becomes the exception and is not printed
        return CRS.from_user_input(text)


def crs_name(crs: CRS) -> str:
    """``AUTHORITY:CODE`` where the CRS has one, else its WKT."""
    try:
        authority = crs.to_authority(confidence_threshold=100)
    except CRSError:
        authority = None
    return ":".join(authority) if authority else str(crs.to_wkt())


@lru_cache(maxsize=64)
def _transformer(source_wkt: str, target_wkt: str) -> Transformer:
    return Transformer.from_crs(source_wkt, target_wkt, always_xy=True)


def transformer(source: CRS, target: CRS) -> Transformer:
    """PROJ's way from one CRS to another, x (or longitude) first.

    Raises
    ------
    InvalidParameter
        PROJ cannot join the two.
    """
    try:
        return _transformer(source.to_wkt(), target.to_wkt())
    except ProjError as error:
        raise InvalidParameter(
            f"PROJ knows no way from {crs_name(source)[:60]} to {crs_name(target)[:60]}: choose another CRS"
        ) from error


@lru_cache(maxsize=64)
def _way(source: str, target: str) -> Transformer | None:
    """The transformer between two CRSs by their names; None where they are one CRS."""
    crs = parse_crs(source, "source CRS"), parse_crs(target, "target CRS")
    return None if crs[0] == crs[1] else transformer(*crs)


def transform_points(
    source: str, target: str, x: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points carried from one CRS to another, both by name; infinite where they have no place in it."""
    way = _way(source, target)
    if way is None:
        return x, y
    tx, ty = way.transform(x, y, errcheck=False)
    return np.asarray(tx, dtype="float64"), np.asarray(ty, dtype="float64")


def transform_bounds(source: CRS, target: CRS, bounds: Bounds) -> Bounds:
    """The box around `bounds` (left, bottom, right, top) in `target`, its edges densified.

    For a geographic target it holds a pole that the box holds, and left > right means that the box
    crosses the antimeridian (RFC 7946 §5.2). Values are infinite where PROJ gives no answer.
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
