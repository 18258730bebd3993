"""A MosaicJSON names every COG for each map tile that it touches, and no other."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from gdaltools.catalog.mosaic import create_mosaicjson
from gdaltools.errors import (
    CorruptRaster,
    InvalidParameter,
    SourceNotFound,
    TargetExists,
    UnsupportedRaster,
)
from tests.support.rasters import UTM, UTM_GRID, from_origin, smooth, write_raster


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
    from cogeo_mosaic.mosaic import MosaicJSON

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


def test_importing_the_module_does_not_import_cogeo_mosaic() -> None:
    check = "import gdaltools.catalog.mosaic, sys; sys.exit('cogeo_mosaic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
