"""Rasters in Blob Storage: copied locally or read by windows, always from one version."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rasterio.vrt import WarpedVRT

import gdaltools as gt
from benchmarks import storage_reads
from gdaltools import storage
from gdaltools.errors import SourceChanged, StorageError, TargetExists
from gdaltools.raster.dataset import open_dataset
from gdaltools.storage import staging
from tests.support.rasters import smooth, write_raster
from tests.support.services.azurite import azurite

pytestmark = pytest.mark.azurite

SOURCE = "abfs://bronze-rasters/read/scene.tif"
PIXELS = smooth(3, 300, 400)


@pytest.fixture(scope="module")
def connection_string() -> Iterator[str]:
    with azurite() as text:
        yield text


@pytest.fixture(autouse=True)
def scene(connection_string: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.delenv("GDALTOOLS_BLOB_ROOT", raising=False)
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", connection_string)
    path = write_raster(tmp_path / "scene.tif", PIXELS)
    storage.write_bytes(SOURCE, path.read_bytes(), overwrite=True)
    return path


def replace_scene(tmp_path: Path) -> None:
    """Replace the scene with another one of the same size."""
    path = write_raster(tmp_path / "other.tif", 255 - PIXELS)
    storage.write_bytes(SOURCE, path.read_bytes(), overwrite=True)


def noted(function: Any, calls: list[str]) -> Any:
    def call(source: Any, *args: Any, **options: Any) -> Any:
        calls.append(f"{function.__name__} {source}")
        return function(source, *args, **options)

    return call


def test_a_blob_that_is_read_whole_is_brought_near_and_left_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    staged: list[str] = []
    for name in ("fetch", "streamed"):
        monkeypatch.setattr(storage, name, noted(getattr(storage, name), staged))
    assert "brought to the local disk first" in str(gt.plan_cog(SOURCE))
    cog = gt.create_cog(SOURCE, tmp_path / "b.tif", blocksize=64, progress=False)
    assert (gt.open(cog.location).compute().values == PIXELS).all()
    scheme = gt.generate_tiling_scheme(SOURCE, 256, 0)
    assert "brought to the local disk first" in str(gt.plan_extraction(SOURCE, scheme))
    gt.extract_tiles(SOURCE, scheme, tmp_path / "all", progress=False)
    assert staged == [f"streamed {SOURCE}", f"fetch {SOURCE}"]
    assert list(scratch.iterdir()) == []


def test_a_warped_vrt_of_a_blob_is_staged_like_the_blob(tmp_path: Path) -> None:
    with open_dataset(SOURCE) as dataset, WarpedVRT(dataset, crs="EPSG:3857") as vrt:
        assert "brought to the local disk first" in str(gt.plan_cog(vrt))
        cog = gt.create_cog(vrt, tmp_path / "b.tif", blocksize=64, progress=False)
        assert (gt.open(cog.location).compute().values == vrt.read()).all()


def test_a_blob_of_which_little_is_read_stays_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "fetch", None)
    scheme = gt.generate_tiling_scheme(SOURCE, 128, 0)
    one = next(iter(scheme.tile_ids()))
    assert "local disk" not in str(gt.plan_extraction(SOURCE, scheme, tiles=[one]))
    made = gt.extract_tiles(SOURCE, scheme, tmp_path / "one", tiles=[one], progress=False)
    assert len(made.tiles) == 1


def test_a_blob_is_read_by_windows_where_the_disk_has_no_space_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(staging.shutil, "disk_usage", lambda _: usage)
    assert "brought to the local disk" not in str(gt.plan_cog(SOURCE))
    cog = gt.create_cog(SOURCE, tmp_path / "b.tif", blocksize=64, progress=False)
    assert (gt.open(cog.location).compute().values == PIXELS).all()
    with pytest.raises(StorageError, match="make space"):
        storage.fetch(SOURCE, tmp_path / "near")


def test_both_ways_of_reading_are_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert storage_reads.main(["--megabytes", "3", "--rounds", "1", "--shares", "0.1", "1"]) in (0, 1)
    table = capsys.readouterr().out.splitlines()
    assert len(table) == 1 + 2 * len(storage_reads.LAYOUTS)
    assert ["windows" in line for line in table[1:]] == [True, False] * len(storage_reads.LAYOUTS)
    assert storage.list_names(storage.locate("abfs://bronze-benchmark")) == []


def test_what_replaces_a_blob_is_read_by_the_next_who_opens_it(tmp_path: Path) -> None:
    with open_dataset(SOURCE) as dataset:
        assert (dataset.read() == PIXELS).all()
    replace_scene(tmp_path)
    with open_dataset(SOURCE) as dataset:
        assert (dataset.read() == 255 - PIXELS).all()


def test_a_blob_that_is_replaced_while_it_is_open_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceChanged, match="scene"), open_dataset(SOURCE) as dataset:
        dataset.read(1)
        replace_scene(tmp_path)
    with pytest.raises(SourceChanged, match="scene"), open_dataset(SOURCE) as dataset:
        dataset.read(1)
        storage.delete(SOURCE)


@pytest.mark.parametrize("share", [1.0, 0.0], ids=["brought near", "by windows"])
def test_a_blob_that_is_replaced_after_the_plan_makes_no_cog(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    monkeypatch.setattr(staging, "ENOUGH", 0.35 if share else 2.0)
    target = tmp_path / "b.tif"
    work = gt.create_cog(SOURCE, target, blocksize=64, compute=False)
    replace_scene(tmp_path)
    with pytest.raises(SourceChanged, match="scene"):
        work.compute(scheduler="synchronous")
    assert not target.exists()


def test_a_local_source_that_is_replaced_after_the_plan_makes_no_cog(scene: Path, tmp_path: Path) -> None:
    work = gt.create_cog(scene, tmp_path / "b.tif", blocksize=64, compute=False)
    write_raster(scene, 255 - PIXELS)
    with pytest.raises(SourceChanged, match="scene"):
        work.compute(scheduler="synchronous")
    assert not (tmp_path / "b.tif").exists()


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (SOURCE, "abfs://silver-copies/a.tif"),
        (SOURCE, "{here}/a.tif"),
        ("{here}/scene.tif", "abfs://silver-copies/b.tif"),
        ("{here}/scene.tif", "{here}/c.tif"),
    ],
)
def test_a_copy_is_whole_and_replaces_only_when_asked(
    scene: Path, tmp_path: Path, source: str, target: str
) -> None:
    source, target = source.format(here=tmp_path), target.format(here=tmp_path)
    made = storage.copy(source, target)
    assert made == storage.stat(target)
    assert made.modified is not None
    assert storage.read_bytes(target) == scene.read_bytes()
    with pytest.raises(TargetExists):
        storage.copy(source, target)
    storage.copy(source, target, overwrite=True)


def test_a_large_copy_goes_by_blocks(scene: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gdaltools.storage.azure import blobs, block_blob

    monkeypatch.setattr(blobs, "LARGEST_COPY_BYTES", 1000)
    monkeypatch.setattr(block_blob, "BLOCK_BYTES", 50_000)
    storage.copy(SOURCE, "abfs://silver-copies/large.tif", overwrite=True)
    assert storage.read_bytes("abfs://silver-copies/large.tif") == scene.read_bytes()


def test_a_range_is_what_a_slice_is(scene: Path) -> None:
    content = scene.read_bytes()
    for where in (SOURCE, scene):
        for offset, length in ((0, 4), (1000, 70_000), (len(content) - 3, 10), (len(content) + 5, 1)):
            assert storage.read_range(where, offset, length) == content[offset : offset + length]


def test_a_blob_with_another_md5_is_not_taken(scene: Path, tmp_path: Path, connection_string: str) -> None:
    from azure.storage.blob import BlobServiceClient, ContentSettings

    blob: Any = BlobServiceClient.from_connection_string(connection_string).get_blob_client(
        "bronze-rasters", "read/scene.tif"
    )
    blob.set_http_headers(ContentSettings(content_md5=bytearray(16)))
    with pytest.raises(StorageError, match="MD5"):
        storage.fetch(SOURCE, tmp_path / "near")
