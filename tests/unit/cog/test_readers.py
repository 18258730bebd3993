"""Readers other than GDAL open our COGs: tifffile, and one that relies on the ghost area alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import tifffile

from gdaltools.cog.create import CogResult, create_cog
from gdaltools.cog.format import layout
from gdaltools.cog.validate import validate_cog
from tests.support.cogs.gdal import Level, by_gdal, levels_of
from tests.support.cogs.reader import GhostReader
from tests.support.rasters import smooth, write_raster
from tests.unit.conftest import Cut

ROWS, COLS = 301, 277


def made(source: Path, **options: Any) -> Path:
    target = source.with_name(f"made{len(list(source.parent.iterdir()))}.tif")
    asked: dict[str, Any] = {"blocksize": 64, "raster_type": "multispectral"} | options
    assert isinstance(create_cog(source, target, progress=False, **asked), CogResult)
    report = validate_cog(target)
    assert report.valid, str(report)
    return target


def hole() -> Any:
    valid = np.ones((ROWS, COLS), bool)
    valid[60:200, 100:220] = False
    return valid


def assert_tifffile_reads(path: Path, expected: list[Level]) -> None:
    with tifffile.TiffFile(path) as content:
        pages = [page for page in content.pages if not page.subfiletype & 4]
        assert len(pages) == len(expected)
        for page, level in zip(pages, expected, strict=True):
            pixels = page.asarray()
            if pixels.ndim == 3 and page.planarconfig == tifffile.PLANARCONFIG.CONTIG:
                pixels = np.moveaxis(pixels, -1, 0)
            np.testing.assert_array_equal(pixels.reshape(level.pixels.shape), level.pixels)


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        ("uint8", {}),
        ("uint16", {"codec": "ZSTD"}),
        ("float32", {"predictor": 3, "level": 9}),
        ("float64", {"predictor": 2}),
        ("int16", {"codec": "LZW"}),
        ("int32", {"codec": "LERC"}),
        ("int8", {"codec": "NONE"}),
        ("uint8", {"interleave": "band"}),
        ("float32", {"interleave": "band", "codec": "LERC_ZSTD"}),
        ("complex64", {"predictor": 1}),
    ],
)
def test_tifffile_reads_every_level(tmp_path: Path, cut: Cut, dtype: str, options: dict[str, Any]) -> None:
    cut(64, 128)
    image = smooth(3, ROWS, COLS, dtype="uint8").astype(dtype)
    path = made(write_raster(tmp_path / "a.tif", image), **options)
    np.testing.assert_array_equal(levels_of(path)[0].pixels, image)
    assert_tifffile_reads(path, levels_of(path))


@pytest.mark.parametrize("masked", [False, True], ids=["plain", "masked"])
def test_tifffile_reads_our_jpeg_as_it_reads_gdals(tmp_path: Path, masked: bool) -> None:
    source = write_raster(tmp_path / "a.tif", smooth(3, ROWS, COLS), mask=hole() if masked else None)
    result = create_cog(source, tmp_path / "ours.tif", blocksize=64, codec="JPEG", progress=False)
    path = Path(result.location)
    other = by_gdal(source, tmp_path / "gdal.tif", result.tier_profile)
    with tifffile.TiffFile(path) as ours, tifffile.TiffFile(other) as gdals:
        for mine, page in zip(ours.pages, gdals.pages, strict=True):
            np.testing.assert_array_equal(mine.asarray(), page.asarray())


@pytest.mark.parametrize("masked", [False, True], ids=["plain", "masked"])
@pytest.mark.parametrize("interleave", ["pixel", "band"])
@pytest.mark.parametrize("codec", ["DEFLATE", "NONE"])
@pytest.mark.parametrize("big", [False, True], ids=["classic", "BigTIFF"])
def test_the_ghost_area_alone_leads_to_every_block(
    tmp_path: Path,
    cut: Cut,
    monkeypatch: pytest.MonkeyPatch,
    masked: bool,
    interleave: str,
    codec: str,
    big: bool,
) -> None:
    cut(64, 64)
    if big:
        monkeypatch.setattr(layout, "_CLASSIC_LIMIT", 1)
    image = smooth(3, ROWS, COLS, dtype="uint16")
    source = write_raster(tmp_path / "a.tif", image, mask=hole() if masked else None)
    options = {"predictor": 1} if codec == "DEFLATE" else {}
    path = made(source, codec=codec, interleave=interleave, **options)
    reader = GhostReader(path.read_bytes(), "uint16")
    assert ("MASK_INTERLEAVED_WITH_IMAGERY" in reader.promises) == (masked and interleave == "pixel")
    expected = levels_of(path)
    pictures = [reader.read(picture) for picture in reader.pictures if not picture.mask]
    masks = [reader.read(picture) for picture in reader.pictures if picture.mask]
    assert (len(pictures), len(masks)) == (len(expected), len(expected) if masked else 0)
    np.testing.assert_array_equal(pictures[0], image)
    for picture, level in zip(pictures, expected, strict=True):
        np.testing.assert_array_equal(picture, level.pixels)
    for mask, level in zip(masks, expected, strict=False):
        np.testing.assert_array_equal(mask[0] > 0, level.mask > 0)


@pytest.mark.parametrize("kind", ["plain", "mask", "nodata", "bands"])
def test_a_bigtiff_is_read_by_all(
    tmp_path: Path, cut: Cut, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    cut(64, 64)
    image = smooth(40 if kind == "bands" else 3, ROWS, COLS)
    source = write_raster(
        tmp_path / "a.tif", image, mask=hole() if kind == "mask" else None,
        nodata=50 if kind == "nodata" else None, tags={"A": "b" * 100},
    )  # fmt: skip
    options = {"interleave": "band"} if kind == "bands" else {}
    classic = made(source, **options)
    monkeypatch.setattr(layout, "_CLASSIC_LIMIT", 1)
    big = made(source, **options)
    assert (validate_cog(classic).bigtiff, validate_cog(big).bigtiff) == (False, True)
    expected = levels_of(classic)
    for mine, level in zip(levels_of(big), expected, strict=True):
        np.testing.assert_array_equal(mine.pixels, level.pixels)
        np.testing.assert_array_equal(mine.mask, level.mask)
    assert_tifffile_reads(big, expected)
    with rasterio.open(big) as dataset:
        assert dataset.tags()["A"] == "b" * 100


@pytest.mark.parametrize("over", [0, 1])
def test_a_file_is_bigtiff_from_the_first_byte_that_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, over: int
) -> None:
    source = write_raster(tmp_path / "a.tif", smooth(1, ROWS, COLS))
    size = made(source).stat().st_size
    monkeypatch.setattr(layout, "_CLASSIC_LIMIT", size + 1 - over)
    assert validate_cog(made(source)).bigtiff is bool(over)


@pytest.mark.parametrize("nodata", [None, 0, 7, 255])
@pytest.mark.parametrize("masked", [False, True], ids=["plain", "masked"])
@pytest.mark.parametrize("interleave", ["pixel", "band"])
def test_blocks_without_data_are_left_out_and_read_the_same(
    tmp_path: Path, cut: Cut, nodata: int | None, masked: bool, interleave: str
) -> None:
    cut(64, 128)
    image = smooth(3, ROWS, COLS)
    empty = nodata or 0
    image[:, 64:192, 64:256] = empty
    image[1, 100, 100] = 99  # the other bands' blocks are empty here
    valid = np.ones((ROWS, COLS), bool)
    valid[64:192, 64:256] = False
    source = write_raster(
        tmp_path / "a.tif", image, nodata=None if masked else nodata, mask=valid if masked else None
    )
    whole = made(source, interleave=interleave)
    sparse = made(source, interleave=interleave, sparse=True)
    for mine, level in zip(levels_of(sparse), levels_of(whole), strict=True):
        np.testing.assert_array_equal(mine.pixels, level.pixels)
        np.testing.assert_array_equal(mine.mask, level.mask)
    left_out = validate_cog(sparse).images[0].empty_blocks
    assert left_out == (0 if masked and empty else (5 + 2 * 6) if interleave == "band" else 5)
    assert sparse.stat().st_size <= whole.stat().st_size
    assert_tifffile_reads(whole, levels_of(whole))


@pytest.mark.parametrize("nodata", [None, 0, float("nan"), -9999.0])
def test_a_raster_of_nodata_alone_may_hold_no_block_at_all(
    tmp_path: Path, cut: Cut, nodata: float | None
) -> None:
    cut(64, None)
    image = np.full((2, ROWS, COLS), nodata or 0, "float32")
    path = made(write_raster(tmp_path / "a.tif", image, nodata=nodata), sparse=True)
    report = validate_cog(path)
    assert all(entry.empty_blocks == entry.blocks for entry in report.images)
    for level in levels_of(path):
        np.testing.assert_array_equal(level.pixels, np.full_like(level.pixels, nodata or 0))


def test_sparse_keeps_negative_zeros(tmp_path: Path, cut: Cut) -> None:
    cut(64, None)
    image = np.zeros((1, ROWS, COLS), "float32")
    image[0, 70:90, 70:90] = -0.0
    tifffile.imwrite(tmp_path / "a.tif", image[0])  # GDAL would treat them as a block without data
    path = made(tmp_path / "a.tif", sparse=True)
    np.testing.assert_array_equal(np.signbit(levels_of(path)[0].pixels), np.signbit(image))
