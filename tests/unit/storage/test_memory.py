"""Rasters and other data in this process's memory, through the same interface as files and blobs."""

from __future__ import annotations

import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest

import gdaltools as gt
from gdaltools import storage
from gdaltools.errors import CorruptRaster, InvalidLocation, SourceChanged, SourceNotFound, TargetExists
from gdaltools.raster.dataset import open_dataset
from tests.support.rasters import smooth, write_raster

PIXELS = smooth(3, 300, 400)
SCENE = "memory://bronze-rasters/in/scene.tif"


@pytest.fixture(autouse=True)
def _emptied() -> None:
    fsspec.filesystem("memory").store.clear()


@pytest.fixture
def scene(tmp_path: Path) -> bytes:
    content = write_raster(tmp_path / "scene.tif", PIXELS).read_bytes()
    storage.write_bytes(SCENE, content)
    return content


def test_what_is_written_is_read_listed_copied_and_deleted(tmp_path: Path) -> None:
    where = storage.write_bytes("memory://silver-cogs/a/b.bin", b"x" * 1000)
    assert str(where) == storage.url(where) == "memory://silver-cogs/a/b.bin"
    found = storage.stat(where)
    assert found.size == 1000
    assert found.modified is not None
    assert storage.read_range(where, 990, 100) == b"x" * 10
    assert storage.list_names(storage.locate("memory://silver-cogs")) == ["a/b.bin"]
    assert storage.list_names(storage.locate("memory://silver-cogs/a")) == ["a/b.bin"]
    assert storage.list_names(storage.locate("memory://silver-cogs/none")) == []
    storage.copy(where, tmp_path / "here.bin")
    storage.copy(tmp_path / "here.bin", "memory://silver-cogs/back.bin")
    assert storage.read_bytes("memory://silver-cogs/back.bin") == b"x" * 1000
    storage.append_bytes("memory://silver-cogs/back.bin", b"y")
    assert storage.stat("memory://silver-cogs/back.bin").size == 1001
    storage.delete(where)
    storage.delete(where)
    assert not storage.exists(where)


def test_what_exists_is_replaced_only_when_asked_and_not_by_halves() -> None:
    target = "memory://silver-cogs/once.txt"
    storage.write_bytes(target, b"first")
    before = storage.pinned(target)
    with pytest.raises(TargetExists):
        storage.write_bytes(target, b"second")
    with pytest.raises(RuntimeError), storage.writing(target, overwrite=True) as path:
        path.write_bytes(b"half")
        raise RuntimeError
    assert storage.read_bytes(target) == b"first"
    storage.write_bytes(target, b"other", overwrite=True)
    with pytest.raises(SourceChanged):
        storage.check_unchanged(before)


def test_one_of_many_that_write_a_new_name_at_once_wins() -> None:
    def write(number: int) -> bool:
        try:
            storage.write_bytes("memory://silver-cogs/new", b"%d" % number)
        except TargetExists:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(write, range(16))) == 1


def test_additions_of_many_at_once_are_all_kept() -> None:
    lines = [b"%d\n" % number for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda line: storage.append_bytes("memory://silver-cogs/lines", line), lines))
    assert sorted(storage.read_bytes("memory://silver-cogs/lines").splitlines(keepends=True)) == sorted(lines)


def test_other_libraries_see_the_same_objects(scene: bytes) -> None:
    with fsspec.open(SCENE, "rb") as stream:
        assert stream.read() == scene
    filesystem = storage.filesystem(storage.locate(SCENE))
    filesystem.pipe_file("/silver-cogs/theirs.bin", b"theirs")
    assert storage.read_bytes("memory://silver-cogs/theirs.bin") == b"theirs"


def test_a_raster_goes_from_memory_to_memory(scene: bytes) -> None:
    info = gt.inspect(SCENE)
    assert (info.location, info.width, info.size_bytes) == (SCENE, 400, len(scene))
    assert (gt.open(SCENE).compute().values == PIXELS).all()
    cog = gt.create_cog(SCENE, "memory://silver-cogs/cog.tif", blocksize=64, progress=False)
    assert cog.location == "memory://silver-cogs/cog.tif"
    assert gt.validate_cog(cog.location).valid
    scheme = gt.generate_tiling_scheme(SCENE, 256, 0)
    scheme.write("memory://silver-cogs/scheme.geojson")
    assert gt.TilingScheme.read("memory://silver-cogs/scheme.geojson") == scheme
    made = gt.extract_tiles(SCENE, scheme, "memory://silver-cogs/tiles", progress=False)
    again = gt.extract_tiles(SCENE, scheme, "memory://silver-cogs/tiles", resume=True, progress=False)
    assert again.tiles_resumed == len(made.tiles) == 4
    many = gt.create_cogs(
        "memory://silver-cogs/tiles/*.tif", "memory://silver-cogs/cogs/", blocksize=64, progress=False
    )
    assert len(many.made) == 4
    tiles = [cog.location for cog in many.made]
    mosaic = gt.create_mosaicjson(tiles, "memory://silver-mosaics/m.json", progress=False)
    assert mosaic.cogs == tuple(tiles)
    stac = gt.create_stac_collection(
        tiles, "memory://silver-mosaics/stac", mosaicjson=mosaic.location, progress=False
    )
    assert storage.exists(stac.location)


def test_a_raster_that_is_replaced_stays_for_those_who_have_it_open(scene: bytes, tmp_path: Path) -> None:
    other = write_raster(tmp_path / "other.tif", 255 - PIXELS).read_bytes()
    with open_dataset(SCENE) as dataset:
        storage.write_bytes(SCENE, other, overwrite=True)
        storage.delete(SCENE)
        assert (dataset.read() == PIXELS).all()
    with pytest.raises(SourceNotFound, match="memory of this process"):
        gt.inspect(SCENE)


def test_a_damaged_raster_in_memory_is_damaged_and_not_out_of_reach(scene: bytes) -> None:
    storage.write_bytes(SCENE, scene[: len(scene) // 2], overwrite=True)
    with pytest.raises(CorruptRaster):
        gt.inspect(SCENE)


def test_names_in_memory_follow_the_rules_of_blobs() -> None:
    for name in ("memory://", "memory://UPPER/x", "memory://silver-cogs/../x", "memory:///x"):
        with pytest.raises(InvalidLocation):
            storage.locate(name)
    with pytest.raises(InvalidLocation, match="copy it to a file"):
        _ = storage.locate(SCENE).gdal_path
    location = storage.locate(SCENE)
    assert pickle.loads(pickle.dumps(location)) == location
    assert location != storage.blob("bronze-rasters", "in/scene.tif")


def test_nothing_stays_on_the_disk(scene: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    gt.create_cog(SCENE, "memory://silver-cogs/c.tif", blocksize=64, progress=False)
    assert os.listdir(scratch) == []
