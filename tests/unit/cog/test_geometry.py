"""Pieces, seams and offsets: every pixel and every byte of a COG has one place, however it is cut."""

from __future__ import annotations

import io
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from rasterio.io import MemoryFile

from gdaltools.cog.create import plan_cog
from gdaltools.cog.format.layout import BLOCK_FRAME, Image, header
from gdaltools.cog.format.template import template
from gdaltools.cog.overviews.halving import Rule, Span, half
from gdaltools.cog.pieces.geometry import LevelStep, level_axes
from gdaltools.cost.cog_memory import cog_memory_bound, piece_shape
from gdaltools.raster.tiff import read_layout
from tests.support.cogs.by_pieces import content_of, plan_of
from tests.support.rasters import smooth, write_raster

BLOCK = 64
RULES = [Rule(name, "uint8") for name in ("nearest", "average", "bilinear", "lanczos", "mode")]

sides = st.integers(1, 3000)
pieces = st.integers(1, 6).map(lambda blocks: blocks * BLOCK)


def steps(size: int, piece: int, rule: Rule) -> list[LevelStep]:
    sizes = [size]
    while sizes[-1] > BLOCK:
        sizes.append(half(sizes[-1]))
    axes = level_axes(tuple(sizes), piece, BLOCK)
    return [LevelStep(source, target, rule) for source, target in pairwise(axes)]


def pixels_of(spans: list[Span]) -> list[int]:
    return [pixel for span in spans for pixel in range(span.start, span.stop)]


@given(sides, pieces, st.sampled_from(RULES))
def test_every_pixel_of_an_overview_is_made_once(size: int, piece: int, rule: Rule) -> None:
    for step in steps(size, piece, rule):
        count = step.source.count
        alone = [step.complete(index) for index in range(count)]
        seams = [step.pending(seam) for seam in range(1, count)]
        assert sorted(pixels_of(alone + seams)) == list(range(step.target.size))


@given(sides, pieces, st.sampled_from(RULES))
def test_a_piece_finishes_what_its_children_could_not(size: int, piece: int, rule: Rule) -> None:
    for step in steps(size, piece, rule):
        for index in range(step.target.count):
            span = step.target.span(index)
            children = [step.complete(child) for child in step.children(index)]
            within = [pixel for pixel in pixels_of(children) if span.start <= pixel < span.stop]
            assert sorted(within + pixels_of(list(step.seams(index)))) == list(range(span.start, span.stop))


@given(sides, pieces, st.sampled_from(RULES))
def test_what_is_complete_needs_its_piece_alone(size: int, piece: int, rule: Rule) -> None:
    for step in steps(size, piece, rule):
        for index in range(step.source.count):
            complete, span = step.complete(index), step.source.span(index)
            if complete.stop > complete.start:
                needs = step.needs(complete)
                assert span.start <= needs.start
                assert needs.stop <= span.stop


@given(sides, pieces, st.sampled_from(RULES))
def test_borders_hold_what_is_needed_along_a_seam(size: int, piece: int, rule: Rule) -> None:
    for step in steps(size, piece, rule):
        for index in range(step.target.count):
            held = {pixel for around in step.around(index) for pixel in pixels_of(step.borders(around))}
            for pending in step.seams(index):
                assert set(pixels_of([step.needs(pending)])) <= held


@given(sides, pieces, st.sampled_from(RULES))
def test_a_pixel_needs_pixels_of_the_level_before(size: int, piece: int, rule: Rule) -> None:
    for step in steps(size, piece, rule):
        needs = [step.needs(Span(pixel, pixel + 1)) for pixel in range(step.target.size)]
        assert all(0 <= span.start < span.stop <= step.source.size for span in needs)
        assert [span.start for span in needs] == sorted(span.start for span in needs)


