"""Rasters are painted where they lie, in every copy of the world, by the pixels that rasterio reads there."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import rasterio
from pyproj import Transformer
from rasterio.io import MemoryFile
from rasterio.transform import from_bounds

import gdaltools as gt
from gdaltools.catalog.preview import preview_mosaic
from tests.support.rasters import write_raster

mpl.use("Agg")

_WORLD = 2 * np.pi * 6378137
_UTM_60 = 32660, (600_000, 3_500_000, 1_300_000, 4_100_000)
# Name, EPSG code, bounds in its units, and the longitudes of the whole map.
_PLACES = {
    "across 180 from the west": (4326, (170, -20, 190, -5), (170, 190)),
    "across 180 from the east": (4326, (-190, -20, -170, -5), (170, 190)),
    "beyond 180": (4326, (190, -20, 200, -5), (-170, -160)),
    "0 to 360": (4326, (0, -60, 360, 60), (-180, 180)),
    "another turn": (4269, (350, 20, 370, 35), (-10, 10)),
    "UTM zone 60 across 180": (*_UTM_60, (178.0, 186.0)),
    "UTM zone 1 across 180": (32701, (100_000, 6_000_000, 800_000, 6_600_000), (178.5, 186.4)),
    "the Pacific": (3832, (1_500_000, -2_000_000, 5_000_000, 2_000_000), (163.5, 195)),
    "Mercator beyond 180": (3857, (19_000_000, -2_000_000, 22_000_000, 1_000_000), (170.7, 197.7)),
    "around the north pole": (3413, (-3_500_000, -3_000_000, 3_000_000, 3_500_000), (-180, 180)),
    "around the south pole": (3031, (-4_000_000, -4_500_000, 3_500_000, 4_000_000), (-180, 180)),
}
_ROWS, _COLS = 150, 200


def _scene(path: Path, epsg: int, bounds: tuple[float, ...], *, dtype: str = "uint8") -> Path:
    """Write a raster whose bands grow with the column, the row, and both."""
    rows, cols = np.mgrid[0:_ROWS, 0:_COLS]
    pixels = np.stack([20 + cols, 20 + rows, (20 + cols + rows) // 2]).astype(dtype)
    return write_raster(path, pixels, crs=f"EPSG:{epsg}", transform=from_bounds(*bounds, _COLS, _ROWS))


def _there(path: Path, lon: np.ndarray, lat: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the pixels at places on Earth, shape (bands, places), and which are surely inside or outside."""
    with rasterio.open(path) as dataset:
        way = Transformer.from_crs("EPSG:4326", dataset.crs.to_wkt(), always_xy=True)
        turns = {4326: 360.0, 4269: 360.0, 3857: _WORLD}.get(dataset.crs.to_epsg(), 0.0)
        x, y = way.transform((lon + 180) % 360 - 180, lat)
        pixels = dataset.read()
        found = np.zeros((pixels.shape[0], *lon.shape), "float64")
        inside, near = np.zeros(lon.shape, bool), np.zeros(lon.shape, bool)
        for turn in (-2, -1, 0, 1, 2) if turns else (0,):
            cols, rows = ~dataset.transform * (x + turn * turns, y)
            for grown, where in ((0, inside), (2.5, near)):
                where |= (cols > -grown) & (cols < _COLS + grown) & (rows > -grown) & (rows < _ROWS + grown)
            deep = (cols > 2.5) & (cols < _COLS - 2.5) & (rows > 2.5) & (rows < _ROWS - 2.5)
            found[:, deep] = pixels[:, rows[deep].astype(int), cols[deep].astype(int)]
        return found, inside & (found[0] > 0), ~near


def _assert_painted(path: Path, picture: np.ndarray, lon: np.ndarray, lat: np.ndarray) -> None:
    expected, inside, outside = _there(path, lon, lat)
    assert inside.sum() > 30
    assert (picture[3][inside] == 255).all()
    assert (picture[3][outside] == 0).all()
    # A pixel of a whole map may stand for several of the raster.
    step = max(3.0, np.abs(np.diff(expected[0])[inside[:, 1:] & inside[:, :-1]]).max(initial=0))
    assert (np.abs(picture[:3] - expected)[:, inside] <= 3 * step).mean() > 0.99


