"""The grid that a raster is warped to: the same for tiles, COGs and arrays, at GDAL's resolution."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS
from rasterio.transform import from_origin
from rasterio.warp import calculate_default_transform

import gdaltools as gt
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
