"""Every level of our COGs equals that of GDAL's own COG driver, on small rasters cut into many pieces."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import tifffile
from numpy.typing import NDArray

from gdaltools.cog.create import CogResult, create_cog
from gdaltools.cog.validate import validate_cog
from gdaltools.raster.info import inspect
from gdaltools.xr.open import open as open_raster
from tests.support.cogs.gdal import Level, by_gdal, levels_of
from tests.support.rasters import categories, smooth, write_raster
from tests.unit.conftest import Cut

ODD, EVEN = (301, 277), (256, 320)
REAL = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64")
#: Pieces as wide as the raster, pieces that halve with the levels, and pieces that do not.
PIECES = ((64, None), (128, 128), (64, 64), (192, None))
RESAMPLINGS = ("nearest", "average", "bilinear", "cubic", "cubic_spline", "lanczos", "mode", "rms")
NAN, INF = math.nan, math.inf


def extremes(dtype: str, bands: int = 2, size: tuple[int, int] = ODD) -> NDArray[Any]:
    """Return noise over the whole range of the dtype."""
    rng = np.random.default_rng(7)
    kind = np.dtype(dtype)
    if kind.kind == "c":
        return (rng.normal(0, 1e3, (bands, *size)) + 1j * rng.normal(0, 1e3, (bands, *size))).astype(kind)
    if kind.kind == "f":
        return rng.normal(0, 1e3, (bands, *size)).astype(kind)
    limits = np.iinfo(kind)
    return rng.integers(limits.min, limits.max, (bands, *size), dtype=kind, endpoint=True)


def hills(dtype: str, bands: int = 2, size: tuple[int, int] = ODD) -> NDArray[Any]:
    """Return a smooth picture with some noise."""
    if np.dtype(dtype).kind == "f":
        return (smooth(bands, *size, dtype="int16") * 1.1).astype(dtype)
    return smooth(bands, *size, dtype=dtype)


def holes(size: tuple[int, int] = ODD) -> NDArray[np.bool_]:
    """Return pixels without data: scattered ones, a rectangle across seams, and a margin."""
    empty = np.random.default_rng(3).random(size) < 0.3
    empty[60:140, 100:200] = True
    empty[200:, :50] = True
    return empty


def ours(source: Path, **options: Any) -> tuple[Path, CogResult]:
    target = source.with_name("ours.tif")
    asked: dict[str, Any] = {"blocksize": 64, "raster_type": "multispectral"} | options
    result = create_cog(source, target, progress=False, **asked)
    assert isinstance(result, CogResult)
    report = validate_cog(target)
    assert report.valid, str(report)
    return target, result


def both(source: Path, **options: Any) -> tuple[Path, Path]:
    target, result = ours(source, **options)
    return target, by_gdal(source, source.with_name("gdal.tif"), result.tier_profile)


def rounding(resampling: str, dtype: str) -> float:
    """Return the tolerance: the last bit of GDAL's sums depends on where in memory a row begins.

    Nearest, average and mode are exact, and rms of unsigned integers.
    """
    if resampling in ("nearest", "average", "mode") or (resampling == "rms" and dtype.startswith("uint")):
        return 0
    return 1e-6 if dtype == "float32" else 1


def assert_alike(
    ours: list[Level],
    others: list[Level],
    *,
    within: float = 0,
    masks: bool = True,
    hidden: bool = False,
) -> None:
    """Compare all levels; `hidden` pixels, which the mask hides, may differ; `masks` compares masks too."""
    assert [level.pixels.shape for level in ours] == [level.pixels.shape for level in others]
    for number, (mine, other) in enumerate(zip(ours, others, strict=True)):
        if masks:
            np.testing.assert_array_equal(mine.mask, other.mask, f"mask of level {number}")
        there = np.broadcast_to(mine.mask > 0, mine.pixels.shape) if hidden else np.True_
        if number == 0 or not within:
            np.testing.assert_array_equal(
                np.where(there, mine.pixels, 0), np.where(there, other.pixels, 0), f"level {number}"
            )
        elif within < 1:
            np.testing.assert_allclose(mine.pixels, other.pixels, within)
        else:
            np.testing.assert_allclose(
                mine.pixels.astype("float64"), other.pixels.astype("float64"), 0, within
            )


@pytest.mark.parametrize("resampling", ["average", "nearest"])
@pytest.mark.parametrize("dtype", REAL)
def test_at_level_6_the_file_is_gdals_to_the_byte(
    tmp_path: Path, cut: Cut, dtype: str, resampling: str
) -> None:
    which = REAL.index(dtype) + (resampling == "nearest")
    cut(*PIECES[which % 4])
    # For blocks below 6.5 KB libtiff writes the sizes as SHORT.
    source = write_raster(tmp_path / "a.tif", extremes(dtype, 2 + which % 2, EVEN if which % 5 == 1 else ODD))
    mine, gdals = both(source, level=6, overview_resampling=resampling)
    assert mine.read_bytes() == gdals.read_bytes()


@pytest.mark.parametrize("level", [1, 2, 5, 7, 9, 12])
def test_every_deflate_level_gives_gdals_bytes(tmp_path: Path, cut: Cut, level: int) -> None:
    cut(64, None)
    mine, gdals = both(write_raster(tmp_path / "a.tif", hills("uint16")), level=level)
    assert mine.read_bytes() == gdals.read_bytes()


@pytest.mark.parametrize(
    ("codec", "dtype", "predictor"),
    [
        *product(["LZW", "DEFLATE", "ZSTD"], ["float32"], [1, 2, 3]),
        *product(["LZW", "DEFLATE", "ZSTD"], ["int16"], [1, 2]),
        ("ZSTD", "float64", 3),
        ("ZSTD", "float64", 2),
        ("DEFLATE", "uint8", 1),
        *product(["LERC", "LERC_ZSTD"], ["uint8", "int16", "float32"], ["auto"]),
        ("LERC_DEFLATE", "uint32", "auto"),
        ("NONE", "uint8", "auto"),
        ("NONE", "float64", "auto"),
    ],
)
def test_lossless_codecs_hold_what_gdals_do(
    tmp_path: Path, cut: Cut, codec: str, dtype: str, predictor: int | str
) -> None:
    cut(64, None)
    image = hills(dtype, 3)
    source = write_raster(tmp_path / "a.tif", image)
    mine, gdals = both(source, codec=codec, predictor=predictor)
    np.testing.assert_array_equal(levels_of(mine)[0].pixels, image)
    assert_alike(levels_of(mine), levels_of(gdals))


@pytest.mark.parametrize(
    ("codec", "bands", "options"),
    [
        ("JPEG", 3, {}),
        ("JPEG", 1, {"quality": 40}),
        ("WEBP", 3, {}),
        ("WEBP", 4, {"quality": 60}),
        ("LERC", 2, {"max_z_error": 3.0}),
        ("LERC_DEFLATE", 3, {"max_z_error": 0.5}),
    ],
)
@pytest.mark.parametrize("masked", [False, True], ids=["plain", "masked"])
def test_lossy_codecs_lose_what_gdals_lose(
    tmp_path: Path, cut: Cut, codec: str, bands: int, options: dict[str, Any], masked: bool
) -> None:
    cut(128, 128)
    alpha = (codec, bands) == ("WEBP", 4)
    source = write_raster(
        tmp_path / "a.tif", hills("uint8", bands), mask=~holes() if masked and not alpha else None,
        alpha=alpha,
    )  # fmt: skip
    mine, gdals = both(source, codec=codec, **options)
    assert_alike(levels_of(mine), levels_of(gdals))


@pytest.mark.parametrize("bands", [3, 4])
def test_lossless_webp_is_lossless_at_every_level(tmp_path: Path, cut: Cut, bands: int) -> None:
    cut(128, 128)
    source = write_raster(tmp_path / "a.tif", hills("uint8", bands), alpha=bands == 4)
    plain, _ = ours(source)
    expected = levels_of(plain)
    plain.unlink()
    mine, _ = ours(source, codec="WEBP", quality=100)
    assert_alike(levels_of(mine), expected)


@pytest.mark.parametrize(("dtype", "size"), [("uint8", ODD), ("int16", EVEN), ("float32", ODD)])
@pytest.mark.parametrize("resampling", RESAMPLINGS)
def test_overviews_are_gdals_whatever_the_resampling(
    tmp_path: Path, cut: Cut, resampling: str, dtype: str, size: tuple[int, int]
) -> None:
    cut(*PIECES[(RESAMPLINGS.index(resampling) + (size == ODD)) % 4])
    source = write_raster(tmp_path / "a.tif", hills(dtype, 2, size))
    mine, gdals = both(source, overview_resampling=resampling)
    assert_alike(levels_of(mine), levels_of(gdals), within=rounding(resampling, dtype))


@pytest.mark.parametrize(
    ("dtype", "nodata"),
    [
        ("uint8", 0), ("uint8", 255), ("uint8", 7), ("int8", -128), ("int16", -32768), ("int16", 32767),
        ("uint16", 65535), ("uint32", 2**32 - 1), ("int32", -(2**31)), ("int64", -999),
        ("float32", NAN), ("float32", INF), ("float32", -INF), ("float32", -9999.0),
        ("float32", 3.4028234663852886e38), ("float32", -3.4028234663852886e38), ("float64", NAN),
        ("float64", 1e300), ("float64", -9999.1),
    ],
)  # fmt: skip
def test_nodata_counts_for_nothing_in_overviews(tmp_path: Path, cut: Cut, dtype: str, nodata: float) -> None:
    cut(128, 128)
    image = hills(dtype)
    image[:, holes()] = nodata
    mine, gdals = both(write_raster(tmp_path / "a.tif", image, nodata=nodata))
    # GDAL sets no nodata on overviews of int64; our overviews have it.
    assert_alike(levels_of(mine), levels_of(gdals), masks=dtype != "int64")
    with rasterio.open(mine, overview_level=1) as overview:
        assert overview.nodata == pytest.approx(nodata, nan_ok=True)


def beside(dtype: str, nodata: float) -> NDArray[Any]:
    """Return the floating-point numbers around a nodata value, and some whose sum with it overflows."""
    kind = np.dtype(dtype).type
    numbers = [kind(nodata)]
    for _ in range(9):
        numbers = [np.nextafter(numbers[0], kind(-INF)), *numbers, np.nextafter(numbers[-1], kind(INF))]
    numbers += [kind(nodata) * kind(1 + step * 1e-7) for step in range(-6, 7)]
    return np.array([*numbers, kind(0), kind(nodata) * kind(0.3), -kind(nodata), kind(NAN)], dtype)


@pytest.mark.parametrize(
    ("dtype", "nodata"),
    [
        ("float32", -9999.0), ("float32", -8192.0), ("float32", -3.4e38), ("float32", 3.4e38),
        ("float32", -3.4028234663852886e38), ("float32", 0.0), ("float32", 1e-45), ("float32", -32768.1),
        ("float32", INF), ("float32", NAN), ("float64", -9999.1), ("float64", -1.7976931348623157e308),
        ("float64", 1.7e308), ("float64", 0.0), ("float64", NAN),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_floats_equal_nodata_as_closely_as_gdal_says(
    tmp_path: Path, cut: Cut, dtype: str, nodata: float
) -> None:
    cut(128, 128)
    with np.errstate(all="ignore"):
        near = beside(dtype, nodata)
    image = hills(dtype)
    for place, number in enumerate(near):
        image[:, 6 * place : 6 * place + 5, 21:200] = number
    source = write_raster(tmp_path / "a.tif", image, nodata=nodata)
    mine, gdals = both(source)
    assert_alike(levels_of(mine), levels_of(gdals))
    with rasterio.open(source) as dataset:
        hidden = dataset.read_masks() == 0
    seen = np.isnan(open_raster(source, masked=True).values)
    np.testing.assert_array_equal(seen, hidden | np.isnan(image))


@pytest.mark.parametrize("resampling", RESAMPLINGS)
@pytest.mark.parametrize("nodata", [None, 0])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "int64", "uint64", "float32", "float64"])
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_no_warning_of_numpy_appears_near_the_limits_of_a_dtype(
    tmp_path: Path, cut: Cut, dtype: str, nodata: float | None, resampling: str
) -> None:
    cut(64, 64)
    kind = np.dtype(dtype)
    limits: Any = np.finfo(kind) if kind.kind == "f" else np.iinfo(kind)
    image = np.full((2, 129, 130), limits.max, dtype)
    image[:, ::7] = limits.min
    image[:, 40:60, 40:60] = 0 if nodata is None else nodata
    source = write_raster(tmp_path / "a.tif", image, nodata=nodata)
    ours(source, overview_resampling=resampling, statistics=True)


@pytest.mark.parametrize("size", [(130, 901), (128, 1024)])
@pytest.mark.parametrize(
    ("dtype", "nodata"), [("uint8", 0), ("uint16", None), ("float32", NAN), ("int16", -32768)]
)
def test_a_scene_with_a_collar_is_averaged_as_gdal_does(
    tmp_path: Path, cut: Cut, dtype: str, nodata: float | None, size: tuple[int, int]
) -> None:
    """Long stretches with only data or none, slanting borders, and single pixels in between."""
    cut(64, None)
    rows, cols = np.mgrid[: size[0], : size[1]]
    there = (cols > 180 + rows / 4) & (cols < 760 - rows / 3)
    there[40:44, 300:500:7] = False
    image = extremes(dtype, 3, size)
    if nodata is not None:
        image[:, ~there] = nodata
        image[1, 50:60, 420:430] = nodata
    source = write_raster(tmp_path / "a.tif", image, nodata=nodata, mask=there if nodata is None else None)
    mine, gdals = both(source)
    assert_alike(levels_of(mine), levels_of(gdals))


@pytest.mark.parametrize("resampling", ["nearest", "bilinear", "cubic", "rms"])
@pytest.mark.parametrize(("dtype", "nodata"), [("uint8", 7), ("int16", -32768), ("float32", NAN)])
def test_nodata_counts_for_nothing_whatever_the_resampling(
    tmp_path: Path, cut: Cut, dtype: str, nodata: float, resampling: str
) -> None:
    cut(64, 64)
    image = hills(dtype)
    image[:, holes()] = nodata
    source = write_raster(tmp_path / "a.tif", image, nodata=nodata)
    mine, gdals = both(source, overview_resampling=resampling)
    assert_alike(levels_of(mine), levels_of(gdals), within=rounding(resampling, dtype))


@pytest.mark.parametrize("resampling", ["average", "bilinear", "cubic", "cubic_spline", "lanczos", "rms"])
@pytest.mark.parametrize(
    ("dtype", "nodata"), [("uint8", 7), ("uint16", 1), ("int16", -9999), ("float32", NAN)]
)
@pytest.mark.parametrize("size", [EVEN, (512, 64)])
def test_below_a_mask_nodata_is_written_where_nothing_counts_and_kept_apart_elsewhere(
    tmp_path: Path, cut: Cut, size: tuple[int, int], dtype: str, nodata: float, resampling: str
) -> None:
    cut(128, 64)
    rng = np.random.default_rng(8)
    there = ~holes(size) & (rng.random(size) < 0.5)
    image = rng.integers(0, 12, (2, *size)).astype(dtype)
    source = write_raster(tmp_path / "a.tif", image, nodata=nodata, mask=there)
    mine, gdals = both(source, overview_resampling=resampling)
    assert_alike(levels_of(mine), levels_of(gdals), within=rounding(resampling, dtype) and 1e-5)


@pytest.mark.parametrize(("dtype", "nodata"), [("uint8", 7), ("int16", -32768), ("float32", NAN)])
def test_the_mode_leaves_nodata_where_there_is_nothing_else(
    tmp_path: Path, cut: Cut, dtype: str, nodata: float
) -> None:
    cut(64, 64)
    image = hills(dtype)
    image[:, holes()] = nodata
    source = write_raster(tmp_path / "a.tif", image, nodata=nodata)
    mine, gdals = both(source, overview_resampling="mode")
    assert_alike(levels_of(mine)[:2], levels_of(gdals)[:2], masks=dtype == "uint8", hidden=True)
    # The rectangle of `holes` without its edge, where GDAL's own driver writes 0.
    for level in levels_of(mine)[:2]:
        step = ODD[0] // level.pixels.shape[1]
        assert not level.mask[64 // step : 136 // step, 104 // step : 196 // step].any()


@pytest.mark.parametrize("resampling", ["nearest", "average", "bilinear", "mode"])
@pytest.mark.parametrize(
    ("dtype", "nodata"),
    [
        ("uint64", 2**64 - 1), ("uint64", 2**60 + 1), ("uint64", 2**53 + 1), ("uint64", 7),
        ("int64", 2**63 - 1), ("int64", -(2**63)), ("int64", -(2**63) + 1), ("int64", 2**60 + 1),
        ("int64", -(2**53) - 1),
    ],
)  # fmt: skip
def test_nodata_of_64_bit_integers_is_exact(
    tmp_path: Path, cut: Cut, dtype: str, nodata: int, resampling: str
) -> None:
    cut(128, 128)
    image = np.full((2, *ODD), nodata + (1 if nodata < 0 else -1), dtype)
    image[:, :101] = nodata
    source = tmp_path / "a.tif"
    tifffile.imwrite(
        source, image, photometric="minisblack", planarconfig="separate",
        extratags=[(42113, "s", 0, str(nodata), True)],
    )  # fmt: skip
    mine, _ = ours(source, overview_resampling=resampling)
    with rasterio.open(source) as dataset:
        hidden = dataset.read_masks() == 0
    assert hidden[:, :101].all()
    assert not hidden[:, 101:].any()
    np.testing.assert_array_equal(levels_of(mine)[0].mask == 0, hidden[0])
    np.testing.assert_array_equal(np.isnan(open_raster(source, masked=True).values), hidden)
    assert open_raster(mine).rio.nodata == nodata
    assert inspect(mine).nodata == (nodata, nodata)
    if resampling != "bilinear":  # GDAL computes it as float64
        overview = levels_of(mine)[1].pixels
        assert (overview[:, :50] == nodata).all()
        assert (overview[:, 51:] != nodata).all()


@pytest.mark.parametrize(
    ("dtype", "text"), [("uint8", "300"), ("uint8", "-10"), ("int16", "nan"), ("uint8", "3.5")]
)
def test_a_nodata_value_that_no_pixel_can_have_hides_none(
    tmp_path: Path, cut: Cut, dtype: str, text: str
) -> None:
    # GDAL's driver hides the value's remainder in the dtype's bits: 44 for 300.
    cut(64, None)
    image = hills(dtype)
    plain, _ = ours(write_raster(tmp_path / "plain.tif", image))
    expected = levels_of(plain)
    plain.unlink()
    source = tmp_path / "a.tif"
    tifffile.imwrite(
        source, image, photometric="minisblack", planarconfig="separate",
        extratags=[(42113, "s", 0, text, True)],
    )  # fmt: skip
    mine, _ = ours(source)
    assert_alike(levels_of(mine), expected)


@pytest.mark.parametrize("resampling", RESAMPLINGS)
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_a_mask_counts_in_overviews_as_in_gdals(
    tmp_path: Path, cut: Cut, dtype: str, resampling: str
) -> None:
    cut(*PIECES[RESAMPLINGS.index(resampling) % 4])
    source = write_raster(tmp_path / "a.tif", hills(dtype, 3), mask=~holes())
    mine, gdals = both(source, overview_resampling=resampling)
    within = rounding(resampling, dtype)
    # What GDAL's mode leaves where nothing is valid depends on how it divides its own work.
    assert_alike(levels_of(mine), levels_of(gdals), within=within, hidden=resampling == "mode")


@pytest.mark.parametrize("resampling", ["average", "nearest", "mode", "rms"])
@pytest.mark.parametrize(("dtype", "bands"), [("uint8", 4), ("uint16", 4), ("uint8", 2), ("float32", 4)])
def test_what_alpha_hides_counts_for_nothing_in_overviews(
    tmp_path: Path, cut: Cut, dtype: str, bands: int, resampling: str
) -> None:
    cut(128, 128)
    image = hills(dtype, bands)
    # An alpha of floats hides nothing; GDAL's rms of three zeros and one other float is 0.
    image[-1] = np.where(holes(), 1 if (dtype, resampling) == ("float32", "rms") else 0, image[-1])
    source = write_raster(tmp_path / "a.tif", image, alpha=True)
    mine, gdals = both(source, overview_resampling=resampling)
    assert_alike(levels_of(mine), levels_of(gdals), within=rounding(resampling, dtype))


@pytest.mark.parametrize("resampling", ["bilinear", "cubic", "cubic_spline", "lanczos"])
@pytest.mark.parametrize(
    ("dtype", "bands", "size", "interleave"),
    [("uint8", 4, ODD, "pixel"), ("uint16", 4, EVEN, "band"), ("uint16", 2, ODD, "pixel")],
)
def test_kernels_weigh_bands_by_a_partial_alpha(
    tmp_path: Path,
    cut: Cut,
    dtype: str,
    bands: int,
    size: tuple[int, int],
    interleave: str,
    resampling: str,
) -> None:
    cut(128, 128)
    image = extremes(dtype, bands, size)
    image[-1] = np.where(holes(size), 0, image[-1])
    image[-1, :40] //= 200
    source = write_raster(tmp_path / "a.tif", image, alpha=True)
    mine, gdals = both(source, overview_resampling=resampling, interleave=interleave)
    assert_alike(levels_of(mine), levels_of(gdals))


@pytest.mark.parametrize("resampling", ["average", "mode"])
@pytest.mark.parametrize(
    ("dtype", "bands", "kind"), [("uint8", 4, "mask"), ("uint16", 5, "nodata"), ("float32", 2, "mask")]
)
def test_beside_a_mask_or_nodata_an_alpha_counts_by_itself(
    tmp_path: Path, cut: Cut, dtype: str, bands: int, kind: str, resampling: str
) -> None:
    cut(128, 128)
    image = hills(dtype, bands)
    image[-1] = np.where(holes(), 0, 100)
    image[:, :70, :70] = 7
    source = write_raster(
        tmp_path / "a.tif", image, alpha=True, nodata=7 if kind == "nodata" else None,
        mask=np.roll(~holes(), 5) if kind == "mask" else None,
    )  # fmt: skip
    mine, gdals = both(source, overview_resampling=resampling)
    assert_alike(levels_of(mine), levels_of(gdals), hidden=resampling == "mode" and kind == "mask")


@pytest.mark.parametrize("nodata", [None, 0, 6])
@pytest.mark.parametrize("resampling", ["nearest", "mode", "average", "cubic"])
def test_colour_tables_are_resampled_as_gdal_does(
    tmp_path: Path, cut: Cut, resampling: str, nodata: int | None
) -> None:
    cut(128, 128)
    colours = {value: (value * 40, 255 - value * 30, value * 17, 255) for value in range(7)}
    source = write_raster(
        tmp_path / "a.tif", categories(*ODD), colormap=colours, nodata=nodata,
        options={"photometric": "palette"},
    )  # fmt: skip
    mine, gdals = both(source, overview_resampling=resampling)
    assert_alike(levels_of(mine), levels_of(gdals))


@pytest.mark.parametrize("resampling", ["average", "rms"])
@pytest.mark.parametrize(
    ("dtype", "size", "nodata"), [("uint8", ODD, None), ("uint8", EVEN, 200), ("uint16", (75, 131), 6)]
)
def test_blends_of_many_colours_find_the_nearest_one(
    tmp_path: Path, cut: Cut, dtype: str, size: tuple[int, int], nodata: int | None, resampling: str
) -> None:
    cut(64, 128)
    rng = np.random.default_rng(5)
    red, green, blue = rng.integers(0, 256, (3, 256)).tolist()
    colours = {value: (red[value], green[value], blue[value], 255) for value in range(256)}
    image = rng.integers(0, 256, (1, *size)).astype(dtype)
    source = write_raster(
        tmp_path / "a.tif", image, colormap=colours, nodata=nodata, options={"photometric": "palette"}
    )
    mine, gdals = both(source, overview_resampling=resampling)
    assert_alike(levels_of(mine), levels_of(gdals))


def test_a_table_of_greys_is_none(tmp_path: Path, cut: Cut) -> None:
    cut(64, 128)
    greys = {value: (value, value, value, 255) for value in range(256)}
    source = write_raster(
        tmp_path / "a.tif", smooth(1, *ODD), colormap=greys, options={"photometric": "palette"}
    )
    mine, gdals = both(source, overview_resampling="average")
    assert_alike(levels_of(mine), levels_of(gdals))


@pytest.mark.parametrize("resampling", ["average", "cubic"])
def test_half_floats_are_rounded_at_every_level(tmp_path: Path, cut: Cut, resampling: str) -> None:
    cut(64, 128)
    image = np.random.default_rng(2).normal(0, 100, (2, *ODD)).astype("float32")
    image[:, holes()] = -9999  # -10000 with 16 bits
    source = write_raster(tmp_path / "a.tif", image, options={"nbits": 16}, nodata=-10000)
    mine, gdals = both(source, overview_resampling=resampling)
    assert_alike(levels_of(mine), levels_of(gdals))


@pytest.mark.parametrize("bits", [4, 12])
def test_kernels_stay_within_odd_bits(tmp_path: Path, cut: Cut, bits: int) -> None:
    cut(64, None)
    image = np.random.default_rng(0).integers(0, 2**bits, (2, *ODD)).astype("uint16" if bits > 8 else "uint8")
    source = write_raster(tmp_path / "a.tif", image, options={"nbits": bits})
    mine, gdals = both(source, overview_resampling="cubic")
    assert_alike(levels_of(mine), levels_of(gdals))


@pytest.mark.parametrize(
    ("dtype", "bits"),
    [("uint8", 1), ("uint8", 2), ("uint8", 4), ("uint8", 7), ("uint16", 9), ("uint16", 12), ("uint32", 17)],
)
def test_samples_of_odd_bits_are_averaged_as_gdal_does(
    tmp_path: Path, cut: Cut, dtype: str, bits: int
) -> None:
    cut(64, None)
    image = np.random.default_rng(0).integers(0, 2**bits, (2, *ODD)).astype(dtype)
    mine, gdals = both(write_raster(tmp_path / "a.tif", image, options={"nbits": bits}))
    assert_alike(levels_of(mine), levels_of(gdals))


@pytest.mark.parametrize(
    ("resampling", "size"), [("average", EVEN), ("average", ODD), ("nearest", ODD), ("rms", ODD)]
)
@pytest.mark.parametrize("dtype", ["complex64", "complex128", "complex_int16"])
def test_complex_samples_are_gdals(
    tmp_path: Path, cut: Cut, dtype: str, resampling: str, size: tuple[int, int]
) -> None:
    cut(64, 64)
    source = tmp_path / "a.tif"
    image = np.rint(extremes("complex64", 1, size))
    with rasterio.open(
        source, "w", driver="GTiff", width=size[1], height=size[0], count=1, dtype=dtype
    ) as dataset:
        dataset.write(image)
    mine, gdals = both(source, overview_resampling=resampling)
    assert_alike(levels_of(mine), levels_of(gdals))


@pytest.mark.parametrize("resampling", ["average", "rms"])
@pytest.mark.parametrize("size", [ODD, EVEN, (1301, 3)])
def test_the_mask_of_complex_samples_is_gdals(
    tmp_path: Path, cut: Cut, size: tuple[int, int], resampling: str
) -> None:
    cut(64, 64)
    rng = np.random.default_rng(4)
    source = write_raster(
        tmp_path / "a.tif", extremes("complex64", 1, size), mask=~holes(size) & (rng.random(size) < 0.3)
    )
    mine, gdals = both(source, overview_resampling=resampling)
    for own, other in zip(levels_of(mine), levels_of(gdals), strict=True):
        np.testing.assert_array_equal(own.mask, other.mask)


@pytest.mark.parametrize("kind", ["plain", "nodata", "mask", "alpha"])
@pytest.mark.parametrize("codec", ["DEFLATE", "LERC"])
def test_bands_apart_hold_what_bands_together_do(tmp_path: Path, cut: Cut, codec: str, kind: str) -> None:
    cut(64, 64)
    image = hills("uint16", 4)
    image[:, holes()] = 0
    source = write_raster(
        tmp_path / "a.tif", image, nodata=0 if kind == "nodata" else None,
        mask=~holes() if kind == "mask" else None, alpha=kind == "alpha",
    )  # fmt: skip
    mine, gdals = both(source, codec=codec, interleave="band")
    with rasterio.open(mine) as dataset:
        assert dataset.interleaving.value == "BAND"
    assert_alike(levels_of(mine), levels_of(gdals))


@pytest.mark.parametrize(
    "stored",
    [
        {"blockysize": 1},
        {"blockysize": 7, "compress": "lzw"},
        {"blockysize": 301, "compress": "deflate", "predictor": 2},
        {"interleave": "band", "blockysize": 50},
        {"tiled": True, "blockxsize": 32, "blockysize": 48, "compress": "zstd"},
        {"tiled": True, "blockxsize": 256, "blockysize": 256, "interleave": "band"},
        {"endianness": "big", "compress": "deflate"},
        {"bigtiff": "yes", "sparse_ok": True},
    ],
)
@pytest.mark.parametrize("pieces", [(64, 64)])
def test_how_the_source_is_stored_changes_nothing(
    tmp_path: Path, cut: Cut, stored: dict[str, Any], pieces: tuple[int, int | None]
) -> None:
    image = hills("uint8", 3)
    source = write_raster(tmp_path / "a.tif", image, options={"interleave": "pixel"} | stored)
    plain = write_raster(tmp_path / "plain" / "a.tif", image)
    cut(*pieces)
    mine, _ = ours(source, level=6)
    expected, _ = ours(plain, level=6)
    assert mine.read_bytes() == expected.read_bytes()


@pytest.mark.parametrize("driver", ["PNG", "JPEG", "WEBP"])
def test_formats_read_from_the_top_are_made_in_many_pieces(tmp_path: Path, cut: Cut, driver: str) -> None:
    cut(64, 64)
    source = write_raster(
        tmp_path / "a.img", smooth(3, *ODD), crs=None, transform=None, driver=driver,
        options={"lossless": True} if driver == "WEBP" else {},
    )  # fmt: skip
    mine, gdals = both(source)
    assert_alike(levels_of(mine), levels_of(gdals))
    assert {entry.name for entry in tmp_path.iterdir()} == {"a.img", "ours.tif", "gdal.tif"}


@pytest.mark.parametrize("bands", [2, 4])
def test_the_alpha_of_a_png_survives_many_pieces(tmp_path: Path, cut: Cut, bands: int) -> None:
    cut(64, None)
    image = smooth(bands, *ODD)
    image[-1] = np.where(holes(), 0, image[-1])
    source = write_raster(tmp_path / "a.png", image, crs=None, transform=None, driver="PNG")
    mine, gdals = both(source)
    assert_alike(levels_of(mine), levels_of(gdals))


@pytest.mark.parametrize(
    "shape",
    [(1, 1, 1), (2, 1, 700), (1, 64, 64), (1, 65, 1), (1, 2, 129), (1, 200, 6), (3, 3, 1300), (1, 129, 127)],
)
@pytest.mark.parametrize("resampling", ["average", "cubic"])
def test_extreme_shapes_are_gdals(
    tmp_path: Path, cut: Cut, shape: tuple[int, int, int], resampling: str
) -> None:
    cut(64, 64)
    mine, gdals = both(
        write_raster(tmp_path / "a.tif", smooth(*shape, dtype="int16")), overview_resampling=resampling
    )
    assert_alike(levels_of(mine), levels_of(gdals))


@pytest.mark.parametrize("resampling", ["nearest", "average", "bilinear", "mode"])
@pytest.mark.parametrize(
    ("dtype", "size", "kind"),
    [("uint8", (3000, 1), "mask"), ("float32", (401, 3), "plain"), ("uint8", (601, 3), "alpha")],
)
def test_where_levels_get_no_narrower_they_are_gdals(
    tmp_path: Path, cut: Cut, dtype: str, size: tuple[int, int], kind: str, resampling: str
) -> None:
    cut(256, 64)
    image = extremes(dtype, 4 if kind == "alpha" else 3, size)
    image[-1, 100:400] = 0
    source = write_raster(
        tmp_path / "a.tif", image, alpha=kind == "alpha", mask=image[-1] > 0 if kind == "mask" else None
    )
    mine, gdals = both(source, overview_resampling=resampling)
    # What GDAL's mode leaves where nothing is valid depends on how it divides its own work.
    hidden = resampling == "mode"
    assert_alike(levels_of(mine), levels_of(gdals), within=rounding(resampling, dtype), hidden=hidden)


@pytest.mark.parametrize("kind", ["plain", "mask", "nodata", "alpha"])
@pytest.mark.parametrize(
    ("resampling", "dtype"),
    [*product(["average"], ["uint8", "uint16", "int32", "float32"]), *product(["rms"], ["uint8", "uint16"])],
)
@pytest.mark.parametrize("size", [(3940, 1), (1940, 3), (377, 222)])
def test_averages_round_their_ties_as_gdal_does(
    tmp_path: Path, cut: Cut, size: tuple[int, int], resampling: str, dtype: str, kind: str
) -> None:
    """Few numbers make many ties; odd sides weigh them, in pieces that begin anywhere."""
    cut(64, 64)
    rng = np.random.default_rng(size)
    image = rng.integers(0, 40, (3, *size)).astype(dtype)
    there = rng.random(size) < 0.8
    if kind == "nodata":
        image[:, ~there] = 100
    if kind == "alpha":
        image[-1] = there * np.uint8(200)
    source = write_raster(
        tmp_path / "a.tif", image, alpha=kind == "alpha", nodata=100 if kind == "nodata" else None,
        mask=there if kind == "mask" else None,
    )  # fmt: skip
    mine, gdals = both(source, overview_resampling=resampling)
    assert_alike(levels_of(mine), levels_of(gdals))


@pytest.mark.parametrize(
    ("dtype", "nodata"), [("uint8", 7), ("uint16", 0), ("int16", -9999), ("float32", NAN)]
)
@pytest.mark.parametrize("size", [(1301, 2), (1445, 1), (970, 7)])
def test_the_mode_of_the_full_resolution_leaves_out_nodata_alone(
    tmp_path: Path, cut: Cut, size: tuple[int, int], dtype: str, nodata: float
) -> None:
    cut(128, 64)
    rng = np.random.default_rng(3)
    image = rng.integers(1, 6, (2, *size)).astype(dtype)
    image[:, rng.random(size) < 0.9] = nodata
    image[:, 300:700] = nodata
    source = write_raster(tmp_path / "a.tif", image, nodata=nodata)
    mine, gdals = both(source, overview_resampling="mode")
    # Where nothing counts, GDAL's own driver writes 0 for signed numbers; in earlier levels that 0 counts.
    for own, other in zip(levels_of(mine)[3:], levels_of(gdals)[3:], strict=True):
        step = size[0] / own.pixels.shape[1]
        assert not own.mask[int(np.ceil(300 / step)) : int(700 / step)].any()
        there = np.broadcast_to(own.mask > 0, own.pixels.shape)
        np.testing.assert_array_equal(own.pixels[there], other.pixels[there])
        assert own.mask[: int(300 / step)].mean() > 128


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint32", "float32", "float64"])
def test_the_rms_of_one_pixel_among_zeros_is_half_of_it(tmp_path: Path, cut: Cut, dtype: str) -> None:
    cut(64, 128)
    image = np.zeros((5, *EVEN), dtype)
    for band, (row, col) in enumerate(product(range(2), range(2))):
        image[band, row::2, col::2] = 120
    mine, _ = ours(write_raster(tmp_path / "a.tif", image), overview_resampling="rms")
    assert (levels_of(mine)[1].pixels[:4] == 60).all()


@pytest.mark.parametrize(("bands", "interleave"), [(5, "pixel"), (5, "band"), (300, "band"), (1000, "pixel")])
def test_many_bands_are_gdals(tmp_path: Path, cut: Cut, bands: int, interleave: str) -> None:
    cut(64, None)
    image = np.random.default_rng(1).integers(0, 50, (bands, 70, 67), dtype="uint8")
    source = write_raster(tmp_path / "a.tif", image)
    mine, gdals = both(source, interleave=interleave)
    assert_alike(levels_of(mine), levels_of(gdals))


@pytest.mark.parametrize(
    "stored",
    [
        {"options": {"compress": "deflate", "blockysize": 301, "interleave": "pixel"}},
        {"block": 64},
        {"block": 64, "mask": True},
    ],
    ids=["one strip", "tiles", "mask"],
)
@pytest.mark.parametrize("factors", [(2, 4, 8), (3,), (2, 16)])
def test_kept_overviews_are_the_sources_own(
    tmp_path: Path, cut: Cut, stored: dict[str, Any], factors: tuple[int, ...]
) -> None:
    cut(64, 64)
    mask = ~holes() if stored.get("mask") else None
    source = write_raster(tmp_path / "a.tif", hills("uint8", 3), overviews=factors, **stored | {"mask": mask})
    mine, result = ours(source, overviews="keep")
    assert len(result.overview_levels) == len(factors)
    assert_alike(levels_of(mine), levels_of(source))


def test_overviews_are_left_out_when_not_wanted(tmp_path: Path, cut: Cut) -> None:
    cut(64, 64)
    target = tmp_path / "b.tif"
    source = write_raster(tmp_path / "a.tif", hills("uint8", 3), overviews=(2, 4))
    create_cog(source, target, blocksize=64, overviews="none", progress=False)
    assert validate_cog(target, strict=False)
    assert len(levels_of(target)) == 1
    np.testing.assert_array_equal(levels_of(target)[0].pixels, hills("uint8", 3))
