"""Files from outside: their claims are limited, and their references are not followed."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.io import MemoryFile

import gdaltools as gt
from gdaltools.errors import CorruptRaster, GdalToolsError, InvalidParameter, UnsupportedRaster
from gdaltools.raster.dataset import open_dataset, read_window
from gdaltools.raster.limits import DRIVERS, Limits
from tests.hostile_files.run import run
from tests.support.rasters import smooth, write_raster


def tiff(
    path: Path, entries: list[tuple[int, int, int, int]], *, following: int = 0, rest: bytes = b""
) -> Path:
    """Write a little-endian TIFF of one IFD with these entries (tag, type, count, value or offset)."""
    head = struct.pack("<2sHIH", b"II", 42, 8, len(entries))
    ifd = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    path.write_bytes(head + ifd + struct.pack("<I", following) + rest)
    return path


def image(
    width: int, height: int, bands: int = 1, *, offset: int = 200, count: int = 64
) -> list[tuple[int, ...]]:
    """Return the entries of an uncompressed 8-bit image in one strip."""
    return [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1),
        (273, 4, 1, offset), (277, 3, 1, bands), (278, 4, 1, height), (279, 4, 1, count), (284, 3, 1, 1),
    ]  # fmt: skip


def refused(path: Path) -> GdalToolsError:
    """Return the error that refuses a file when it is opened or read."""
    with pytest.raises((UnsupportedRaster, CorruptRaster)) as caught:
        gt.inspect(path)
        with open_dataset(path) as dataset:
            dataset.read()
    return caught.value


@pytest.mark.parametrize(
    ("entries", "following"),
    [
        (image(10**7, 10**7), 0),
        (image(2**31 - 1, 2**31 - 1), 0),
        (image(8, 8, 65_535), 0),
        (image(8, 8, offset=10**9), 0),
        (image(8, 8, offset=2**32 - 1, count=2**32 - 1), 0),
        (image(1000, 1000), 0),
        (image(0, 8), 0),
        ([*image(8, 8)[:5], (273, 4, 10**8, 8), *image(8, 8)[6:]], 0),
        ([(256, 4, 1, 8), (257, 4, 1, 8)], 0),
    ],
    ids=[
        "10^14 pixels", "2^62 pixels", "65,535 bands", "a block outside", "a block wrapped around",
        "too few bytes", "no width", "a table outside", "no blocks",
    ],
)  # fmt: skip
def test_a_header_that_claims_what_is_not_there_is_refused(
    tmp_path: Path, entries: list[tuple[int, int, int, int]], following: int
) -> None:
    refused(tiff(tmp_path / "a.tif", entries, following=following, rest=bytes(500)))


def test_a_chain_of_ifds_that_bites_its_tail_comes_to_an_end(tmp_path: Path) -> None:
    path = tiff(tmp_path / "a.tif", image(8, 8), following=8, rest=bytes(500))  # type: ignore[arg-type]
    assert gt.inspect(path).width == 8
    with pytest.raises(CorruptRaster):
        gt.validate_cog(path)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("GDALTOOLS_MAX_SAMPLES", "1000", UnsupportedRaster),
        ("GDALTOOLS_MAX_BANDS", "2", UnsupportedRaster),
        ("GDALTOOLS_MAX_BLOCKS", "3", UnsupportedRaster),
        ("GDALTOOLS_ALLOWED_DRIVERS", "PNG,JPEG", CorruptRaster),
        ("GDALTOOLS_MAX_BANDS", "many", InvalidParameter),
        ("GDALTOOLS_MAX_BLOCK_MB", "0", InvalidParameter),
    ],
)
def test_every_limit_can_be_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, expected: type[Exception]
) -> None:
    path = write_raster(tmp_path / "a.tif", smooth(3, 200, 200), block=64)
    gt.inspect(path)
    monkeypatch.setenv(name, value)
    with pytest.raises(expected):
        gt.inspect(path)


def test_a_large_block_and_a_large_file_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"blockysize": 2000, "compress": "deflate"}
    path = write_raster(tmp_path / "a.tif", np.zeros((1, 2000, 2000), "uint8"), options=options)
    monkeypatch.setenv("GDALTOOLS_MAX_BLOCK_MB", "3")
    with pytest.raises(UnsupportedRaster, match="GDALTOOLS_MAX_BLOCK_MB"):
        gt.inspect(path)
    assert Limits.from_environment().block_bytes == 3 << 20
    with path.open("r+b") as stream:
        stream.truncate(2 << 30)
    monkeypatch.setenv("GDALTOOLS_MAX_FILE_GB", "1")
    with pytest.raises(UnsupportedRaster, match="GDALTOOLS_MAX_FILE_GB"):
        gt.inspect(path)


POINTERS = {
    "a VRT": '<VRTDataset rasterXSize="8" rasterYSize="8"><VRTRasterBand dataType="Byte" band="1">'
    "<SimpleSource><SourceFilename>{other}</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>",
    "a VRT with Python": '<VRTDataset rasterXSize="8" rasterYSize="8"><VRTRasterBand dataType="Byte" '
    'band="1" subClass="VRTDerivedRasterBand"><PixelFunctionLanguage>Python</PixelFunctionLanguage>'
    "<PixelFunctionType>f</PixelFunctionType><PixelFunctionCode>open('{other}','w')</PixelFunctionCode>"
    "</VRTRasterBand></VRTDataset>",
    "a WMS": "<GDAL_WMS><Service name='TMS'><ServerUrl>http://127.0.0.1:1/${{z}}</ServerUrl></Service></GDAL_WMS>",
    "a GTI": "<GDALTileIndexDataset><IndexDataset>{other}</IndexDataset></GDALTileIndexDataset>",
    "a STACIT": '{{"type": "FeatureCollection", "stac_version": "1.0.0", "features": [{{"assets": '
    '{{"a": {{"href": "{other}"}}}}}}]}}',
    "a WCS": "<WCS_GDAL><ServiceURL>http://127.0.0.1:1/</ServiceURL></WCS_GDAL>",
    "an ENVI header": "ENVI\nsamples = 8\nlines = 8\nbands = 1\ndata type = 1\n",
    "a raw PDS label": 'PDS_VERSION_ID = PDS3\n^IMAGE = "{other}"\n',
}


@pytest.mark.parametrize("suffix", ["tif", "vrt", "xml"])
@pytest.mark.parametrize("content", POINTERS.values(), ids=POINTERS)
def test_what_points_to_other_files_is_not_opened(tmp_path: Path, content: str, suffix: str) -> None:
    other = write_raster(tmp_path / "other.tif", smooth(1, 8, 8))
    path = tmp_path / f"a.{suffix}"
    path.write_text(content.format(other=other))
    with pytest.raises(UnsupportedRaster):
        gt.inspect(path)


def test_no_driver_that_reaches_out_is_allowed_by_default() -> None:
    reaching = {
        "VRT",
        "GTI",
        "WMS",
        "WCS",
        "WMTS",
        "STACIT",
        "STACTA",
        "HTTP",
        "PLMosaic",
        "EEDAI",
        "OGCAPI",
        "DAAS",
    }
    assert not reaching & set(DRIVERS)


def test_files_beside_a_raster_say_nothing_about_it(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", smooth(1, 200, 200), crs=None, transform=None)
    plain = gt.inspect(path)
    (tmp_path / "a.tfw").write_text("10\n0\n0\n-10\n5\n5\n")
    (tmp_path / "a.wld").write_text("10\n0\n0\n-10\n5\n5\n")
    (tmp_path / "a.tif.aux.xml").write_text(
        "<PAMDataset><SRS>EPSG:4326</SRS><GeoTransform>0,1,0,0,0,-1</GeoTransform></PAMDataset>"
    )
    with rasterio.open(path) as dataset:
        profile = dataset.profile
    for name in ("a.tif.ovr", "a.tif.msk"):
        with rasterio.open(tmp_path / name, "w", **{**profile, "width": 100, "height": 100}):
            pass
    beside = ("a.tif.msk", "a.tif.ovr", "a.tif.aux.xml", "a.tfw", "a.wld")
    found = gt.inspect(path)
    assert found == plain.model_copy(update={"side_cars": beside})
    made = gt.create_cog(path, tmp_path / "cog.tif", progress=False)
    # GDAL deletes what lies beside a file that it writes.
    write_raster(tmp_path / "placed.tif", smooth(1, 200, 200)).replace(path)
    scheme = gt.generate_tiling_scheme(path, 64, 0)
    for shown in (found, made, scheme):
        assert shown.side_cars == beside
        for name in beside:
            assert name in str(shown)
            assert name in shown._repr_html_()
    assert "side_cars" not in scheme.to_geojson()


@pytest.mark.parametrize("suffix", ["msk", "MSK", "ovr", "aux.xml"])
@pytest.mark.parametrize("name", ["a.tif", "a.TIF", "a b.x.png", "plain"])
def test_a_side_car_file_is_named(tmp_path: Path, name: str, suffix: str) -> None:
    path = write_raster(tmp_path / "x.tif", smooth(1)).rename(tmp_path / name)
    assert gt.inspect(path).side_cars == ()
    assert "not read" not in str(gt.inspect(path))
    other = tmp_path / f"{name}.{suffix}"
    other.touch()
    (tmp_path / f"other.{suffix}").touch()
    assert [text.lower() for text in gt.inspect(path).side_cars] == [other.name.lower()]


@pytest.mark.parametrize(
    "ending", ["_RPC.TXT", "_rpc.txt", ".RPB", ".imd", ".IMD", ".tfw", ".TFW", ".WLD", ".tab"]
)
def test_a_side_car_file_of_the_bare_name_is_named(tmp_path: Path, ending: str) -> None:
    path = write_raster(tmp_path / "a.tif", smooth(1), crs=None, transform=None)
    (tmp_path / f"a{ending}").write_text("10\n0\n0\n-10\n5\n5\n")
    (tmp_path / f"b{ending}").touch()
    found = gt.inspect(path)
    assert [text.lower() for text in found.side_cars] == [f"a{ending}".lower()]
    assert not found.georeferenced
    assert not found.has_rpcs


@pytest.mark.parametrize("ending", [".bpw", ".bmpw", ".wld"])
def test_a_world_file_of_a_bmp_is_read_and_not_named_as_unread(tmp_path: Path, ending: str) -> None:
    path = write_raster(tmp_path / "a.bmp", smooth(1), driver="BMP", crs=None, transform=None)
    (tmp_path / f"a{ending}").write_text("10\n0\n0\n-10\n5\n5\n")
    with rasterio.open(path) as judge:
        expected = tuple(judge.transform)[:6]
    found = gt.inspect(path)
    assert (found.transform, found.side_cars) == (expected, ())
    assert found.transform[0] == 10


def test_damaged_files_end_in_typed_errors_and_no_crash() -> None:
    verdict = run(300, seed=7)
    assert not verdict.untyped, str(verdict)
    assert len(verdict.reads) == 300


def test_python_in_a_vrt_is_not_run_even_where_vrts_are_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GDALTOOLS_ALLOWED_DRIVERS", "GTiff,VRT")
    other, run_by = write_raster(tmp_path / "other.tif", smooth(1, 8, 8)), tmp_path / "run"
    path = tmp_path / "a.vrt"
    path.write_text(
        '<VRTDataset rasterXSize="8" rasterYSize="8"><VRTRasterBand dataType="Byte" band="1" '
        'subClass="VRTDerivedRasterBand"><PixelFunctionLanguage>Python</PixelFunctionLanguage>'
        "<PixelFunctionType>f</PixelFunctionType><PixelFunctionCode><![CDATA["
        f"\ndef f(a, out, *args, **kwargs):\n    open({str(run_by)!r}, 'w')\n    out[:] = 1\n]]>"
        f"</PixelFunctionCode><SimpleSource><SourceFilename>{other}</SourceFilename></SimpleSource>"
        "</VRTRasterBand></VRTDataset>"
    )
    monkeypatch.setenv("GDAL_VRT_ENABLE_PYTHON", "YES")
    with pytest.raises(CorruptRaster), open_dataset(path) as dataset:
        read_window(dataset, str(path), dataset.block_window(1, 0, 0))
    assert not run_by.exists()


def _blocks(width: int, height: int, side: int, offset: int, count: int, compression: int) -> bytes:
    """Return a TIFF of 8-bit blocks that all lie at `offset`, with a place on Earth."""
    total = -(-width // side) * -(-height // side)
    entries: list[tuple[int, str, list[float]]] = [
        (256, "I", [width]), (257, "I", [height]), (258, "H", [8]), (259, "H", [compression]),
        (262, "H", [1]), (277, "H", [1]), (322, "I", [side]), (323, "I", [side]),
        (324, "I", [offset] * total), (325, "I", [count] * total),
        (33550, "d", [1e-6, 1e-6, 0]), (33922, "d", [0, 0, 0, 10, 50, 0]),
        (34735, "H", [1, 1, 0, 3, 1024, 0, 1, 2, 1025, 0, 1, 1, 2048, 0, 1, 4326]),
    ]  # fmt: skip
    ifd, values, at = b"", b"", 8 + 2 + 12 * len(entries) + 4
    for tag, kind, numbers in entries:
        data = struct.pack(f"<{len(numbers)}{kind}", *numbers)
        if len(data) > 4:
            data, values = struct.pack("<I", at + len(values)), values + data
        ifd += struct.pack("<HHI", tag, {"H": 3, "I": 4, "d": 12}[kind], len(numbers)) + data.ljust(4, b"\0")
    return struct.pack("<2sHIH", b"II", 42, 8, len(entries)) + ifd + bytes(4) + values


def _sparse(side: int, block: int = 16384) -> bytes:
    return _blocks(side, side, block, 0, 0, 1)


def _same_block(side: int, block: int = 16384) -> bytes:
    """Return a TIFF all of whose blocks are one, deflated: some 1,000 bytes of each byte, again and again."""
    packed = zlib.compress(bytes(block * block), 9)
    head = _blocks(side, side, block, 0, len(packed), 8)
    return _blocks(side, side, block, len(head), len(packed), 8) + packed


def _by(driver: str, edit: Callable[[bytes], bytes], bands: int = 3) -> bytes:
    """Return a raster of 64 x 64 pixels as GDAL writes it, edited."""
    with rasterio.Env(GDAL_PAM_ENABLED="NO"), MemoryFile() as memory:
        shape = {"width": 64, "height": 64, "count": bands, "dtype": "uint8"}
        with memory.open(driver=driver, **shape) as dataset:
            dataset.write(smooth(bands, 64, 64))
        return edit(bytes(memory.read()))


def _png(content: bytes) -> bytes:
    header = b"IHDR" + struct.pack(">II", 2**31 - 1, 2**20) + content[24:29]
    return content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]


def _jpeg(content: bytes) -> bytes:
    at = content.index(b"\xff\xc0")
    return content[: at + 5] + struct.pack(">HH", 65_500, 65_500) + content[at + 9 :]


def _jp2(content: bytes) -> bytes:
    """Claim 2^20 x 2^20 pixels in 4,096 tiles (SIZ of ISO 15444-1, A.5.1)."""
    at = content.index(b"\xff\x51") + 6
    siz = struct.pack(">8I", 1 << 20, 1 << 20, 0, 0, 1 << 14, 1 << 14, 0, 0)
    return content[:at] + siz + content[at + 32 :]


def _bmp(content: bytes, width: int = 3_000_000, height: int = 2_000_000) -> bytes:
    return (content[:18] + struct.pack("<ii", width, height) + content[26:]).ljust(24_000, b"\0")


def _gif(content: bytes) -> bytes:
    """Claim 65,535 x 65,535 pixels of the screen and of the image on it (GIF89a, 18 and 20)."""
    at = content.index(b",", 13 + 3 * 256)
    sides = struct.pack("<HH", 65_535, 65_535)
    return content[:6] + sides + content[10 : at + 5] + sides + content[at + 9 :]


def _netcdf() -> bytes:
    """Return a classic file of a variable of 2^20 x 2^20 bytes without its values."""

    def name(text: bytes) -> bytes:
        return struct.pack(">I", len(text)) + text.ljust(-(-len(text) // 4) * 4, b"\0")

    sides = b"".join(name(text) + struct.pack(">I", 1 << 20) for text in (b"y", b"x"))
    variable = name(b"v") + struct.pack(">3I", 2, 0, 1) + bytes(8) + struct.pack(">IIQ", 1, 2**32 - 1, 200)
    lists = struct.pack(">II", 10, 2) + sides + bytes(8) + struct.pack(">II", 11, 1) + variable
    return b"CDF\2" + bytes(4) + lists + bytes(1000)


def _vrt(source: str = "") -> bytes:
    return (
        f'<VRTDataset rasterXSize="{1 << 22}" rasterYSize="{1 << 22}"><SRS>EPSG:4326</SRS>'
        "<GeoTransform>10,1e-6,0,50,0,-1e-6</GeoTransform>"
        f'<VRTRasterBand dataType="Byte" band="1">{source}</VRTRasterBand></VRTDataset>'
    ).encode()


_TINY = (
    '<SimpleSource><SourceFilename relativeToVRT="1">tiny.tif</SourceFilename><SourceBand>1</SourceBand>'
    "</SimpleSource>"
)
# What claims too much; the last of each is whether the claim is true and small enough to be read.
_CLAIMS: dict[str, tuple[str, Callable[[], bytes], bool]] = {
    "a sparse TIFF": ("a.tif", lambda: _sparse(10**6), False),
    "a sparse TIFF of 16 TB": ("a.tif", lambda: _sparse(4 * 10**6), False),
    "a TIFF of one block": ("a.tif", lambda: _same_block(10**6), False),
    "a TIFF of small equal blocks": ("a.tif", lambda: _same_block(50_000, 4096), False),
    "a TIFF of 64 MB from 66 KB": ("a.tif", lambda: _same_block(8_000, 8192), True),
    "a BMP": ("a.bmp", lambda: _by("BMP", _bmp), False),
    "a PNG": ("a.png", lambda: _by("PNG", _png), False),
    "a JPEG": ("a.jpg", lambda: _by("JPEG", _jpeg), False),
    "a JPEG 2000": ("a.jp2", lambda: _by("JP2OpenJPEG", _jp2), False),
    "a GIF": ("a.gif", lambda: _by("GIF", _gif, 1), False),
    "a WebP": ("a.webp", lambda: _by("WEBP", lambda content: content), True),
    "a classic netCDF": ("a.nc", _netcdf, False),
    "an ENVI": ("a.img", lambda: bytes(24_000), False),
    "a VRT without sources": ("a.vrt", _vrt, False),
    "a VRT of a tiny source": ("a.vrt", lambda: _vrt(_TINY), False),
}
_EVERY_USE = """
import sys
import gdaltools as gt
path = sys.argv[1]
for use in (
    lambda: gt.inspect(path)._repr_html_(),
    lambda: gt.open(path)[..., -10:, -10:].compute(),
    lambda: gt.validate_cog(path),
    lambda: gt.create_cog(path, path + ".cog", progress=False),
    lambda: gt.create_cog(path, path + ".warped", target_crs="EPSG:3857", progress=False),
    lambda: gt.extract_tiles(path, gt.generate_tiling_scheme(path), path + ".d", progress=False),
):
    try:
        use()
        print("done")
    except gt.GdalToolsError as error:
        print(type(error).__name__, error)