def _shown(overlay: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the picture of an overlay, and longitudes and latitudes of its pixels as Leaflet has them."""
    with MemoryFile(base64.b64decode(overlay.url.partition(",")[2])) as memory, memory.open() as dataset:
        picture = dataset.read().astype("float64")
    (south, west), (north, east) = overlay.bounds
    bottom, top = (np.arcsinh(np.tan(np.radians(value))) for value in (south, north))
    rows, cols = picture.shape[1:]
    y = top - (np.arange(rows) + 0.5) * (top - bottom) / rows
    lon = west + (np.arange(cols) + 0.5) * (east - west) / cols
    return picture, *np.meshgrid(lon, np.degrees(np.arctan(np.sinh(y))))


@pytest.mark.parametrize("place", _PLACES)
def test_all_of_a_raster_is_painted_where_it_lies(place: str, tmp_path: Path) -> None:
    epsg, bounds, (west, east) = _PLACES[place]
    path = _scene(tmp_path / "scene.tif", epsg, bounds)
    shown = gt.inspect(path).explore()
    whole = shown.layers[0].bounds
    assert (whole[0][1], whole[1][1]) == pytest.approx((west, east), abs=1.2)
    assert west - 1 < shown.center[1] < east + 1
    _assert_painted(path, *_shown(shown.layers[0]))


@pytest.mark.parametrize("copy", [-720, -360, 0, 360])
@pytest.mark.parametrize("place", _PLACES)
def test_a_view_in_any_copy_of_the_world_is_painted(place: str, copy: int, tmp_path: Path) -> None:
    epsg, bounds, (west, east) = _PLACES[place]
    path = _scene(tmp_path / "scene.tif", epsg, bounds)
    shown = gt.inspect(path).explore()
    (south, _), (north, _) = shown.layers[0].bounds
    left, right = west + 0.25 * (east - west) + copy, west + 0.8 * (east - west) + copy
    shown.set_trait("bounds", ((south - 1, left), ((south + north) / 2, right)))
    detail = shown.layers[1]
    assert (detail.bounds[0][1], detail.bounds[1][1]) == pytest.approx((left, right), abs=1.2)
    _assert_painted(path, *_shown(detail))


@pytest.mark.parametrize("view", [(-200, 200), (150, 530), (-10, 10), (170, 190), (350, 370), (-190, -170)])
def test_a_view_over_the_seam_of_the_world_or_of_the_raster_is_painted(
    view: tuple[int, int], tmp_path: Path
) -> None:
    epsg, bounds, _ = _PLACES["0 to 360"]
    path = _scene(tmp_path / "scene.tif", epsg, bounds)
    shown = gt.inspect(path).explore()
    shown.set_trait("bounds", ((-50, view[0]), (50, view[1])))
    picture, lon, lat = _shown(shown.layers[1])
    assert (lon.min(), lon.max()) == pytest.approx(view, abs=1)
    _assert_painted(path, picture, lon, lat)


def test_rasters_on_both_sides_of_180_are_one_view(tmp_path: Path) -> None:
    west = _scene(tmp_path / "west.tif", 4326, (172, -20, 178, -10))
    east = _scene(tmp_path / "east.tif", 4326, (-179, -25, -170, -15))
    cogs = [gt.create_cog(path, path.with_suffix(".cog.tif")).location for path in (west, east)]
    mosaic = gt.create_mosaicjson(cogs, tmp_path / "mosaic.json")
    shown = mosaic.explore()
    assert shown.center == pytest.approx((-17.5, 181), abs=0.1)
    for path in (west, east):
        picture, lon, lat = _shown(shown.layers[0])
        expected, inside, _ = _there(path, lon, lat)
        assert inside.sum() > 1000
        assert (np.abs(picture[:3] - expected)[:, inside] < 10).all()


@pytest.mark.parametrize("place", ["across 180 from the west", "UTM zone 60 across 180", "beyond 180"])
def test_outlines_lie_over_their_raster_in_the_copy_that_is_shown(place: str, tmp_path: Path) -> None:
    epsg, bounds, _ = _PLACES[place]
    path = _scene(tmp_path / "scene.tif", epsg, bounds)
    shown = gt.generate_tiling_scheme(path, 64, 8, f"EPSG:{epsg}").explore()
    shapes = shown.layers[-1]
    for turn in (0, 360, -720):
        shown.set_trait("center", (shown.center[0], shown.center[1] + turn))
        west, east = (corner[1] for corner in shown.layers[0].bounds)
        offset = shown.center[1] - (west + east) / 2
        xs = [
            point[0]
            for feature in shapes.data["features"]
            for polygon in feature["geometry"]["coordinates"]
            for point in polygon[0]
        ]
        assert (min(xs), max(xs)) == pytest.approx((west + offset, east + offset), abs=0.2)


def test_a_raster_that_is_not_painted_is_named(tmp_path: Path) -> None:
    beyond = _scene(tmp_path / "pole.tif", 4326, (0, 86, 10, 90))
    nowhere = write_raster(tmp_path / "nowhere.tif", np.ones((1, 9, 9), "uint8"), crs=None, transform=None)
    for path, reason in ((beyond, "beyond the map"), (nowhere, "no CRS or transform")):
        (_, note) = gt.inspect(path).explore().controls
        assert path.name in note.widget.value
        assert reason in note.widget.value


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("place", _PLACES)
def test_a_preview_shows_all_of_a_raster(place: str, dtype: str, tmp_path: Path) -> None:
    epsg, bounds, _ = _PLACES[place]
    path = _scene(tmp_path / "scene.tif", epsg, bounds, dtype=dtype)
    mosaic = gt.create_mosaicjson([path], tmp_path / "mosaic.json")
    preview_mosaic(tmp_path / "mosaic.json", tmp_path / "preview.png")
    with rasterio.open(tmp_path / "preview.png") as dataset:
        picture = dataset.read().astype("float64")
    west, south, east, north = mosaic.bounds
    rows, cols = picture.shape[1:]
    lon = west + (np.arange(cols) + 0.5) * (east - west) / cols
    lat = north - (np.arange(rows) + 0.5) * (north - south) / rows
    lon, lat = np.meshgrid(lon, lat)
    if dtype == "uint8":
        _assert_painted(path, picture, lon, lat)
    else:
        _, inside, outside = _there(path, lon, lat)
        assert (picture[3][inside] == 255).all()
        assert (picture[3][outside] == 0).all()


@pytest.mark.parametrize(
    ("place", "target"),
    [
        ("UTM zone 60 across 180", 3832),
        ("UTM zone 1 across 180", 3832),
        ("UTM zone 1 across 180", 32760),
        ("across 180 from the west", 4326),
        ("Mercator beyond 180", 3857),
    ],
)
def test_a_plot_of_tiles_has_all_of_its_raster(place: str, target: int, tmp_path: Path) -> None:
    epsg, bounds, _ = _PLACES[place]
    path = _scene(tmp_path / "scene.tif", epsg, bounds)
    scheme = gt.generate_tiling_scheme(path, 64, 8, f"EPSG:{target}")
    (image,) = scheme.plot().images
    picture = np.asarray(image.get_array()).transpose(2, 0, 1).astype("float64")
    west, south, east, north = scheme.grid.bounds
    rows, cols = picture.shape[1:]
    x = west + (np.arange(cols) + 0.5) * (east - west) / cols
    y = north - (np.arange(rows) + 0.5) * (north - south) / rows
    way = Transformer.from_crs(f"EPSG:{target}", "EPSG:4326", always_xy=True)
    _assert_painted(path, picture, *way.transform(*np.meshgrid(x, y)))
