"""A download whose process died is continued by the next process."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gdaltools import storage
from gdaltools.errors import SourceChanged, StorageDenied, StorageError
from gdaltools.storage.azure import download, partial
from tests.support.eventually import eventually
from tests.support.services.azurite import azurite
from tests.support.services.storage_proxy import Fault, StorageProxy, storage_proxy

pytestmark = pytest.mark.azurite

_PART = 64 << 10
_RANGES = 12
CONTENT = os.urandom(_PART * _RANGES - 100)
SOURCE = "abfs://bronze-rasters/large.bin"

# A process that downloads in small parts.
FETCHER = f"""
import sys
from pathlib import Path
from gdaltools import storage
from gdaltools.storage.azure import download
download._RANGE_BYTES = {_PART}
storage.fetch("{SOURCE}", Path(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[StorageProxy, str]]:
    with azurite() as text, storage_proxy(text) as both:
        yield both


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


@pytest.fixture(autouse=True)
def proxy(
    running: tuple[StorageProxy, str], scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[StorageProxy]:
    proxy, text = running
    monkeypatch.delenv("GDALTOOLS_BLOB_ROOT", raising=False)
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", text)
    monkeypatch.setenv("GDALTOOLS_STORAGE_RETRY_SECONDS", "5")
    monkeypatch.setattr(download, "_RANGE_BYTES", _PART)
    proxy.heal()
    storage.write_bytes(SOURCE, CONTENT, overwrite=True)
    proxy.heal()
    yield proxy
    proxy.heal()


def ranges(proxy: StorageProxy) -> int:
    return sum(request.operation == "read" for request in proxy.seen)


def _lines(scratch: Path) -> int:
    """Return the number of lines of the journal: its head, and one for each range."""
    return sum(journal.read_bytes().count(b"\n") for journal in scratch.glob("*/journal"))


def break_off(proxy: StorageProxy, target: Path, *, after: int) -> None:
    """Start a download that is refused after `after` ranges."""
    proxy.spoil("read", Fault(status=403), times=10**6, skip=after)
    with pytest.raises(StorageDenied):
        storage.fetch(SOURCE, target)
    proxy.heal()


def test_what_a_killed_process_had_brought_is_not_brought_again(
    proxy: StorageProxy, scratch: Path, tmp_path: Path
) -> None:
    proxy.spoil("read", Fault(delay=30), times=10**6, skip=5)
    with subprocess.Popen([sys.executable, "-c", FETCHER, tmp_path / "first"]) as process:
        try:
            asyncio.run(eventually(lambda: _lines(scratch) == 6, within_seconds=30))
        finally:
            process.kill()
    proxy.heal()
    storage.fetch(SOURCE, tmp_path / "second")
    assert (tmp_path / "second").read_bytes() == CONTENT
    assert ranges(proxy) == _RANGES - 5
    assert os.listdir(scratch) == []


def test_what_was_brought_of_another_version_is_of_no_use(
    proxy: StorageProxy, scratch: Path, tmp_path: Path
) -> None:
    break_off(proxy, tmp_path / "a", after=5)
    storage.write_bytes(SOURCE, CONTENT[::-1], overwrite=True)
    storage.fetch(SOURCE, tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == CONTENT[::-1]
    assert ranges(proxy) == _RANGES
    break_off(proxy, tmp_path / "c", after=5)
    pinned = storage.pinned(SOURCE)
    proxy.spoil("read", Fault(status=412), times=10**6)
    with pytest.raises(SourceChanged):
        storage.fetch(pinned, tmp_path / "d")
    assert os.listdir(scratch) == []


def test_a_journal_of_before_the_machine_was_started_is_not_believed(
    proxy: StorageProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_off(proxy, tmp_path / "a", after=5)
    monkeypatch.setattr(partial, "_boot", lambda: "another")
    storage.fetch(SOURCE, tmp_path / "b")
    assert ranges(proxy) == _RANGES


def test_a_line_that_was_being_written_is_not_read(
    proxy: StorageProxy, scratch: Path, tmp_path: Path
) -> None:
    break_off(proxy, tmp_path / "a", after=5)
    with next(scratch.glob("*/journal")).open("ab") as journal:
        journal.write(b"%d" % (8 * _PART))
    storage.fetch(SOURCE, tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == CONTENT
    assert ranges(proxy) == _RANGES - 5


def test_a_folder_that_others_can_write_to_is_not_used(
    proxy: StorageProxy, scratch: Path, tmp_path: Path
) -> None:
    break_off(proxy, tmp_path / "a", after=5)
    folder = next(scratch.glob("*/journal")).parent
    folder.chmod(0o777)
    storage.fetch(SOURCE, tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == CONTENT
    assert ranges(proxy) == _RANGES
    assert folder.exists()


def test_one_that_comes_while_another_downloads_does_so_by_itself(
    proxy: StorageProxy, scratch: Path, tmp_path: Path
) -> None:
    address = "somewhere"
    with partial.downloading(address, tmp_path / "a", etag="1", size=4, step=4) as first:
        first.write(0, b"ours")
        with partial.downloading(address, tmp_path / "b", etag="1", size=4, step=4) as second:
            assert second.arrived == set()
            second.write(0, b"mine")
        assert (tmp_path / "b").read_bytes() == b"mine"
    assert (tmp_path / "a").read_bytes() == b"ours"
    assert os.listdir(scratch) == []


def test_what_nobody_came_back_for_is_removed_after_a_day(
    proxy: StorageProxy, scratch: Path, tmp_path: Path
) -> None:
    break_off(proxy, tmp_path / "a", after=5)
    partial.sweep()
    journal = next(scratch.glob("*/journal"))
    yesterday = time.time() - 25 * 3600
    os.utime(journal, (yesterday, yesterday))
    partial.sweep()
    assert os.listdir(scratch) == []


def test_bytes_that_were_spoilt_on_the_disk_are_found_out(
    proxy: StorageProxy, scratch: Path, tmp_path: Path
) -> None:
    from hashlib import md5

    from azure.storage.blob import ContentSettings

    from gdaltools.storage.azure import blobs

    blobs.client("bronze-rasters", "large.bin").set_http_headers(
        ContentSettings(content_md5=bytearray(md5(CONTENT).digest()))
    )
    break_off(proxy, tmp_path / "a", after=5)
    with next(scratch.glob("*/bytes")).open("r+b") as stream:
        stream.write(b"spoilt")
    with pytest.raises(StorageError, match="MD5"):
        storage.fetch(SOURCE, tmp_path / "b")
    storage.fetch(SOURCE, tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == CONTENT
