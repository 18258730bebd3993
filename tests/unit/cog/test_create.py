"""COGs are valid, hold the same pixels and metadata as their source, and are complete or absent."""

from __future__ import annotations

import os
from pathlib import Path

import dask
import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.transform import Affine

from gdaltools.cog.create import CogResult, create_cog, plan_cog
from gdaltools.cog.encode.profiles import TIERS, choose_profile, zstd_available
from gdaltools.cog.options import CogOptions
from gdaltools.cog.validate import validate_cog
from gdaltools.display.progress import Progress
from gdaltools.errors import (
    CorruptRaster,
    InvalidParameter,
    SourceNotFound,
    StorageError,
    TargetExists,
    UnsupportedRaster,
)
from gdaltools.geo.grid import Grid
from gdaltools.warp import plan as warp_plan
from gdaltools.xr.warp import warp
from tests.support.cogs.by_pieces import cut_pieces
from tests.support.rasters import (
    UTM,
    UTM_GRID,
    WGS84_GRID,
    categories,
    damage,
    elevation,
    pixels,
    smooth,
    truncate,
    write_raster,
)

DTYPES = (
    "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64",
    "float32", "float64", "complex64", "complex128",
)  # fmt: skip


def made(source: Path, profile: str = "analysis", **options: object) -> CogResult:
    target = source.with_name(f"{source.stem}_{profile}.tif")
    result = create_cog(source, target, profile, progress=False, **options)  # type: ignore[call-overload]
    assert isinstance(result, CogResult)
    report = validate_cog(target)
    assert report.valid, str(report)
    return result