shapes = st.tuples(st.integers(1, 400), st.integers(1, 400))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    shapes,
    st.tuples(pieces, pieces),
    st.sampled_from(["average", "nearest", "average", "nearest", "rms", "cubic"]),
    st.sampled_from(["uint8", "int16", "float32", "complex64"]),
    st.sampled_from(["plain", "mask", "nodata"]),
    st.sampled_from(["pixel", "band"]),
)
# Kernels that end exactly at a source pixel, beside absent ones.
@example((277, 103), (64, 64), "cubic", "uint8", "nodata", "pixel")
@example((277, 103), (64, 64), "bilinear", "uint8", "mask", "pixel")
@example((145, 251), (256, 64), "lanczos", "uint8", "mask", "band")
# Levels that are computed from the full resolution: the many pixels below one, and an average that is a tie.
@example((1301, 2), (384, 384), "mode", "int16", "nodata", "pixel")
@example((343, 1), (64, 64), "average", "uint8", "nodata", "pixel")
@example((377, 222), (128, 320), "rms", "uint8", "mask", "pixel")
def test_a_file_does_not_depend_on_how_it_was_cut(
    shape: tuple[int, int],
    piece: tuple[int, int],
    resampling: str,
    dtype: str,
    kind: str,
    interleave: str,
) -> None:
    if dtype == "complex64" and resampling == "cubic":
        resampling = "average"
    rng = np.random.default_rng(shape[0] * 1000 + shape[1])
    array = rng.integers(0, 100, (2, *shape)).astype(dtype)
    valid = rng.random(shape) < 0.5 if kind == "mask" else None
    nodata = 7 if kind == "nodata" and dtype != "complex64" else None
    whole = tuple(-(-side // BLOCK) * BLOCK for side in shape)
    cut, uncut = (
        content_of(
            plan_of(array, valid, piece=sides, resampling=resampling, interleave=interleave, nodata=nodata)
        )
        for sides in (piece, (whole[0], whole[1]))
    )
    if resampling == "cubic" and dtype == "float32":
        # The last bit of GDAL's sums depends on where in memory a row begins.
        with MemoryFile(cut) as one, MemoryFile(uncut) as other, one.open() as a, other.open() as b:
            np.testing.assert_array_equal(a.read(), b.read())
            size = (max(1, a.height // 2), max(1, a.width // 2))
            np.testing.assert_allclose(a.read(out_shape=size), b.read(out_shape=size), 1e-5, 1e-3)
        return
    assert cut == uncut


@settings(max_examples=40, deadline=None)
@given(
    shapes,
    st.sampled_from([64, 80, 128]),
    st.integers(1, 3),
    st.booleans(),
    st.sampled_from(["pixel", "band"]),
    st.randoms(use_true_random=False),
    st.booleans(),
)
def test_blocks_lie_behind_each_other_and_fill_the_file(
    shape: tuple[int, int],
    blocksize: int,
    bands: int,
    masked: bool,
    interleave: str,
    random: object,
    big: bool,
) -> None:
    array = np.zeros((bands, *shape), "uint8")
    valid = np.ones(shape, bool) if masked else None
    plan = plan_of(array, valid, piece=(blocksize, blocksize), blocksize=blocksize, interleave=interleave)
    rng = np.random.default_rng(random.randrange(2**32))  # type: ignore[attr-defined]
    images = []
    for width, height in plan.levels:
        grid = math.ceil(height / blocksize), math.ceil(width / blocksize)
        # One in four is left out; large blocks make it a BigTIFF.
        large = 2**30 if big else 2000
        sizes = rng.integers(1, large, (plan.planes, *grid)) * (rng.random((plan.planes, *grid)) > 0.25)
        masks = rng.integers(1, 90, grid) if masked else None
        images.append(
            Image(width, height, sizes.astype("uint32"), None if masks is None else masks.astype("uint32"))
        )
    front = header(tuple(images), template(plan.facts, plan.encoding), blocksize)
    total = len(front) + sum(image.data_bytes for image in images)
    stream = _Padded(front, total)
    layout = read_layout(stream, name="a")  # type: ignore[arg-type]
    assert layout.bigtiff == (total >= 2**32 - 2**16)
    placed = []
    for ifd in layout.ifds:
        stored = ifd.offsets > 0
        placed += list(zip(ifd.offsets[stored].tolist(), ifd.counts[stored].tolist(), strict=True))
        assert ifd.offsets[stored].tolist() == sorted(ifd.offsets[stored].tolist())
    placed.sort()
    position = len(front)
    for offset, count in placed:
        assert offset == position + BLOCK_FRAME // 2
        position += count + BLOCK_FRAME
    assert position == total


class _Padded(io.RawIOBase):
    """A stream of which only the first bytes are real; the rest is zeros."""

    def __init__(self, front: bytes, total: int) -> None:
        super().__init__()
        self._front, self._total, self._position = front, total, 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        begin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._total}[whence]
        self._position = begin + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        end = self._total if size < 0 else min(self._total, self._position + size)
        data = self._front[self._position : end].ljust(max(0, end - self._position), b"\0")
        self._position = end
        return data


@given(
    st.integers(1, 10**6), st.integers(1, 10**6), st.integers(1, 4000),
    st.sampled_from([64, 128, 512, 1024, 4096]), st.integers(1, 2000),
)  # fmt: skip
def test_pieces_are_whole_blocks_and_fit_the_memory(
    width: int, height: int, pixel_bytes: int, blocksize: int, stored_rows: int
) -> None:
    rows, cols = piece_shape(width, height, pixel_bytes, blocksize, stored_rows)
    assert rows % blocksize == 0
    assert cols % blocksize == 0
    assert rows > 0
    assert cols > 0
    if blocksize * blocksize * pixel_bytes <= 64 << 20:
        assert rows * cols * pixel_bytes <= 96 << 20


@pytest.mark.parametrize("side", [10_000, 1_000_000])
def test_the_memory_bound_hardly_grows_with_the_raster(side: int) -> None:
    assert cog_memory_bound(side, side, 3, 1, threads=2) < 1e9


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "adaptive, at most 1.5% larger"),
        ({"level": 9}, "DEFLATE, level 9, predictor 2"),
        ({"codec": "ZSTD"}, "ZSTD, level 9"),
        ({"codec": "JPEG", "quality": 70}, "JPEG, quality 70"),
        ({"codec": "LERC"}, "LERC"),
        ({"codec": "NONE"}, "NONE"),
    ],
)
def test_every_plan_can_be_printed(tmp_path: Path, options: dict[str, Any], text: str) -> None:
    source = write_raster(tmp_path / "a.tif", smooth(3, 90, 80))
    assert text in str(plan_cog(source, **options))
