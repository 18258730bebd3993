"""Whether bytes look like noise to a codec: decided from a few windows, never by reading a large block."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gdaltools import storage
from gdaltools.cost.estimation import estimate
from gdaltools.errors import CorruptRaster
from gdaltools.raster.dataset import open_dataset
from gdaltools.raster.roughness import is_rough
from tests.support.rasters import UTM, UTM_GRID, damage, smooth, write_raster


def looked_at(path: Path) -> bool:
    location = storage.locate(path)
    with open_dataset(location) as dataset:
        return is_rough(dataset, location)


def noise(rows: int = 400, cols: int = 500, *, dtype: str = "uint8") -> np.ndarray:
    return np.random.default_rng(0).integers(0, 250, (3, rows, cols)).astype(dtype)


@pytest.mark.parametrize("block", [None, 128])
def test_noise_is_rough_and_an_image_is_not(tmp_path: Path, block: int | None) -> None:
    assert looked_at(write_raster(tmp_path / "noise.tif", noise(), block=block))
    assert not looked_at(write_raster(tmp_path / "image.tif", smooth(3, 400, 500, noise=1), block=block))


def test_a_raster_smaller_than_a_window_is_looked_at_whole(tmp_path: Path) -> None:
    assert looked_at(write_raster(tmp_path / "small.tif", noise(9, 40)))
    assert not looked_at(write_raster(tmp_path / "pixel.tif", noise(1, 1)))


def test_wider_samples_and_large_blocks_are_not_looked_at(tmp_path: Path) -> None:
    assert not looked_at(write_raster(tmp_path / "wide.tif", noise(dtype="uint16")))
    one = write_raster(tmp_path / "one.tif", noise(), block=2560, options={"interleave": "pixel"})
    assert not looked_at(one)


def test_a_block_that_cannot_be_decoded_is_told(tmp_path: Path) -> None:
    path = damage(write_raster(tmp_path / "broken.tif", noise(), options={"compress": "DEFLATE"}), at=0.5)
    with pytest.raises(CorruptRaster):
        looked_at(path)


def test_an_estimate_looks(tmp_path: Path) -> None:
    rough = write_raster(tmp_path / "noise.tif", noise(2000, 2000), crs=UTM, transform=UTM_GRID)
    even = write_raster(tmp_path / "image.tif", smooth(3, 2000, 2000), crs=UTM, transform=UTM_GRID)
    assert estimate(rough, profile="archive").seconds < estimate(even, profile="archive").seconds
