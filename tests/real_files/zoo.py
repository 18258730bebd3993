"""Small rasters of every kind: each dtype, layout, nodata, and way to place pixels on Earth."""

from __future__ import annotations

import itertools
from dataclasses import astuple, dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.rpc import RPC
from rasterio.transform import Affine, from_origin

from tests.support.rasters import UTM, UTM_GRID, WGS84, WGS84_GRID, categories, smooth, write_raster

_ROWS, _COLS = 150, 171
_TILED = {"tiled": True, "blockxsize": 64, "blockysize": 64}

DTYPES = (
    "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64",
    "complex_int16", "complex64", "complex128",
)  # fmt: skip

#: Bands, and GDAL's creation options.
LAYOUTS: dict[str, tuple[int, dict[str, Any]]] = {
    "strips": (1, {}),
    "pixel": (3, {"interleave": "pixel", "compress": "lzw", "blockysize": 20}),
    "planar": (4, {"interleave": "band", "compress": "deflate", **_TILED}),
    "tiles": (2, {"interleave": "pixel", "endianness": "big", **_TILED}),
    "sparse": (3, {"interleave": "band", "compress": "zstd", "sparse_ok": True, "bigtiff": "yes", **_TILED}),
    "palette": (1, {"photometric": "palette", "compress": "packbits"}),
    "nibbles": (1, {"nbits": 4, "compress": "deflate"}),
}

GAPS = ("none", "nodata", "limit", "nan", "infinite", "mask", "both", "alpha")

#: CRS and transform; None: no affine transform.
PLACES: dict[str, tuple[str | None, Affine | None]] = {
    "geographic": (WGS84, WGS84_GRID),
    "projected": (UTM, UTM_GRID),
    "nowhere": (None, None),
    "local": ('LOCAL_CS["a site",UNIT["metre",1]]', UTM_GRID),
    "compound": ("EPSG:32637+5773", UTM_GRID),
    "south-up": (UTM, Affine(10, 0, 470000, 0, 10, 998000)),
    "rotated": (UTM, UTM_GRID * Affine.rotation(20)),
    "across-180": (WGS84, from_origin(178.0, -16.0, 0.025, 0.02)),
    "beyond-180": (WGS84, from_origin(200.0, 60.0, 0.01, 0.01)),
    "polar": ("EPSG:3031", from_origin(-800000.0, 700000.0, 9000.0, 9000.0)),
    "world": (WGS84, from_origin(-180.0, 90.0, 360 / _COLS, 180 / _ROWS)),
    "planet": ("IAU_2015:49910", UTM_GRID),
    "points": (None, None),
    "rational": (None, None),
}


@dataclass(frozen=True)
class Animal:
    """One raster of the zoo; all of it follows from these four names."""

    dtype: str
    layout: str
    gaps: str
    place: str

    @property
    def name(self) -> str:
        """The name of its file."""
        return ".".join(astuple(self)) + ".tif"


def everything() -> list[Animal]:
    """Return every raster that can be."""
    return [
        animal
        for animal in itertools.starmap(Animal, itertools.product(DTYPES, LAYOUTS, GAPS, PLACES))
        if _can_be(animal)
    ]


def sample(count: int, seed: int) -> list[Animal]:
    """Return `count` of them, so that each name occurs about equally often."""
    random, rest = Random(seed), everything()
    random.shuffle(rest)
    seen: dict[str, int] = {}
    chosen = []
    for _ in range(count):
        rarest = min(rest, key=lambda animal: sum(seen.get(name, 0) ** 2 for name in astuple(animal)))
        rest.remove(rarest)
        chosen.append(rarest)
        for name in astuple(rarest):
            seen[name] = seen.get(name, 0) + 1
    return chosen


