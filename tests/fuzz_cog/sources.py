"""Small undamaged rasters of many kinds, which a fuzz run damages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS

from tests.support.rasters import UTM, UTM_GRID, categories, smooth, write_raster

_ROWS, _COLS = 201, 263


def _image(bands: int, dtype: str = "uint8") -> NDArray[Any]:
    if np.dtype(dtype).kind in "fc":
        return (smooth(bands, _ROWS, _COLS, dtype="int16") * 0.7).astype(dtype)
    return smooth(bands, _ROWS, _COLS, dtype=dtype)


def _with_holes(bands: int, dtype: str, nodata: float) -> NDArray[Any]:
    image = _image(bands, dtype)
    image[:, 50:120, 30:200] = nodata
    return image


def write_sources(folder: Path) -> None:
    """Write one raster of each kind into `folder`."""
    valid = np.ones((_ROWS, _COLS), bool)
    valid[20:90, 100:200] = False
    colours = {value: (value * 40, 255 - value * 30, value * 17, 255) for value in range(7)}
    tiles = {"tiled": True, "blockxsize": 64, "blockysize": 64}
    placed: dict[str, Any] = {"crs": UTM, "transform": UTM_GRID}
    kinds: Mapping[str, tuple[NDArray[Any], Mapping[str, Any]]] = {
        "strips.tif": (_image(3), {"options": {"interleave": "pixel"}, **placed}),
        "bands.tif": (_image(5, "uint16"), {"options": {"interleave": "band"}, "tags": {"A": "b"}}),
        "deflate.tif": (_image(3), {"options": {"compress": "deflate", "predictor": 2, **tiles}, **placed}),
        "lzw.tif": (
            _with_holes(1, "float32", np.nan),
            {"nodata": np.nan, "options": {"compress": "lzw", "predictor": 3, "blockysize": 20}, **placed},
        ),
        "one-strip.tif": (_image(2, "int16"), {"options": {"compress": "deflate", "blockysize": _ROWS}}),
        "packbits.tif": (_image(1), {"options": {"compress": "packbits"}}),
        "zstd.tif": (_image(1, "float64"), {"options": {"compress": "zstd", **tiles}}),
        "lerc.tif": (_image(1, "float32"), {"options": {"compress": "lerc", **tiles}}),
        "jpeg.tif": (
            _image(3),
            {"options": {"compress": "jpeg", "photometric": "ycbcr", "interleave": "pixel", **tiles}},
        ),
        "webp.tif": (_image(4), {"options": {"compress": "webp", "interleave": "pixel", **tiles}}),
        "mask.tif": (_image(3), {"mask": valid, "options": {"compress": "lzw"}, **placed}),
        "alpha.tif": (_image(4), {"alpha": True, "options": {"interleave": "pixel"}}),
        "nodata.tif": (_with_holes(2, "int16", -32768), {"nodata": -32768, **placed}),
        "palette.tif": (
            categories(_ROWS, _COLS),
            {"colormap": colours, "nodata": 0, "options": {"photometric": "palette"}},
        ),
        "bits.tif": (_image(1) % 2, {"options": {"nbits": 1, "compress": "ccittfax4"}}),
        "nibbles.tif": (_image(2) % 16, {"options": {"nbits": 4}}),
        "big-endian.tif": (_image(2, "uint16"), {"options": {"endianness": "big", "compress": "deflate"}}),
        "bigtiff.tif": (_image(2, "int32"), {"options": {"bigtiff": "yes", **tiles}}),
        "int64.tif": (_image(1, "int64"), {"nodata": 5}),
        "complex.tif": (_image(1, "complex64"), {}),
        "overviews.tif": (_image(3), {"overviews": (2, 4), "mask": valid, "block": 64}),
        "described.tif": (
            _image(2),
            {
                "scales": [0.1, 2.0], "offsets": [0.0, -5.0], "units": ["m", "K"],
                "descriptions": ["one", "two"], "band_tags": {1: {"W": "5"}}, "tags": {"A": "<b>"},
            },
        ),
        "cog.tif": (_image(3), {"driver": "COG", "options": {"blocksize": 64}, **placed}),
        "a.png": (_image(4), {"driver": "PNG", "crs": None, "transform": None}),
        "a.jpg": (_image(3), {"driver": "JPEG", "crs": None, "transform": None}),
    }  # fmt: skip
    for name, (image, options) in kinds.items():
        write_raster(folder / name, image, **options)
    _write_with_points(folder / "points.tif")


def _write_with_points(path: Path) -> None:
    write_raster(path, _image(1), crs=None, transform=None)
    with rasterio.open(path, "r+") as dataset:
        points = [
            GroundControlPoint(row, col, 38 + col / 300, 9 - row / 700)
            for row, col in [(0, 0), (0, 200), (200, 0), (200, 200)]
        ]
        dataset.gcps = points, CRS.from_epsg(4326)
