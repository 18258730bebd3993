"""Names and files: what is refused, and that a target is complete or absent."""

from __future__ import annotations

import multiprocessing
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gdaltools import storage
from gdaltools.errors import InvalidLocation, InvalidParameter, SourceNotFound, StorageError, TargetExists


@pytest.fixture
def blob_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "blobs"
    monkeypatch.setenv("GDALTOOLS_BLOB_ROOT", str(root))
    return root


@pytest.mark.parametrize(
    "name",
    [
        "../x.tif",
        "a/../../x.tif",
        "/etc/passwd",
        "a//b.tif",
        "./a.tif",
        "a\\..\\b.tif",
        "C:/x",
        "a\0b",
        "x" * 1025,
    ],
)
def test_a_blob_name_that_could_leave_its_container_is_refused(name: str) -> None:
    with pytest.raises(InvalidLocation):
        storage.blob("bronze-rasters", name)


@pytest.mark.parametrize(
    "container", ["", "ab", "UPPER", "a--b", "-ab", "ab-", "a_b", "..", "a" * 64, "a/b", "abc\n"]
)
def test_a_container_name_that_azure_would_refuse_is_refused(container: str) -> None:
    with pytest.raises(InvalidLocation):
        storage.blob(container, "x.tif")


@pytest.mark.parametrize(
    "target", ["https://host/x.tif", "s3://bucket/x.tif", "/vsicurl/x", "", "abfs:///x.tif"]
)
def test_other_schemes_are_refused(target: str) -> None:
    with pytest.raises(InvalidLocation):
        storage.locate(target)


def test_a_link_out_of_the_container_is_refused(blob_root: Path, tmp_path: Path) -> None:
    (blob_root / "bronze-rasters").mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    (blob_root / "bronze-rasters" / "door").symlink_to(tmp_path / "secret")
    with pytest.raises(InvalidLocation, match="link"):
        storage.blob("bronze-rasters", "door/x.tif")


@given(st.text(max_size=60))
def test_no_accepted_name_lies_outside_its_container(name: str) -> None:
    root = Path("/srv/blobs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GDALTOOLS_BLOB_ROOT", str(root))
        try:
            location = storage.blob("bronze-rasters", name)
        except InvalidLocation:
            return
        assert location.path is not None
        assert os.path.normpath(location.path).startswith("/srv/blobs/bronze-rasters")


def test_a_blob_is_a_file_below_the_root(blob_root: Path) -> None:
    storage.write_bytes("abfs://silver-cogs/a/b.bin", b"data")
    assert (blob_root / "silver-cogs" / "a" / "b.bin").read_bytes() == b"data"
    assert storage.list_names(storage.locate("abfs://silver-cogs")) == ["a/b.bin"]
    assert storage.list_names(storage.locate("abfs://silver-cogs/a")) == ["a/b.bin"]
    assert storage.url("abfs://silver-cogs/a/b.bin").startswith("file:///")


def test_blobs_without_any_storage_say_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GDALTOOLS_BLOB_ROOT", "AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_ACCOUNT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InvalidParameter, match="GDALTOOLS_BLOB_ROOT"):
        storage.stat("abfs://elsewhere/x.tif")


def test_a_missing_file_and_a_folder_are_not_found(tmp_path: Path) -> None:
    for missing in (tmp_path / "none.tif", tmp_path, tmp_path / "none" / "deep.tif"):
        with pytest.raises(SourceNotFound):
            storage.stat(missing)


def test_an_error_while_writing_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), storage.writing(tmp_path / "x.bin") as path:
        path.write_bytes(b"half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_visible_before_the_end(tmp_path: Path) -> None:
    target = tmp_path / "x.bin"
    with storage.writing(target) as path:
        path.write_bytes(b"data")
        assert not target.exists()
        assert storage.list_names(storage.locate(tmp_path)) == []
    assert target.read_bytes() == b"data"
    assert list(tmp_path.iterdir()) == [target]


def test_an_existing_target_is_replaced_only_when_asked(tmp_path: Path) -> None:
    target = tmp_path / "x.bin"
    storage.write_bytes(target, b"first")
    with pytest.raises(TargetExists):
        storage.write_bytes(target, b"second")
    storage.write_bytes(target, b"second", overwrite=True)
    assert target.read_bytes() == b"second"


def test_a_target_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    target = tmp_path / "x.bin"
    with pytest.raises(TargetExists), storage.writing(target) as path:
        path.write_bytes(b"ours")
        target.write_bytes(b"theirs")
    assert target.read_bytes() == b"theirs"
    assert list(tmp_path.iterdir()) == [target]


def test_a_target_below_a_file_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError):
        storage.write_bytes(tmp_path / "file" / "x.bin", b"")


def _write_for_ever(target: Path, started: object) -> None:
    with storage.writing(target) as path:
        path.write_bytes(b"half")
        started.set()  # type: ignore[attr-defined]
        signal.pause()


def test_what_a_killed_writer_left_is_swept_by_the_next_and_a_live_one_is_left_alone(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    writer = context.Process(target=_write_for_ever, args=(tmp_path / "x.bin", started))
    writer.start()
    assert started.wait(30)
    storage.write_bytes(tmp_path / "y.bin", b"")
    assert len(list(tmp_path.iterdir())) == 2, "the live writer's scratch folder stays"
    assert writer.pid is not None
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    storage.write_bytes(tmp_path / "z.bin", b"")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["y.bin", "z.bin"]


def test_what_is_added_by_several_at_a_time_is_all_there(tmp_path: Path) -> None:
    target = tmp_path / "new" / "lines.txt"
    lines = [f"{number}\n".encode() * 50 for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda line: storage.append_bytes(target, line), lines))
    found = target.read_bytes()
    assert len(found) == sum(map(len, lines))
    assert all(line in found for line in lines)
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="cannot be written"):
        storage.append_bytes(tmp_path / "folder", b"x")


def test_folders_are_not_searched_deeper_than_asked(tmp_path: Path) -> None:
    for name in ("a", "x/b", "x/y/c"):
        storage.write_bytes(tmp_path / name, b"")
    top = storage.locate(tmp_path)
    assert storage.list_names(top, depth=1) == ["a"]
    assert storage.list_names(top, depth=2) == ["a", "x/b"]
    assert storage.list_names(top) == ["a", "x/b", "x/y/c"]
