"""Whatever interrupts the writing of a COG, no target, no leftover and no running thread remains."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gdaltools.cog.create import create_cog
from gdaltools.cog.pieces import sink
from gdaltools.cog.validate import validate_cog
from gdaltools.display.progress import Progress
from gdaltools.errors import CorruptRaster, GdalToolsError, StorageError
from tests.support.rasters import damage, smooth, write_raster
from tests.unit.conftest import Cut


def left_in(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


@pytest.fixture(autouse=True)
def no_thread_goes_on() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize(
    ("at", "overviews"), [(0.05, "build"), (0.5, "build"), (0.5, "keep"), (0.95, "keep")]
)
def test_a_block_that_cannot_be_decoded_ends_all(tmp_path: Path, cut: Cut, at: float, overviews: str) -> None:
    cut(64, 64)
    source = write_raster(
        tmp_path / "a.tif", smooth(3, 500, 400), block=64, overviews=(2, 4, 8), options={"compress": "lzw"}
    )
    damage(source, at=at, size=3000)  # the last quarter holds overviews
    with pytest.raises(CorruptRaster, match=r"a\.tif"):
        create_cog(source, tmp_path / "b.tif", blocksize=64, overviews=overviews, progress=False)
    assert left_in(tmp_path) == {"a.tif"}


def test_an_error_in_the_middle_of_a_piece_ends_all(
    tmp_path: Path, cut: Cut, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut(64, 64)
    source = write_raster(tmp_path / "a.tif", smooth(3, 500, 400))
    stored: list[str] = []
    store = sink.FileSink.store

    def fail_later(self: sink.FileSink, name: str, pieces: Any, ends: Any) -> None:
        if len(stored) == 20:
            raise RuntimeError("no more")
        stored.append(name)
        store(self, name, pieces, ends)

    monkeypatch.setattr(sink.FileSink, "store", fail_later)
    with pytest.raises(RuntimeError, match="no more"):
        create_cog(source, tmp_path / "b.tif", blocksize=64, progress=False)
    assert left_in(tmp_path) == {"a.tif"}


@pytest.mark.parametrize("after", [0, 7, 10**6])
def test_an_error_of_the_progress_callback_ends_all(tmp_path: Path, cut: Cut, after: int) -> None:
    cut(64, 64)
    source = write_raster(tmp_path / "a.tif", smooth(3, 500, 400))

    class Enough(Exception):
        pass

    calls: list[Progress] = []

    def stop(state: Progress) -> None:
        calls.append(state)
        if len(calls) > after or state.done == state.total:
            raise Enough

    with pytest.raises(Enough):
        create_cog(source, tmp_path / "b.tif", blocksize=64, progress=stop)
    assert left_in(tmp_path) == {"a.tif"}
    assert create_cog(source, tmp_path / "b.tif", blocksize=64, progress=False)


@pytest.mark.parametrize("space", [0, 5_000, 150_000, 330_000])
def test_a_disk_that_fills_up_at_any_time_is_told(
    tmp_path: Path, cut: Cut, monkeypatch: pytest.MonkeyPatch, space: int
) -> None:
    cut(64, None)
    source = write_raster(tmp_path / "a.tif", smooth(3, 300, 400))
    left = [space]
    write, copy = os.write, os.copy_file_range

    def take(length: int) -> int:
        if not left[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = min(left[0], length)
        left[0] -= taken
        return taken

    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[: take(len(data))]))
    monkeypatch.setattr(
        os, "copy_file_range", lambda source, target, count, **at: copy(source, target, take(count), **at)
    )
    with pytest.raises(StorageError, match="space left"):
        create_cog(source, tmp_path / "b.tif", blocksize=64, progress=False, codec="NONE")
    monkeypatch.undo()
    assert left_in(tmp_path) == {"a.tif"}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of half a megabyte; only root can mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    asked = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)]
    if subprocess.run(asked, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("driver", ["GTiff", "PNG"])
def test_a_disk_that_is_full_keeps_nothing(small_disk: Path, tmp_path: Path, cut: Cut, driver: str) -> None:
    cut(64, None)
    noise = np.random.default_rng(0).integers(0, 256, (3, 500, 500), dtype="uint8")
    source = write_raster(tmp_path / "a.img", noise, crs=None, transform=None, driver=driver)
    with pytest.raises(StorageError):
        create_cog(source, small_disk / "b.tif", blocksize=64, progress=False, codec="NONE")
    assert left_in(small_disk) == set()


MAKE = """
import sys
from gdaltools.cog import planning
from gdaltools.cog.create import create_cog

planning.piece_shape = lambda *_: (64, 1024)
said = []

def say(state):
    if state.done and not said:
        said.append(True)
        print("going", flush=True)
        if sys.argv[3] == "wait":
            sys.stdin.read()

create_cog(sys.argv[1], sys.argv[2], "archive", blocksize=64, level=19, progress=say)
"""


def going(source: Path, target: Path, how: str) -> subprocess.Popen[str]:
    """Start a process that has stored some pieces of a COG, and waits or works on."""
    process = subprocess.Popen(
        [sys.executable, "-c", MAKE, source, target, how],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "going\n", process.communicate()[1]
    return process


@pytest.mark.parametrize("how", ["wait", "work"])
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_a_process_that_is_ended_leaves_no_target_and_the_next_sweeps(
    tmp_path: Path, how: str, sent: signal.Signals
) -> None:
    source = write_raster(tmp_path / "in" / "a.tif", smooth(1, 1400, 1000))
    out = tmp_path / "out"
    process = going(source, out / "b.tif", how)
    process.send_signal(sent)
    _, text = process.communicate(timeout=60)
    if sent == signal.SIGINT:
        assert "KeyboardInterrupt" in text
        assert left_in(out) == set()
    else:
        assert process.returncode == -signal.SIGKILL
        assert [name[:11] for name in left_in(out)] == [".gdaltools-"]
    create_cog(source, out / "b.tif", progress=False)
    assert left_in(out) == {"b.tif"}
    assert validate_cog(out / "b.tif")


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_target_that_appears_meanwhile_is_replaced_only_when_asked(
    tmp_path: Path, cut: Cut, overwrite: bool
) -> None:
    cut(64, 64)
    source = write_raster(tmp_path / "a.tif", smooth(3, 300, 200))
    target = tmp_path / "b.tif"

    def appear(_: Progress) -> None:
        if not target.exists():
            target.write_bytes(b"precious")

    if overwrite:
        create_cog(source, target, blocksize=64, overwrite=True, progress=appear)
        assert validate_cog(target)
    else:
        with pytest.raises(GdalToolsError, match="exists"):
            create_cog(source, target, blocksize=64, progress=appear)
        assert target.read_bytes() == b"precious"
    assert left_in(tmp_path) == {"a.tif", "b.tif"}
