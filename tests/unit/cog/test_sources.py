"""COGs of arrays, of warps and on tiling schemes; COGs in memory; statistics computed along the way."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import dask.array
import morecantile
import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401 - gives DataArray its .rio
import xarray
from distributed import Client, LocalCluster
from rasterio.io import MemoryFile
from rasterio.vrt import WarpedVRT

import gdaltools as gt
import gdaltools.xr.accessor
from gdaltools.cog.validate import validate_cog
from gdaltools.cost import cog_memory
from gdaltools.errors import InvalidParameter, TargetExists, UnsupportedRaster
from tests.support.rasters import UTM, UTM_GRID, categories, elevation, pixels, smooth, write_raster


def array_of(data: Any, *, crs: str = UTM, nodata: float | None = None) -> xarray.DataArray:
    _, rows, cols = data.shape
    coords = {
        "y": UTM_GRID.f + UTM_GRID.e * (np.arange(rows) + 0.5),
        "x": UTM_GRID.c + UTM_GRID.a * (np.arange(cols) + 0.5),
    }
    array = xarray.DataArray(data, dims=("band", "y", "x"), coords=coords).rio.write_crs(crs)
    return array if nodata is None else array.rio.write_nodata(nodata)


@pytest.fixture
def many_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of one block row, and of few blocks."""
    monkeypatch.setattr(cog_memory, "_PIECE_BYTES", 1 << 16)
    monkeypatch.setattr(cog_memory, "_WIDE_PIECE_BYTES", 1 << 16)


@pytest.mark.parametrize("chunks", [None, (3, 100, 170), (1, 700, 64)])
def test_an_array_becomes_the_cog_of_its_file(
    tmp_path: Path, many_pieces: None, chunks: tuple[int, ...] | None
) -> None:
    image = smooth(3, 611, 733)
    source = write_raster(tmp_path / "a.tif", image, crs=UTM, transform=UTM_GRID)
    gt.create_cog(source, tmp_path / "file.tif", level=6, raster_type="rgb", blocksize=128)
    array = array_of(image if chunks is None else dask.array.from_array(image, chunks=chunks))
    result = array.gt.to_cog(tmp_path / "array.tif", level=6, blocksize=128)
    assert result.raster_type == "rgb"
    assert validate_cog(tmp_path / "array.tif").valid
    assert (tmp_path / "array.tif").read_bytes() == (tmp_path / "file.tif").read_bytes()


def test_what_dask_computes_is_computed_once(tmp_path: Path, many_pieces: None) -> None:
    image = smooth(1, 700, 700)
    seen: list[tuple[int, ...]] = []

    def watched(block: np.ndarray) -> np.ndarray:
        seen.append(block.shape)
        return block

    array = dask.array.from_array(image, chunks=(1, 128, 700)).map_blocks(
        watched, dtype=image.dtype, meta=image
    )
    array_of(array).gt.to_cog(tmp_path / "a.tif", level=6, blocksize=128)
    assert len(seen) == 6
    np.testing.assert_array_equal(pixels(tmp_path / "a.tif"), image)
    assert pixels(tmp_path / "a.tif", overview_level=0).any()


def test_an_array_on_a_cluster_that_sees_no_scratch_folder_comes_back_whole(
    tmp_path: Path, many_pieces: None
) -> None:
    image = smooth(3, 500, 600)
    array = array_of(dask.array.from_array(image, chunks=(3, 128, 600)))
    buffer = io.BytesIO()
    with (
        LocalCluster(n_workers=1, threads_per_worker=2, processes=True, dashboard_address=None) as cluster,
        Client(cluster),
    ):
        # The workers cannot reach a sink in this process's memory.
        gt.create_cog(array, buffer, blocksize=128, progress=False)
    with MemoryFile(buffer.getvalue()) as memory, memory.open() as dataset:
        np.testing.assert_array_equal(dataset.read(), image)
        assert dataset.overviews(1) == [2, 4, 8]


def test_facts_of_an_array_are_kept(tmp_path: Path) -> None:
    array = array_of(elevation(300, 400), nodata=-9999.0)
    array.attrs |= {"long_name": "height", "units": "m", "SOURCE": "lidar"}
    result = array.gt.to_cog(tmp_path / "a.tif")
    assert (result.raster_type, result.predictor) == ("dem", 3)
    with rasterio.open(tmp_path / "a.tif") as dataset:
        assert (dataset.nodata, dataset.descriptions, dataset.units) == (-9999.0, ("height",), ("m",))
        assert dataset.tags()["SOURCE"] == "lidar"
        assert dataset.crs.to_epsg() == 32637
        assert dataset.transform.almost_equals(UTM_GRID)


