"""Schemes of another program: the platform's stage 1 writes them, our stage 2 cuts tiles by them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.warp import Resampling, calculate_default_transform, reproject, transform_bounds

import gdaltools as gt
from gdaltools.errors import InvalidParameter
from tests.support.rasters import UTM, UTM_GRID, WGS84, smooth, write_raster


def _foreign(path: Path, target: str, tile: int, overlap: int) -> dict[str, Any]:
    """Write a scheme as a simple program would: GDAL's default grid, tiles at each step, slivers included."""
    with rasterio.open(path) as dataset:
        if dataset.crs == target:
            transform, width, height = dataset.transform, dataset.width, dataset.height
        else:
            transform, width, height = calculate_default_transform(
                dataset.crs, target, dataset.width, dataset.height, *dataset.bounds
            )
    features = []
    step = tile - overlap
    for row in range(-(-height // step)):
        for col in range(-(-width // step)):
            x, y = col * step, row * step
            w, h = min(tile, width - x), min(tile, height - y)
            box = rasterio.windows.bounds(rasterio.windows.Window(x, y, w, h), transform)
            features.append(
                {
                    "type": "Feature",
                    "id": f"tile_{row}_{col}",
                    "geometry": None,
                    "properties": {
                        "tile_id": f"tile_{row}_{col}",
                        "row": row,
                        "col": col,
                        "pixel_window": {"col_off": x, "row_off": y, "width": w, "height": h},
                        "bounds_4326": list(transform_bounds(target, WGS84, *box)),
                        "target_width_pixels": w,
                        "target_height_pixels": h,
                        "crs_target": target,
                    },
                }
            )
    return {"type": "FeatureCollection", "metadata": {"generator": "another"}, "features": features}


def _stored(folder: Path, document: dict[str, Any]) -> Path:
    path = folder / "scheme.geojson"
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize("target", [WGS84, "EPSG:3857", UTM])
def test_its_tiles_are_cut_as_they_are(tmp_path: Path, target: str) -> None:
    raster = write_raster(tmp_path / "scene.tif", smooth(3, 300, 420), crs=UTM, transform=UTM_GRID)
    document = _foreign(raster, target, 128, 16)
    scheme = gt.read_tiling_scheme(_stored(tmp_path, document), raster=raster)
    expected = {f["properties"]["tile_id"]: f["properties"]["pixel_window"] for f in document["features"]}
    assert {tile.tile_id: tile.window.model_dump() for tile in scheme.tiles()} == expected
    assert gt.TilingScheme.from_geojson(scheme.to_geojson()) == scheme
    made = gt.extract_tiles(raster, scheme, tmp_path / "tiles", progress=False)
    assert len(made.tiles) == len(expected)
    for tile, feature in zip(scheme.tiles(), document["features"], strict=True):
        assert np.allclose(tile.bounds_4326, feature["properties"]["bounds_4326"], atol=1e-6)


def test_its_grid_is_found_to_the_pixel(tmp_path: Path) -> None:
    raster = write_raster(tmp_path / "scene.tif", smooth(1, 300, 420), crs=UTM, transform=UTM_GRID)
    scheme = gt.read_tiling_scheme(_stored(tmp_path, _foreign(raster, WGS84, 128, 16)), raster=raster)
    gt.extract_tiles(raster, scheme, tmp_path / "tiles", tiles=["tile_1_1"], progress=False)
    with rasterio.open(raster) as source, rasterio.open(tmp_path / "tiles" / "scene_tile_1_1.tif") as tile:
        whole, width, height = calculate_default_transform(
            source.crs, WGS84, source.width, source.height, *source.bounds
        )
        expected = np.zeros((height, width), "uint8")
        reproject(
            rasterio.band(source, 1),
            expected,
            dst_transform=whole,
            dst_crs=WGS84,
            resampling=Resampling.bilinear,
            XSCALE=1,
            YSCALE=1,
        )
        window = expected[112 : 112 + tile.height, 112 : 112 + tile.width].astype(int)
        assert np.abs(tile.read(1).astype(int) - window).max() <= 2


def _without_a_column(document: dict[str, Any]) -> None:
    document["features"] = [f for f in document["features"] if f["properties"]["col"] != 1]


def _shifted(document: dict[str, Any]) -> None:
    document["features"][1]["properties"]["pixel_window"]["row_off"] += 1


def _of_another_raster(document: dict[str, Any]) -> None:
    for feature in document["features"]:
        feature["properties"]["crs_target"] = "EPSG:3035"


def _without_windows(document: dict[str, Any]) -> None:
    del document["features"][0]["properties"]["pixel_window"]


def _negative(document: dict[str, Any]) -> None:
    for feature in document["features"]:
        feature["properties"]["pixel_window"]["col_off"] -= 5


@pytest.mark.parametrize(
    "harm", [_without_a_column, _shifted, _of_another_raster, _without_windows, _negative]
)
def test_a_scheme_that_makes_no_sense_is_refused(tmp_path: Path, harm: Any) -> None:
    raster = write_raster(tmp_path / "scene.tif", smooth(1, 300, 420), crs=UTM, transform=UTM_GRID)
    document = _foreign(raster, "EPSG:3857", 128, 16)
    harm(document)
    with pytest.raises(InvalidParameter, match="tiling scheme"):
        gt.read_tiling_scheme(_stored(tmp_path, document), raster=raster)


def test_without_its_raster_it_says_what_is_missing(tmp_path: Path) -> None:
    raster = write_raster(tmp_path / "scene.tif", smooth(1, 300, 420))
    with pytest.raises(InvalidParameter, match="name the raster"):
        gt.TilingScheme.read(_stored(tmp_path, _foreign(raster, WGS84, 128, 16)))
