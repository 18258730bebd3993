"""A MosaicJSON names every COG for each map tile that it touches, and no other."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from cogeo_mosaic.mosaic import MosaicJSON
from hypothesis import example, given, settings
from hypothesis import strategies as st
from morecantile import tms
from rasterio.transform import from_bounds

from gdaltools.catalog.mosaic import create_mosaicjson
from gdaltools.catalog.mosaicjson import LATITUDE_LIMIT, Bounds, MosaicDocument, quadkey_zoom, tiles_of
from gdaltools.errors import (
    CorruptRaster,
    InvalidParameter,
    SourceNotFound,
    TargetExists,
    UnsupportedRaster,
)
from tests.support.rasters import UTM, UTM_GRID, from_origin, smooth, write_raster

WEB_MERCATOR = tms.get("WebMercatorQuad")


def globe(folder: Path, rows: int, cols: int) -> list[Path]:
    """Write the whole world in EPSG:4326, cut into `rows` x `cols` rasters."""
    made = []
    for row in range(rows):
        for col in range(cols):
            grid = from_origin(
                -180 + 360 / cols * col, 90 - 180 / rows * row, 360 / cols / 64, 180 / rows / 64
            )
            made.append(write_raster(folder / f"{row}_{col}.tif", smooth(3, 64, 64), transform=grid))
    return made


def corner(quadkey: str) -> tuple[float, float]:
    """Return west and north of a map tile from its quadkey's digits (x in the low bits, y in the high)."""
    side = 2 ** len(quadkey)
    x = int("".join(str(int(digit) & 1) for digit in quadkey) or "0", 2)
    y = int("".join(str(int(digit) >> 1) for digit in quadkey) or "0", 2)
    return x / side * 360 - 180, math.degrees(math.atan(math.sinh(math.pi * (1 - 2 * y / side))))


def read(path: Path) -> dict[str, object]:
    return dict(json.loads(path.read_text()))


def test_the_document_is_a_valid_mosaic_that_keeps_names_as_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GDALTOOLS_BLOB_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    write_raster(tmp_path / "silver-cogs" / "b.tif", smooth(3, 300, 400), crs=UTM, transform=UTM_GRID)
    write_raster(tmp_path / "a.tif", smooth(3, 300, 400), crs=UTM, transform=UTM_GRID)
    names = ["abfs://silver-cogs/b.tif", "a.tif", str(tmp_path / "a.tif")]
    result = create_mosaicjson(names, "abfs://silver-cogs/m/mosaic.json", name="hills")
    document = read(tmp_path / "silver-cogs" / "m" / "mosaic.json")
    MosaicJSON.model_validate(document)
    assert result.cogs == tuple(names)
    assert (document["name"], document["minzoom"], document["maxzoom"]) == (
        "hills", result.minzoom, result.maxzoom,
    )  # fmt: skip
    assert result.quadkey_count == len(document["tiles"])  # type: ignore[arg-type]
    assert all(assets == names for assets in document["tiles"].values())  # type: ignore[attr-defined]
    assert result.maxzoom == 14  # 10 m
    left, bottom, right, top = result.bounds
    assert left < result.center[0] < right
    assert bottom < result.center[1] < top
    assert 38.7 < left < right < 38.8


