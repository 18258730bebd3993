"""Sources that are missing, broken, of a refused kind, or incomplete."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from rasterio._err import CPLE_AppDefinedError
from rasterio.transform import from_origin

import gdaltools as gt
from gdaltools.errors import CorruptRaster, InvalidLocation, SourceNotFound, UnsupportedRaster
from gdaltools.raster.dataset import open_dataset
from gdaltools.raster.info import inspect
from gdaltools.tiles.extract.create import extract_tiles
from gdaltools.tiles.generate import generate_tiling_scheme
from tests.support.rasters import UTM, UTM_GRID, damage, smooth, truncate, write_raster

VRT = """<VRTDataset rasterXSize="10" rasterYSize="10"><VRTRasterBand dataType="Byte" band="1">
<SimpleSource><SourceFilename relativeToVRT="0">/etc/passwd</SourceFilename></SimpleSource>
</VRTRasterBand></VRTDataset>"""


def test_a_missing_source_is_not_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GDALTOOLS_BLOB_ROOT", str(tmp_path))
    for source in (tmp_path / "none.tif", tmp_path, "abfs://bronze-rasters/none.tif"):
        with pytest.raises(SourceNotFound):
            inspect(source)


def test_a_name_that_climbs_is_refused() -> None:
    with pytest.raises(InvalidLocation, match="climbs"):
        inspect("abfs://bronze-rasters/../x.tif")


@pytest.mark.parametrize(
    "content",
    [b"hello, this is text", VRT.encode(), b"<GDAL_WMS></GDAL_WMS>", b"\0" * 5000, b'{"type": "Feature"}'],
)
def test_what_is_no_raster_is_unsupported(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(content)
    with pytest.raises(UnsupportedRaster, match=r"a\.tif"):
        inspect(path)


def test_an_empty_file_is_corrupt(tmp_path: Path) -> None:
    (tmp_path / "a.tif").touch()
    with pytest.raises(CorruptRaster, match="0 bytes"):
        inspect(tmp_path / "a.tif")


@pytest.mark.parametrize("keep", [0.00001, 0.05, 0.5, 0.97])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"block": 128},
        {"block": 128, "options": {"compress": "deflate", "interleave": "band"}},
        {"driver": "COG"},
        {"driver": "PNG"},
    ],
    ids=["strips", "tiles", "deflate", "cog", "png"],
)
def test_a_file_cut_short_is_corrupt_before_a_pixel_is_asked_for(
    tmp_path: Path, options: dict, keep: float
) -> None:
    path = truncate(write_raster(tmp_path / "a.tif", smooth(3, 700, 900), **options), keep)
    with pytest.raises(CorruptRaster):
        inspect(path)


def test_a_jpeg_cut_short_is_corrupt_when_it_is_read(tmp_path: Path) -> None:
    path = truncate(write_raster(tmp_path / "a.jpg", smooth(3, 700, 900), driver="JPEG"), 0.6)
    with pytest.raises(CorruptRaster):
        gt.open(path).compute()


@pytest.mark.parametrize("target", ["EPSG:4326", UTM])
def test_a_block_that_cannot_be_decoded_fails_the_call_and_names_the_window(
    tmp_path: Path, target: str
) -> None:
    path = write_raster(
        tmp_path / "a.tif",
        smooth(3, 700, 900),
        crs=UTM,
        transform=UTM_GRID,
        block=128,
        options={"compress": "deflate"},
    )
    scheme = generate_tiling_scheme(path, 256, 32, target)
    damage(path, size=3000)
    with pytest.raises(CorruptRaster, match=r"columns \d+\.\.\d+, rows \d+\.\.\d+"):
        extract_tiles(path, scheme, tmp_path / "tiles")
    assert not list((tmp_path / "tiles").glob(".*"))
    whole = list((tmp_path / "tiles").glob("*.tif"))
    for tile in whole:
        assert inspect(tile).count == 3
    with pytest.raises(CorruptRaster, match=r"columns"):
        gt.open(path).compute()


def test_errors_say_nothing_on_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = truncate(write_raster(tmp_path / "a.jpg", smooth(3, 700, 900), driver="JPEG"), 0.6)
    (tmp_path / "text.tif").write_text("text")
    rasterio_log = logging.getLogger("rasterio")
    rasterio_log.propagate, before = False, rasterio_log.propagate
    try:
        with pytest.raises(CorruptRaster):
            gt.open(path).compute()
        with pytest.raises(UnsupportedRaster):
            inspect(tmp_path / "text.tif")
    finally:
        rasterio_log.propagate = before
    assert capfd.readouterr() == ("", "")


def test_without_a_crs_it_can_be_inspected_but_not_tiled(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", smooth(), crs=None, transform=UTM_GRID)
    assert not inspect(path).has_crs
    with pytest.raises(UnsupportedRaster, match="input_crs"):
        generate_tiling_scheme(path)
    assert generate_tiling_scheme(path, input_crs=UTM).source_grid.crs == UTM


def test_without_a_transform_it_cannot_be_tiled(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", smooth(), transform=None)
    with pytest.raises(UnsupportedRaster, match="no transform"):
        generate_tiling_scheme(path)


@pytest.mark.parametrize(
    ("crs", "transform", "target", "reason"),
    [
        ("EPSG:32660", from_origin(8e5, 1e6, 100, 100), "EPSG:3857", "antimeridian"),
        ("EPSG:4326", from_origin(170, 20, 0.05, 0.05), "EPSG:3857", "antimeridian"),
        ("EPSG:4326", from_origin(-180, 90, 0.9, 0.6), "EPSG:3413", "choose another"),
        ("EPSG:32637", from_origin(1e12, 1e12, 10, 10), "EPSG:4326", "no place"),
    ],
)
def test_a_raster_that_the_target_tears_is_refused(
    tmp_path: Path, crs: str, transform: object, target: str, reason: str
) -> None:
    path = write_raster(tmp_path / "a.tif", smooth(1), crs=crs, transform=transform)
    with pytest.raises(UnsupportedRaster, match=reason):
        generate_tiling_scheme(path, target_crs=target)


def test_a_header_that_claims_too_much_is_refused(tmp_path: Path) -> None:
    strip = write_raster(tmp_path / "a.tif", np.zeros((1, 64, 64), "uint8"), options={"sparse_ok": True})
    assert inspect(strip).count == 1
    huge = tmp_path / "huge.tif"
    import rasterio

    profile = {"driver": "GTiff", "width": 2**27, "height": 2**20, "count": 1, "dtype": "uint8"}
    with rasterio.open(
        huge, "w", **profile, tiled=True, blockxsize=8192, blockysize=8192, sparse_ok=True, bigtiff=True
    ):
        pass
    with pytest.raises(UnsupportedRaster, match="limit"):
        inspect(huge)


def test_what_gdal_says_in_its_own_words_while_a_file_is_open_makes_it_corrupt(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", smooth(3, 30, 30))
    with pytest.raises(CorruptRaster, match=r"a\.tif .*TileByteCounts"), open_dataset(path):
        # As rasterio raises it, for example from `colorinterp` of a file with a broken table of blocks.
        raise CPLE_AppDefinedError(3, 1, 'IO error during reading of "TileByteCounts"')
