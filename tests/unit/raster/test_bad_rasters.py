"""Sources that are missing, broken, of a refused kind, or incomplete."""

from __future__ import annotations

import logging
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from PIL import Image
from rasterio._err import CPLE_AppDefinedError
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.rpc import RPC
from rasterio.transform import from_origin

import gdaltools as gt
from gdaltools.cog.create import create_cog
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


_EVERYTHING = """
import sys, warnings
warnings.simplefilter("default")
import gdaltools as gt
from gdaltools.catalog.preview import preview_mosaic
for path in sys.argv[1:]:
    for use in (
        lambda: gt.inspect(path),
        lambda: gt.open(path).compute(),
        lambda: gt.open(path, masked=True).compute(),
        lambda: gt.create_cog(path, f"{path}.cog", overwrite=True, progress=False),
        lambda: gt.create_cog(path, f"{path}.cog", input_crs="EPSG:2036", overwrite=True, progress=False),
        lambda: gt.create_cog(path, f"{path}.cog", target_crs="EPSG:3857", overwrite=True, progress=False),
        lambda: gt.extract_tiles(path, gt.generate_tiling_scheme(path, 256, 16), path + ".d", progress=False),
        lambda: gt.validate_cog(path),
        lambda: gt.inspect(path)._repr_html_(),
        lambda: gt.inspect(path).explore(),
        lambda: gt.create_mosaicjson([path], f"{path}.json", overwrite=True, progress=False),
        lambda: preview_mosaic(f"{path}.json", f"{path}.png"),
    ):
        try:
            use()
        except gt.GdalToolsError:
            pass
"""


def _odd(folder: Path) -> list[Path]:
    """Write rasters that are damaged, or about which GDAL, numpy or rasterio has something to say."""
    whole = [
        write_raster(folder / "plain.tif", smooth(3, 300, 400)),
        write_raster(folder / "strips.tif", smooth(1, 300, 400), options={"compress": "deflate"}),
        write_raster(folder / "bad.tif", smooth(1, 700, 900), block=128, options={"compress": "lzw"}),
        write_raster(folder / "none.tif", smooth(1, 90, 70), crs=None, transform=None),
        write_raster(folder / "a.jpg", smooth(3, 700, 900), driver="JPEG", crs=None, transform=None),
        write_raster(folder / "a.png", smooth(1, 700, 900), driver="PNG", crs=None, transform=None),
        write_raster(folder / "all-nan.tif", np.full((1, 200, 300), np.nan, "float32"), nodata=np.nan),
        write_raster(folder / "limits.tif", np.float32([[[3.4e38, -3.4e38, np.inf, np.nan] * 20] * 70])),
        write_raster(folder / "empty.tif", np.zeros((2, 200, 300), "int16"), nodata=0),
        write_raster(folder / "beyond.tif", smooth(1, 90, 90), transform=from_origin(100, 200, 3, 3)),
        write_raster(folder / "geos.tif", smooth(1, 90, 90), crs="+proj=geos +h=35786023 +lon_0=0",
                     transform=from_origin(-5.5e6, 5.5e6, 122222, 122222)),
        write_raster(folder / "complex.tif", smooth(1, 90, 90, dtype="complex64")),
    ]  # fmt: skip
    short = []
    for path in whole:
        copy = path.with_name(f"short-{path.name}")
        copy.write_bytes(path.read_bytes())
        short.append(truncate(copy, 0.6))
        copy = path.with_name(f"damaged-{path.name}")
        copy.write_bytes(path.read_bytes())
        damage(copy, size=60)
        short.append(copy)
    (folder / "text.tif").write_text("text")
    return [*whole, *short, folder / "text.tif", folder / "missing.tif"]