def left_in(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


@pytest.mark.parametrize("tier", ["analysis", "archive"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_lossless_tiers_keep_every_bit_of_every_dtype(tmp_path: Path, dtype: str, tier: str) -> None:
    image = smooth(2, 611, 533, dtype=dtype)
    result = made(write_raster(tmp_path / "a.tif", image), tier)
    np.testing.assert_array_equal(pixels(result.location), image)
    assert result.dtype == dtype
    assert result.overview_levels == (2,)


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (7, 1), (1, 513), (512, 512), (513, 1025), (1, 2049)])
@pytest.mark.parametrize("tier", TIERS)
def test_tiny_and_odd_sizes_become_valid_cogs(tmp_path: Path, shape: tuple[int, int], tier: str) -> None:
    image = smooth(3, *shape)
    result = made(write_raster(tmp_path / "a.tif", image), tier, raster_type="rgb")
    assert result.shape == shape
    if result.tier_profile.lossless:
        np.testing.assert_array_equal(pixels(result.location), image)


@pytest.mark.parametrize("bands", [1, 2, 5, 17, 60])
def test_any_number_of_bands_is_kept(tmp_path: Path, bands: int) -> None:
    image = smooth(bands, 70, 530, dtype="uint16")
    result = made(write_raster(tmp_path / "a.tif", image))
    assert result.band_count == bands
    np.testing.assert_array_equal(pixels(result.location), image)


def test_blocks_shrink_where_many_bands_would_not_fit_memory(tmp_path: Path) -> None:
    image = np.broadcast_to(np.arange(150, dtype="float64")[None, None], (300, 130, 150)).copy()
    result = made(write_raster(tmp_path / "a.tif", image, options={"interleave": "band"}))
    assert result.blocksize == 128
    np.testing.assert_array_equal(pixels(result.location), image)


@pytest.mark.parametrize("options", [
    {}, {"interleave": "band"}, {"interleave": "pixel", "compress": "lzw"},
    {"tiled": True, "blockxsize": 64, "blockysize": 32, "compress": "deflate"},
])  # fmt: skip
def test_the_source_may_be_stored_in_any_way(tmp_path: Path, options: dict[str, object]) -> None:
    image = smooth(3, 700, 801)
    result = made(write_raster(tmp_path / "a.tif", image, options=options))
    np.testing.assert_array_equal(pixels(result.location), image)


@pytest.mark.parametrize("driver", ["PNG", "JPEG"])
def test_other_formats_become_cogs(tmp_path: Path, driver: str) -> None:
    source = write_raster(tmp_path / "a.bin", smooth(3, 90, 120), crs=None, transform=None, driver=driver)
    np.testing.assert_array_equal(pixels(made(source).location), pixels(source))


def test_samples_of_fewer_bits_than_a_byte_are_kept(tmp_path: Path) -> None:
    image = categories(600, 700, classes=3)
    result = made(write_raster(tmp_path / "a.tif", image, options={"nbits": 2}))
    np.testing.assert_array_equal(pixels(result.location), image)
    assert result.predictor == 1


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("target_crs", [None, "EPSG:4326"])
def test_facts_about_bands_and_file_survive(tmp_path: Path, tier: str, target_crs: str | None) -> None:
    source = write_raster(
        tmp_path / "a.tif",
        smooth(3, 700, 801),
        crs=UTM,
        transform=UTM_GRID,
        nodata=0,
        descriptions=["Red", None, "Blue light"],
        units=["W/m2", None, "K"],
        scales=[0.1, 1.0, 2.0],
        offsets=[0.0, -5.0, 273.15],
        tags={"MISSION": "one <two> & three", "AREA_OR_POINT": "Area"},
        band_tags={2: {"WAVELENGTH": "550"}},
    )
    result = made(source, tier, target_crs=target_crs, raster_type="rgb")
    assert result.reprojection_performed is (target_crs is not None)
    with rasterio.open(result.location) as dataset:
        assert dataset.nodata == 0
        assert dataset.descriptions == ("Red", None, "Blue light")
        assert [unit or None for unit in dataset.units] == ["W/m2", None, "K"]
        assert dataset.scales == (0.1, 1.0, 2.0)
        assert dataset.offsets == (0.0, -5.0, 273.15)
        assert dataset.tags()["MISSION"] == "one <two> & three"
        assert dataset.tags(2)["WAVELENGTH"] == "550"
        assert dataset.crs.to_epsg() == (4326 if target_crs else 32637)
        if target_crs is None:
            assert dataset.transform == UTM_GRID


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("target_crs", [None, "EPSG:4326"])
def test_a_mask_survives(tmp_path: Path, tier: str, target_crs: str | None) -> None:
    valid = np.ones((700, 801), bool)
    valid[100:300, 200:500] = False
    source = write_raster(tmp_path / "a.tif", smooth(3, 700, 801), crs=UTM, transform=UTM_GRID, mask=valid)
    result = made(source, tier, target_crs=target_crs)
    with rasterio.open(result.location) as dataset:
        assert dataset.mask_flag_enums[0] == [MaskFlags.per_dataset]
        found = dataset.dataset_mask() > 0
        assert dataset.nodata is None
    if target_crs is None:
        np.testing.assert_array_equal(found, valid)
    else:
        assert not found[150:250, 250:450].any()
        assert found[350:650, 50:750].all()
    with rasterio.open(result.location, overview_level=0) as overview:
        assert overview.dataset_mask().min() == 0


def test_nodata_is_told_exactly_by_a_mask_where_the_codec_is_lossy(tmp_path: Path) -> None:
    image = smooth(3, 700, 801)
    image[:, 100:300, 200:500] = 0
    image[1, 400:420, 400:420] = 0  # zero in one band only is a colour, not a hole
    source = write_raster(tmp_path / "a.tif", image, nodata=0)
    result = made(source, "visualization")
    with rasterio.open(source) as before, rasterio.open(result.location) as after:
        np.testing.assert_array_equal(before.dataset_mask(), after.dataset_mask())
        assert after.nodata == 0


@pytest.mark.parametrize("nodata", [float("nan"), -9999.0, 3.4e38])
def test_nodata_of_floats_survives(tmp_path: Path, nodata: float) -> None:
    image = elevation(600, 700)
    image[0, 100:200, 100:200] = nodata
    result = made(write_raster(tmp_path / "a.tif", image, nodata=nodata), "visualization")
    np.testing.assert_array_equal(pixels(result.location), image)
    with rasterio.open(result.location) as dataset:
        assert dataset.nodata == pytest.approx(nodata, nan_ok=True)
        assert not dataset.dataset_mask()[100:200, 100:200].any()
    assert result.tier == "analysis"
    assert result.predictor == 3
    assert result.raster_type == "dem"


@pytest.mark.parametrize("tier", TIERS)
def test_alpha_stays_a_band(tmp_path: Path, tier: str) -> None:
    image = smooth(4, 600, 700)
    image[3] = np.linspace(0, 255, 700).astype("uint8")[None, :]
    result = made(write_raster(tmp_path / "a.tif", image, alpha=True), tier, raster_type="rgba")
    np.testing.assert_array_equal(pixels(result.location), image)
    with rasterio.open(result.location) as dataset:
        assert dataset.colorinterp[3] == ColorInterp.alpha
    if tier == "visualization":
        assert result.tier == "analysis"
        assert "alpha" in str(result.tier_profile.reason)


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("target_crs", [None, "EPSG:4326"])
def test_classes_keep_their_colours_and_never_blend(
    tmp_path: Path, tier: str, target_crs: str | None
) -> None:
    image = categories(700, 801)
    colours = {value: (value * 40, 255 - value * 40, value, 255) for value in range(7)}
    source = write_raster(
        tmp_path / "a.tif", image, crs=UTM, transform=UTM_GRID, colormap=colours, nodata=0,
        options={"photometric": "palette"},
    )  # fmt: skip
    result = made(source, tier, target_crs=target_crs)
    assert (result.raster_type, result.overview_resampling) == ("categorical", "mode")
    assert result.compression != "JPEG"
    with rasterio.open(source) as before, rasterio.open(result.location) as dataset:
        assert dataset.colormap(1) == before.colormap(1)
        assert dataset.colorinterp == (ColorInterp.palette,)
        assert set(np.unique(dataset.read())) <= set(range(7))
    with rasterio.open(result.location, overview_level=0) as overview:
        assert set(np.unique(overview.read())) <= set(range(7))


def test_visualization_is_jpeg_close_to_the_source(tmp_path: Path) -> None:
    image = smooth(3, 700, 801, noise=1.0)
    result = made(write_raster(tmp_path / "a.tif", image), "visualization", quality=95)
    assert (result.compression, result.quality, result.storage_tier) == ("JPEG", 95, "hot")
    difference = np.abs(pixels(result.location).astype(int) - image)
    assert difference.mean() < 4
    better, worse = (
        create_cog(tmp_path / "a.tif", tmp_path / f"q{quality}.tif", "visualization", quality=quality)
        for quality in (90, 20)
    )
    assert better.size_bytes > worse.size_bytes


def test_tiers_say_how_they_encode() -> None:
    chosen = {tier: choose_profile(CogOptions(tier), "rgb", ("uint8",) * 3) for tier in TIERS}
    assert [chosen[tier].compression for tier in TIERS] == [
        "JPEG", "DEFLATE", *["ZSTD" if zstd_available() else "LZW"] * 2,
    ]  # fmt: skip
    assert [chosen[tier].storage_tier for tier in TIERS] == ["hot", "hot", "hot", "cool"]
    assert [chosen[tier].size_tolerance for tier in TIERS] == [None, 0.015, None, None]
    assert choose_profile(CogOptions("archive"), "dem", ("float64",)).predictor == 3
    assert choose_profile(CogOptions("archive"), "dem", ("int64",)).predictor == 2
    assert choose_profile(CogOptions("archive"), "dem", ("complex128",)).predictor == 1


def test_a_warp_puts_every_pixel_where_it_belongs(tmp_path: Path) -> None:
    rows, cols = np.mgrid[0:400, 0:500]
    easting = 470000.0 + 10 * (cols + 0.5)
    northing = 1000000.0 - 10 * (rows + 0.5)
    source = write_raster(
        tmp_path / "a.tif", np.stack([easting, northing]).astype("float64"), crs=UTM, transform=UTM_GRID
    )
    result = made(source, target_crs="EPSG:4326")
    assert result.source_crs == "EPSG:32637"
    assert result.target_crs == "EPSG:4326"
    with rasterio.open(result.location) as dataset:
        data, valid = dataset.read(), dataset.dataset_mask() > 0
        r, c = (axis[valid][::997] for axis in np.mgrid[0 : dataset.height, 0 : dataset.width])
        lon, lat = dataset.transform * (c + 0.5, r + 0.5)
        x, y = rasterio.warp.transform("EPSG:4326", UTM, lon, lat)
    # Bilinear resampling reproduces a plane, except for half a pixel at the edge, which lacks neighbours.
    assert np.abs(data[0, r, c] - x).max() < 5.1
    assert np.abs(data[1, r, c] - y).max() < 5.1
    assert np.median(np.abs(data[0, r, c] - x)) < 1.3
    assert 0.9 < valid.mean() <= 1


def test_a_rotated_raster_is_warped_whole(tmp_path: Path) -> None:
    grid = UTM_GRID * Affine.rotation(30)
    source = write_raster(tmp_path / "a.tif", smooth(1, 300, 400), crs=UTM, transform=grid)
    result = made(source, target_crs=UTM)
    assert result.reprojection_performed is False
    warped = made(source, "archive", target_crs="EPSG:4326")
    with rasterio.open(warped.location) as dataset:
        covered = (dataset.dataset_mask() > 0).mean()
    assert 0.4 < covered < 0.75


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_a_warped_cog_has_the_pixels_of_the_warp_in_any_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    monkeypatch.setattr(warp_plan, "WORTHWHILE_PIXELS", 0)
    image = np.random.default_rng(5).integers(0, 250, (2, 900, 700)).astype(dtype)
    grid, lzw = UTM_GRID * Affine.rotation(20), {"compress": "lzw"}
    source = write_raster(tmp_path / "a.tif", image, crs=UTM, transform=grid, options=lzw)
    with monkeypatch.context() as narrow:
        cut_pieces(narrow, 128, 256)
        plan = plan_cog(source, target_crs="EPSG:4326", blocksize=128)
        assert plan.decode_first, "each strip would be decoded for many pieces"
        assert "by own kernel" in str(plan)
        staged = made(source, target_crs="EPSG:4326", blocksize=128)
    once = create_cog(source, tmp_path / "once.tif", target_crs="EPSG:4326", blocksize=128, progress=False)
    np.testing.assert_array_equal(pixels(staged.location), pixels(once.location))
    with rasterio.open(once.location) as dataset:
        (width, height), transform = (dataset.width, dataset.height), tuple(dataset.transform)[:6]
        target = Grid(crs="EPSG:4326", transform=transform, width=width, height=height)
        np.testing.assert_array_equal(dataset.read(), warp(source, target).to_numpy())


def test_the_same_crs_by_another_name_warps_nothing(tmp_path: Path) -> None:
    image = smooth(3, 300, 400)
    source = write_raster(tmp_path / "a.tif", image, crs=UTM, transform=UTM_GRID)
    wkt = rasterio.crs.CRS.from_epsg(32637).to_wkt()
    result = made(source, target_crs=wkt)
    assert result.reprojection_performed is False
    np.testing.assert_array_equal(pixels(result.location), image)


@pytest.mark.parametrize("tier", TIERS)
def test_input_crs_is_written_where_the_file_has_none(tmp_path: Path, tier: str) -> None:
    image = smooth(3, 300, 400)
    source = write_raster(tmp_path / "a.tif", image, crs=None, transform=UTM_GRID, nodata=0)
    result = made(source, tier, input_crs=UTM)
    with rasterio.open(result.location) as dataset:
        assert dataset.crs.to_epsg() == 32637
        assert dataset.transform == UTM_GRID
    if result.tier_profile.lossless:
        np.testing.assert_array_equal(pixels(result.location), image)


def test_a_raster_without_crs_becomes_a_cog_unless_it_is_to_be_warped(tmp_path: Path) -> None:
    source = write_raster(tmp_path / "a.tif", smooth(3, 300, 400), crs=None, transform=UTM_GRID)
    assert made(source).target_crs is None
    with pytest.raises(UnsupportedRaster, match="input_crs"):
        create_cog(source, tmp_path / "b.tif", target_crs="EPSG:4326")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"profile": "fastest"}, "profile"),
        ({"raster_type": "photo"}, "raster_type"),
        ({"quality": 0}, "quality"),
        ({"quality": 101}, "quality"),
        ({"quality": 85.5}, "quality"),
        ({"blocksize": 500}, "blocksize"),
        ({"blocksize": 16}, "blocksize"),
        ({"blocksize": 8192}, "blocksize"),
        ({"overview_resampling": "best"}, "overview_resampling"),
        ({"reproject_resampling": "worst"}, "reproject_resampling"),
        ({"target_crs": "EPSG:999999"}, "target_crs"),
        ({"input_crs": "nonsense"}, "input_crs"),
    ],
)
def test_a_bad_parameter_is_named_and_nothing_is_written(
    tmp_path: Path, options: dict[str, object], named: str
) -> None:
    source = write_raster(tmp_path / "a.tif", smooth(3, 60, 80))
    with pytest.raises(InvalidParameter, match=named):
        create_cog(source, tmp_path / "b.tif", **options)  # type: ignore[call-overload]
    assert left_in(tmp_path) == {"a.tif"}


