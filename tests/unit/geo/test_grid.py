"""The grid that a raster is warped to: the same for tiles, COGs and arrays, at GDAL's resolution."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Transformer
from rasterio.crs import CRS
from rasterio.transform import Affine, from_bounds, from_origin
from rasterio.warp import calculate_default_transform

import gdaltools as gt
from gdaltools.errors import InvalidParameter, UnsupportedRaster
from gdaltools.geo.grid import Grid, target_grid
from tests.support.rasters import UTM, UTM_GRID, smooth, write_raster


@settings(max_examples=40, deadline=None)
@given(
    target=st.sampled_from(["EPSG:4326", "EPSG:3857"]),
    northing=st.floats(1e5, 7.5e6),
    width=st.integers(50, 3000),
    height=st.integers(50, 3000),
)
def test_the_grid_has_gdals_resolution_and_covers_gdals_grid(
    target: str, northing: float, width: int, height: int
) -> None:
    transform = tuple(from_origin(470000, northing + height * 10, 10, 10))[:6]
    source = Grid(crs=UTM, transform=transform, width=width, height=height)
    grid = target_grid(source, CRS.from_user_input(target))
    gdals, cols, rows = calculate_default_transform(UTM, target, width, height, *source.bounds)
    assert grid.resolution == pytest.approx((gdals.a, gdals.a), rel=1e-5)
    assert 0 <= grid.width - cols <= 3
    assert 0 <= grid.height - rows <= 3
    for edge in grid.bounds:
        assert edge / gdals.a == pytest.approx(round(edge / grid.resolution[0]), rel=1e-5)


@pytest.mark.parametrize("target", ["EPSG:4326", "EPSG:3857"])
def test_tiles_cogs_and_arrays_have_one_grid(tmp_path: Path, target: str) -> None:
    source = write_raster(tmp_path / "a.tif", smooth(1, 300, 400), crs=UTM, transform=UTM_GRID)
    grid = gt.generate_tiling_scheme(source, target_crs=target).grid
    facts = gt.plan_cog(source, target_crs=target).facts
    array = gt.warp(source, target)
    assert (facts.width, facts.height, facts.transform) == (grid.width, grid.height, grid.affine)
    assert (array.shape[1:], array.rio.transform()) == ((grid.height, grid.width), grid.affine)


def test_a_cog_in_blocks_of_map_tiles_has_the_grid_of_the_scheme(tmp_path: Path) -> None:
    source = write_raster(tmp_path / "a.tif", smooth(1, 300, 400), crs=UTM, transform=UTM_GRID)
    grid = gt.generate_tiling_scheme(source, tms="WebMercatorQuad").grid
    facts = gt.plan_cog(source, tms="WebMercatorQuad", blocksize=256).facts
    assert (facts.width, facts.height, facts.transform) == (grid.width, grid.height, grid.affine)


GEOSTATIONARY = "+proj=geos +sweep=x +lon_0=-75 +h=35786023 +ellps=GRS80 +units=m"
DISK = 5434894.885056
TARGETS = [
    *(
        f"EPSG:{code}"
        for code in [
            "4326",
            "4269",
            "4979",
            "3857",
            "3395",
            "3832",
            "32633",
            "32601",
            "32760",
            "25833",
            "3035",
            "3413",
            "3031",
            "3995",
            "3976",
            "5041",
            "2056",
            "27700",
            "2154",
            "5070",
            "3577",
            "3112",
            "2193",
            "6933",
            "8857",
            "3410",
            "6931",
            "6932",
            "3571",
            "3572",
            "5936",
            "25833+7837",
        ]
    ),
    "ESRI:54009",
    "ESRI:54030",
    "ESRI:102008",
    "ESRI:102025",
    "OGC:CRS84",
    GEOSTATIONARY,
    "+proj=laea +lat_0=10 +lon_0=20",
    "+proj=ortho +lat_0=40 +lon_0=10",
    "+proj=sinu +lon_0=0",
    "+proj=merc +lon_0=180",
]
# west, south, east, north and the CRS of them
BOXES = {
    "the world": ((-180, -90, 180, 90), "EPSG:4326"),
    "from Greenwich": ((0, -90, 360, 90), "EPSG:4326"),
    "centred on the edges": ((-180.125, -90.125, 179.875, 90.125), "EPSG:4326"),
    "the north": ((-180, 0, 180, 90), "EPSG:4326"),
    "the west": ((-180, -90, 0, 90), "EPSG:4326"),
    "the Arctic": ((-4e6, -4e6, 4e6, 4e6), "EPSG:3413"),
    "the Antarctic": ((-3e6, -3e6, 3e6, 3e6), "EPSG:3031"),
    "across 180": ((170, -22, 190, -12), "EPSG:4326"),
    "beyond 180": ((190, 10, 200, 20), "EPSG:4326"),
    "the Pacific": ((2e6, -2e6, 4e6, 1e6), "EPSG:3832"),
    "a field": ((15.0, 50.0, 15.001, 50.001), "EPSG:4326"),
    "a zone": ((3e5, 4e6, 4e5, 41e5), UTM),
    "a disk": ((-DISK, -DISK, DISK, DISK), GEOSTATIONARY),
}


def a_grid(box: str, width: int, height: int, turned: str = "north up") -> Grid:
    (west, south, east, north), crs = BOXES[box]
    transform = from_bounds(west, south, east, north, width, height)
    if turned == "south up":
        transform = transform * Affine.translation(0, height) * Affine.scale(1, -1)
    if turned == "mirrored":
        transform = transform * Affine.translation(width, 0) * Affine.scale(-1, 1)
    return Grid(crs=crs, transform=tuple(transform)[:6], width=width, height=height)


def places(source: Grid, target: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the places of pixels' centres that PROJ finds, and from which it leads back."""
    share = (np.arange(150) + 0.5) / 150
    cols, rows = (part.ravel() for part in np.meshgrid(share * source.width, share * source.height))
    x, y = source.world(cols, rows)
    there = Transformer.from_crs(source.crs, target, always_xy=True)
    found_x, found_y = there.transform(x, y, errcheck=False)
    back_x, back_y = there.transform(found_x, found_y, direction="INVERSE", errcheck=False)
    with np.errstate(invalid="ignore"):
        apart = np.abs(back_x - x)
        holds = np.isfinite(found_x) & np.isfinite(found_y)
        if CRS.from_user_input(source.crs).is_geographic:
            apart = np.minimum(apart % 360, 360 - apart % 360) * np.cos(np.radians(y))
            holds &= np.abs(y) <= 90
        holds &= np.hypot(apart, back_y - y) < 0.1 * max(source.resolution)
    return found_x[holds], found_y[holds]