def test_nothing_is_printed_about_odd_or_broken_files(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _EVERYTHING, *_odd(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr, run.stdout) == (0, "", "")


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


@pytest.mark.parametrize("input_crs", [None, "EPSG:4326", UTM])
@pytest.mark.parametrize("points_crs", [CRS(), CRS.from_epsg(4326)])
def test_control_points_alone_are_refused_with_what_to_do(
    tmp_path: Path, points_crs: CRS, input_crs: str | None
) -> None:
    path = write_raster(tmp_path / "a.tif", smooth(1), crs=None, transform=None)
    points = [GroundControlPoint(y, x, 38 + x / 4e3, 9 - y / 4e3) for y in (0, 300) for x in (0, 400)]
    with rasterio.open(path, "r+") as dataset:
        dataset.gcps = points, points_crs
    with pytest.raises(UnsupportedRaster, match=r"control points.*gdalwarp"):
        generate_tiling_scheme(path, target_crs="EPSG:3857", input_crs=input_crs)
    with pytest.raises(UnsupportedRaster, match=r"control points.*gdalwarp"):
        create_cog(path, tmp_path / "c.tif", target_crs="EPSG:3857", input_crs=input_crs, progress=False)


@pytest.mark.parametrize("input_crs", [None, "EPSG:4326", UTM])
def test_rational_polynomials_alone_are_refused_with_what_to_do(
    tmp_path: Path, input_crs: str | None
) -> None:
    path = write_raster(tmp_path / "a.tif", smooth(1), crs=None, transform=None)
    one = [1.0] + [0.0] * 19
    rpcs = RPC(0, 100, 9, 1, one, one, 150, 150, 38, 1, one, one, 200, 200)
    with rasterio.open(path, "r+") as dataset:
        dataset.rpcs = rpcs
    with pytest.raises(UnsupportedRaster, match=r"RPCs.*gdalwarp -rpc"):
        generate_tiling_scheme(path, target_crs="EPSG:3857", input_crs=input_crs)
    with pytest.raises(UnsupportedRaster, match=r"RPCs.*gdalwarp -rpc"):
        create_cog(path, tmp_path / "c.tif", target_crs="EPSG:3857", input_crs=input_crs, progress=False)
    assert inspect(path).has_rpcs
    create_cog(path, tmp_path / "c.tif", progress=False)
    with rasterio.open(tmp_path / "c.tif") as judge:
        assert {**judge.rpcs.to_dict(), "err_bias": None, "err_rand": None} == rpcs.to_dict()


@pytest.mark.parametrize(
    ("crs", "transform", "target", "reason"),
    [
        ("EPSG:32660", from_origin(8e5, 1e6, 100, 100), "EPSG:3857", "antimeridian"),
        ("EPSG:4326", from_origin(170, 20, 0.05, 0.05), "EPSG:3857", "antimeridian"),
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


@pytest.mark.parametrize("side", [20_000, 60_000])
@pytest.mark.parametrize("form", ["BMP", "GIF", "PNG", "JPEG"])
def test_a_small_file_that_claims_a_huge_raster_is_corrupt(tmp_path: Path, form: str, side: int) -> None:
    path = tmp_path / "a.img"
    Image.fromarray(smooth(3, 60, 80).transpose(1, 2, 0)).save(path, form)
    assert inspect(path).width == 80
    content = bytearray(path.read_bytes())
    if form == "BMP":
        struct.pack_into("<ii", content, 18, side, side)
    elif form == "GIF":
        struct.pack_into("<HH", content, 6, side, side)
        struct.pack_into("<HH", content, content.index(b"\x2c\0\0\0\0") + 5, side, side)
    elif form == "PNG":
        struct.pack_into(">II", content, 16, side, side)
        struct.pack_into(">I", content, 29, zlib.crc32(content[12:29]))
    else:
        struct.pack_into(">HH", content, content.index(b"\xff\xc0") + 5, side, side)
    path.write_bytes(content)
    for use in (inspect, gt.plan_cog, generate_tiling_scheme):
        with pytest.raises(CorruptRaster, match=r"claims|cannot be read"):
            use(path)


@pytest.mark.parametrize("form", ["BMP", "GIF", "PNG", "JPEG"])
def test_a_file_that_compresses_well_is_read(tmp_path: Path, form: str) -> None:
    options = {"JPEG": {"quality": 1, "progressive": True, "optimize": True}, "PNG": {"compress_level": 9}}
    flat = Image.new("1" if form == "PNG" else "L", (6000, 5000))
    flat.save(tmp_path / "a.img", form, **options.get(form, {}))
    assert inspect(tmp_path / "a.img").width == 6000
    with open_dataset(tmp_path / "a.img") as dataset:
        assert np.ptp(dataset.read(1, out_shape=(50, 60))) == 0


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("form", ["BMP", "GIF", "PNG", "JPEG", "WEBP", "JPEG2000"])
def test_a_picture_cut_short_makes_no_cog(tmp_path: Path, form: str, keep: float) -> None:
    path = tmp_path / "a.img"
    picture = smooth(3, 500, 600, noise=30).transpose(1, 2, 0)
    if form == "JPEG2000":
        plain = write_raster(tmp_path / "a.tif", picture.transpose(2, 0, 1))
        rasterio.shutil.copy(plain, path, driver="JP2OpenJPEG", QUALITY="100", REVERSIBLE="YES")
    else:
        Image.fromarray(picture).save(path, form, **({"lossless": True} if form == "WEBP" else {}))
    with pytest.raises(CorruptRaster):
        create_cog(truncate(path, keep), tmp_path / "c.tif", progress=False)
    assert not (tmp_path / "c.tif").exists()
