"""The storage door against a real Blob Storage server, through adlfs and through GDAL."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import rasterio

from gdaltools import storage
from gdaltools.errors import SourceNotFound, TargetExists
from tests.support.azurite import azurite
from tests.support.rasters import write_raster

pytestmark = pytest.mark.azurite


@pytest.fixture(scope="module")
def connection_string() -> Iterator[str]:
    with azurite() as text:
        yield text


@pytest.fixture(autouse=True)
def _in_azure(connection_string: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GDALTOOLS_BLOB_ROOT", raising=False)
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", connection_string)


def test_what_is_written_is_read_back_and_listed() -> None:
    target = storage.write_bytes("abfs://silver-cogs/a/b.bin", b"x" * 100_000)
    assert storage.read_bytes(target) == b"x" * 100_000
    assert storage.stat(target).size == 100_000
    assert storage.list_names(storage.locate("abfs://silver-cogs/a")) == ["a/b.bin"]
    storage.delete(target)
    assert not storage.exists(target)


def test_an_existing_blob_is_replaced_only_when_asked() -> None:
    target = storage.write_bytes("abfs://silver-cogs/once.txt", b"first")
    before = storage.stat(target).etag
    with pytest.raises(TargetExists):
        storage.write_bytes(target, b"second")
    assert storage.read_bytes(target) == b"first"
    storage.write_bytes(target, b"second", overwrite=True)
    assert storage.read_bytes(target) == b"second"
    assert storage.stat(target).etag != before


def test_a_missing_blob_and_a_missing_container_are_not_found() -> None:
    storage.write_bytes("abfs://silver-cogs/there.txt", b"")
    for missing in ("abfs://silver-cogs/nothing.tif", "abfs://no-such-container/nothing.tif"):
        with pytest.raises(SourceNotFound, match=r"nothing\.tif"):
            storage.stat(missing)


def test_an_error_while_writing_leaves_no_blob() -> None:
    target = "abfs://silver-cogs/half.bin"
    with pytest.raises(RuntimeError), storage.writing(target) as path:
        path.write_bytes(b"half")
        raise RuntimeError
    assert not storage.exists(target)


def test_gdal_reads_a_blob_with_the_same_credentials() -> None:
    pixels = np.arange(64 * 64, dtype="uint16").reshape(1, 64, 64)
    with storage.writing("abfs://bronze-rasters/scene.tif", overwrite=True) as path:
        write_raster(path, pixels, crs="EPSG:32637")
    location = storage.locate("abfs://bronze-rasters/scene.tif")
    with rasterio.Env(**storage.gdal_options(location)), rasterio.open(location.gdal_path) as dataset:
        assert (dataset.read() == pixels).all()


def test_the_address_of_a_blob_is_its_account_container_and_name(connection_string: str) -> None:
    endpoint = connection_string.partition("BlobEndpoint=")[2].rstrip(";")
    assert storage.url("abfs://silver-cogs/a b.tif") == f"{endpoint}/silver-cogs/a%20b.tif"