@pytest.mark.parametrize("options", [
    {}, {"compress": "deflate"}, {"compress": "lzw"}, {"compress": "zstd"},
    {"compress": "jpeg", "photometric": "ycbcr", "tiled": True, "blockxsize": 128, "blockysize": 128},
])  # fmt: skip
@pytest.mark.parametrize("profile", ["analysis", "visualization"])
@pytest.mark.parametrize("keep", [0.3, 0.7, 0.999])
def test_a_truncated_source_leaves_nothing_behind(
    tmp_path: Path, options: dict[str, object], profile: str, keep: float
) -> None:
    source = write_raster(
        tmp_path / "a.tif", smooth(3, 900, 800), nodata=0, options={"interleave": "pixel", **options}
    )
    truncate(source, keep)
    with pytest.raises(CorruptRaster):
        create_cog(source, tmp_path / "b.tif", profile, raster_type="rgb", progress=False)
    assert left_in(tmp_path) == {"a.tif"}


@pytest.mark.parametrize("target_crs", [None, "EPSG:3857"])
def test_a_block_that_cannot_be_decoded_is_an_error_and_never_zeros(
    tmp_path: Path, target_crs: str | None
) -> None:
    source = write_raster(tmp_path / "a.tif", smooth(1, 1500, 1600), block=256, options={"compress": "lzw"})
    damage(source, at=0.8, size=4096)
    with pytest.raises(CorruptRaster, match=r"a\.tif"):
        create_cog(source, tmp_path / "b.tif", raster_type="dem", target_crs=target_crs, progress=False)
    assert left_in(tmp_path) == {"a.tif"}


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", CorruptRaster),
        (b"not a raster at all", UnsupportedRaster),
        (b"II*\0\xff\xff\xff\xff", CorruptRaster),
    ],
)
def test_what_is_no_raster_is_refused(tmp_path: Path, content: bytes, error: type[Exception]) -> None:
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(error):
        create_cog(tmp_path / "a.tif", tmp_path / "b.tif")
    assert left_in(tmp_path) == {"a.tif"}


