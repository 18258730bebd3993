"""Tiles written directly as COGs: the same as `create_cog` makes of the plain tile, in the same pass."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray

from gdaltools.cog.create import create_cog
from gdaltools.cog.validate import validate_cog
from gdaltools.errors import InvalidParameter
from gdaltools.tiles.extract.create import extract_tiles
from gdaltools.tiles.generate import generate_tiling_scheme
from tests.support.rasters import UTM, UTM_GRID, categories, elevation, smooth, write_raster

ROWS, COLS = 330, 300
GAP = np.ones((ROWS, COLS), bool)
GAP[40:130, 60:140] = False
GAP[:, 210:] = False
PALETTE = {i: (i, 255 - i, 7, 255) for i in range(256)}


def sources() -> dict[str, tuple[NDArray[Any], Mapping[str, Any]]]:
    rgb = smooth(3, ROWS, COLS)
    dem = elevation(ROWS, COLS)
    return {
        "rgb": (rgb, {"descriptions": ["r", "g", "b"], "tags": {"SENSOR": "x"}}),
        "rgb with nodata": (np.where(GAP, rgb, 0).astype("uint8"), {"nodata": 0, "block": 128}),
        "rgb with mask": (rgb, {"mask": GAP}),
        "rgba": (np.concatenate([rgb, np.where(GAP, 255, 0).astype("uint8")[None]]), {"alpha": True}),
        "dem with NaN": (np.where(GAP, dem, np.nan).astype("float32"), {"nodata": float("nan")}),
        "classes": (categories(ROWS, COLS), {"colormap": PALETTE}),
        "int16": (smooth(1, ROWS, COLS, dtype="int16"), {"scales": [0.1], "offsets": [3.0]}),
        "nine bands": (smooth(9, ROWS, COLS, dtype="uint16"), {"options": {"interleave": "band"}}),
        "complex64": (smooth(1, ROWS, COLS, dtype="complex64"), {}),
    }


def everything(path: str | Path) -> dict[str, Any]:
    """Return all pixels, masks, overviews and metadata of a file."""
    with rasterio.open(path) as dataset:
        found: dict[str, Any] = {
            "said": (
                dataset.profile, dataset.tags(), dataset.descriptions, dataset.colorinterp, dataset.scales,
                dataset.offsets, dataset.units, dataset.mask_flag_enums, dataset.overviews(1),
                [dataset.tags(band) for band in dataset.indexes],
                dataset.colormap(1) if dataset.colorinterp[0].name == "palette" else None,
            ),
            "pixels": [(dataset.read(), dataset.dataset_mask())],
        }  # fmt: skip
        levels = range(len(dataset.overviews(1)))
    for level in levels:
        with rasterio.open(path, overview_level=level) as overview:
            found["pixels"].append((overview.read(), overview.dataset_mask()))
    return found


def assert_same_file(ours: str | Path, theirs: str | Path) -> None:
    one, other = everything(ours), everything(theirs)
    assert repr(one["said"]) == repr(other["said"])
    for (pixels, mask), (expected, expected_mask) in zip(one["pixels"], other["pixels"], strict=True):
        np.testing.assert_array_equal(pixels, expected)
        np.testing.assert_array_equal(mask, expected_mask)


@pytest.mark.parametrize("target", [UTM, "EPSG:4326"])
@pytest.mark.parametrize("name", list(sources()))
def test_a_tile_is_the_cog_of_the_plain_tile(tmp_path: Path, name: str, target: str) -> None:
    pixels, options = sources()[name]
    path = write_raster(tmp_path / "a.tif", pixels, crs=UTM, transform=UTM_GRID, **options)
    scheme = generate_tiling_scheme(path, 192, 24, target)
    plain = extract_tiles(path, scheme, tmp_path / "plain")
    cogs = extract_tiles(path, scheme, tmp_path / "cogs", as_cog=True)
    assert cogs.cogs
    assert not plain.cogs
    for tile, cog in zip(plain.tiles, cogs.tiles, strict=True):
        made = create_cog(
            tile.location,
            tmp_path / "made.tif",
            blocksize=scheme.cog_blocksize,
            raster_type=scheme.raster_type,
            overwrite=True,
        )
        assert_same_file(cog.location, made.location)
        assert validate_cog(cog.location).valid
        assert len(everything(cog.location)["pixels"]) > 1


@pytest.mark.parametrize(
    "options",
    [
        {"profile": "visualization", "quality": 70},
        {"profile": "fast", "overview_resampling": "nearest"},
        {"codec": "LZW"},
        {"codec": "DEFLATE", "level": 6},
    ],
    ids=["jpeg", "zstd", "lzw", "deflate 6"],
)
def test_tiles_are_encoded_as_asked_for(tmp_path: Path, options: dict[str, Any]) -> None:
    for name in ("rgb", "rgb with nodata"):
        pixels, said = sources()[name]
        path = write_raster(tmp_path / "a.tif", pixels, crs=UTM, transform=UTM_GRID, **said)
        scheme = generate_tiling_scheme(path, 192, 24)
        plain = extract_tiles(path, scheme, tmp_path / f"{name} plain", tiles=["tile_0_0"])
        cogs = extract_tiles(path, scheme, tmp_path / name, as_cog=True, tiles=["tile_0_0"], **options)
        blocksize = scheme.cog_blocksize
        made = create_cog(
            plain.tiles[0].location, tmp_path / "m.tif", blocksize=blocksize, overwrite=True, **options
        )
        assert Path(cogs.tiles[0].location).read_bytes() == Path(made.location).read_bytes()


def test_what_is_said_of_cogs_is_not_said_of_plain_tiles(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", smooth(3, 300, 300), crs=UTM, transform=UTM_GRID)
    scheme = generate_tiling_scheme(path, 256, 32)
    with pytest.raises(InvalidParameter, match=r"level is said .* as_cog=True"):
        extract_tiles(path, scheme, tmp_path / "x", level=6)
    with pytest.raises(InvalidParameter, match="profile 'thin'"):
        extract_tiles(path, scheme, tmp_path / "x", as_cog=True, profile="thin")
    assert not (tmp_path / "x").exists()
