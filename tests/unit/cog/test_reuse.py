"""Blocks already in a COG's encoding are copied unchanged, and only where they mean the same pixels."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from gdaltools.cog.batch.create import create_cogs
from gdaltools.cog.batch.result import BatchedCog, CogsResult
from gdaltools.cog.create import create_cog
from gdaltools.cog.format.structure import images
from gdaltools.cog.validate import validate_cog
from gdaltools.errors import CorruptRaster
from gdaltools.raster.tiff import read_layout
from tests.support.rasters import damage, pixels, smooth, write_raster

DEFLATE = {"compress": "deflate", "predictor": 2}


def tiled(path: Path, array: Any = None, *, block: int = 128, **options: Any) -> Path:
    """Write a tiled GeoTIFF without overviews, of two levels, with odd sides."""
    image = smooth(3, 225, 251) if array is None else array
    keys = ("mask", "nodata", "overviews", "alpha", "colormap")
    facts = {key: options.pop(key) for key in keys if key in options}
    return write_raster(path, image, block=block, options=DEFLATE | options, **facts)


def made_of(source: Path, **options: Any) -> CogsResult:
    result = create_cogs(source, source.parent / "out", blocksize=128, force=True, **options)
    assert not result.failed, str(result)
    return result


def only(result: CogsResult) -> BatchedCog:
    (cog,) = (*result.made, *result.copied)
    report = validate_cog(cog.location)
    assert report.valid, str(report)
    return cog


def blocks(path: str | Path) -> list[bytes]:
    """Return the stored blocks of the full resolution."""
    with Path(path).open("rb") as stream:
        main, _ = images(read_layout(stream, name=str(path)))
    content = Path(path).read_bytes()
    places = zip(main.offsets.tolist(), main.counts.tolist(), strict=True)
    return [content[offset : offset + count] for offset, count in places]


def content(path: str | Path) -> list[Any]:
    """Return pixels and masks of all levels."""
    found = []
    with rasterio.open(path) as dataset:
        levels = range(-1, len(dataset.overviews(1)))
    for level in levels:
        options = {} if level < 0 else {"overview_level": level}
        with rasterio.open(path, **options) as dataset:
            found += [dataset.read(), dataset.dataset_mask()]
    return found


def assert_lifted(source: Path, **options: Any) -> None:
    """Check that the COG has the source's blocks, and is otherwise as if all had been encoded."""
    cog = only(made_of(source, **options))
    assert cog.from_stored_blocks
    assert blocks(cog.location) == blocks(source)
    copied_blocks = content(cog.location)
    np.testing.assert_array_equal(copied_blocks[0], content(source)[0])
    again = only(made_of(source, reuse=False, **options))
    assert not again.from_stored_blocks
    lossy = options.get("codec") == "JPEG"
    for ours, theirs in zip(copied_blocks, content(again.location), strict=True):
        if lossy:
            np.testing.assert_allclose(ours.astype(int), theirs.astype(int), atol=40)
        else:
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("DEFLATE", {}),
        ("ZSTD", {}),
        ("LZW", {}),
        ("NONE", {"predictor": 1}),
        ("DEFLATE", {"interleave": "band"}),
        ("DEFLATE", {"bigtiff": "yes"}),
    ],
)
def test_blocks_are_lifted_where_codec_and_predictor_are_the_wanted_ones(
    tmp_path: Path, codec: str, options: dict[str, Any]
) -> None:
    source = tiled(tmp_path / "a.tif", compress=codec, photometric="rgb", **options)
    assert_lifted(source, codec=codec, interleave=options.get("interleave", "pixel"))


@pytest.mark.parametrize(
    ("dtype", "predictor", "bands"),
    [("uint16", 2, 4), ("int16", 2, 1), ("float32", 3, 1), ("float64", 3, 2), ("complex64", 2, 1)],
)
def test_blocks_of_other_dtypes_are_lifted(tmp_path: Path, dtype: str, predictor: int, bands: int) -> None:
    image = smooth(bands, 225, 251, dtype=dtype)
    assert_lifted(tiled(tmp_path / "a.tif", image, predictor=predictor))