def test_a_missing_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFound, match=r"none\.tif"):
        create_cog(tmp_path / "none.tif", tmp_path / "b.tif")


def test_a_target_is_replaced_only_when_asked(tmp_path: Path) -> None:
    source = write_raster(tmp_path / "a.tif", smooth(3, 60, 80))
    (tmp_path / "b.tif").write_bytes(b"precious")
    with pytest.raises(TargetExists):
        create_cog(source, tmp_path / "b.tif")
    assert (tmp_path / "b.tif").read_bytes() == b"precious"
    create_cog(source, tmp_path / "b.tif", overwrite=True)
    assert validate_cog(tmp_path / "b.tif").valid
    create_cog(tmp_path / "b.tif", tmp_path / "b.tif", "archive", overwrite=True)
    np.testing.assert_array_equal(pixels(tmp_path / "b.tif"), pixels(source))


def test_temporaries_stay_beside_the_target_and_go_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere, work = tmp_path / "tmp", tmp_path / "work"
    elsewhere.mkdir()
    monkeypatch.setenv("TMPDIR", str(elsewhere))
    monkeypatch.setenv("CPL_TMPDIR", str(elsewhere))
    source = write_raster(work / "in" / "a.tif", smooth(3, 1500, 1600), crs=UTM, transform=UTM_GRID)
    seen: set[str] = set()
    real = os.listdir

    def watch(_: Progress) -> None:
        seen.update(real(elsewhere))

    create_cog(source, work / "out" / "b.tif", target_crs="EPSG:4326", progress=watch)
    assert seen == set()
    assert left_in(elsewhere) == set()
    assert left_in(work / "out") == {"b.tif"}
    assert left_in(work / "in") == {"a.tif"}


