"""The storage interface with a real Blob Storage server, through adlfs and through GDAL."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import rasterio

import gdaltools as gt
from gdaltools import storage
from gdaltools.errors import CorruptRaster, SourceNotFound, TargetExists, UnsupportedRaster
from tests.support.rasters import smooth, write_raster
from tests.support.services.azurite import azurite

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


def test_a_journal_grows_line_by_line_and_tells_the_next_run_what_is_whole() -> None:
    target = "abfs://silver-journals/a/lines.jsonl"
    for line in (b"one\n", b"two\n"):
        storage.append_bytes(target, line)
    assert storage.read_bytes(target) == b"one\ntwo\n"
    with rasterio.io.MemoryFile() as memory:
        image = smooth(3, 300, 400)
        with memory.open(driver="GTiff", width=400, height=300, count=3, dtype="uint8") as dataset:
            dataset.write(image)
        for name in ("a/1.tif", "b/2.tif"):
            storage.write_bytes(f"abfs://bronze-many/in/{name}", bytes(memory.getbuffer()))
    first = gt.create_cogs("abfs://bronze-many/in/**/*.tif", "abfs://silver-many/cogs/")
    assert [cog.location for cog in first.made] == [
        "abfs://silver-many/cogs/a/1.tif",
        "abfs://silver-many/cogs/b/2.tif",
    ]
    storage.delete("abfs://silver-many/cogs/b/2.tif")
    again = gt.create_cogs("abfs://bronze-many/in/**/*.tif", "abfs://silver-many/cogs/")
    assert (len(again.skipped), len(again.made)) == (1, 1)
    whole = gt.create_cogs("abfs://silver-many/cogs/**/*.tif", "abfs://silver-many/copies/")
    assert len(whole.copied) == 2


def test_additions_of_many_at_once_to_what_was_not_there_are_all_kept() -> None:
    lines = [b"%d\n" % number for number in range(24)]
    target = "abfs://silver-together/new.jsonl"
    with ThreadPoolExecutor(len(lines)) as pool:
        list(pool.map(lambda line: storage.append_bytes(target, line), lines))
    assert sorted(storage.read_bytes(target).splitlines(keepends=True)) == sorted(lines)


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


def test_a_raster_goes_from_blob_to_blob() -> None:
    pixels = smooth(3, 300, 400)
    with storage.writing("abfs://bronze-rasters/world.tif", overwrite=True) as path:
        write_raster(path, pixels)
    cog = gt.create_cog("abfs://bronze-rasters/world.tif", "abfs://silver-cogs/world.tif", progress=False)
    assert cog.location == "abfs://silver-cogs/world.tif"
    assert gt.validate_cog(cog.location).valid
    assert (gt.open(cog.location).compute().values == pixels).all()

    scheme = gt.generate_tiling_scheme("abfs://bronze-rasters/world.tif", 256, 32, "EPSG:3857")
    scheme.write("abfs://silver-cogs/scheme.geojson", overwrite=True)
    assert gt.TilingScheme.read("abfs://silver-cogs/scheme.geojson") == scheme
    made = gt.extract_tiles(
        "abfs://bronze-rasters/world.tif", scheme, "abfs://silver-cogs/tiles", progress=False
    )
    names = storage.list_names(storage.locate("abfs://silver-cogs/tiles"))
    assert names == [
        *sorted(f"tiles/world_{tile.tile_id}.tif" for tile in made.tiles),
        "tiles/world_tiles.json",
    ]
    again = gt.extract_tiles(
        "abfs://bronze-rasters/world.tif", scheme, "abfs://silver-cogs/tiles", resume=True, progress=False
    )
    assert again.tiles_resumed == len(made.tiles)

    mosaic = gt.create_mosaicjson(
        [storage.locate(cog.location).gdal_path], "abfs://silver-mosaicjson/world.json", progress=False
    )
    assert mosaic.cogs == ("/vsiaz/silver-cogs/world.tif",)
    stac = gt.create_stac_collection(
        [cog.location], "abfs://silver-mosaicjson/stac", mosaicjson=mosaic.location, progress=False
    )
    assert storage.exists(stac.location)


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("empty.tif", b"", CorruptRaster),
        ("notes.tif", b"no raster at all", UnsupportedRaster),
        ("cut.tif", b"II*\0\x08\0\0\0\xff", CorruptRaster),
        ("cut.png", b"\x89PNG\r\n\x1a\n", CorruptRaster),
    ],
)
def test_a_bad_blob_is_a_typed_error(name: str, content: bytes, error: type[Exception]) -> None:
    storage.write_bytes(f"abfs://bronze-rasters/{name}", content, overwrite=True)
    with pytest.raises(error, match=name):
        gt.inspect(f"abfs://bronze-rasters/{name}")
