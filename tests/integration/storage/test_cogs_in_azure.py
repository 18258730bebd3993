"""COGs are sent to Blob Storage in blocks, appear all at once, and equal the files of a local disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from azure.storage.blob import BlobServiceClient

import gdaltools as gt
from gdaltools import storage
from gdaltools.cog.overviews.halving import level_sizes
from gdaltools.cog.plan import CogPlan
from gdaltools.cost.cog_memory import piece_shape
from gdaltools.errors import CorruptRaster, InvalidParameter, SourceArchived, StorageError, TargetExists
from gdaltools.runtime import crash_points
from tests.support.cogs.by_pieces import cut_pieces
from tests.support.rasters import damage, smooth, write_raster
from tests.support.services.azurite import azurite

pytestmark = pytest.mark.azurite

TARGET = "abfs://silver-cogs/made/world.tif"


@pytest.fixture(scope="module")
def connection_string() -> Iterator[str]:
    with azurite() as text:
        yield text


@pytest.fixture(autouse=True)
def service(connection_string: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[BlobServiceClient]:
    monkeypatch.delenv("GDALTOOLS_BLOB_ROOT", raising=False)
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", connection_string)
    with BlobServiceClient.from_connection_string(connection_string) as client:
        yield client
    storage.delete(TARGET)


def planned(expected: dict[str, Any]) -> dict[str, Any]:
    """Return those of the options that the plan takes."""
    return {name: value for name, value in expected.items() if name != "progress"}


@pytest.fixture
def masked(tmp_path: Path) -> Path:
    valid = np.ones((500, 450), bool)
    valid[100:300, 50:200] = False
    return write_raster(tmp_path / "a.tif", smooth(3, 500, 450), mask=valid)


@pytest.mark.parametrize("piece", [(64, None), (128, 128)], ids=["wide pieces", "narrow pieces"])
@pytest.mark.parametrize("options", [{}, {"interleave": "band", "sparse": True}, {"codec": "JPEG"}])
def test_a_cog_in_azure_is_the_local_one_to_the_byte(
    masked: Path,
    service: BlobServiceClient,
    monkeypatch: pytest.MonkeyPatch,
    piece: tuple[int, int | None],
    options: dict[str, Any],
) -> None:
    cut_pieces(monkeypatch, *piece)
    expected = {"blocksize": 64, "raster_type": "rgb", "progress": False, **options}
    here = gt.create_cog(masked, masked.with_name("b.tif"), **expected)
    there = gt.create_cog(masked, TARGET, **expected)
    assert storage.read_bytes(TARGET) == masked.with_name("b.tif").read_bytes()
    blob = service.get_blob_client("silver-cogs", "made/world.tif")
    blocks = blob.get_block_list("committed")[0]
    assert len(blocks) <= gt.plan_cog(masked, **planned(expected)).staged_blocks(4 << 20)
    unlike = {"location", "seconds"}
    assert there.model_dump(exclude=unlike) == here.model_dump(exclude=unlike)


def test_nothing_of_the_output_is_kept_on_the_local_disk(
    masked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    scratch.chmod(0o500)
    monkeypatch.setattr(storage, "writing", None)
    gt.create_cog(masked, TARGET, blocksize=64, progress=False)
    assert os.listdir(scratch) == []


def test_more_blocks_than_azure_allows_go_by_a_local_file(
    masked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "MOST_BLOCKS", 5)
    monkeypatch.setattr(storage, "uncommitted", None)
    gt.create_cog(masked, TARGET, blocksize=64, progress=False)
    assert gt.validate_cog(TARGET).valid


def test_a_cog_has_its_content_type_and_the_tier_of_its_profile(
    masked: Path, service: BlobServiceClient
) -> None:
    for profile, tier in (("analysis", "Hot"), ("archive", "Cool")):
        gt.create_cog(masked, TARGET, profile, blocksize=64, overwrite=True, progress=False)
        found = service.get_blob_client("silver-cogs", "made/world.tif").get_blob_properties()
        assert found.blob_tier == tier
        assert (
            found.content_settings.content_type == "image/tiff; application=geotiff; profile=cloud-optimized"
        )


def test_a_cog_in_the_archive_tier_is_there_and_cannot_be_read(
    masked: Path, service: BlobServiceClient
) -> None:
    made = gt.create_cog(masked, TARGET, access_tier="archive", blocksize=64, progress=False)
    assert made.storage_tier == "archive"
    blob = service.get_blob_client("silver-cogs", "made/world.tif")
    assert blob.get_blob_properties().blob_tier == "Archive"
    for read in (lambda: storage.read_bytes(TARGET), lambda: gt.inspect(TARGET)):
        with pytest.raises(SourceArchived, match="archive tier"):
            read()
    with pytest.raises(InvalidParameter, match="access_tier"):
        gt.create_cog(masked, TARGET, access_tier="lukewarm", overwrite=True, progress=False)


def test_copies_and_tiles_that_are_cogs_have_the_type_and_the_tier_of_cogs(
    masked: Path, service: BlobServiceClient
) -> None:
    cog = gt.create_cog(masked, masked.with_name("c.tif"), "archive", progress=False)
    gt.create_cog(cog.location, "abfs://silver-tiers/copy.tif", "archive", reuse=True, progress=False)
    many = gt.create_cogs([cog.location], "abfs://silver-tiers/many/", "archive", progress=False)
    assert len(many.copied) == 1
    scheme = gt.generate_tiling_scheme(masked, 256, 0)
    gt.extract_tiles(
        masked, scheme, "abfs://silver-tiers/tiles", as_cog=True, profile="archive", progress=False
    )
    container = service.get_container_client("silver-tiers")
    blobs = [blob for blob in container.list_blobs() if blob.name.endswith(".tif")]
    assert len(blobs) == 6
    for blob in blobs:
        assert blob.blob_tier == "Cool"
        assert blob.content_settings.content_type == storage.COG_TYPE


def test_what_exists_is_replaced_only_when_asked(masked: Path) -> None:
    storage.write_bytes(TARGET, b"theirs")
    with pytest.raises(TargetExists):
        gt.create_cog(masked, TARGET, progress=False)
    assert storage.read_bytes(TARGET) == b"theirs"
    gt.create_cog(masked, TARGET, overwrite=True, progress=False)
    assert gt.validate_cog(TARGET).valid


@pytest.fixture
def meanwhile() -> Iterator[Any]:
    """Run an action once all blocks are staged, right before they are committed."""

    def arm(action: Any) -> None:
        crash_points.arm(lambda name: action() if name == "blob-before-publish" else None)

    yield arm
    crash_points.arm(None)


def test_a_blob_that_appears_while_the_cog_is_made_is_kept(
    masked: Path, service: BlobServiceClient, meanwhile: Any
) -> None:
    theirs = service.get_blob_client("silver-cogs", "made/world.tif")
    meanwhile(lambda: theirs.upload_blob(b"theirs", overwrite=True))
    with pytest.raises((TargetExists, StorageError)):
        gt.create_cog(masked, TARGET, progress=False)
    assert storage.read_bytes(TARGET) == b"theirs"


def test_nothing_is_seen_before_the_commit_nor_after_an_error(
    masked: Path, service: BlobServiceClient, meanwhile: Any
) -> None:
    container = service.get_container_client("silver-cogs")
    seen: list[Any] = []

    def fail() -> None:
        seen.extend(container.list_blob_names())
        seen.append(storage.exists(TARGET))
        raise RuntimeError("killed here")

    meanwhile(fail)
    with pytest.raises(RuntimeError, match="killed here"):
        gt.create_cog(masked, TARGET, progress=False)
    assert seen == [False]
    assert not storage.exists(TARGET)
    _, waiting = service.get_blob_client("silver-cogs", "made/world.tif").get_block_list("uncommitted")
    assert waiting, "blocks of the run that died are still with Azure"
    crash_points.arm(None)
    gt.create_cog(masked, TARGET, progress=False)
    assert gt.validate_cog(TARGET).valid


def test_a_damaged_source_leaves_no_blob(tmp_path: Path) -> None:
    source = write_raster(tmp_path / "a.tif", smooth(3, 500, 450), block=64, options={"compress": "lzw"})
    damage(source, at=0.5, size=2000)
    with pytest.raises(CorruptRaster):
        gt.create_cog(source, TARGET, blocksize=64, progress=False)
    assert not storage.exists(TARGET)


def test_a_cluster_stages_from_its_workers(masked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distributed = pytest.importorskip("distributed")
    cut_pieces(monkeypatch, 64, 128)
    gt.create_cog(masked, masked.with_name("b.tif"), blocksize=64, progress=False)
    # The cluster's processes have this process's environment, and so its account.
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster).as_current(),
    ):
        gt.create_cog(masked, TARGET, blocksize=64, progress=False)
    assert storage.read_bytes(TARGET) == masked.with_name("b.tif").read_bytes()


def test_a_huge_raster_is_staged_in_fewer_and_larger_blocks(masked: Path) -> None:
    small = gt.plan_cog(masked)
    assert small.upload_block_bytes == 4 << 20

    def of_size(side: int) -> CogPlan:
        facts = replace(small.facts, width=side, height=side)
        piece = piece_shape(side, side, 3, 512)
        return replace(small, facts=facts, levels=level_sizes(side, side, 512), piece=piece)

    assert (of_size(100_000).upload_block_bytes, of_size(300_000).upload_block_bytes) == (4 << 20, 16 << 20)
    assert of_size(2_000_000).upload_block_bytes is None
