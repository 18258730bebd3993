"""Wherever blocks wait and whichever process encodes them, the file is the same."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gdaltools.cog.create import create_cog
from gdaltools.cog.pieces.pyramid import PieceRecord
from gdaltools.cog.pieces.sink import ByteRun, FileSink, MemorySink
from gdaltools.cog.write.assemble import assemble, record_tasks
from gdaltools.errors import CorruptRaster, StorageError
from gdaltools.runtime import graph
from tests.support.cogs.by_pieces import content_of, plan_of
from tests.support.rasters import damage, smooth, write_raster
from tests.unit.conftest import Cut

ROWS, COLS = 500, 450


def masked(tmp_path: Path) -> Path:
    valid = np.ones((ROWS, COLS), bool)
    valid[100:300, 50:200] = False
    return write_raster(tmp_path / "a.tif", smooth(3, ROWS, COLS), mask=valid)


def made(source: Path, name: str, **options: Any) -> bytes:
    target = source.with_name(name)
    create_cog(source, target, blocksize=64, raster_type="rgb", progress=False, **options)
    return target.read_bytes()


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        yield client


def _hide_the_disk() -> None:
    FileSink.reachable = lambda self: False  # type: ignore[method-assign]


def _show_the_disk() -> None:
    FileSink.reachable = lambda self: self.path.parent.is_dir()  # type: ignore[method-assign]


@pytest.mark.parametrize("shared", [True, False], ids=["a shared disk", "no shared disk"])
@pytest.mark.parametrize("options", [{}, {"codec": "JPEG"}, {"interleave": "band", "sparse": True}])
def test_a_cluster_makes_the_file_that_threads_make(
    tmp_path: Path, cut: Cut, client: Any, shared: bool, options: dict[str, Any]
) -> None:
    cut(64, 128)
    source = masked(tmp_path)
    threads = made(source, "threads.tif", **options)
    if not shared:
        client.run(_hide_the_disk)
    try:
        with client.as_current():
            assert made(source, "cluster.tif", **options) == threads
    finally:
        client.run(_show_the_disk)
    assert {entry.name for entry in tmp_path.iterdir()} == {"a.tif", "threads.tif", "cluster.tif"}


@pytest.mark.parametrize("shared", [True, False], ids=["a shared disk", "no shared disk"])
def test_an_error_on_a_cluster_leaves_nothing(tmp_path: Path, cut: Cut, client: Any, shared: bool) -> None:
    cut(64, 64)
    source = write_raster(tmp_path / "a.tif", smooth(3, ROWS, COLS), block=64, options={"compress": "lzw"})
    damage(source, at=0.5, size=2000)
    if not shared:
        client.run(_hide_the_disk)
    try:
        with client.as_current(), pytest.raises(CorruptRaster, match=r"a\.tif"):
            made(source, "b.tif")
    finally:
        client.run(_show_the_disk)
    assert {entry.name for entry in tmp_path.iterdir()} == {"a.tif"}


def test_memory_on_this_side_takes_what_a_cluster_encodes(client: Any) -> None:
    plan = plan_of(smooth(2, 300, 200), None, piece=(64, 64))
    sink = MemorySink()

    def ended(_: int, record: PieceRecord) -> None:
        assert record.stored is not None
        sink.store(record.name, [record.stored], [len(record.stored)])

    with client.as_current():
        records = graph.run(record_tasks(plan, plan.work(sink)), ended=ended)
    assemble(plan, records, sink)
    assert sink.content == content_of(plan)


def test_a_file_holds_what_memory_does(tmp_path: Path) -> None:
    plan = plan_of(smooth(2, 300, 200), np.ones((300, 200), bool), piece=(64, 128))
    sink = FileSink(tmp_path / "a.tif")
    records = graph.run(record_tasks(plan, plan.work(sink)), ended=lambda *_: None)
    assemble(plan, records, sink)
    assert (tmp_path / "a.tif").read_bytes() == content_of(plan)


def test_a_chunk_stored_again_changes_nothing(tmp_path: Path) -> None:
    for sink in (FileSink(tmp_path / "a.bin"), MemorySink()):
        for _ in range(2):
            sink.store("one", [b"abc", b"def"], [6])
            sink.store("two", [b"", b"xyz"], [3])
        sink.commit(b"<", [ByteRun("two", 0, 3), ByteRun("one", 2, 3), ByteRun("one", 0, 0)])
    assert (tmp_path / "a.bin").read_bytes() == b"<xyzcde"
    assert sink.content == b"<xyzcde"


@pytest.mark.parametrize("reason", [errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_that_cannot_copy_ranges_gets_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: int
) -> None:
    def refuse(*_: Any, **__: Any) -> int:
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(os, "copy_file_range", refuse)
    sink = FileSink(tmp_path / "a.bin")
    sink.store("one", [bytes(range(256)) * 300], [76_800])
    sink.commit(b"<", [ByteRun("one", 1, 70_000)])
    assert (tmp_path / "a.bin").read_bytes() == b"<" + (bytes(range(256)) * 300)[1:70_001]


def test_a_chunk_that_went_away_or_was_cut_short_is_a_storage_error(tmp_path: Path) -> None:
    sink = FileSink(tmp_path / "a.bin")
    sink.store("one", [b"abc"], [3])
    with pytest.raises(StorageError):
        sink.commit(b"", [ByteRun("one", 1, 3)])
    sink.discard("one")
    with pytest.raises(StorageError):
        sink.commit(b"", [ByteRun("one", 0, 3)])
    with pytest.raises(StorageError):
        FileSink(tmp_path / "none" / "a.bin").store("one", [b"abc"], [3])
