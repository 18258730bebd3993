"""COGs of blobs that are still downloading: the same bytes as from a local file, written meanwhile."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gdaltools as gt
from gdaltools import storage
from gdaltools.errors import StorageDenied
from gdaltools.storage.azure import download
from tests.support.cogs.by_pieces import cut_pieces
from tests.support.rasters import smooth, write_raster
from tests.support.services.azurite import azurite
from tests.support.services.storage_proxy import Fault, StorageProxy, storage_proxy

pytestmark = pytest.mark.azurite

_PART = 16 << 10
SOURCE = "abfs://bronze-rasters/coming.tif"
PIXELS = smooth(3, 500, 450)
TILES = {"tiled": True, "blockxsize": 64, "blockysize": 64}
VALID = np.ones(PIXELS.shape[1:], bool)
VALID[100:300, 50:200] = False

LAYOUTS: Mapping[str, Mapping[str, Any]] = {
    "strips": {},
    "bands": {"options": {"interleave": "band", **TILES}},
    "deflated tiles": {"options": {"compress": "deflate", **TILES}},
    "lzw strips": {"options": {"compress": "lzw", "blockysize": 7}},
    "big-endian": {"options": {"endianness": "big", **TILES}},
    "BigTIFF": {"options": {"bigtiff": "yes", **TILES}},
    "jpeg": {"options": {"compress": "jpeg", "photometric": "ycbcr", "interleave": "pixel", **TILES}},
    "mask and overviews": {"mask": VALID, "overviews": (2, 4), "options": {"compress": "deflate", **TILES}},
}


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[StorageProxy, str, str]]:
    with azurite() as direct, storage_proxy(direct) as (proxy, text):
        yield proxy, text, direct


@pytest.fixture(autouse=True)
def proxy(
    running: tuple[StorageProxy, str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[StorageProxy]:
    proxy, text, _ = running
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    monkeypatch.delenv("GDALTOOLS_BLOB_ROOT", raising=False)
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", text)
    monkeypatch.setattr(download, "_RANGE_BYTES", _PART)
    proxy.heal()
    yield proxy
    proxy.heal()


def store(path: Path) -> None:
    storage.write_bytes(SOURCE, path.read_bytes(), overwrite=True)


@pytest.mark.parametrize(
    ("layout", "piece"),
    [
        *((layout, (64, None)) for layout in LAYOUTS),
        ("strips", (128, 128)),
        ("mask and overviews", (128, 128)),
    ],
)
def test_a_cog_of_a_blob_that_is_on_its_way_is_that_of_the_file(
    proxy: StorageProxy,
    running: tuple[StorageProxy, str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    layout: str,
    piece: tuple[int, int | None],
) -> None:
    cut_pieces(monkeypatch, *piece)
    path = write_raster(tmp_path / "a.tif", PIXELS, **LAYOUTS[layout])
    store(path)
    gt.create_cog(path, tmp_path / "here.tif", blocksize=64, raster_type="rgb", progress=False)
    # GDAL reads the header, and lets no other thread run meanwhile, including the proxy's.
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", running[2])
    work = gt.create_cog(
        SOURCE, tmp_path / "there.tif", blocksize=64, raster_type="rgb", progress=False, compute=False
    )
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", running[1])
    proxy.spoil("read", Fault(delay=0.01), times=10**6)
    work.compute(scheduler="threads")
    assert (tmp_path / "there.tif").read_bytes() == (tmp_path / "here.tif").read_bytes()
    assert os.listdir(tmp_path / "tmp") == []


def test_a_cog_of_a_cog_with_sizes_around_its_blocks(
    running: tuple[StorageProxy, str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", running[2])
    path = write_raster(tmp_path / "a.tif", PIXELS, mask=VALID)
    cog = Path(gt.create_cog(path, tmp_path / "cog.tif", blocksize=64, progress=False).location)
    store(cog)
    gt.create_cog(cog, tmp_path / "here.tif", blocksize=128, progress=False)
    gt.create_cog(SOURCE, tmp_path / "there.tif", blocksize=128, progress=False)
    assert (tmp_path / "there.tif").read_bytes() == (tmp_path / "here.tif").read_bytes()


def test_the_first_blocks_are_made_before_the_last_have_arrived(
    proxy: StorageProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_pieces(monkeypatch, 64, None)
    path = write_raster(tmp_path / "a.tif", PIXELS)
    store(path)
    proxy.spoil("read", Fault(delay=0.05), times=10**6)
    seen: list[int] = []
    gt.create_cog(
        SOURCE, tmp_path / "b.tif", blocksize=64, level=6, progress=lambda _: seen.append(len(proxy.seen))
    )
    ranges = -(-path.stat().st_size // _PART)
    assert seen[1] < ranges


def test_a_blob_that_stops_coming_makes_no_cog_and_the_next_goes_on_with_it(
    proxy: StorageProxy, tmp_path: Path
) -> None:
    store(write_raster(tmp_path / "a.tif", PIXELS))
    target = tmp_path / "b.tif"
    plan_reads = 12
    proxy.spoil("read", Fault(status=403), times=10**6, skip=plan_reads)
    with pytest.raises(StorageDenied):
        gt.create_cog(SOURCE, target, blocksize=64, progress=False)
    assert not target.exists()
    proxy.heal()
    gt.create_cog(SOURCE, target, blocksize=64, progress=False)
    assert (gt.open(target).compute().values == PIXELS).all()
    assert os.listdir(tmp_path / "tmp") == []
