"""Storage that fails on the way: a read is complete or an error, a write is complete or absent."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import gdaltools as gt
from gdaltools import storage
from gdaltools.errors import SourceChanged, SourceNotFound, StorageDenied, StorageError, TargetExists
from gdaltools.storage.azure import blobs, block_blob, download, retries
from tests.support.rasters import smooth, write_raster
from tests.support.services.azurite import azurite
from tests.support.services.storage_proxy import Fault, StorageProxy, storage_proxy

pytestmark = pytest.mark.azurite

_PART = 64 << 10
_NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[StorageProxy, str]]:
    with azurite() as text, storage_proxy(text) as both:
        yield both


@pytest.fixture(autouse=True)
def proxy(
    running: tuple[StorageProxy, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[StorageProxy]:
    proxy, text = running
    # Failed downloads leave their files there.
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv("GDALTOOLS_BLOB_ROOT", raising=False)
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", text)
    monkeypatch.setenv("GDALTOOLS_STORAGE_RETRY_SECONDS", "5")
    # Small parts make many requests of little data.
    monkeypatch.setattr(retries, "_FIRST_WAIT_SECONDS", 0.02)
    for module in (blobs, download):
        monkeypatch.setattr(module, "_RANGE_BYTES", _PART)
    monkeypatch.setattr(block_blob, "BLOCK_BYTES", _PART)
    proxy.heal()
    yield proxy
    proxy.heal()


@pytest.fixture
def target() -> str:
    return f"abfs://silver-faults/{next(_NUMBERS)}.bin"


CONTENT = bytes(range(256)) * 1500

PASSING = {
    "503": Fault(status=503),
    "500": Fault(status=500),
    "429": Fault(status=429),
    "cut before the answer": Fault(cut="before"),
    "cut after the request was done": Fault(cut="after"),
    "delay": Fault(delay=0.1),
}
WITHIN = {"cut within the answer": Fault(cut="within")}
FINAL = {403: StorageDenied, 404: StorageError, 412: SourceChanged}


@pytest.mark.parametrize(
    ("operation", "fault"),
    [
        *itertools.product(["read", "properties"], PASSING.values()),
        *itertools.product(["read"], WITHIN.values()),
    ],
)
def test_a_read_outlives_a_passing_fault(
    proxy: StorageProxy, target: str, tmp_path: Path, operation: str, fault: Fault
) -> None:
    storage.write_bytes(target, CONTENT)
    proxy.spoil(operation, fault)
    assert storage.read_bytes(target) == CONTENT
    proxy.spoil(operation, fault, times=2)
    storage.fetch(target, tmp_path / "near")
    assert (tmp_path / "near").read_bytes() == CONTENT
    assert len(proxy.spoilt) == 3
    assert all(request.operation == operation for request, _ in proxy.spoilt)


@pytest.mark.parametrize(
    ("operation", "fault"),
    [
        *itertools.product(["block", "commit", "blocks"], PASSING.values()),
        *itertools.product(["blocks"], WITHIN.values()),
    ],
)
def test_a_write_outlives_a_passing_fault(
    proxy: StorageProxy, target: str, operation: str, fault: Fault
) -> None:
    proxy.spoil(operation, fault, times=2)
    storage.write_bytes(target, CONTENT)
    assert proxy.spoilt
    assert storage.read_bytes(target) == CONTENT


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
def test_a_small_write_outlives_a_passing_fault(proxy: StorageProxy, target: str, fault: Fault) -> None:
    proxy.spoil("put", fault, times=2)
    storage.write_bytes(target, b"small")
    assert proxy.spoilt
    assert storage.read_bytes(target) == b"small"


@pytest.mark.parametrize("operation", ["block", "blocks", "commit", "properties"])
@pytest.mark.parametrize("fault", [503, 403, 404, 412])
def test_a_write_that_cannot_end_is_absent(
    proxy: StorageProxy, target: str, monkeypatch: pytest.MonkeyPatch, operation: str, fault: int
) -> None:
    monkeypatch.setenv("GDALTOOLS_STORAGE_RETRY_SECONDS", "0.5")
    skip = {"block": 2, "properties": 1}.get(operation, 0)
    proxy.spoil(operation, Fault(status=fault), times=10**6, skip=skip)
    with pytest.raises((StorageError, SourceNotFound, TargetExists)):
        storage.write_bytes(target, CONTENT)
    assert proxy.spoilt
    proxy.heal()
    # If only the check after the write failed, the blob is there, and then it is complete.
    if storage.exists(target):
        assert operation == "properties"
        assert storage.read_bytes(target) == CONTENT


@pytest.mark.parametrize("status", FINAL)
def test_a_refused_read_is_a_typed_error_at_once(
    proxy: StorageProxy, target: str, tmp_path: Path, status: int
) -> None:
    storage.write_bytes(target, CONTENT)
    proxy.spoil("read", Fault(status=status), times=10**6, skip=2)
    with pytest.raises(FINAL[status], match="silver-faults"):
        storage.fetch(target, tmp_path / "near")
    with ThreadPoolExecutor(1) as pool:
        error = pool.submit(storage.read_bytes, target).exception()
    assert isinstance(error, FINAL[status])
    assert len(proxy.spoilt) <= 5


def test_the_time_that_a_server_asks_for_is_given(proxy: StorageProxy, target: str) -> None:
    storage.write_bytes(target, b"x")
    proxy.spoil("read", Fault(status=429, retry_after=1))
    began = time.monotonic()
    assert storage.read_bytes(target) == b"x"
    assert time.monotonic() - began >= 1


def test_a_server_that_asks_for_more_time_than_there_is_is_not_waited_for(
    proxy: StorageProxy, target: str
) -> None:
    storage.write_bytes(target, b"x")
    proxy.spoil("read", Fault(status=503, retry_after=3600))
    with pytest.raises(StorageError, match="503 ServerBusy"):
        storage.read_bytes(target)


def test_a_blob_that_changes_while_it_is_read_is_an_error_and_not_a_mixture(
    target: str, tmp_path: Path
) -> None:
    storage.write_bytes(target, CONTENT)
    with storage.opening(target) as stream:
        stream.read(10)
        storage.write_bytes(target, CONTENT[::-1], overwrite=True)
        with pytest.raises(SourceChanged):
            stream.read()
    location = storage.pinned(target)
    storage.write_bytes(target, CONTENT, overwrite=True)
    with pytest.raises(SourceChanged):
        storage.fetch(location, tmp_path / "near")
    with storage.opening(target) as stream:
        stream.read(10)
        storage.delete(target)
        with pytest.raises(SourceChanged):
            stream.read()


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
def test_a_cog_outlives_a_passing_fault_in_every_block(
    proxy: StorageProxy, tmp_path: Path, target: str, fault: Fault
) -> None:
    source = write_raster(tmp_path / "a.tif", smooth(3, 300, 300))
    gt.create_cog(source, tmp_path / "b.tif", blocksize=64, progress=False)
    for operation in ("block", "blocks", "commit"):
        proxy.spoil(operation, fault)
    gt.create_cog(source, target, blocksize=64, progress=False)
    assert {request.operation for request, _ in proxy.spoilt} == {"block", "blocks", "commit"}
    assert storage.read_bytes(target) == (tmp_path / "b.tif").read_bytes()


@pytest.mark.parametrize("operation", ["block", "blocks", "commit"])
def test_a_cog_whose_blocks_azure_does_not_take_is_absent(
    proxy: StorageProxy, tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    monkeypatch.setenv("GDALTOOLS_STORAGE_RETRY_SECONDS", "0.5")
    source = write_raster(tmp_path / "a.tif", smooth(3, 300, 300))
    proxy.spoil(operation, Fault(status=503), times=10**6)
    with pytest.raises(StorageError, match=r"503 ServerBusy.* attempts"):
        gt.create_cog(source, target, blocksize=64, progress=False)
    proxy.heal()
    assert not storage.exists(target)
    gt.create_cog(source, target, blocksize=64, progress=False)
    gt.create_cog(source, tmp_path / "b.tif", blocksize=64, progress=False)
    assert storage.read_bytes(target) == (tmp_path / "b.tif").read_bytes()


@pytest.mark.parametrize("size", [5, len(CONTENT)], ids=["small", "in blocks"])
def test_a_condition_that_is_not_met_by_a_new_blob_means_that_one_is_there(
    proxy: StorageProxy, target: str, size: int
) -> None:
    for operation in ("put", "commit"):
        proxy.spoil(operation, Fault(status=412))
    with pytest.raises(TargetExists):
        storage.write_bytes(target, CONTENT[:size])
    assert not storage.exists(target)


READER = """
import sys
from rasterio.windows import Window
from gdaltools.raster.dataset import open_dataset, read_window
from gdaltools.errors import GdalToolsError
from gdaltools.storage import locate
try:
    with open_dataset(sys.argv[1]) as dataset:
        print(int(read_window(dataset, locate(sys.argv[1]), Window(0, 0, 600, 600)).sum()))