def test_masks_nodata_and_colour_tables_stay_what_they_are(tmp_path: Path) -> None:
    mask = np.ones((225, 251), bool)
    mask[40:200, 30:140] = False
    assert_lifted(tiled(tmp_path / "m.tif", mask=mask, photometric="rgb"))
    image = smooth(1, 225, 251)
    image[:, :130, :130] = 0
    assert_lifted(tiled(tmp_path / "n.tif", image, nodata=0))
    holes = tiled(tmp_path / "s.tif", image, nodata=0, sparse_ok="yes")
    cog = only(made_of(holes))
    assert cog.from_stored_blocks
    np.testing.assert_array_equal(content(cog.location)[0], image)
    assert blocks(holes)[0] == b""
    assert blocks(cog.location)[2:] == blocks(holes)[2:]
    table = {value: (value, 255 - value, 7, 255) for value in range(256)}
    assert_lifted(tiled(tmp_path / "c.tif", image, colormap=table, photometric="palette"))


def test_jpeg_blocks_are_lifted_with_their_tables_unless_a_lower_quality_is_wanted(tmp_path: Path) -> None:
    source = tiled(tmp_path / "a.tif", compress="jpeg", predictor=1, photometric="ycbcr", jpeg_quality=70)
    assert_lifted(source, codec="JPEG", quality=85)
    assert_lifted(source, codec="JPEG", quality=70)
    assert not only(made_of(source, codec="JPEG", quality=60)).from_stored_blocks
    rgb = tiled(tmp_path / "b.tif", compress="jpeg", predictor=1, photometric="rgb", jpeg_quality=70)
    assert not only(made_of(rgb, codec="JPEG")).from_stored_blocks
    grey = tiled(tmp_path / "c.tif", smooth(1, 225, 251), compress="jpeg", predictor=1, jpeg_quality=70)
    assert_lifted(grey, codec="JPEG")


@pytest.mark.parametrize(
    "differs",
    [
        {"endianness": "big"},
        {"predictor": 1},
        {"compress": "zstd"},
        {"compress": "lerc_deflate", "predictor": 1},
        {"interleave": "band"},
        {"block": 256},
        {"photometric": "minisblack"},
    ],
)
def test_blocks_that_mean_something_else_are_encoded_anew(tmp_path: Path, differs: dict[str, Any]) -> None:
    options = {"photometric": "rgb"} | differs
    source = tiled(tmp_path / "a.tif", **options)
    cog = only(made_of(source))
    with rasterio.open(source) as before, rasterio.open(cog.location) as after:
        np.testing.assert_array_equal(after.read(), before.read())
        assert after.colorinterp == before.colorinterp
    assert cog.from_stored_blocks == ("photometric" in differs)


def test_bits_and_their_order_are_looked_at(tmp_path: Path) -> None:
    image = (smooth(1, 225, 251) % 16).astype("uint8")
    source = tiled(tmp_path / "a.tif", image, nbits=4, predictor=1)
    assert_lifted(source)
    content = bytearray(source.read_bytes())
    # FillOrder 2 in place of PlanarConfiguration 1, which is TIFF 6.0's default.
    entry = content.index((284).to_bytes(2, "little") + (3).to_bytes(2, "little") + (1).to_bytes(4, "little"))
    content[entry : entry + 2] = (266).to_bytes(2, "little")
    content[entry + 8] = 2
    turned = tmp_path / "b.tif"
    turned.write_bytes(content)
    result = create_cogs(turned, tmp_path / "out", blocksize=128)
    assert not any(cog.from_stored_blocks for cog in result.made)


def test_asking_for_an_effort_or_for_no_reuse_encodes_anew(tmp_path: Path) -> None:
    source = tiled(tmp_path / "a.tif", photometric="rgb")
    for options in ({"level": 9}, {"size_tolerance": 0.0}, {"reuse": False}, {"target_crs": "EPSG:3857"}):
        assert not only(made_of(source, **options)).from_stored_blocks


def test_a_cog_that_is_as_wanted_is_copied_byte_by_byte(tmp_path: Path) -> None:
    source = tiled(tmp_path / "a.tif", mask=np.eye(225, 251, dtype=bool), photometric="rgb")
    first = only(made_of(source))
    inner = tmp_path / "cog" / "b.tif"
    inner.parent.mkdir()
    shutil.copy(first.location, inner)
    result = made_of(inner)
    assert len(result.copied) == 1
    assert Path(result.copied[0].location).read_bytes() == inner.read_bytes()
    assert "1 copied" in str(result)
    assert len(create_cogs(inner, inner.parent / "out", blocksize=128).skipped) == 1
    for options in (
        {"reuse": False},
        {"codec": "ZSTD"},
        {"overviews": "none"},
        {"level": 6},
        {"sparse": True},
    ):
        assert not made_of(inner, **options).copied, options
    assert only(made_of(inner, overviews="none")).from_stored_blocks
    assert only(made_of(inner, overview_resampling="nearest")).from_stored_blocks


