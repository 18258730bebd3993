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
from numpy.typing import NDArray
from rasterio.windows import Window

from gdaltools import storage
from gdaltools.display.html import html
from gdaltools.display.shown import Shown
from gdaltools.errors import GdalToolsError, MissingExtra
from gdaltools.geo.crs import WGS84, Bounds
from gdaltools.geo.footprint import geographic_bounds, hull, near, own_grid, pixels_at
from gdaltools.raster.dataset import open_dataset
from gdaltools.raster.picture import (
    GLANCE_PIXELS,
    Picture,
    file_name,
    fitting_shape,
    glance_cost,
    painted,
    png,
    sampled,
    shown_levels,
    thumbnail,
)
from gdaltools.storage import Location

# The latitude at which the square world of web maps ends.
_LATITUDE = 85.0511
_WORLD = (-180.0, -_LATITUDE, 180.0, _LATITUDE)
# Longer side of the picture that is painted for a view, in pixels.
_SIDE = 1024
# The level of zlib: a picture for one view must be ready soon.
_EFFORT = 3
# Rasters that are painted; the outlines of any further ones are still shown.
_MOST_SOURCES = 64
# Rows and columns of the sample in which a raster's darkest and brightest values are found.
_LOOK = (256, 256)
_MOST_OUTLINES = 2_000
# Rasters that are named if they cannot be painted.
_MOST_NAMED = 5
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

    The map may be moved into any copy of the world: rasters and outlines are shown there too.

    Parameters
    ----------
    sources : sequence of str
        Locations. A raster that cannot be painted at a glance is left out, and the map names it.
    outlines : GeoJSON FeatureCollection, optional
        Features with a ``tile_id``.
    bounds : (left, bottom, right, top), optional
        The map's first view, in degrees, left > right across the antimeridian; by default all of the rasters.

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
    found = [_layer(source) for source in sources[:_MOST_SOURCES]]
    layers = [layer for layer in found if isinstance(layer, _Layer)]
    if bounds is None and layers:
        bounds = hull([layer.bounds for layer in layers])
    whole = _unrolled(bounds or _WORLD)
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
    left_out = [reason for reason in found if isinstance(reason, str)]
    if left_out:
        note = HTML(html("not painted: " + "; ".join(left_out[:_MOST_NAMED])))
        shown.add(ipyleaflet.WidgetControl(widget=note, position="bottomleft"))
    if outlines is not None and len(outlines["features"]) <= _MOST_OUTLINES:
        label = HTML("")
        shapes = ipyleaflet.GeoJSON(data=_placed(outlines, center[1]), style=_STYLE, hover_style=_HOVERED)

        def hovered(feature: Mapping[str, Any], **_: object) -> None:
            label.value = html(feature["properties"].get("tile_id", ""))

        def followed(_: object) -> None:
            placed = _placed(outlines, shown.center[1])
            if placed != shapes.data:
                shapes.data = placed

        shapes.on_hover(hovered)
        shown.observe(followed, names="center")
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
    left, bottom, right, top = whole
    degree = 256 / 360
    across, down = (max(side, 1e-5) * degree for side in (right - left, _mercator(top) - _mercator(bottom)))
    zoom = math.floor(math.log2(min(_WIDTH / across, _HEIGHT / down)))
    return ((bottom + top) / 2, (left + right) / 2), min(max(zoom, 0), 18)


def _layer(source: str) -> _Layer | str:
    """Return the raster as a layer, or its name and why it cannot be painted."""
    try:
        location = storage.locate(source)
        with open_dataset(location, verify=False) as dataset:
            left, bottom, right, top = geographic_bounds(dataset, location)
            bottom, top = max(bottom, -_LATITUDE), min(top, _LATITUDE)
            if bottom >= top:
                return f"{file_name(source)} (beyond the map, which ends at {_LATITUDE:.2f}°)"
            if glance_cost(dataset, _SIDE) > GLANCE_PIXELS:
                return f"{file_name(source)} (it has no overviews)"
            plain = dataset.dtypes[0] == "uint8"
            levels = None if plain else shown_levels(dataset, location, _LOOK)
    except GdalToolsError as error:
        return f"{file_name(source)} ({error})"
    return _Layer(location, (left, bottom, right, top), levels)


def _url(layers: Sequence[_Layer], view: Bounds) -> str:
    """Return a picture of a view, as a URL that contains it."""
    canvas = _canvas(layers, view)
    return "data:image/png;base64," + base64.b64encode(png(canvas, effort=_EFFORT)).decode()


