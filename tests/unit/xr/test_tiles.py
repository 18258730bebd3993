"""A DataArray becomes one COG for each tile: its pixels, its georeference, each chunk computed once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dask
import dask.array
import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401 - gives DataArray its .rio
import xarray

from gdaltools.cog.validate import validate_cog
from gdaltools.display.progress import Progress
from gdaltools.errors import InvalidParameter, TargetExists
from gdaltools.tiles.extract.result import ExtractionResult
from tests.support.rasters import UTM, UTM_GRID, smooth


def array(data: Any, *, name: str = "ndvi") -> xarray.DataArray:
    found = xarray.DataArray(data, dims=("band", "y", "x")[-data.ndim :], name=name)
    found = found.rio.write_crs(UTM).rio.write_transform(UTM_GRID)
    return found.rio.write_nodata(-1)


def assert_tiles(result: ExtractionResult, expected: Any, size: int, overlap: int) -> None:
    seen = np.zeros(expected.shape[-2:], bool)
    for tile in result.tiles:
        row, col = map(int, tile.tile_id.split("_")[1:])
        with rasterio.open(tile.location) as dataset:
            pixels = dataset.read()
            left, top = ~UTM_GRID * (dataset.transform.c, dataset.transform.f)
            assert dataset.crs.to_string() == UTM
            assert dataset.nodata == -1
        where = slice(round(top), round(top) + tile.shape[1]), slice(round(left), round(left) + tile.shape[2])
        assert where[0].start <= row * (size - overlap)
        assert where[1].start <= col * (size - overlap)
        np.testing.assert_array_equal(pixels, expected.reshape(-1, *expected.shape[-2:])[:, *where])
        assert validate_cog(tile.location).valid
        seen[where] = True
    assert seen.all()


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize(("bands", "size", "overlap"), [(1, 128, 0), (3, 160, 32), (2, 512, 16)])
def test_tiles_hold_the_arrays_pixels(
    tmp_path: Path, bands: int, size: int, overlap: int, lazy: bool
) -> None:
    data = smooth(bands, 390, 321, dtype="int16")
    given = dask.array.from_array(data, chunks=(1, 100, 90)) if lazy else data
    seen: list[Progress] = []
    result = array(given).gt.to_tiles(
        tmp_path, "fast", tile_size=size, overlap=overlap, blocksize=64, progress=seen.append
    )
    assert_tiles(result, data, size, overlap)
    assert seen[-1].done == seen[-1].total == result.total_pixels
    assert result.cogs
    assert Path(result.tiles[0].location).name == "ndvi_tile_0_0.tif"


def test_by_default_tiles_are_whole_chunks_and_each_is_computed_once(tmp_path: Path) -> None:
    computed: list[tuple[int, ...]] = []

    def chunk(block_info: Any = None) -> Any:
        computed.append(block_info[None]["chunk-location"])
        return np.full((5120, 5120), 7, "int16")[: block_info[None]["chunk-shape"][0]]

    lazy = dask.array.map_blocks(
        chunk, chunks=((1024, 1024), (5120,)), dtype="int16", meta=np.empty((0, 0), "int16")
    )
    result = array(lazy, name="").gt.to_tiles(tmp_path, tile_size=1024)
    assert len(result.tiles) == 10
    computed.clear()
    result = array(lazy, name="").gt.to_tiles(tmp_path / "whole")
    assert (len(result.tiles), result.tiles[0].shape) == (1, (1, 2048, 5120))
    assert sorted(computed) == [(0, 0), (1, 0)]
    assert "1 COGs of up to " in str(result)


def test_a_row_of_one_pixel_keeps_its_place(tmp_path: Path) -> None:
    result = array(smooth(1, 33, 40, dtype="int16")).gt.to_tiles(tmp_path, tile_size=16, overlap=0)
    with rasterio.open(result.tiles[-1].location) as dataset:
        assert dataset.transform.a == UTM_GRID.a
    assert_tiles(result, smooth(1, 33, 40, dtype="int16"), 16, 0)


def test_what_exists_or_does_not_go_together_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    given = array(smooth(1, 100, 100, dtype="int16"))
    for options in ({"tile_size": 100}, {"tile_size": 64, "overlap": 64}, {"overlap": -1}, {"sharp": True}):
        with pytest.raises(InvalidParameter):
            given.gt.to_tiles(tmp_path / "x", **options)
    assert not (tmp_path / "x").exists()
    (tmp_path / "ndvi_tile_1_1.tif").write_bytes(b"mine")
    with pytest.raises(TargetExists):
        given.gt.to_tiles(tmp_path, tile_size=64)
    assert [p.name for p in tmp_path.iterdir()] == ["ndvi_tile_1_1.tif"]
    assert len(given.gt.to_tiles(tmp_path, tile_size=64, overwrite=True).tiles) == 4
