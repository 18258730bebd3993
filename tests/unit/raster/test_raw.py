"""Uncompressed files are read without GDAL: the same pixels, and the same errors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.windows import Window

import gdaltools as gt
from gdaltools import storage
from gdaltools.errors import CorruptRaster, SourceChanged
from gdaltools.geo.window import Span
from gdaltools.raster.dataset import open_dataset
from gdaltools.raster.facts import Facts, facts_of
from gdaltools.raster.pixels.raw import RawSource, raw_source
from gdaltools.raster.pixels.source import RasterSource
from tests.support.rasters import smooth, write_raster

WIDTH, HEIGHT = 211, 173
DTYPES = ["uint8", "int8", "uint16", "int16", "uint32", "float32", "float64", "complex64", "int64"]


def source_and_facts(path: Path, count: int) -> tuple[RasterSource, Facts]:
    with open_dataset(path) as dataset:
        return RasterSource(storage.locate(path), count), facts_of(dataset, masked=False)


def write(path: Path, *, count: int = 3, dtype: str = "uint8", **options: object) -> Path:
    held = "complex64" if dtype.startswith("complex") else dtype
    pixels = np.random.default_rng(0).integers(0, 120, (count, HEIGHT, WIDTH)).astype(held)
    shape = {"width": WIDTH, "height": HEIGHT, "count": count, "dtype": dtype}
    with rasterio.open(path, "w", driver="GTiff", **shape, **options) as dataset:
        dataset.write(pixels)
    return path


@st.composite
def spans(draw: st.DrawFn, size: int) -> Span:
    first = draw(st.integers(0, size - 1))
    whole = draw(st.booleans())
    return Span(0, size) if whole else Span(first, draw(st.integers(first + 1, size)))


@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=spans(HEIGHT),
    cols=spans(WIDTH),
    dtype=st.sampled_from(DTYPES),
    count=st.sampled_from([1, 3]),
    interleave=st.sampled_from(["pixel", "band"]),
    blocks=st.sampled_from([{"blockysize": 1}, {"blockysize": 7}, {"blockysize": HEIGHT}, {"tiled": True}]),
    apart=st.booleans(),
)
def test_any_window_is_what_gdal_reads(
    tmp_path: Path,
    rows: Span,
    cols: Span,
    dtype: str,
    count: int,
    interleave: str,
    blocks: dict[str, object],
    apart: bool,
) -> None:
    tiles = {"blockxsize": 32, "blockysize": 48} if "tiled" in blocks else {}
    path = write(tmp_path / "raw.tif", count=count, dtype=dtype, interleave=interleave, **{**blocks, **tiles})
    source, facts = source_and_facts(path, count)
    raw = raw_source(source, facts)
    assert isinstance(raw, RawSource)
    pixels, valid = raw.read(rows, cols, facts.numpy_dtype, planes=count if apart else 1)
    assert valid is None
    with rasterio.open(path) as dataset:
        expected = dataset.read(window=Window(cols.start, rows.start, len(cols), len(rows)))
    found = pixels[..., 0] if apart else pixels[0].transpose(2, 0, 1)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "options",
    [
        {"compress": "deflate"},
        {"dtype": "complex_int16"},
        {"nbits": 4},
        {"endianness": "big"},
        {"photometric": "cielab"},
        {"compress": "jpeg", "photometric": "ycbcr"},
    ],
)
def test_what_is_not_plain_is_left_to_gdal(tmp_path: Path, options: dict[str, object]) -> None:
    path = write(tmp_path / "other.tif", **options)  # type: ignore[arg-type]
    source, facts = source_and_facts(path, 3)
    assert raw_source(source, facts) is source


def test_a_mask_an_overview_and_blocks_that_are_not_stored_are_left_to_gdal(tmp_path: Path) -> None:
    source, facts = source_and_facts(write(tmp_path / "plain.tif"), 3)
    assert isinstance(raw_source(source, facts), RawSource)
    for other in (replace(source, masked=True), replace(source, level=0)):
        assert raw_source(other, facts) is other
    path = tmp_path / "sparse.tif"
    with rasterio.open(
        path, "w", driver="GTiff", width=WIDTH, height=HEIGHT, count=1, dtype="uint8", SPARSE_OK=True
    ) as dataset:
        dataset.write(np.ones((1, 8, WIDTH), "uint8"), window=Window(0, 0, WIDTH, 8))
    source, facts = source_and_facts(path, 1)
    assert raw_source(source, facts) is source


def test_a_file_that_is_cut_short_while_it_is_read_is_told(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "scene.tif", smooth(3, 300, 400))
    source, facts = source_and_facts(path, 3)
    raw = raw_source(source, facts)
    path.write_bytes(path.read_bytes()[:200_000])
    with pytest.raises(CorruptRaster, match="ended while it was read"):
        raw.read(Span(0, 300), Span(0, 400), facts.numpy_dtype, planes=1)


def test_a_file_that_is_replaced_while_it_is_read_is_told(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "scene.tif", smooth(3, 300, 400))
    source, facts = source_and_facts(path, 3)
    raw = raw_source(replace(source, location=storage.pinned(path)), facts)
    raw.read(Span(0, 300), Span(0, 400), facts.numpy_dtype, planes=1)
    other = write_raster(tmp_path / "other.tif", smooth(3, 300, 400, seed=1))
    other.replace(path)
    with pytest.raises(SourceChanged, match="replaced while it was read"):
        raw.read(Span(0, 300), Span(0, 400), facts.numpy_dtype, planes=1)


@pytest.mark.parametrize("interleave", ["pixel", "band"])
def test_a_cog_is_the_same_whoever_reads_its_source(tmp_path: Path, interleave: str) -> None:
    plain = write(tmp_path / "plain.tif", interleave=interleave)
    packed = write(tmp_path / "packed.tif", interleave=interleave, compress="zstd")
    for path in (plain, packed):
        gt.create_cog(path, path.with_suffix(".cog"), blocksize=64, progress=False)
    assert plain.with_suffix(".cog").read_bytes() == packed.with_suffix(".cog").read_bytes()