def test_a_world_wide_mosaic_covers_the_world(tmp_path: Path) -> None:
    cogs = globe(tmp_path, 2, 4)
    result = create_mosaicjson(cogs, tmp_path / "m.json", minzoom=2, maxzoom=5)
    tiles = read(tmp_path / "m.json")["tiles"]
    assert isinstance(tiles, dict)
    assert result.bounds == (-180, -90, 180, 90)
    assert result.quadkey_count == 16
    for quadkey, assets in tiles.items():
        west, north = corner(quadkey)
        col = int((west + 180.001) // 90)
        row = 0 if north > 0.001 else 1
        assert assets == [str(tmp_path / f"{row}_{col}.tif")]


def test_one_raster_of_the_whole_globe_works_at_every_zoom(tmp_path: Path) -> None:
    cogs = globe(tmp_path, 1, 1)
    for zoom in (0, 7, 24):
        result = create_mosaicjson(cogs, tmp_path / "m.json", minzoom=zoom, maxzoom=24, overwrite=True)
        assert (result.minzoom, result.maxzoom) == (zoom, 24)
        assert 0 < result.quadkey_count <= 10_000


def test_a_raster_across_the_antimeridian_is_on_both_sides(tmp_path: Path) -> None:
    grid = from_origin(500_000, 8_000_000, 1000, 1000)
    cog = write_raster(tmp_path / "a.tif", smooth(1, 300, 400), crs="EPSG:32601", transform=grid)
    over_it = from_origin(100_000, 8_000_000, 1000, 1000)
    west = write_raster(tmp_path / "b.tif", smooth(1, 300, 400), crs="EPSG:32601", transform=over_it)
    result = create_mosaicjson([cog, west], tmp_path / "m.json", minzoom=6, maxzoom=8)
    lons = {
        round(corner(q)[0])
        for q, assets in read(tmp_path / "m.json")["tiles"].items()  # type: ignore[attr-defined]
        if str(west) in assets
    }
    assert min(lons) <= -170
    assert max(lons) >= 168
    assert result.bounds[0] == -180


@pytest.mark.parametrize(
    ("spans", "center"),
    [
        ([(170, 190)], 180),
        ([(190, 200)], -165),
        ([(-190, -180)], 175),
        ([(170, 175), (-175, -170)], 180),
        ([(-175, -170), (182, 184), (160, 165)], 175),
        ([(0, 360)], 0),
        ([(10, 20), (30, 50)], 30),
        ([(0, 350), (355, 359)], 172.5),
        ([(-180, -175), (-150, -140), (170, 215)], -165),
    ],
)
def test_the_center_lies_among_the_scenes_and_longitudes_wrap(
    tmp_path: Path, spans: list[tuple[float, float]], center: float
) -> None:
    cogs = [
        write_raster(
            tmp_path / f"{n}.tif", smooth(1, 100, 100), crs="EPSG:4326",
            transform=from_bounds(west, -20, east, -10, 100, 100),
        )
        for n, (west, east) in enumerate(spans)
    ]  # fmt: skip
    result = create_mosaicjson(cogs, tmp_path / "m.json", minzoom=6, maxzoom=8)
    assert (result.center[0] - center + 180) % 360 - 180 == pytest.approx(0, abs=1e-6)
    assert -180 <= result.bounds[0] < result.bounds[2] <= 180
    keys = read(tmp_path / "m.json")["tiles"]
    for n, (west, east) in enumerate(spans):
        middle = ((west + east) / 2 + 180) % 360 - 180
        tile = tms.get("WebMercatorQuad").tile(middle, -15, result.quadkey_zoom)
        assert str(cogs[n]) in keys[tms.get("WebMercatorQuad").quadkey(tile)]  # type: ignore[index]


@pytest.mark.parametrize("options", [
    {"minzoom": -1}, {"maxzoom": 25}, {"minzoom": 9, "maxzoom": 3}, {"minzoom": 1.5}, {"maxzoom": True},
])  # fmt: skip
def test_zooms_out_of_range_are_refused(tmp_path: Path, options: dict[str, int]) -> None:
    cog = write_raster(tmp_path / "a.tif", smooth(1, 30, 40))
    with pytest.raises(InvalidParameter, match="zoom"):
        create_mosaicjson([cog], tmp_path / "m.json", **options)
    assert not (tmp_path / "m.json").exists()


def test_what_cannot_be_in_a_mosaic_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "m.json"
    cog = write_raster(tmp_path / "a.tif", smooth(1, 30, 40))
    with pytest.raises(InvalidParameter, match="no COGs"):
        create_mosaicjson([], target)
    with pytest.raises(InvalidParameter, match="list"):
        create_mosaicjson(str(cog), target)
    with pytest.raises(InvalidParameter, match="dtypes"):
        create_mosaicjson([cog, write_raster(tmp_path / "f.tif", smooth(1, 30, 40, dtype="float32"))], target)
    with pytest.raises(UnsupportedRaster, match="CRS"):
        create_mosaicjson([write_raster(tmp_path / "n.tif", smooth(1, 30, 40), crs=None)], target)
    polar = write_raster(tmp_path / "p.tif", smooth(1, 30, 40), transform=from_origin(0, 90, 0.1, 0.1))
    with pytest.raises(UnsupportedRaster, match="85"):
        create_mosaicjson([polar], target)
    with pytest.raises(SourceNotFound):
        create_mosaicjson([cog, tmp_path / "none.tif"], target)
    (tmp_path / "e.tif").touch()
    with pytest.raises(CorruptRaster):
        create_mosaicjson([tmp_path / "e.tif"], target)
    assert not target.exists()
    target.write_text("precious")
    with pytest.raises(TargetExists):
        create_mosaicjson([cog], target)
    assert target.read_text() == "precious"


def test_a_cog_beyond_web_maps_is_left_out_and_named(tmp_path: Path) -> None:
    cog = write_raster(tmp_path / "a.tif", smooth(1, 30, 40))
    polar = write_raster(tmp_path / "p.tif", smooth(1, 30, 40), transform=from_origin(0, 90, 0.1, 0.1))
    result = create_mosaicjson([polar, cog], tmp_path / "m.json")
    assert (result.tile_count, result.cogs, result.left_out) == (1, (str(cog),), (str(polar),))
    assert str(polar) not in (tmp_path / "m.json").read_text()


def edge(zoom: int, row: int) -> float:
    """Latitude of the north side of a row of map tiles, cut at the limit of web maps."""
    latitude = math.degrees(math.atan(math.sinh(math.pi * (1 - 2 * row / 2**zoom))))
    return min(max(latitude, -LATITUDE_LIMIT), LATITUDE_LIMIT)


@st.composite
def boxes_and_zooms(draw: st.DrawFn) -> tuple[list[tuple[str, Bounds]], int]:
    """Boxes from a metre to the whole world, in any place or on the edges of map tiles, at a fitting zoom."""
    deepest = draw(st.integers(0, 24))
    boxes: list[tuple[str, Bounds]] = []
    for number in range(draw(st.integers(1, 4))):
        if draw(st.booleans()):  # whole map tiles
            zoom = draw(st.integers(0, deepest))
            cols, rows = (
                sorted(draw(st.lists(st.integers(0, 2**zoom), min_size=2, max_size=2, unique=True)))
                for _ in "xy"
            )
            (left, right), (top, bottom) = (
                (col / 2**zoom * 360 - 180 for col in cols),
                (edge(zoom, row) for row in rows),
            )
        else:
            left = draw(st.integers(-18_000_000, 17_999_999)) / 1e5
            bottom = draw(st.integers(-8_505_112, 8_505_111)) / 1e5
            size = st.sampled_from([1e-5, 1e-3, 1.0, 40.0, 360.0])
            right, top = min(left + draw(size), 180.0), min(bottom + draw(size), LATITUDE_LIMIT)
        boxes.append((f"{draw(st.sampled_from('abc'))}{number // 2}.tif", (left, bottom, right, top)))
    deepest = min(deepest, quadkey_zoom([box for _, box in boxes], deepest))
    while len(tiles_of(boxes, deepest)) > 100:
        deepest -= 1
    return boxes, deepest


def judged(boxes: list[tuple[str, Bounds]], zoom: int) -> dict[str, tuple[str, ...]]:
    """The tiles that morecantile finds for the same boxes, a centimetre smaller on each side."""
    tiles: dict[str, tuple[str, ...]] = {}
    for name, (left, bottom, right, top) in boxes:
        dx, dy = min(1e-7, (right - left) / 4), min(1e-7, (top - bottom) / 4)
        for tile in WEB_MERCATOR.tiles(left + dx, bottom + dy, right - dx, top - dy, [zoom]):
            key = WEB_MERCATOR.quadkey(tile)
            tiles[key] = tuple(dict.fromkeys((*tiles.get(key, ()), name)))
    return tiles


@settings(max_examples=100, deadline=None)
@given(boxes_and_zooms())
@example(([("a", (-180.0, -LATITUDE_LIMIT, 180.0, LATITUDE_LIMIT))], 3))
@example(([("a", (170.0, -10.0, 180.0, 10.0)), ("a", (-180.0, -10.0, -170.0, 10.0))], 7))
@example(([("a", (0.0, 0.0, 90.0, edge(2, 1)))], 2))
@example(([("a", (0.0, 0.0, 1e-5, 1e-5))], 1))
@example(([("a", (0.0, 0.0, 1e-5, 1e-5)), ("b", (-1e-5, -1e-5, 0.0, 0.0))], 24))
@example(([("a", (-179.96401, 0.0, 180.0, 1.0))], 0))
def test_the_tiles_are_those_of_morecantile_and_cogeo_mosaic_reads_them(
    case: tuple[list[tuple[str, Bounds]], int],
) -> None:
    boxes, zoom = case
    found = tiles_of(boxes, zoom)
    assert found == judged(boxes, zoom)
    document = MosaicDocument(
        name="m", minzoom=zoom, maxzoom=24, quadkey_zoom=zoom, bounds=(-180, -90, 180, 90),
        center=(0, 0, zoom), tiles=found,
    )  # fmt: skip
    read_back = MosaicJSON.model_validate_json(document.model_dump_json())
    assert read_back.model_dump_json(exclude_none=True) == document.model_dump_json()


@pytest.mark.parametrize("wrong", [{"name": 5}, {"bounds": (math.nan, 0, 1, 1)}, {"quadkey_zoom": 31}])
def test_what_no_mosaicjson_may_hold_is_refused(wrong: dict[str, Any]) -> None:
    fields = {
        "name": "m", "minzoom": 0, "maxzoom": 1, "quadkey_zoom": 0, "bounds": (0, 0, 1, 1),
        "center": (0, 0, 0), "tiles": {},
    }  # fmt: skip
    MosaicDocument.model_validate(fields)
    with pytest.raises(ValueError, match=next(iter(wrong))):
        MosaicDocument.model_validate({**fields, **wrong})