def test_an_unwritable_target_is_a_storage_error_and_the_source_is_not_blamed(tmp_path: Path) -> None:
    source = write_raster(tmp_path / "a.tif", smooth(3, 60, 80))
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot be made"):
        create_cog(source, tmp_path / "file" / "b.tif")


def test_compute_false_gives_work_for_any_scheduler(tmp_path: Path) -> None:
    image = smooth(3, 600, 700)
    source = write_raster(tmp_path / "a.tif", image)
    tasks = [create_cog(source, tmp_path / f"{n}.tif", compute=False) for n in range(3)]
    assert left_in(tmp_path) == {"a.tif"}
    results = dask.compute(*tasks, scheduler="threads")
    assert [Path(result.location).name for result in results] == ["0.tif", "1.tif", "2.tif"]
    for result in results:
        np.testing.assert_array_equal(pixels(result.location), image)


def test_a_cluster_makes_the_same_cog(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    source = write_raster(tmp_path / "a.tif", smooth(3, 600, 700))
    truncate(write_raster(tmp_path / "bad.tif", smooth(3, 600, 700)), 0.5)
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster),
    ):
        result = create_cog(source, tmp_path / "b.tif", progress=False)
        text: list[Progress] = []
        create_cog(source, tmp_path / "d.tif", progress=text.append, compute=False).compute()
        assert (text[0].done, text[-1].done, text[-1].total) == (0, 5, 5)
        with pytest.raises(CorruptRaster):
            create_cog(tmp_path / "bad.tif", tmp_path / "c.tif", raster_type="rgb", progress=False)
    np.testing.assert_array_equal(pixels(result.location), pixels(source))


def test_progress_reaches_its_end(tmp_path: Path) -> None:
    source = write_raster(tmp_path / "a.tif", smooth(3, 600, 700))
    states: list[Progress] = []
    create_cog(source, tmp_path / "b.tif", progress=states.append)
    assert (states[0].done, states[-1].done, states[-1].total) == (0, 5, 5)


def test_blobs_are_targets_and_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GDALTOOLS_BLOB_ROOT", str(tmp_path))
    write_raster(tmp_path / "bronze-rasters" / "a.tif", smooth(3, 300, 400), transform=WGS84_GRID)
    result = create_cog("abfs://bronze-rasters/a.tif", "abfs://silver-cogs/deep/a_cog.tif")
    assert result.location == "abfs://silver-cogs/deep/a_cog.tif"
    assert validate_cog(result.location).valid
    assert (tmp_path / "silver-cogs" / "deep" / "a_cog.tif").stat().st_size == result.size_bytes