def write(animal: Animal, folder: Path) -> Path:
    """Write the raster into `folder`."""
    random = Random(animal.name)
    count, options = LAYOUTS[animal.layout]
    crs, transform = PLACES[animal.place]
    kind = np.dtype("complex64" if animal.dtype == "complex_int16" else animal.dtype)
    image, nodata, valid = _pixels(animal, count, kind)
    path = write_raster(
        folder / animal.name, image, crs=crs, transform=transform, nodata=nodata, mask=valid,
        alpha=animal.gaps == "alpha",
        colormap={value: (value * 40, 255 - value * 30, value * 17, 255) for value in range(7)}
        if animal.layout == "palette" else None,
        descriptions=random.choice([None, [f"band {index} of <ü>" for index in range(count)]]),
        units=random.choice([None, ["m"] * count]),
        scales=random.choice([None, [0.1] * count]),
        offsets=random.choice([None, [-273.15] * count]),
        tags=random.choice([None, {"A": "b = c", "AREA_OR_POINT": "Point"}]),
        band_tags=random.choice([None, {count: {"STATISTICS_MEAN": "12.5", "W": "5"}}]),
        overviews=random.choice([(), (2, 4)]) if animal.layout != "sparse" else (),
        options={**options, "dtype": animal.dtype},
    )  # fmt: skip
    if animal.place in ("points", "rational"):
        with rasterio.open(path, "r+") as dataset:
            _place(dataset, animal.place)
    return path


def _can_be(animal: Animal) -> bool:
    dtype, layout, gaps = animal.dtype, animal.layout, animal.gaps
    if gaps in ("nan", "infinite"):
        return dtype.startswith("float") and layout not in ("palette", "nibbles")
    if layout in ("palette", "nibbles"):
        return dtype == "uint8" and gaps != "alpha"
    if gaps == "alpha":
        return dtype in ("uint8", "uint16") and layout in ("tiles", "planar")
    # GDAL's masks of complex numbers look at the real part alone.
    if gaps == "limit" and dtype == "uint64":  # rasterio cannot write it
        return False
    return gaps not in ("nodata", "limit", "both") or not dtype.startswith("complex")


def _pixels(
    animal: Animal, count: int, kind: np.dtype[Any]
) -> tuple[NDArray[Any], float | None, NDArray[np.bool_] | None]:
    """Return pixels, their nodata value and their mask."""
    if animal.layout in ("palette", "nibbles"):
        image = categories(_ROWS, _COLS)
    else:
        image = smooth(count, _ROWS, _COLS, dtype=kind, noise=1.0)
    if kind.kind == "c":
        image = np.rint(image + 0.5j * image[:, ::-1]).astype(kind)
    valid = np.ones((_ROWS, _COLS), bool)
    valid[40:90, 50:130] = False
    if animal.layout == "sparse":
        image[:, 64:128, 64:] = 0
    if animal.gaps == "mask":
        return image, None, valid
    if animal.gaps == "alpha":
        image[-1] = np.where(valid, np.iinfo(kind).max, 0)
    if animal.gaps in ("none", "alpha"):
        return image, None, None
    low = 0 if kind.kind == "u" else -9999 if kind.itemsize > 1 else -1
    limits = np.finfo(kind) if kind.kind == "f" else np.iinfo(kind)
    limit = limits.max if kind.kind == "u" else limits.min
    nodata = {"nan": np.nan, "infinite": -np.inf, "limit": limit, "both": 0}.get(animal.gaps, low)
    if animal.gaps == "both":  # the mask alone hides pixels; the value occurs outside it too
        image[:, 100:110, :20] = nodata
        return image, nodata, valid
    image[:, ~valid] = nodata
    image[-1, 90:100, 50:130] = nodata
    return image, float(nodata) if kind.itemsize < 8 or kind.kind == "f" else int(nodata), None


def _place(dataset: Any, place: str) -> None:
    if place == "points":
        corners = [(0, 0), (0, _COLS), (_ROWS, 0), (_ROWS, _COLS)]
        dataset.gcps = (
            [GroundControlPoint(row, col, 38 + col / 300, 9 - row / 700, 1.5) for row, col in corners],
            CRS.from_epsg(4326),
        )
        return
    dataset.rpcs = RPC(
        height_off=100.5, height_scale=500, lat_off=9.1, lat_scale=0.1, long_off=38, long_scale=0.1,
        line_off=50, line_scale=50, samp_off=45, samp_scale=45, line_num_coeff=[0.1 / 3] * 20,
        line_den_coeff=[1.0] + [1e-5 / 3] * 19, samp_num_coeff=[0.2 / 7] * 20,
        samp_den_coeff=[1.0] + [1e-6 / 7] * 19, err_bias=0.5, err_rand=0.25,
    )  # fmt: skip
