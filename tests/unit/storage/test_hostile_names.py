"""Names from outside: whatever could lead elsewhere is refused before GDAL or storage sees it."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

import gdaltools as gt
from gdaltools import storage
from gdaltools.errors import GdalToolsError, InvalidLocation, SourceNotFound
from gdaltools.raster import dataset

CLIMBING = [
    "../x.tif", "..", "a/..", "a/../b.tif", "a/b/../../../x.tif", "../../../../etc/passwd", "a/../../x",
    "./x.tif", "a/./b.tif", ".", "a//b.tif", "/x.tif", "//x.tif", "/etc/passwd", "a/ /b.tif", " ", "\t",
    "a/", "/", "//", "a/\t/b", "\\x.tif", "a\\b.tif", "..\\x.tif", "\\\\host\\share\\x.tif", "C:/x.tif",
    "c:\\x.tif", "C:x.tif", "Z:", "a\\..\\..\\x.tif", "\\\\?\\C:\\x.tif", "a/..\\b",
]  # fmt: skip
UNPRINTABLE = [
    f"{before}{chr(code)}{after}"
    for code in (*range(32), 127, 128, 133, 155, 159, 0x2028, 0x2029, 0xD800, 0xDFFF)
    for before, after in (("a", "b.tif"), ("scene.tif", ""), ("", "scene.tif"))
]
OVERLONG = ["x" * 1025, "a/" * 600 + "x.tif", "é" * 1100]
SCHEMES = [
    "http", "https", "ftp", "file", "s3", "gs", "oss", "swift", "hdfs", "webhdfs", "memory", "zip", "tar",
    "gdal", "postgres", "mongodb", "ssh", "sftp", "smb", "data", "jar", "adl", "wasb", "wasbs", "HTTP",
    "File",
    "git+ssh",
]  # fmt: skip
FILE_SYSTEMS = [
    "vsicurl", "vsicurl_streaming", "vsizip", "vsitar", "vsigzip", "vsi7z", "vsirar", "vsimem", "vsis3",
    "vsis3_streaming", "vsigs", "vsigs_streaming", "vsiadls", "vsiaz_streaming", "vsioss", "vsiswift",
    "vsihdfs", "vsiwebhdfs", "vsistdin", "vsistdout", "vsisubfile", "vsisparse", "vsicrypt", "vsicached",
    "vsipmtiles", "vsikerchunk_json_ref", "VSICURL", "VsiZip",
]  # fmt: skip
SUBDATASETS = [
    "GTIFF_DIR:1:/etc/passwd", 'NETCDF:"/etc/passwd":x', "HDF5:/etc/passwd://x", "HDF4_SDS:x:/etc/passwd:0",
    "ZARR:/vsicurl/http://h/x", 'ZARR:"/vsizip/x"', "DERIVED_SUBDATASET:AMPLITUDE:/etc/passwd", "JP2:x",
    "PDF:1:x",
    "STACIT:\"/x.json\"", "WMS:http://h/wms", "WCS:http://h", "WMTS:http://h", "AGS:http://h", "PG:dbname=x",
    "PLMosaic:", "EEDAI:x", "DAAS:x", "GPKG:x:y", "RASTERLITE:x", "MVT:x", "OGCAPI:http://h", "TileDB:x",
    "vrt:///etc/passwd?bands=1", "MBTILES:x", "SENTINEL2_L1C:x", "<VRTDataset/>", "<GDAL_WMS/>",
    '{"type":"STACTA"}', "S3:x", "NITF_IM:0:x", "RMFP:x", "{}", "geojson:[]",
    "MEM:::DATAPOINTER=1,PIXELS=1,LINES=1",
]  # fmt: skip
CONTAINERS = [
    "",
    "..",
    ".",
    "a",
    "ab",
    "UP",
    "a_b",
    "a--b",
    "-ab",
    "ab-",
    "a" * 64,
    "$root",
    "a b",
    "a.b",
    "ä-b",
    "a\n",
]


@pytest.fixture(autouse=True)
def _nothing_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the class that would open a file with GDAL."""
    monkeypatch.setattr(dataset, "DatasetReader", None)


@pytest.fixture(params=["a folder", "Azure"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING", raising=False)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT", "nowhere")
    if request.param == "a folder":
        monkeypatch.setenv("GDALTOOLS_BLOB_ROOT", str(tmp_path))
    else:
        monkeypatch.delenv("GDALTOOLS_BLOB_ROOT", raising=False)


@pytest.mark.usefixtures("blobs")
@pytest.mark.parametrize("name", [*CLIMBING, *UNPRINTABLE, *OVERLONG])
def test_a_blob_name_that_is_no_plain_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidLocation):
        storage.blob("bronze-rasters", name)
    for scheme in ("abfs://", "az://", "/vsiaz/"):
        with pytest.raises(InvalidLocation):
            gt.inspect(f"{scheme}bronze-rasters/{name}" if name.strip("/") else f"{scheme}/{name}")


@pytest.mark.usefixtures("blobs")
@pytest.mark.parametrize("container", CONTAINERS)
def test_a_container_that_azure_would_not_have_is_refused(container: str) -> None:
    with pytest.raises(InvalidLocation):
        storage.blob(container, "x.tif")
    with pytest.raises(InvalidLocation):
        gt.inspect(f"abfs://{container}/x.tif")


@pytest.mark.parametrize(
    "name",
    [
        *(f"{scheme}://host/x.tif" for scheme in SCHEMES),
        *(f"{prefix}/{name}/x.tif" for prefix, name in itertools.product(("", "/.", "/a/.."), FILE_SYSTEMS)),
        *(f"/{name}/http://host/x.tif" for name in FILE_SYSTEMS),
    ],
)
def test_urls_and_gdals_own_file_systems_are_refused(name: str) -> None:
    with pytest.raises((InvalidLocation, SourceNotFound)):
        gt.inspect(name)
    with pytest.raises(GdalToolsError):
        gt.create_cog(name, "/nowhere/x.tif")


@pytest.mark.parametrize("name", SUBDATASETS)
def test_what_gdal_would_open_without_a_file_is_a_file_that_is_not_there(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((InvalidLocation, SourceNotFound)):
        gt.inspect(name)


def test_a_link_out_of_the_container_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GDALTOOLS_BLOB_ROOT", str(tmp_path / "root"))
    (tmp_path / "root" / "bronze-rasters").mkdir(parents=True)
    (tmp_path / "secret.tif").write_bytes(b"")
    (tmp_path / "root" / "bronze-rasters" / "link.tif").symlink_to(tmp_path / "secret.tif")
    (tmp_path / "root" / "bronze-rasters" / "folder").symlink_to(tmp_path)
    (tmp_path / "root" / "silver-cogs").symlink_to(tmp_path / "root" / "bronze-rasters")
    for name in ("link.tif", "folder/secret.tif"):
        with pytest.raises(InvalidLocation, match="link"):
            storage.blob("bronze-rasters", name)