def test_gdals_own_cogs_are_copied_and_edited_ones_put_in_order(tmp_path: Path) -> None:
    source = tiled(tmp_path / "a.tif", photometric="rgb")
    with rasterio.open(source) as dataset:
        rasterio.shutil.copy(
            dataset, tmp_path / "gdal.tif", driver="COG", blocksize=128, compress="deflate", predictor=2
        )
    assert len(made_of(tmp_path / "gdal.tif").copied) == 1
    badly = tiled(tmp_path / "badly.tif", photometric="rgb", overviews=[2])
    assert not validate_cog(badly).valid
    assert_lifted(badly)
    cog = only(made_of(badly, overviews="keep"))
    assert cog.from_stored_blocks
    for ours, theirs in zip(content(cog.location), content(badly), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_file_that_claims_huge_blocks_is_not_lifted(tmp_path: Path) -> None:
    source = tiled(tmp_path / "a.tif", smooth(3, 600, 700), block=512, photometric="rgb")
    assert create_cogs(source, tmp_path / "before").made[0].from_stored_blocks
    with source.open("ab") as stream:
        stream.write(bytes(4 << 20))
    with source.open("rb") as stream:
        main, _ = images(read_layout(stream, name="a.tif"))
    table = main.counts.astype("<u4").tobytes()
    content = source.read_bytes()
    assert content.count(table) == 1
    source.write_bytes(content.replace(table, np.full(4, 4 << 20, "<u4").tobytes()))
    result = create_cogs(source, tmp_path / "out")
    assert not any(cog.from_stored_blocks for cog in result.made)


def test_a_damaged_block_is_not_passed_on(tmp_path: Path) -> None:
    source = damage(tiled(tmp_path / "a.tif", smooth(3, 600, 700, noise=0), photometric="rgb"), size=4000)
    result = create_cogs(source, tmp_path / "out", blocksize=128)
    assert [each.error_type for each in result.failed] == [CorruptRaster.__name__]
    assert not list((tmp_path / "out").glob("*.tif"))
    whole = tiled(tmp_path / "b.tif", smooth(3, 600, 700, noise=0), photometric="rgb")
    (cog,) = create_cogs(whole, tmp_path / "cogs", blocksize=128).made
    intact = Path(cog.location).read_bytes()
    damage(cog.location, at=0.8, size=4000)
    result = create_cogs(cog.location, tmp_path / "out", blocksize=128)
    assert [each.error_type for each in result.failed] == [CorruptRaster.__name__]
    assert "b.tif cannot be decoded" in result.failed[0].error
    assert not list((tmp_path / "out").glob("*.tif"))
    # If only overviews are damaged, they are built again.
    Path(cog.location).write_bytes(intact)
    damage(cog.location, at=0.1, size=1000)
    (mended,) = create_cogs(cog.location, tmp_path / "out", blocksize=128).made
    for ours, theirs in zip(
        content(mended.location)[2:], content(whole_again(tmp_path, intact))[2:], strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def whole_again(folder: Path, intact: bytes) -> Path:
    path = folder / "intact.tif"
    path.write_bytes(intact)
    return path


def test_one_cog_copies_what_a_batch_would(tmp_path: Path) -> None:
    source, options = tiled(tmp_path / "a.tif"), {"blocksize": 128, "progress": False}
    blocks = create_cog(source, tmp_path / "blocks.tif", reuse=True, **options)
    assert blocks.reused == "blocks"
    assert "stored blocks copied" in str(blocks)
    whole = create_cog(tmp_path / "blocks.tif", tmp_path / "whole.tif", reuse=True, **options)
    assert whole.reused == "file"
    assert (tmp_path / "whole.tif").read_bytes() == (tmp_path / "blocks.tif").read_bytes()
    anew = create_cog(source, tmp_path / "anew.tif", **options)
    assert anew.reused is None
    np.testing.assert_array_equal(pixels(whole.location), pixels(anew.location))
