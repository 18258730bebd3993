"""The sample raster is the picture that the package brings along, at any width that is asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio

import gdaltools as gt
from gdaltools.errors import InvalidParameter
from gdaltools.raster.samples import relief
from gdaltools.raster.samples.natural_earth import PICTURE
from tests.support.rasters import write_raster


@pytest.mark.parametrize("width", [64, 1001, 5400])
def test_the_relief_covers_the_earth_in_strips(tmp_path: Path, width: int) -> None:
    target = relief(tmp_path / "relief.tif", width=width)
    info = gt.inspect(target)
    assert info.shape == (3, round(width / 2), width)
    with rasterio.open(tmp_path / "relief.tif") as dataset:
        assert dataset.crs.to_epsg() == 4326
        assert tuple(dataset.bounds) == (-180, -90, 180, 90)
        assert not dataset.profile["tiled"]
        assert "compress" not in dataset.profile
        assert 90 < dataset.read().mean() < 220


def test_at_its_own_width_the_relief_is_the_picture(tmp_path: Path) -> None:
    relief(tmp_path / "relief.tif", width=5400)
    with rasterio.open(tmp_path / "relief.tif") as dataset, rasterio.open(PICTURE) as picture:
        assert np.array_equal(dataset.read(), picture.read())


def test_a_wider_relief_is_interpolated_without_seams(tmp_path: Path) -> None:
    """Its averages are the picture's pixels, but for what cubic interpolation sharpens."""
    relief(tmp_path / "relief.tif", width=10800)
    with rasterio.open(tmp_path / "relief.tif") as dataset, rasterio.open(PICTURE) as picture:
        assert dataset.shape == (5400, 10800)
        pixels = dataset.read(1).astype("float32").reshape(2700, 2, 5400, 2).mean(axis=(1, 3))
        off = np.abs(pixels - picture.read(1)).mean(axis=1)
    assert off.mean() < 1
    assert off.max() < 5


@pytest.mark.parametrize("width", [0, 63, 10801])
def test_a_width_that_there_is_not_is_refused(tmp_path: Path, width: int) -> None:
    with pytest.raises(InvalidParameter, match=f"width {width}: give 64 to 10800"):
        relief(tmp_path / "relief.tif", width=width)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_kept(tmp_path: Path) -> None:
    raster = write_raster(tmp_path / "relief.tif", np.zeros((1, 20, 30), "uint8"))
    before = raster.read_bytes()
    relief(raster, width=64)
    assert raster.read_bytes() == before


def test_the_picture_says_where_it_comes_from() -> None:
    text = PICTURE.with_suffix(".txt").read_text(encoding="utf-8")
    assert "public domain" in text
    assert PICTURE.stat().st_size < 2e6