def _canvas(layers: Sequence[_Layer], view: Bounds) -> Picture:
    """Return a picture of a view, which may lie in any copy of the world, or in several."""
    left, bottom, right, top = view
    north = _mercator(top)
    scale = max(right - left, north - _mercator(bottom)) / _SIDE
    rows, cols = (max(1, round(side / scale)) for side in (north - _mercator(bottom), right - left))
    lon = left + (np.arange(cols) + 0.5) * (right - left) / cols
    y = north - (np.arange(rows) + 0.5) * (north - _mercator(bottom)) / rows
    lat = np.degrees(np.arctan(np.sinh(np.radians(y))))
    canvas = np.zeros((rows, cols, 4), "uint8")
    for layer in reversed(layers):
        down, across = near(layer.bounds, lon, lat)
        if across.size and down.size:
            place = np.ix_(down, across)
            try:
                part = _painted(layer, *np.meshgrid(lon[across], lat[down]))
            except GdalToolsError:  # it was replaced or removed while the map was open
                continue
            canvas[place] = np.where(part[..., 3:] > 0, part, canvas[place])
    return canvas


def _painted(layer: _Layer, lon: NDArray[np.float64], lat: NDArray[np.float64]) -> Picture:
    """Return the raster's colours at places on Earth, transparent where it has no pixel."""
    found = np.zeros((*lon.shape, 4), "uint8")
    with open_dataset(layer.location, verify=False) as dataset:
        cols, rows = pixels_at(own_grid(dataset, dataset.crs), WGS84, lon, lat)
        with np.errstate(invalid="ignore"):
            inside = (cols >= 0) & (cols < dataset.width) & (rows >= 0) & (rows < dataset.height)
        for there in _pieces(cols, inside):
            window = _window(cols[there], rows[there])
            shape = fitting_shape(window.width, window.height, 2 * max(lon.shape))
            part = painted(dataset, layer.location, shape, layer.levels, window)
            found[there] = sampled(part, window, cols[there], rows[there])
    return found


def _pieces(cols: NDArray[np.float64], inside: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """Divide the pixels of a view where it goes over the raster's own seam, to read both ends alone."""
    there = np.sort(cols[inside])
    if there.size < 2:
        return [inside] if there.size else []
    gaps = np.diff(there)
    last = int(gaps.argmax())
    if gaps[last] < (there[-1] - there[0]) / 2:
        return [inside]
    west = inside & (cols <= there[last])
    return [west, inside & ~west]


def _window(cols: NDArray[np.float64], rows: NDArray[np.float64]) -> Window:
    left, top = math.floor(cols.min()), math.floor(rows.min())
    return Window(left, top, math.floor(cols.max()) + 1 - left, math.floor(rows.max()) + 1 - top)


def _view(shown: Any, whole: Bounds) -> Bounds | None:
    """Return the part of the rasters that the map shows, in the copies of the world that it shows.

    None if it shows no part or is not yet displayed.
    """
    if len(shown.bounds) != 2:
        return None
    (bottom, left), (top, right) = shown.bounds
    bottom, top = max(bottom, whole[1]), min(top, whole[3])
    first = math.ceil((left - whole[2]) / 360) * 360
    last = math.floor((right - whole[0]) / 360) * 360
    left, right = max(left, whole[0] + first), min(right, whole[2] + last)
    return (left, bottom, right, top) if left < right and bottom < top else None


def _placed(outlines: Mapping[str, Any], center: float) -> dict[str, Any]:
    """Return outlines in the copy of the world around a longitude, both halves of what was cut at 180."""

    def moved(polygon: Sequence[Sequence[Sequence[float]]]) -> list[list[list[float]]]:
        edge = [point[0] for point in polygon[0]]
        turn = 360 * math.floor((center + 180 - (min(edge) + max(edge)) / 2) / 360)
        return [[[x + turn, *rest] for x, *rest in ring] for ring in polygon]

    def geometry(found: Mapping[str, Any]) -> dict[str, Any]:
        polygons = found["coordinates"] if found["type"] == "MultiPolygon" else [found["coordinates"]]
        return {"type": "MultiPolygon", "coordinates": [moved(polygon) for polygon in polygons]}

    features = [feature for feature in outlines["features"] if feature["geometry"] is not None]
    return {
        **outlines,
        "features": [{**feature, "geometry": geometry(feature["geometry"])} for feature in features],
    }


def _unrolled(bounds: Bounds) -> Bounds:
    """Return bounds with left < right, right beyond 180 for those across the antimeridian."""
    left, bottom, right, top = bounds
    return left, bottom, right if left <= right else right + 360, top


def _mercator(latitude: float) -> float:
    """Return the distance from the equator on a web map, in degrees of longitude."""
    return math.degrees(math.asinh(math.tan(math.radians(latitude))))


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