@settings(max_examples=60, deadline=None)
@given(
    box=st.sampled_from(list(BOXES)),
    target=st.sampled_from(TARGETS),
    width=st.integers(100, 3000),
    shape=st.floats(0.5, 2),
    turned=st.sampled_from(["north up", "south up", "mirrored"]),
)
def test_a_grid_covers_what_has_a_place_in_the_target_and_little_more_or_is_refused(
    box: str, target: str, width: int, shape: float, turned: str
) -> None:
    source = a_grid(box, width, round(width * shape), turned)
    try:
        grid = target_grid(source, CRS.from_user_input(target))
    except (UnsupportedRaster, InvalidParameter) as error:
        assert len(str(error)) > 40
        return
    left, bottom, right, top = grid.bounds
    across, down = grid.resolution
    assert min(grid.width, grid.height) > 5
    x, y = places(source, target)
    if CRS.from_user_input(target).is_geographic:
        x = left + np.mod(x - left + across, 360) - across
    inside = (x > left - across) & (x < right + across) & (y > bottom - down) & (y < top + down)
    # A world in Mercator is limited to the CRS's area of use.
    assert inside.all() or (inside.mean() > 0.5 and (x.min() >= left - across or y.min() < bottom))
    # Between pixels of the sample, and beside singular places, the grid is larger than the sample.
    room_x, room_y = across + 0.2 * np.ptp(x), down + 0.2 * np.ptp(y)
    assert x[inside].min() - left <= room_x
    assert right - x[inside].max() <= room_x
    assert y[inside].min() - bottom <= room_y
    assert top - y[inside].max() <= room_y


@pytest.mark.parametrize(
    ("box", "target", "right"),
    [
        ("the world", "EPSG:3857", (-20037508, -20048966, 20037508, 20048966)),
        ("from Greenwich", "EPSG:3857", (-20037508, -20048966, 20037508, 20048966)),
        ("centred on the edges", "EPSG:3857", (-20037508, -20048966, 20037508, 20048966)),
        ("centred on the edges", "EPSG:8857", (-17243959, -8392928, 17243959, 8392928)),
        ("across 180", "EPSG:3832", (2226390, -2511525, 4452780, -1345708)),
        ("the Pacific", "EPSG:4326", (167.966, -17.783, 185.933, 8.982)),
        ("beyond 180", "EPSG:3857", (-18924313, 1118890, -17811119, 2273031)),
        ("a disk", "EPSG:4326", (-156.3, -81.3, 6.3, 81.3)),
        ("the Arctic", "EPSG:4326", (-180, 40.0, 180, 90)),
    ],
)
def test_the_bounds_of_a_grid_are_exact(box: str, target: str, right: tuple[float, ...]) -> None:
    grid = target_grid(a_grid(box, 1440, 721), CRS.from_user_input(target))
    room = 2 * max(grid.resolution) + 2e-3 * (right[3] - right[1])
    assert grid.bounds == pytest.approx(right, abs=room)


@pytest.mark.parametrize(
    ("box", "target"),
    [
        ("beyond 180", "EPSG:3857"),
        ("across 180", "EPSG:3832"),
        ("the Pacific", "EPSG:4326"),
        ("a disk", "EPSG:4326"),
    ],
)
def test_a_warp_fills_the_grid_wherever_the_raster_lies(tmp_path: Path, box: str, target: str) -> None:
    source = a_grid(box, 300, 200)
    path = write_raster(
        tmp_path / "a.tif", np.full((1, 200, 300), 7, "uint8"), crs=source.crs, transform=source.affine
    )
    filled = (np.asarray(gt.warp(path, target)) == 7).mean()
    assert filled > (0.6 if box == "a disk" else 0.95)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "float64"])
@pytest.mark.parametrize("turned", ["south up", "mirrored"])
def test_mirrored_rasters_are_reversed_and_not_resampled(tmp_path: Path, turned: str, dtype: str) -> None:
    pixels = np.random.default_rng(1).uniform(1, 250, (2, 211, 307)).astype(dtype)
    source = a_grid("a zone", 307, 211, turned)
    path = write_raster(tmp_path / "a.tif", pixels, crs=UTM, transform=source.affine)
    right = pixels[:, ::-1] if turned == "south up" else pixels[:, :, ::-1]
    np.testing.assert_array_equal(np.asarray(gt.warp(path, UTM)), right)
    scheme = gt.generate_tiling_scheme(path, 512, 16, UTM)
    assert scheme.grid.north_up
    assert scheme.grid.bounds == pytest.approx(source.bounds, abs=1e-6)
    gt.extract_tiles(path, scheme, tmp_path / "tiles", progress=False)
    with rasterio.open(next((tmp_path / "tiles").glob("*.tif"))) as tile:
        np.testing.assert_array_equal(tile.read(), right)
