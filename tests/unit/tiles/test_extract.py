"""Tiles hold the source's own pixels, or those of one warp that neighbours agree on, and all its metadata."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import rasterio
from dask.delayed import Delayed
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, Resampling
from rasterio.transform import Affine, from_origin
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from gdaltools import storage
from gdaltools.display.progress import Progress
from gdaltools.errors import InvalidParameter, TargetExists
from gdaltools.raster.dataset import open_dataset
from gdaltools.raster.pixels.windows import SourceWindows
from gdaltools.tiles.extract.create import ExtractionResult, extract_tiles
from gdaltools.tiles.generate import generate_tiling_scheme
from gdaltools.tiles.scheme import TilingScheme
from gdaltools.warp.strips import plan_warp, warped_strips
from tests.support.rasters import UTM, UTM_GRID, categories, elevation, smooth, write_raster

ROTATED = Affine(9.4, -3.4, 470000, -3.4, -9.4, 1000000)
GAP = np.ones((330, 450), bool)
GAP[60:160, 100:280] = False
GAP[200:208, :] = False


def sources() -> dict[str, tuple[NDArray[Any], Mapping[str, Any]]]:
    rgb = smooth(3, 330, 450)
    holes = np.where(GAP, rgb, 0).astype("uint8")
    dem = elevation(330, 450)
    with_nan = np.where(GAP, dem, np.nan).astype("float32")
    alpha = np.concatenate([rgb, np.where(GAP, 255, 0).astype("uint8")[np.newaxis]])
    palette = {i: (i, 255 - i, 7, 255) for i in range(256)}
    return {
        "rgb": (rgb, {}),
        "rgb with nodata": (holes, {"nodata": 0, "block": 128}),
        "rgb with mask": (rgb, {"mask": GAP}),
        "rgb with mask and nodata": (holes, {"mask": GAP, "nodata": 0}),
        "rgba": (alpha, {"alpha": True}),
        "dem with NaN": (with_nan, {"nodata": float("nan")}),
        "dem with -9999": (np.where(GAP, dem, -9999).astype("float32"), {"nodata": -9999}),
        "classes": (categories(330, 450), {"colormap": palette}),
        "12 bands": (smooth(12, 330, 450, dtype="uint16"), {"options": {"interleave": "band"}}),
        "float64": (smooth(1, 330, 450, dtype="float64"), {}),
        "int16": (smooth(1, 330, 450, dtype="int16"), {"nodata": -32768}),
        "int8": (smooth(1, 330, 450, dtype="int8"), {}),
        "uint32": (smooth(1, 330, 450, dtype="uint32"), {}),
        "complex64": (smooth(1, 330, 450, dtype="complex64"), {}),
    }


def joined(scheme: TilingScheme, result: ExtractionResult) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """Return all tiles put together, after a check that they agree wherever they overlap."""
    count = result.tiles[0].shape[0]
    shape = scheme.grid.height, scheme.grid.width
    pixels: NDArray[Any] | None = None
    mask, seen = np.zeros(shape, "uint8"), np.zeros(shape, bool)
    for tile in result.tiles:
        w = scheme.window(*scheme.position(tile.tile_id))
        where = slice(w.row_off, w.row_off + w.height), slice(w.col_off, w.col_off + w.width)
        with rasterio.open(tile.location) as dataset:
            data, valid = dataset.read(), dataset.dataset_mask()
            assert tile.shape == data.shape == (count, w.height, w.width)
            assert tile.size_bytes == Path(tile.location).stat().st_size
            assert dataset.transform.almost_equals(Affine(*scheme.transform_of(w)), 1e-9)
        if pixels is None:
            pixels = np.zeros((count, *shape), data.dtype)
        here = seen[where]
        np.testing.assert_array_equal(pixels[:, where[0], where[1]][:, here], data[:, here])
        np.testing.assert_array_equal(mask[where][here], valid[here])
        pixels[:, where[0], where[1]], mask[where], seen[where] = data, valid, True
    assert seen.all()
    assert pixels is not None
    return pixels, mask


@pytest.mark.parametrize("name", list(sources()))
def test_plain_windows_are_bit_identical(tmp_path: Path, name: str) -> None:
    pixels, options = sources()[name]
    path = write_raster(tmp_path / "a.tif", pixels, crs=UTM, transform=UTM_GRID, **options)
    scheme = generate_tiling_scheme(path, 192, 32, UTM)
    result = extract_tiles(path, scheme, tmp_path / "tiles")
    found, mask = joined(scheme, result)
    np.testing.assert_array_equal(found, pixels)
    with rasterio.open(path) as dataset:
        np.testing.assert_array_equal(mask, dataset.dataset_mask())
    assert not result.warped
    with rasterio.open(result.tiles[0].location) as tile, rasterio.open(path) as dataset:
        assert tile.mask_flag_enums == dataset.mask_flag_enums


@pytest.mark.parametrize("name", list(sources()))
def test_warped_tiles_agree_with_each_other_and_with_one_warp(tmp_path: Path, name: str) -> None:
    pixels, options = sources()[name]
    path = write_raster(tmp_path / "a.tif", pixels, crs=UTM, transform=UTM_GRID, **options)
    scheme = generate_tiling_scheme(path, 176, 48)
    result = extract_tiles(path, scheme, tmp_path / "tiles")
    found, mask = joined(scheme, result)
    assert result.warped
    assert 0 < (mask > 0).mean() < 1
    with rasterio.open(path) as dataset:
        needs_mask = result_needs_mask(dataset)
        alpha = dataset.count if ColorInterp.alpha in dataset.colorinterp else 0
        with WarpedVRT(
            dataset,
            crs=scheme.grid.crs,
            transform=scheme.grid.affine,
            width=scheme.grid.width,
            height=scheme.grid.height,
            resampling=Resampling[result.resampling],
            XSCALE=1,
            YSCALE=1,
            add_alpha=needs_mask,
            src_alpha=alpha,
            dst_alpha=alpha,
        ) as whole:
            expected = whole.read(list(range(1, dataset.count + 1)))
            valid = whole.read(dataset.count + 1) if needs_mask else whole.dataset_mask()
    assert ((mask > 0) != (valid > 0)).mean() < 1e-3
    both = (mask > 0) & (valid > 0)
    difference = np.abs(found[:, both].astype("complex128") - expected[:, both])
    if name == "classes":
        assert (difference > 0).mean() < 0.01
        assert set(np.unique(found[0][mask > 0])) <= set(np.unique(pixels))
    else:
        span = np.ptp(pixels[np.isfinite(pixels)].real) if pixels.dtype.kind in "fc" else 250
        assert np.percentile(difference, 99.9) <= max(1, 0.01 * span)


def result_needs_mask(dataset: Any) -> bool:
    return (
        dataset.nodata is None or "per_dataset" in str(dataset.mask_flag_enums[0])
    ) and ColorInterp.alpha not in dataset.colorinterp


@pytest.mark.parametrize(
    ("crs", "transform", "target"),
    [
        (UTM, ROTATED, UTM),
        (UTM, ROTATED, "EPSG:4326"),
        (UTM, Affine(10, 0, 470000, 0, 10, 990000), UTM),
        ("EPSG:3413", from_origin(-7e5, 5e5, 3000, 3000), "EPSG:4326"),
        ("EPSG:4326", from_origin(-180, 90, 360 / 450, 180 / 330), "EPSG:3857"),
        ("EPSG:3857", from_origin(4e6, 1e6, 10, 10), "EPSG:4326"),
    ],
    ids=["rotated", "rotated to degrees", "south up", "pole", "the Earth to Mercator", "mercator"],
)
def test_overlaps_are_identical_for_every_projection(
    tmp_path: Path, crs: str, transform: Affine, target: str
) -> None:
    path = write_raster(tmp_path / "a.tif", smooth(3, 330, 450), crs=crs, transform=transform, mask=GAP)
    scheme = generate_tiling_scheme(path, 208, 40, target)
    found, mask = joined(scheme, extract_tiles(path, scheme, tmp_path / "tiles"))
    assert (mask > 0).mean() > 0.3
    assert (found[:, mask == 0] == 0).all()
    assert found[:, mask > 0].min() >= 9


def test_a_window_has_the_same_pixels_whatever_is_asked_for_beside_it(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", smooth(3, 900, 1300), crs=UTM, transform=UTM_GRID)
    scheme = generate_tiling_scheme(path)
    rng = np.random.default_rng(3)
    with open_dataset(path) as dataset:
        plan = plan_warp(dataset, scheme.source_grid, scheme.grid, "bilinear")

        def read(window: Window) -> NDArray[Any]:
            strips = warped_strips(SourceWindows(dataset, storage.locate(path)), plan, window)
            return np.concatenate([pixels for pixels, _ in strips], axis=1)

        whole = read(Window(0, 0, scheme.grid.width, scheme.grid.height))
        for _ in range(6):
            left, top = int(rng.integers(0, 900)), int(rng.integers(0, 600))
            part = read(Window(left, top, 300, 200))
            np.testing.assert_array_equal(part, whole[:, top : top + 200, left : left + 300])


def test_everything_that_the_source_says_is_in_each_tile(tmp_path: Path) -> None:
    said: dict[str, Any] = {
        "nodata": 7,
        "descriptions": ["blue", "green", "nir"],
        "units": ["W", "W", "mW"],
        "scales": [0.1, 0.2, 0.5],
        "offsets": [1.0, 2.0, -3.0],
        "tags": {"SENSOR": "x", "AREA_OR_POINT": "Point"},
        "band_tags": {2: {"WAVELENGTH": "550"}},
        "colorinterp": [ColorInterp.blue, ColorInterp.green, ColorInterp.undefined],
    }
    path = write_raster(tmp_path / "a.tif", smooth(3, dtype="uint16"), crs=UTM, transform=UTM_GRID, **said)
    for target in (UTM, "EPSG:3857"):
        scheme = generate_tiling_scheme(path, 256, 0, target)
        result = extract_tiles(path, scheme, tmp_path / target.replace(":", ""))
        with rasterio.open(path) as source, rasterio.open(result.tiles[0].location) as tile:
            for name in ("descriptions", "units", "scales", "offsets", "nodatavals", "colorinterp", "dtypes"):
                assert getattr(tile, name) == getattr(source, name), name
            assert tile.tags()["SENSOR"] == "x"
            assert tile.tags()["AREA_OR_POINT"] == "Point"
            assert tile.tags(2)["WAVELENGTH"] == "550"
            assert tile.crs == rasterio.CRS.from_user_input(target)
            assert tile.block_shapes[0] == (256, 256)


def test_a_colour_table_survives_and_is_never_interpolated(tmp_path: Path) -> None:
    palette = {i: (i, 255 - i, 7, 255) for i in range(256)}
    path = write_raster(tmp_path / "a.tif", categories(), crs=UTM, transform=UTM_GRID, colormap=palette)
    scheme = generate_tiling_scheme(path, 256, 0, raster_type="rgb")
    result = extract_tiles(path, scheme, tmp_path / "tiles")
    assert result.resampling == "nearest"
    with rasterio.open(result.tiles[0].location) as tile:
        assert tile.colormap(1) == palette
    with pytest.raises(InvalidParameter, match="colour table"):
        extract_tiles(path, scheme, tmp_path / "other", resampling="cubic")


@pytest.fixture
def scene(tmp_path: Path) -> tuple[Path, TilingScheme]:
    path = write_raster(tmp_path / "scene.tif", smooth(3, 330, 450), crs=UTM, transform=UTM_GRID)
    return path, generate_tiling_scheme(path, 192, 32)


@pytest.fixture
def cluster() -> Iterator[Any]:
    import distributed

    with (
        dask.config.set({"distributed.worker.daemon": False}),
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def test_a_cluster_threads_and_delayed_write_the_same(
    tmp_path: Path, scene: tuple[Path, TilingScheme], cluster: Any
) -> None:
    path, scheme = scene
    seen: list[Progress] = []
    on_cluster = extract_tiles(path, scheme, tmp_path / "cluster", progress=seen.append)
    with dask.config.set(scheduler="threads"):
        on_threads = extract_tiles(path, scheme, tmp_path / "threads")
        text: list[Progress] = []
        delayed = extract_tiles(path, scheme, tmp_path / "delayed", compute=False, progress=text.append)
        assert isinstance(delayed, Delayed)
        assert not text
        assert not (tmp_path / "delayed").exists()
        later = delayed.compute()
    assert (text[0].done, text[-1].done, text[-1].total) == (0, later.total_pixels, later.total_pixels)
    assert len(text) > len(later.tiles)
    assert seen[-1].done == seen[-1].total == on_cluster.total_pixels
    expected = joined(scheme, on_threads)
    for result in (on_cluster, later):
        assert [tile.tile_id for tile in result.tiles] == list(scheme.tile_ids())
        for ours, theirs in zip(joined(scheme, result), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_progress_counts_every_pixel_once(tmp_path: Path, scene: tuple[Path, TilingScheme]) -> None:
    path, scheme = scene
    seen: list[Progress] = []
    result = extract_tiles(path, scheme, tmp_path / "tiles", progress=seen.append)
    done = [state.done for state in seen]
    assert done == sorted(done)
    assert len(done) > len(result.tiles)
    assert (done[0], done[-1]) == (0, result.total_pixels)


def test_cancelled_by_its_progress_it_leaves_no_part_of_a_tile(
    tmp_path: Path, scene: tuple[Path, TilingScheme]
) -> None:
    path, scheme = scene

    def cancel(state: Progress) -> None:
        if state.done:
            raise InterruptedError("enough")

    before = threading.active_count()
    with pytest.raises(InterruptedError):
        extract_tiles(path, scheme, tmp_path / "tiles", progress=cancel)
    assert list((tmp_path / "tiles").rglob("*")) == []
    assert threading.active_count() <= before


def test_chosen_tiles_only_are_written_under_the_names_asked_for(
    tmp_path: Path, scene: tuple[Path, TilingScheme], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GDALTOOLS_BLOB_ROOT", str(tmp_path))
    path, scheme = scene
    result = extract_tiles(path, scheme, "abfs://silver-tiles/job/tiles", tiles=["tile_1_0", "tile_0_1"])
    assert [tile.location for tile in result.tiles] == [
        "abfs://silver-tiles/job/tiles/scene_tile_1_0.tif",
        "abfs://silver-tiles/job/tiles/scene_tile_0_1.tif",
    ]
    assert sorted(p.name for p in (tmp_path / "silver-tiles/job/tiles").iterdir()) == [
        "scene_tile_0_1.tif",
        "scene_tile_1_0.tif",
        "scene_tiles.json",
    ]
    with pytest.raises(InvalidParameter, match="no tile"):
        extract_tiles(path, scheme, tmp_path / "x", tiles=["tile_99_0"])


def test_a_tile_that_exists_is_replaced_only_on_request(
    tmp_path: Path, scene: tuple[Path, TilingScheme]
) -> None:
    path, scheme = scene
    extract_tiles(path, scheme, tmp_path / "tiles", tiles=["tile_0_1"])
    with pytest.raises(TargetExists):
        extract_tiles(path, scheme, tmp_path / "tiles")
    assert len(list((tmp_path / "tiles").glob("*.tif"))) == 1
    assert len(extract_tiles(path, scheme, tmp_path / "tiles", overwrite=True).tiles) == len(scheme)


def test_a_scheme_of_another_raster_is_refused(tmp_path: Path, scene: tuple[Path, TilingScheme]) -> None:
    _, scheme = scene
    others: dict[str, dict[str, Any]] = {
        "size": {"array": smooth(3, 330, 451)},
        "bands": {"array": smooth(1, 330, 450)},
        "transform": {"transform": from_origin(470001, 1000000, 10, 10)},
        "CRS": {"crs": "EPSG:32636"},
    }
    for what, change in others.items():
        given = {"array": smooth(3, 330, 450), "crs": UTM, "transform": UTM_GRID} | change
        other = write_raster(tmp_path / f"{what}.tif", given.pop("array"), **given)
        with pytest.raises(InvalidParameter, match=what):
            extract_tiles(other, scheme, tmp_path / "tiles")
    with pytest.raises(InvalidParameter, match="input_crs"):
        extract_tiles(tmp_path / "scene.tif", scheme, tmp_path / "tiles", input_crs="EPSG:32636")
    for wrong in ("sharp", "gauss", ""):
        with pytest.raises(InvalidParameter, match="resampling"):
            extract_tiles(tmp_path / "scene.tif", scheme, tmp_path / "tiles", resampling=wrong or "x")
    assert not (tmp_path / "tiles").exists()


def test_a_given_crs_stands_in_for_a_missing_one(tmp_path: Path) -> None:
    pixels = smooth(3, 330, 450)
    bare = write_raster(tmp_path / "bare.tif", pixels, crs=None, transform=UTM_GRID)
    full = write_raster(tmp_path / "full.tif", pixels, crs=UTM, transform=UTM_GRID)
    scheme = generate_tiling_scheme(bare, 256, 32, input_crs=UTM)
    ours = joined(scheme, extract_tiles(bare, scheme, tmp_path / "bare"))
    full_scheme = generate_tiling_scheme(full, 256, 32)
    theirs = joined(full_scheme, extract_tiles(full, full_scheme, tmp_path / "full"))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_coarser_grid_is_anti_aliased_with_one_kernel_for_all_tiles(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", smooth(1, 900, 900, noise=30), crs=UTM, transform=UTM_GRID)
    scheme = generate_tiling_scheme(path, 96, 16, resolution=0.0004)
    found, mask = joined(scheme, extract_tiles(path, scheme, tmp_path / "tiles"))
    sharp_scheme = generate_tiling_scheme(path, 96, 16, resolution=0.0004)
    sharp = extract_tiles(path, sharp_scheme, tmp_path / "nearest", resampling="nearest")
    nearest, _ = joined(sharp_scheme, sharp)
    roughness = [
        np.abs(np.diff(image[0].astype(float)))[mask[:, 1:] > 0].mean() for image in (found, nearest)
    ]
    assert roughness[0] < 0.7 * roughness[1]