except GdalToolsError as error:
    print(type(error).__name__)
"""


@pytest.mark.parametrize("fault", [Fault(status=403), Fault(cut="within"), Fault(cut="before")])
def test_a_mask_that_does_not_arrive_is_an_error_and_not_a_raster_without_one(
    proxy: StorageProxy, tmp_path: Path, target: str, fault: Fault
) -> None:
    valid = np.ones((600, 600), bool)
    valid[:300] = False
    # The mask's directory is at the end of the file.
    source = write_raster(tmp_path / "a.tif", smooth(3, 600, 600), mask=valid, block=256)
    storage.write_bytes(target, source.read_bytes())
    proxy.spoil("read", fault, times=3, skip=1)
    read = subprocess.run([sys.executable, "-c", READER, target], capture_output=True, text=True, check=False)
    assert proxy.spoilt
    assert read.stdout.strip() in ("StorageError", "StorageDenied")


@pytest.mark.parametrize(
    ("fault", "times", "expected"),
    [
        (Fault(status=503), 2, "the pixels"),
        (Fault(status=429, retry_after=1), 1, "the pixels"),
        (Fault(status=403), 10**6, "StorageError"),
        (Fault(cut="within"), 10**6, "StorageError"),
    ],
)
def test_gdal_outlives_a_passing_fault_and_tells_of_another(
    proxy: StorageProxy, tmp_path: Path, target: str, fault: Fault, times: int, expected: str
) -> None:
    pixels = smooth(3, 600, 600)
    source = write_raster(tmp_path / "a.tif", pixels, block=256)
    storage.write_bytes(target, source.read_bytes())
    proxy.spoil("read", fault, times=times, skip=1)
    # In a child process: GDAL lets no other thread of its process run while it waits.
    read = subprocess.run([sys.executable, "-c", READER, target], capture_output=True, text=True, check=False)
    assert proxy.spoilt
    assert not read.stderr
    assert read.stdout.strip() == (str(int(pixels.sum())) if expected == "the pixels" else expected)