def test_what_open_gives_can_be_written_again(tmp_path: Path) -> None:
    image = smooth(3, 300, 400)
    source = write_raster(tmp_path / "a.tif", image, crs=UTM, transform=UTM_GRID, nodata=0)
    (gt.open(source) // 2).gt.to_cog(tmp_path / "b.tif")
    np.testing.assert_array_equal(pixels(tmp_path / "b.tif"), image // 2)
    with rasterio.open(tmp_path / "b.tif") as dataset:
        assert dataset.crs.to_epsg() == 32637
        assert dataset.transform == UTM_GRID


def test_an_array_that_no_cog_can_hold_is_refused(tmp_path: Path) -> None:
    flat = xarray.DataArray(np.zeros(5), dims="time")
    with pytest.raises(UnsupportedRaster, match="spatial dimensions"):
        gt.create_cog(flat, tmp_path / "a.tif")
    cube = xarray.DataArray(np.zeros((2, 2, 4, 4)), dims=("time", "band", "y", "x"))
    with pytest.raises(UnsupportedRaster, match="time"):
        gt.create_cog(cube, tmp_path / "a.tif")
    with pytest.raises(UnsupportedRaster, match="bool"):
        gt.create_cog(array_of(np.zeros((1, 4, 4), bool)), tmp_path / "a.tif")
    with pytest.raises(InvalidParameter, match=r"rio\.reproject"):
        gt.create_cog(array_of(np.zeros((1, 4, 4))), tmp_path / "a.tif", target_crs="EPSG:4326")
    assert list(tmp_path.iterdir()) == []


def test_an_open_warp_becomes_a_cog_of_its_pixels(tmp_path: Path) -> None:
    source = write_raster(tmp_path / "a.tif", smooth(3, 500, 600), crs=UTM, transform=UTM_GRID, nodata=0)
    with rasterio.open(source) as dataset, WarpedVRT(dataset, crs="EPSG:3857") as warped:
        expected, grid = warped.read(), warped.transform
        result = gt.create_cog(warped, tmp_path / "b.tif", raster_type="rgb")
    assert result.reprojection_performed
    with rasterio.open(tmp_path / "b.tif") as made:
        assert (made.crs.to_epsg(), made.transform, made.nodata) == (3857, grid, 0)
        np.testing.assert_array_equal(made.read(), expected)


@pytest.mark.parametrize("blocksize", [256, 512])
def test_a_tiling_scheme_aligns_blocks_to_its_tiles(tmp_path: Path, blocksize: int) -> None:
    source = write_raster(tmp_path / "a.tif", smooth(3, 700, 900), crs=UTM, transform=UTM_GRID)
    result = gt.create_cog(
        source, tmp_path / "b.tif", tms="WebMercatorQuad", blocksize=blocksize, raster_type="rgb"
    )
    assert result.target_crs == "EPSG:3857"
    assert validate_cog(tmp_path / "b.tif").valid
    tms = morecantile.tms.get("WebMercatorQuad")
    with rasterio.open(tmp_path / "b.tif") as made:
        zoom = int(made.tags(ns="TILING_SCHEME")["ZOOM_LEVEL"])
        assert made.transform.a == pytest.approx(tms.matrix(zoom).cellSize)
        left, top = made.transform.c, made.transform.f
        side = made.transform.a * blocksize
        origin = tms.matrix(0).pointOfOrigin
        for offset in ((left - origin[0]) / side, (origin[1] - top) / side):
            assert offset == pytest.approx(round(offset), abs=1e-6)
        assert (made.width % blocksize, made.height % blocksize) == (0, 0)
        assert 0.3 < (made.dataset_mask() > 0).mean() < 1


def test_an_unknown_tiling_scheme_is_named(tmp_path: Path) -> None:
    source = write_raster(tmp_path / "a.tif", smooth(3, 60, 80), crs=UTM, transform=UTM_GRID)
    with pytest.raises(InvalidParameter, match="WebMercatorQuad"):
        gt.create_cog(source, tmp_path / "b.tif", tms="Nowhere")


@pytest.mark.parametrize("profile", ["analysis", "visualization"])
def test_a_cog_in_memory_is_the_one_on_disk(tmp_path: Path, profile: str) -> None:
    source = write_raster(tmp_path / "a.tif", smooth(3, 600, 700), crs=UTM, transform=UTM_GRID)
    buffer = io.BytesIO()
    result = gt.create_cog(source, buffer, profile, raster_type="rgb")
    gt.create_cog(source, tmp_path / "b.tif", profile, raster_type="rgb")
    assert buffer.getvalue() == (tmp_path / "b.tif").read_bytes()
    assert result.size_bytes == len(buffer.getvalue())


def test_an_open_file_cannot_be_left_to_another_process(tmp_path: Path) -> None:
    source = write_raster(tmp_path / "a.tif", smooth(1, 60, 70))
    with pytest.raises(InvalidParameter, match="compute=False"):
        gt.create_cog(source, io.BytesIO(), compute=False)


@pytest.mark.parametrize("nodata", [None, 7.0])
@pytest.mark.parametrize("interleave", ["pixel", "band"])
def test_statistics_are_those_of_the_pixels(
    tmp_path: Path, many_pieces: None, nodata: float | None, interleave: str
) -> None:
    image = smooth(2, 500, 600, dtype="float32", noise=3.0)
    if nodata is not None:
        image[0, 100:200] = nodata
        image[1] = nodata
    source = write_raster(tmp_path / "a.tif", image, nodata=nodata)
    gt.create_cog(source, tmp_path / "b.tif", statistics=True, blocksize=128, interleave=interleave)
    with rasterio.open(tmp_path / "b.tif") as dataset:
        for band, data in enumerate(image.astype("float64"), start=1):
            kept = data[data != nodata] if nodata is not None else data
            tags = {k: float(v) for k, v in dataset.tags(band).items() if k.startswith("STATISTICS_")}
            if not kept.size:
                assert tags == {}
                continue
            assert tags["STATISTICS_MINIMUM"] == kept.min()
            assert tags["STATISTICS_MAXIMUM"] == kept.max()
            assert tags["STATISTICS_MEAN"] == pytest.approx(kept.mean(), rel=1e-12)
            assert tags["STATISTICS_STDDEV"] == pytest.approx(kept.std(), rel=1e-9)


def test_a_plan_says_what_will_be_done(tmp_path: Path) -> None:
    source = write_raster(tmp_path / "a.tif", smooth(3, 1300, 1400), crs=UTM, transform=UTM_GRID)
    plan = gt.plan_cog(source)
    assert plan.levels == ((1400, 1300), (700, 650), (350, 325))
    assert plan.memory_bytes(1) < plan.memory_bytes(2)
    made = gt.create_cog(source, tmp_path / "b.tif")
    assert plan.estimated_bytes == pytest.approx(made.size_bytes, rel=0.2)
    text = str(plan)
    for part in ("1400 x 1300", "DEFLATE", "predictor 2", "MB on"):
        assert part in text
    with pytest.raises(TargetExists):
        gt.create_cog(source, tmp_path / "b.tif")


_FLAGS = np.random.default_rng(1).choice(np.array([21824, 22280, 54596, 55052], "uint16"), (1, 30, 40))
_BANDS = {
    "classes": categories(800, 900),
    "classes as int16": categories(800, 900).astype("int16"),
    "classes as floats": categories(800, 900).astype("float32"),
    "large codes": categories(800, 900).astype("int32") * 1000,
    "bit flags": np.ascontiguousarray(_FLAGS.repeat(20, axis=1).repeat(20, axis=2)),
    "an image": smooth(1, 600, 800),
    "colours": smooth(3, 600, 800),
    "elevation": elevation(600, 800),
    "whole elevation": smooth(1, 600, 800, dtype="int16"),
    "two bands": smooth(2, 300, 400),
    "complex": smooth(1, 200, 300, dtype="complex64"),
}


@pytest.mark.parametrize("image", _BANDS.values(), ids=_BANDS)
def test_an_array_in_memory_has_the_type_of_a_file_with_its_pixels(tmp_path: Path, image: np.ndarray) -> None:
    path = write_raster(tmp_path / "a.tif", image, crs=UTM, transform=UTM_GRID)
    by_file = gt.create_cog(path, tmp_path / "by_file.tif", blocksize=128, progress=False)
    array = gt.open(path).load()
    found = array.gt.to_cog(tmp_path / "by_array.tif", blocksize=128, progress=False)
    assert array.gt.inspect().detected.raster_type == gt.inspect(path).detected.raster_type
    assert found.raster_type == by_file.raster_type
    with rasterio.open(tmp_path / "by_array.tif", overview_level=0) as dataset:
        overview = dataset.read()
    if by_file.raster_type == "categorical":
        assert np.isin(overview, image).all()


@pytest.mark.parametrize(
    ("attrs", "expected"),
    [
        ({"flag_values": [1, 2, 3], "flag_meanings": "water forest town"}, "categorical"),
        ({"long_name": "land cover class"}, "categorical"),
        ({"long_name": "elevation"}, "dem"),
        ({}, "multispectral"),
    ],
)
def test_a_lazy_array_has_the_type_that_its_names_say_and_is_not_computed(
    tmp_path: Path, attrs: dict[str, Any], expected: str
) -> None:
    def fails(block: np.ndarray) -> np.ndarray:
        pytest.fail("a chunk was computed")

    lazy = dask.array.zeros((400, 500), chunks=200, dtype="uint8").map_blocks(
        fails, meta=np.empty(0, "uint8")
    )
    array = xarray.DataArray(lazy, dims=("y", "x"), attrs=attrs)
    found = array.gt.inspect().detected
    assert found.raster_type == expected
    assert attrs or "lazy" in found.reason