"""


@pytest.mark.parametrize(("name", "content", "is_true"), _CLAIMS.values(), ids=_CLAIMS)
def test_every_use_of_a_small_file_comes_to_an_end(
    name: str, content: Callable[[], bytes], is_true: bool, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content())
    assert path.stat().st_size < 1 << 20
    write_raster(tmp_path / "tiny.tif", smooth(1, 8, 8))
    (tmp_path / "a.hdr").write_text(
        "ENVI\nsamples = 4194304\nlines = 4194304\nbands = 1\ndata type = 1\ninterleave = bsq\n"
    )
    allowed = {"GDALTOOLS_ALLOWED_DRIVERS": ",".join([*DRIVERS, "VRT", "ENVI"])}
    run = subprocess.run(
        [sys.executable, "-c", _EVERY_USE, path],
        env={**os.environ, **allowed}, capture_output=True, text=True, check=True, timeout=150,
    )  # fmt: skip
    outcomes = run.stdout.splitlines()
    assert len(outcomes) == 6, run.stdout
    assert run.stderr == ""
    if not is_true:
        assert all(text.startswith(("CorruptRaster", "UnsupportedRaster")) for text in outcomes), outcomes


def test_a_sparse_file_is_read_where_the_limit_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(_sparse(10**6))
    with pytest.raises(UnsupportedRaster, match=r"GDALTOOLS_MAX_RATIO\); .* set a higher"):
        gt.inspect(path)
    monkeypatch.setenv("GDALTOOLS_MAX_RATIO", "100000000")
    assert gt.inspect(path).width == 10**6
