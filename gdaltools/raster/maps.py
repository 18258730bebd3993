"""Interactive maps by ipyleaflet: rasters painted by the kernel, tiles as outlines, all without the internet.

There is no tile server: whenever the map moves, its view is read from the rasters' overviews and sent to it
as a picture. So a map works wherever the notebook's kernel does.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rasterio.enums import Resampling
from rasterio.transform import from_bounds
from rasterio.vrt import WarpedVRT

from gdaltools import storage
from gdaltools.display.html import html
from gdaltools.display.shown import Shown
from gdaltools.errors import GdalToolsError, MissingExtra
from gdaltools.geo.crs import WGS84, Bounds, parse_crs, transform_bounds, union
from gdaltools.geo.footprint import geographic_bounds
from gdaltools.raster.dataset import open_dataset
from gdaltools.raster.picture import (
    GLANCE_PIXELS,
    Picture,
    file_name,
    glance_cost,
    painted,
    png,
    shown_levels,
    thumbnail,
)
from gdaltools.storage import Location

_MERCATOR = parse_crs("EPSG:3857", "map")
# The latitude at which the square world of web maps ends.
_LATITUDE = 85.0511
# Longer side of the picture that is painted for a view, in pixels.
_SIDE = 1024
# The level of zlib: a picture for one view must be ready soon.
_EFFORT = 3
# Rasters that are painted; the outlines of any further ones are still shown.
_MOST_SOURCES = 64
# Rows and columns of the sample in which a raster's darkest and brightest values are found.
_LOOK = (256, 256)
_MOST_OUTLINES = 2_000
# Size of a map, in pixels of the screen.
_WIDTH, _HEIGHT = 800, 420
_STYLE = {"color": "#0969da", "weight": 1, "fillOpacity": 0.06}
_HOVERED = {"color": "#bf3989", "weight": 2, "fillOpacity": 0.2}


@dataclass(frozen=True)
class _Layer:
    """A raster that can be painted: its bounds in degrees, and its darkest and brightest values."""

    location: Location
    bounds: Bounds
    levels: tuple[float, float] | None


def explore(
    sources: Sequence[str], *, outlines: Mapping[str, Any] | None = None, bounds: Bounds | None = None
) -> Any:
    """Return an ipyleaflet Map of rasters, the first on top, with outlines that show their names.

    Parameters
    ----------
    sources : sequence of str
        Locations. A raster that cannot be read at a glance is left out.
    outlines : GeoJSON FeatureCollection, optional
        Features with a ``tile_id``.
    bounds : (left, bottom, right, top), optional
        The map's first view, in degrees; by default all of the rasters.

    Raises
    ------
    MissingExtra
        ipyleaflet is not installed.
    """
    try:
        import ipyleaflet
        from ipywidgets import HTML
    except ImportError as error:
        raise MissingExtra("maps need ipyleaflet: pip install 'gdaltools[map]'") from error
    layers = [layer for layer in map(_layer, sources[:_MOST_SOURCES]) if layer is not None]
    world = (-180.0, -_LATITUDE, 180.0, _LATITUDE)
    whole = bounds or (union([layer.bounds for layer in layers]) if layers else world)
    center, zoom = _beginning(whole)
    shown = ipyleaflet.Map(
        layers=[], center=center, zoom=zoom, scroll_wheel_zoom=True, attribution_control=False
    )
    shown.layout.height = f"{_HEIGHT}px"
    if layers:
        painted_whole = {"url": _url(layers, whole), "bounds": _corners(whole)}
        base, detail = (ipyleaflet.ImageOverlay(**painted_whole) for _ in range(2))
        shown.add(base)
        shown.add(detail)

        def moved(_: object) -> None:
            view = _view(shown, whole)
            if view is not None:
                detail.url, detail.bounds = _url(layers, view), _corners(view)

        shown.observe(moved, names="bounds")
    if outlines is not None and len(outlines["features"]) <= _MOST_OUTLINES:
        label = HTML("")
        shapes = ipyleaflet.GeoJSON(data=dict(outlines), style=_STYLE, hover_style=_HOVERED)

        def hovered(feature: Mapping[str, Any], **_: object) -> None:
            label.value = html(feature["properties"].get("tile_id", ""))

        shapes.on_hover(hovered)
        shown.add(shapes)
        shown.add(ipyleaflet.WidgetControl(widget=label, position="topright"))
    return shown


def _beginning(whole: Bounds) -> tuple[tuple[float, float], int]:
    """Return the center and zoom at which all of the bounds are visible.

    >>> _beginning((-180.0, -85.0, 180.0, 85.0))
    ((0.0, 0.0), 0)
    >>> _beginning((38.0, 9.0, 38.5, 9.5))
    ((9.25, 38.25), 10)
    """
    left, bottom, right, top = transform_bounds(WGS84, _MERCATOR, whole)
    world = math.pi * 2 * 6378137
    across, down = (max(side, 1.0) * 256 / world for side in (right - left, top - bottom))
    zoom = math.floor(math.log2(min(_WIDTH / across, _HEIGHT / down)))
    return ((whole[1] + whole[3]) / 2, (whole[0] + whole[2]) / 2), min(max(zoom, 0), 18)


def _layer(source: str) -> _Layer | None:
    try:
        location = storage.locate(source)
        with open_dataset(location, verify=False) as dataset:
            left, bottom, right, top = geographic_bounds(dataset, location)
            if left >= right:  # across the antimeridian: show the larger part
                left, right = (left, 180.0) if 180 - left > right + 180 else (-180.0, right)
            if glance_cost(dataset, _SIDE) > GLANCE_PIXELS:
                return None
            plain = dataset.dtypes[0] == "uint8"
            levels = None if plain else shown_levels(dataset, location, _LOOK)
    except GdalToolsError:
        return None
    return _Layer(location, (left, max(bottom, -_LATITUDE), right, min(top, _LATITUDE)), levels)


def _url(layers: Sequence[_Layer], view: Bounds) -> str:
    """Return a picture of a view, as a URL that contains it."""
    canvas = _canvas(layers, view)
    return "data:image/png;base64," + base64.b64encode(png(canvas, effort=_EFFORT)).decode()


def _canvas(layers: Sequence[_Layer], view: Bounds) -> Picture:
    left, bottom, right, top = transform_bounds(WGS84, _MERCATOR, view)
    scale = max(right - left, top - bottom) / _SIDE
    rows, cols = max(1, round((top - bottom) / scale)), max(1, round((right - left) / scale))
    canvas = np.zeros((rows, cols, 4), "uint8")
    for layer in reversed(layers):
        if _meet(layer.bounds, view):
            try:
                part = _painted(layer, (left, bottom, right, top), rows, cols)
            except GdalToolsError:  # it was replaced or removed while the map was open
                continue
            canvas = np.where(part[..., 3:] > 0, part, canvas)
    return canvas


def _painted(layer: _Layer, bounds: Bounds, rows: int, cols: int) -> Picture:
    with (
        open_dataset(layer.location, verify=False) as dataset,
        WarpedVRT(
            dataset,
            crs=_MERCATOR,
            transform=from_bounds(*bounds, cols, rows),
            width=cols,
            height=rows,
            resampling=Resampling.nearest,
            add_alpha=dataset.nodata is None and dataset.count != 4,
        ) as view,
    ):
        return painted(view, layer.location, (rows, cols), layer.levels)


def _view(shown: Any, whole: Bounds) -> Bounds | None:
    """Return the part of the rasters that the map shows; None if it shows no part or is not yet displayed."""
    if len(shown.bounds) != 2:
        return None
    (bottom, left), (top, right) = shown.bounds
    view = (max(left, whole[0]), max(bottom, whole[1]), min(right, whole[2]), min(top, whole[3]))
    return view if view[0] < view[2] and view[1] < view[3] else None


def _meet(one: Bounds, other: Bounds) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _corners(bounds: Bounds) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return bounds as Leaflet expects them: latitude first."""
    left, bottom, right, top = bounds
    return (bottom, left), (top, right)


class OnMap(Shown):
    """A value that can be shown on a map; a subclass defines once what the map shows."""

    def _on_map(self) -> Mapping[str, Any]:
        """Return the arguments of `gdaltools.raster.maps.explore`."""
        raise NotImplementedError

    def explore(self) -> Any:
        """Return an interactive map of the rasters, for a notebook: ipyleaflet's Map.

        Raises
        ------
        MissingExtra
            ipyleaflet is not installed (``pip install 'gdaltools[map]'``).

        Examples
        --------
        >>> len(gt.inspect("scene.tif").explore().layers)
        2
        """

        return explore(**self._on_map())


class StoredRaster(OnMap):
    """A value that describes the raster at its `location`, with a small picture of it."""

    location: str

    def _on_map(self) -> dict[str, Any]:
        return {"sources": [self.location]}

    def _about(self) -> str:
        return file_name(self.location)

    def _picture(self) -> bytes | None:
        return thumbnail(self.location)
