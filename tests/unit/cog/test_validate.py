"""`validate_cog` agrees with the bytes: a broken rule is reported, damage raises, nothing hangs."""

from __future__ import annotations

import shutil
import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rio_cogeo.cogeo import cog_validate

from gdaltools.cog.create import create_cog
from gdaltools.cog.format.structure import check_structure
from gdaltools.cog.validate import validate_cog
from gdaltools.errors import CorruptRaster, GdalToolsError, SourceNotFound, UnsupportedRaster
from gdaltools.raster.tiff import read_layout
from tests.support.rasters import smooth, truncate, write_raster


@pytest.fixture(scope="module")
def cog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cog")
    mask = np.ones((1100, 1300), bool)
    mask[:300, :300] = False
    source = write_raster(folder / "a.tif", smooth(3, 1100, 1300), mask=mask)
    create_cog(source, folder / "cog.tif", "visualization", progress=False)
    return folder / "cog.tif"


def test_a_cog_is_valid_and_its_report_says_what_is_inside(cog: Path) -> None:
    report = validate_cog(cog)
    assert report.valid, str(report)
    assert (report.compression, report.blocksize, report.overview_levels) == ("JPEG", (512, 512), (2, 4))
    assert [image.name for image in report.images if not image.name.startswith("mask")] == [
        "full resolution", "overview 0", "overview 1",
    ]  # fmt: skip
    assert report.ghost["BLOCK_LEADER"] == "SIZE_AS_UINT4"
    assert report.ghost["MASK_INTERLEAVED_WITH_IMAGERY"] == "YES"
    assert "is a valid COG" in str(report)
    assert bool(report)


@pytest.mark.parametrize("bigtiff", ["YES", "NO"])
@pytest.mark.parametrize("endianness", ["LITTLE", "BIG"])
def test_every_kind_of_tiff_header_is_read(tmp_path: Path, bigtiff: str, endianness: str) -> None:
    source = write_raster(
        tmp_path / "a.tif", smooth(2, 700, 800), block=128,
        options={"bigtiff": bigtiff, "endianness": endianness, "interleave": "band"},
    )  # fmt: skip
    with source.open("rb") as stream:
        layout = read_layout(stream, name="a.tif")
    main = layout.ifds[0]
    assert layout.bigtiff is (bigtiff == "YES")
    assert (main.width, main.height, main.samples, main.offsets.size) == (800, 700, 2, 2 * 7 * 6)
    with rasterio.open(source) as dataset:
        assert int(dataset.get_tag_item("BLOCK_OFFSET_3_2", "TIFF", bidx=2)) == main.offsets[42 + 2 * 7 + 3]


def test_strips_and_missing_overviews_are_told_in_words(tmp_path: Path) -> None:
    report = validate_cog(write_raster(tmp_path / "a.tif", smooth(3, 600, 700)))
    assert not report.valid
    assert "not tiled" in str(report)
    assert "no overviews" in str(report)


def test_missing_overviews_are_a_warning_that_only_strictness_minds(tmp_path: Path) -> None:
    source = write_raster(tmp_path / "a.tif", smooth(3, 600, 700))
    rasterio.shutil.copy(source, tmp_path / "b.tif", driver="COG", OVERVIEWS="NONE", BLOCKSIZE=512)
    assert not validate_cog(tmp_path / "b.tif").valid
    assert validate_cog(tmp_path / "b.tif", strict=False).valid


def test_overviews_added_afterwards_lie_behind_the_pixels(tmp_path: Path) -> None:
    source = write_raster(tmp_path / "a.tif", smooth(3, 1100, 1300), block=256, overviews=(2, 4))
    report = validate_cog(source)
    assert not report.valid
    assert any("before those of overview" in error or "behind pixel data" in error for error in report.errors)


