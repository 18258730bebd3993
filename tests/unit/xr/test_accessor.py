"""``da.gt`` and ``ds.gt``: a raster opened, computed with and written again is still that raster."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import xarray
from rasterio.crs import CRS

import gdaltools as gt
from gdaltools import storage
from gdaltools.errors import InvalidParameter, UnsupportedRaster
from tests.support.rasters import UTM, UTM_GRID, smooth, write_raster

NAMES = ("Blue", "Red", "NIR")


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    image = smooth(3, 300, 400, dtype="uint16")
    image[:, :50, :60] = 0
    return write_raster(
        tmp_path / "scene.tif", image, crs=UTM, transform=UTM_GRID, nodata=0, descriptions=NAMES, block=128
    )


def facts(path: Path | str) -> tuple[Any, ...]:
    with rasterio.open(path) as dataset:
        return dataset.crs, dataset.transform, dataset.shape, dataset.descriptions


def test_bands_are_named_and_stay_so(scene: Path, tmp_path: Path) -> None:
    array = gt.open(scene)
    assert tuple(array.band_name.values) == NAMES
    assert array.name == "scene"
    (array.sel(band=[3, 1]) * 2).astype("uint16").gt.to_cog(tmp_path / "two.tif")
    assert facts(tmp_path / "two.tif")[3] == ("NIR", "Blue")
    array.isel(band=[2, 1, 0]).gt.to_cog(tmp_path / "turned.tif")
    assert facts(tmp_path / "turned.tif")[3] == NAMES[::-1]


def test_colours_and_numbers_are_no_descriptions(tmp_path: Path) -> None:
    source = write_raster(tmp_path / "a.tif", smooth(3, 60, 70), crs=UTM, transform=UTM_GRID)
    array = gt.open(source)
    assert list(array.band_name.values) == ["Red", "Green", "Blue"]
    array.gt.to_cog(tmp_path / "b.tif")
    assert facts(tmp_path / "b.tif")[3] == (None, None, None)


def test_an_index_of_masked_bands_keeps_place_and_holes(scene: Path, tmp_path: Path) -> None:
    bands = gt.open(scene, masked=True).gt.to_dataset()
    assert list(bands) == list(NAMES)
    ndvi = (bands.NIR - bands.Red) / (bands.NIR + bands.Red)
    result = ndvi.rename("ndvi").gt.to_cog(tmp_path / "ndvi.tif")
    assert result.band_count == 1
    assert facts(tmp_path / "ndvi.tif")[:3] == facts(scene)[:3]
    with rasterio.open(tmp_path / "ndvi.tif") as dataset, rasterio.open(scene) as source:
        assert np.isnan(dataset.nodata)
        values, valid = dataset.read(1), dataset.dataset_mask() > 0
        _, red, nir = source.read().astype("float32")
    assert not valid[:50, :60].any()
    assert valid[50:].all()
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(values[50:], ((nir - red) / (nir + red))[50:], rtol=1e-5)


def test_a_dataset_becomes_a_cog_of_its_variables(scene: Path, tmp_path: Path) -> None:
    bands = gt.open(scene).gt.to_dataset()
    bands["ratio"] = (bands.NIR / bands.Red.clip(1)).astype("float32")
    bands.gt.to_cog(tmp_path / "all.tif")
    assert facts(tmp_path / "all.tif") == (*facts(scene)[:3], (*NAMES, "ratio"))
    with rasterio.open(tmp_path / "all.tif") as dataset, rasterio.open(scene) as source:
        assert dataset.dtypes[0] == "float32"
        np.testing.assert_array_equal(dataset.read([1, 2, 3]), source.read())
        assert dataset.nodata == 0
    tiles = bands.gt.to_tiles(tmp_path / "tiles", tile_size=256, overlap=32)
    assert [tile.tile_id for tile in tiles.tiles] == list(bands.gt.tiles(256, 32).tile_ids())


def test_an_array_tells_what_it_is_without_being_computed(scene: Path) -> None:
    array = gt.open(scene)
    array = array.copy(data=array.data.map_blocks(_forbidden, meta=np.zeros((0, 0, 0), "uint16")))
    info = array.gt.inspect()
    file = gt.inspect(scene)
    for name in ("width", "height", "count", "crs", "transform", "dtypes", "nodata", "descriptions"):
        assert getattr(info, name) == getattr(file, name), name
    assert info.bounds_4326 == pytest.approx(file.bounds_4326)
    scheme = array.gt.tiles(128, 16)
    assert (scheme.rows, scheme.cols, scheme.warps) == (3, 4, False)


@pytest.mark.parametrize("crs", ["IAU_2015:49910", 'LOCAL_CS["site",UNIT["metre",1]]'])
def test_an_array_that_is_not_on_earth_has_no_bounds_there(scene: Path, crs: str) -> None:
    array = gt.open(scene).rio.write_crs(CRS.from_user_input(crs))
    assert array.gt.inspect().bounds_4326 is None


def _forbidden(block: np.ndarray) -> np.ndarray:
    raise AssertionError("computed")


def test_what_is_no_raster_is_refused(scene: Path, tmp_path: Path) -> None:
    bands = gt.open(scene).gt.to_dataset()
    with pytest.raises(UnsupportedRaster, match="dimension 'band'"):
        bands.Red.gt.to_dataset()
    with pytest.raises(UnsupportedRaster, match="spatial dimensions"):
        xarray.Dataset({"a": ("time", [1, 2])}).gt.inspect()
    with pytest.raises(UnsupportedRaster, match="time"):
        bands.expand_dims(time=2).gt.to_cog(tmp_path / "x.tif")
    bands["Red"] = bands.Red.rio.write_nodata(7)
    with pytest.raises(InvalidParameter, match="0, 7"):
        bands.gt.to_cog(tmp_path / "x.tif")
    with pytest.raises(InvalidParameter, match="tile_size 100"):
        gt.open(scene).gt.tiles(100)
    with pytest.raises(UnsupportedRaster, match="no CRS"):
        xarray.DataArray(np.zeros((20, 20)), dims=("y", "x")).gt.tiles(16)


def test_100_gb_are_opened_at_once_in_chunks_of_whole_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GDALTOOLS_MAX_RATIO", "100000")  # it is sparse
    path = tmp_path / "huge.tif"
    profile = {"driver": "GTiff", "width": 230_000, "height": 150_000, "count": 3, "dtype": "uint8"}
    with rasterio.open(path, "w", **profile, tiled=True, crs=UTM, transform=UTM_GRID, bigtiff="yes",
                       blockxsize=512, blockysize=512, sparse_ok=True):  # fmt: skip
        pass
    gt.open(write_raster(tmp_path / "small.tif", smooth(1, 20, 20)))  # performs the imports beforehand
    began = time.process_time()
    array = gt.open(path)
    seconds = time.process_time() - began
    assert array.nbytes > 100e9
    assert seconds < 1
    for chunks in array.chunks[1:]:
        assert all(size % 512 == 0 for size in chunks[:-1])
    assert np.prod(array.data.chunksize) <= 64 << 20
    assert int(array[1, 70_000, 100_000]) == 0
    assert storage.stat(path).size < 20e6


@pytest.mark.parametrize("crs", ["EPSG:2056", "EPSG:5514", "EPSG:3375"])
def test_a_crs_whose_parameters_cf_cannot_name_says_nothing(tmp_path: Path, crs: str) -> None:
    path = write_raster(tmp_path / "a.tif", smooth(1, 90, 70), crs="EPSG:4326")
    array = gt.warp(path, crs, resolution=1e4)  # a warning would be an error here
    assert array.rio.crs == CRS.from_user_input(crs)
