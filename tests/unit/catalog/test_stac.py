"""STAC items and collections are valid and self-contained, and exist only when they are complete."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import rioxarray  # noqa: F401 - gives DataArray its .rio
import xarray
from pystac.extensions.file import FileExtension
from pystac.extensions.projection import ProjectionExtension
from pystac.extensions.raster import RasterExtension
from rasterio.transform import from_bounds
from shapely.geometry import box, shape

from gdaltools.catalog.stac import create_stac_collection, create_stac_item
from gdaltools.catalog.stac_item import validate_stac
from gdaltools.cog.create import create_cog
from gdaltools.errors import CorruptRaster, InvalidParameter, TargetExists, UnsupportedRaster
from tests.support.rasters import UTM, UTM_GRID, from_origin, smooth, truncate, write_raster

NOON = datetime(2025, 6, 1, 12, tzinfo=UTC)


@pytest.fixture
def cog(tmp_path: Path) -> Path:
    return write_raster(
        tmp_path / "cogs" / "scene 1.tif", smooth(3, 300, 400), crs=UTM, transform=UTM_GRID, nodata=0,
        units=["m", None, None], descriptions=["Red", None, None],
        tags={"TIFFTAG_DATETIME": "2024:02:29 10:11:12"},
    )  # fmt: skip


def neighbour(path: Path, number: int) -> Path:
    grid = from_origin(470000 + 4000 * number, 1000000, 10, 10)
    return write_raster(path, smooth(1, 300, 400, seed=number), crs=UTM, transform=grid)


def document(location: str | Path) -> dict[str, Any]:
    return dict(json.loads(Path(location).read_text()))


def test_an_item_tells_place_time_bands_size_and_checksum(cog: Path) -> None:
    item = create_stac_item(cog)
    assert item.id == "scene-1"
    assert item.datetime == datetime(2024, 2, 29, 10, 11, 12, tzinfo=UTC)
    asset = item.assets["data"]
    projection = ProjectionExtension.ext(item)
    assert (projection.code, projection.shape) == ("EPSG:32637", [300, 400])
    assert projection.transform == list(UTM_GRID)[:6]
    assert projection.bbox == [470000, 997000, 474000, 1000000]
    bands = RasterExtension.ext(asset).bands
    assert bands is not None
    assert [band.unit for band in bands] == ["m", None, None]
    assert (bands[0].nodata, bands[0].data_type) == (0, "uint8")
    assert bands[0].statistics is not None
    assert bands[0].statistics.maximum == 250
    file = FileExtension.ext(asset)
    assert file.size == cog.stat().st_size
    assert file.checksum == "1220" + hashlib.sha256(cog.read_bytes()).hexdigest()
    assert item.bbox is not None
    assert 38.7 < item.bbox[0] < item.bbox[2] < 38.8
    validate_stac(item.to_dict(transform_hrefs=False))


@pytest.mark.parametrize("dtype", ["int8", "float32", "complex64", "uint64"])
@pytest.mark.parametrize("nodata", [None, 0])
def test_items_of_any_dtype_are_valid_json(tmp_path: Path, dtype: str, nodata: float | None) -> None:
    image = smooth(1, 30, 40, dtype=dtype)
    item = create_stac_item(write_raster(tmp_path / "a.tif", image, nodata=nodata), acquired=NOON)
    json.dumps(item.to_dict(transform_hrefs=False), allow_nan=False)


@pytest.mark.parametrize("nodata", [-999, 2**60 + 1, 2**63 - 1])
def test_the_nodata_of_64_bit_integers_is_exact(tmp_path: Path, nodata: int) -> None:
    data, grid = np.full((1, 40, 40), nodata), {"x": np.arange(40.0), "y": np.arange(40.0, 0.0, -1.0)}
    array = xarray.DataArray(data, dims=("band", "y", "x"), coords=grid)
    array = array.rio.write_crs("EPSG:4326").rio.write_nodata(nodata)
    create_cog(array, tmp_path / "a.tif", progress=False)
    item = create_stac_item(tmp_path / "a.tif", acquired=NOON)
    (asset,) = item.assets.values()
    (band,) = asset.extra_fields["raster:bands"]
    assert band["nodata"] == nodata
    assert band["statistics"] == {"valid_percent": 0.0}


def test_an_item_without_a_valid_pixel_has_no_statistics_of_nothing(tmp_path: Path) -> None:
    image = smooth(1, 30, 40, dtype="float32") * float("nan")
    item = create_stac_item(write_raster(tmp_path / "a.tif", image, nodata=float("nan")))
    bands = RasterExtension.ext(item.assets["data"]).bands
    assert bands is not None
    assert bands[0].nodata == "nan"
    assert bands[0].to_dict()["statistics"] == {"valid_percent": 0.0}


def test_a_crs_without_a_code_is_told_as_wkt(tmp_path: Path) -> None:
    crs = "+proj=laea +lat_0=10 +lon_0=38 +datum=WGS84 +units=m"
    cog = write_raster(tmp_path / "a.tif", smooth(1, 30, 40), crs=crs, transform=from_origin(0, 0, 10, 10))
    projection = ProjectionExtension.ext(create_stac_item(cog))
    assert projection.code is None
    assert "Lambert" in str(projection.wkt2)


def test_a_collection_is_valid_self_contained_and_movable(tmp_path: Path) -> None:
    cogs = [neighbour(tmp_path / "cogs" / f"t{n}.tif", n) for n in range(3)]
    (tmp_path / "mosaic.json").write_text("{}")
    result = create_stac_collection(
        cogs, tmp_path / "stac", collection_id="job-1", item_id_prefix="job-1-",
        mosaicjson=tmp_path / "mosaic.json", acquired=NOON,
    )  # fmt: skip
    assert result.item_ids == ("job-1-t0", "job-1-t1", "job-1-t2")
    assert (result.items_created, result.items_failed) == (3, 0)
    assert result.temporal_extent == (NOON, NOON)
    moved = tmp_path / "moved" / "deeper"
    moved.mkdir(parents=True)
    for name in ("stac", "cogs", "mosaic.json"):
        (tmp_path / name).rename(moved / name)
    collection = pystac.Collection.from_file(str(moved / "stac" / "collection.json"))
    validate_stac(collection.to_dict(include_self_link=False, transform_hrefs=False))
    items = list(collection.get_items())
    assert [item.id for item in items] == list(result.item_ids)
    for item, cog in zip(items, cogs, strict=True):
        assert item.collection_id == "job-1"
        assert item.get_collection() is not None
        assert Path(str(item.assets["data"].get_absolute_href())).resolve() == moved / "cogs" / cog.name
    assert Path(str(collection.assets["mosaic"].get_absolute_href())).resolve() == moved / "mosaic.json"
    west, _, east, _ = result.spatial_extent
    assert west == pytest.approx(items[0].bbox[0])  # type: ignore[index]
    assert east == pytest.approx(items[2].bbox[2])  # type: ignore[index]


def test_a_second_run_makes_the_same_documents(tmp_path: Path) -> None:
    cogs = [neighbour(tmp_path / f"t{n}.tif", n) for n in range(2)]
    create_stac_collection(cogs, tmp_path / "one", acquired=NOON)
    create_stac_collection(cogs, tmp_path / "two", acquired=NOON)
    for name in ("collection.json", "items/t0.json", "items/t1.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_blobs_in_a_folder_link_as_files_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GDALTOOLS_BLOB_ROOT", str(tmp_path))
    neighbour(tmp_path / "silver-cogs" / "job" / "a.tif", 0)
    inside = create_stac_collection(["abfs://silver-cogs/job/a.tif"], "abfs://silver-cogs/job/stac")
    across = create_stac_collection(["abfs://silver-cogs/job/a.tif"], "abfs://silver-stac/job")
    assert inside.location == "abfs://silver-cogs/job/stac/collection.json"
    hrefs = [
        document(tmp_path / folder / "items" / "a.json")["assets"]["data"]["href"]
        for folder in ("silver-cogs/job/stac", "silver-stac/job")
    ]
    assert hrefs == ["../../a.tif", "../../../silver-cogs/job/a.tif"]
    assert across.items == ("abfs://silver-stac/job/items/a.json",)


def test_cogs_of_the_same_name_get_ids_of_their_own(tmp_path: Path) -> None:
    cogs = [neighbour(tmp_path / folder / "same.tif", n) for n, folder in enumerate(("a", "b"))]
    result = create_stac_collection(cogs, tmp_path / "stac")
    assert len(set(result.item_ids)) == 2
    assert all(item_id.startswith("same-") for item_id in result.item_ids)


def test_a_bad_cog_ends_the_work_before_anything_is_written(tmp_path: Path) -> None:
    cogs = [neighbour(tmp_path / "good.tif", 0), truncate(neighbour(tmp_path / "bad.tif", 1))]
    with pytest.raises(CorruptRaster, match=r"bad\.tif"):
        create_stac_collection(cogs, tmp_path / "stac")
    assert not (tmp_path / "stac").exists()


def test_bad_cogs_can_be_skipped_and_are_told(tmp_path: Path) -> None:
    cogs = [neighbour(tmp_path / "good.tif", 0), truncate(neighbour(tmp_path / "bad.tif", 1))]
    result = create_stac_collection(cogs, tmp_path / "stac", on_error="skip")
    assert (result.items_created, result.items_failed) == (1, 1)
    assert "CorruptRaster" in result.failures[str(tmp_path / "bad.tif")]
    with pytest.raises(UnsupportedRaster, match="no COG"):
        create_stac_collection(cogs[1:], tmp_path / "none", on_error="skip")


def test_what_makes_no_collection_is_refused(tmp_path: Path, cog: Path) -> None:
    with pytest.raises(InvalidParameter, match="no COGs"):
        create_stac_collection([], tmp_path / "stac")
    with pytest.raises(InvalidParameter, match="twice"):
        create_stac_collection([cog, cog], tmp_path / "stac")
    with pytest.raises(InvalidParameter, match="letter or digit"):
        create_stac_collection([cog], tmp_path / "stac", collection_id="///")
    with pytest.raises(UnsupportedRaster, match="CRS"):
        create_stac_item(write_raster(tmp_path / "n.tif", smooth(1, 30, 40), crs=None))
    create_stac_collection([cog], tmp_path / "stac")
    with pytest.raises(TargetExists):
        create_stac_collection([cog], tmp_path / "stac")
    create_stac_collection([cog], tmp_path / "stac", overwrite=True)


def test_across_the_antimeridian_the_extent_stays_small(tmp_path: Path) -> None:
    cogs = [
        write_raster(
            tmp_path / f"{n}.tif", smooth(1, 300, 300), crs="EPSG:32601",
            transform=from_origin(x, 8_000_000, 1000, 1000),
        )
        for n, x in enumerate((100_000, 400_000))
    ]  # fmt: skip
    result = create_stac_collection(cogs, tmp_path / "stac")
    west, south, east, north = result.spatial_extent
    assert west > 160
    assert -180 < east < -165
    assert south < north
    assert document(result.items[0])["geometry"]["type"] == "MultiPolygon"


@pytest.mark.parametrize(
    ("west", "east", "bbox", "kind"),
    [
        (190, 200, (-170, -160), "Polygon"),
        (0, 360, (-180, 180), "Polygon"),
        (170, 190, (170, -170), "MultiPolygon"),
        (-190, -170, (170, -170), "MultiPolygon"),
        (180, 190, (-180, -170), "Polygon"),
    ],
)
def test_longitudes_wrap_as_in_rfc_7946(
    tmp_path: Path, west: float, east: float, bbox: tuple[float, float], kind: str
) -> None:
    cog = write_raster(
        tmp_path / "a.tif", smooth(1, 100, 100), crs="EPSG:4326",
        transform=from_bounds(west, -20, east, -10, 100, 100),
    )  # fmt: skip
    item = create_stac_item(cog)
    assert item.bbox == pytest.approx([bbox[0], -20, bbox[1], -10])
    assert item.geometry is not None
    assert item.geometry["type"] == kind
    assert shape(item.geometry).area == pytest.approx((east - west) * 10)
    assert box(-180, -90, 180, 90).covers(shape(item.geometry))