def test_an_edited_cog_is_no_longer_one(tmp_path: Path, cog: Path) -> None:
    edited = Path(shutil.copy(cog, tmp_path / "b.tif"))
    with rasterio.open(edited, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as dataset:
        dataset.write(np.zeros((3, 512, 512), "uint8"), window=((0, 512), (0, 512)))
    report = validate_cog(edited)
    assert not report.valid
    assert "KNOWN_INCOMPATIBLE_EDITION" in str(report)


@pytest.mark.parametrize(("at", "what"), [(-4, "the 4 bytes before it say"), (0, "not repeated behind")])
def test_wrong_leaders_and_trailers_are_found(tmp_path: Path, cog: Path, at: int, what: str) -> None:
    broken = Path(shutil.copy(cog, tmp_path / "b.tif"))
    with broken.open("r+b") as stream:
        main = read_layout(stream, name="b").ifds[0]
        place = int(main.offsets[3]) + at if at else int(main.offsets[3] + main.counts[3])
        stream.seek(place)
        byte = stream.read(1)[0]
        stream.seek(place)
        stream.write(bytes([byte ^ 0xFF]))
    report = validate_cog(broken)
    assert not report.valid
    assert what in str(report)


def test_a_png_is_valid_as_nothing_but_a_png(tmp_path: Path) -> None:
    source = write_raster(tmp_path / "a.png", smooth(3, 60, 80), crs=None, transform=None, driver="PNG")
    report = validate_cog(source)
    assert not report.valid
    assert "PNG" in report.errors[0]


def test_missing_foreign_and_cut_files_raise(tmp_path: Path, cog: Path) -> None:
    with pytest.raises(SourceNotFound):
        validate_cog(tmp_path / "none.tif")
    (tmp_path / "text.tif").write_text("no raster")
    with pytest.raises(UnsupportedRaster):
        validate_cog(tmp_path / "text.tif")
    (tmp_path / "empty.tif").touch()
    with pytest.raises(CorruptRaster):
        validate_cog(tmp_path / "empty.tif")
    for keep in (0.01, 0.2, 0.9, 0.999):
        with pytest.raises(CorruptRaster):
            validate_cog(truncate(shutil.copy(cog, tmp_path / "cut.tif"), keep))


def test_a_chain_of_ifds_that_bites_its_tail_is_refused(tmp_path: Path) -> None:
    tags = [(256, 4), (257, 4), (273, 8), (279, 1), (278, 4)]
    body = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", t, 4, 1, v) for t, v in tags)
    (tmp_path / "loop.tif").write_bytes(b"II*\0" + struct.pack("<I", 8) + body + struct.pack("<I", 8))
    with (tmp_path / "loop.tif").open("rb") as stream, pytest.raises(CorruptRaster, match="comes back"):
        read_layout(stream, name="loop")


def damages(last: int, most: int) -> st.SearchStrategy[list[tuple[int, int]]]:
    """Up to `most` bytes to overwrite, each up to the byte `last`."""
    return st.lists(st.tuples(st.integers(0, last), st.integers(0, 255)), min_size=1, max_size=most)


def damaged(path: Path, folder: Path, changes: list[tuple[int, int]]) -> Path:
    data = bytearray(path.read_bytes())
    for place, value in changes:
        data[place] = value
    broken = folder / "broken.tif"
    broken.write_bytes(data)
    return broken


FUZZING = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)


@settings(FUZZING, max_examples=300)
@given(changes=damages(1499, 6))
def test_damaged_headers_never_do_worse_than_a_typed_error(
    cog: Path, tmp_path: Path, changes: list[tuple[int, int]]
) -> None:
    with damaged(cog, tmp_path, changes).open("rb") as stream, suppress(GdalToolsError):
        check_structure(read_layout(stream, name="broken"), stream)


@settings(FUZZING, max_examples=60)
@given(changes=damages(3000, 4))
def test_validating_a_damaged_file_reports_or_raises_our_errors(
    cog: Path, tmp_path: Path, changes: list[tuple[int, int]]
) -> None:
    try:
        report = validate_cog(damaged(cog, tmp_path, changes))
    except GdalToolsError:
        return
    assert str(report)


@pytest.mark.parametrize(("rows", "cols"), [(1200, 64), (700, 1)])
def test_a_single_column_of_blocks_is_tiled(tmp_path: Path, rows: int, cols: int) -> None:
    path = write_raster(tmp_path / "a.tif", smooth(1, rows, cols), driver="COG", options={"blocksize": 64})
    report = validate_cog(path)
    assert report.valid, str(report)


@st.composite
def sides_near_blocks(draw: st.DrawFn) -> int:
    """A side that is within a pixel of whole blocks of 64, at some level."""
    blocks, level = draw(st.integers(1, 3)), draw(st.integers(0, 4))
    return max(1, (64 * blocks << level) % 1600 + draw(st.integers(-1, 1)))


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=sides_near_blocks(), cols=sides_near_blocks(), masked=st.booleans())
def test_every_cog_that_is_written_is_valid_by_all_rules(
    tmp_path: Path, rows: int, cols: int, masked: bool
) -> None:
    mask = np.ones((rows, cols), bool) if masked else None
    source = write_raster(tmp_path / "a.tif", np.full((1, rows, cols), 7, "uint8"), mask=mask)
    create_cog(source, tmp_path / "cog.tif", blocksize=64, overwrite=True, progress=False)
    report = validate_cog(tmp_path / "cog.tif")
    assert report.valid, str(report)
    assert not report.warnings
    with tifffile.TiffFile(tmp_path / "cog.tif") as file:
        assert all(page.is_tiled for page in file.pages)
    _, errors, _ = cog_validate(tmp_path / "cog.tif", strict=True, quiet=True)
    # rio-cogeo takes an image of one block for strips, and one of one pixel for its own overview.
    assert [text for text in errors if "not tiled" not in text and "Decimation 1 " not in text] == []


@pytest.mark.parametrize("cols", [2048, 2047])
def test_overviews_in_strips_are_still_reported(tmp_path: Path, cols: int) -> None:
    path = write_raster(tmp_path / "a.tif", smooth(1, 600, cols), overviews=[2])
    report = validate_cog(path)
    assert any("not tiled" in text for text in report.errors)


@pytest.mark.parametrize("size", [(1024, 1280), (1280, 1024), (2048, 1100), (1024, 1024), (1023, 1300)])
def test_overviews_one_default_block_wide_are_tiled(tmp_path: Path, size: tuple[int, int]) -> None:
    cols, rows = size
    source = write_raster(tmp_path / "a.tif", np.full((1, rows, cols), 7, "uint8"))
    create_cog(source, tmp_path / "cog.tif", progress=False)
    assert validate_cog(tmp_path / "cog.tif").valid
