"""Guess a raster's type from its header and a few of its blocks.

The guess only chooses defaults (resampling, codec); a caller who knows better passes ``raster_type``.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from rasterio.enums import ColorInterp
from rasterio.io import DatasetReader
from rasterio.windows import Window

from gdaltools.raster.dataset import numpy_dtypes, read_window
from gdaltools.raster.facts import RGB
from gdaltools.raster.pixels.nodata import holding_data, nodata_of
from gdaltools.storage import Location

RasterType = Literal["rgb", "rgba", "dem", "categorical", "multispectral", "nir"]
RASTER_TYPES: tuple[RasterType, ...] = get_args(RasterType)

_SAMPLED_WINDOWS = 3  # in each direction
_WINDOW = 256  # pixels a side
_MAX_CLASSES = 32
_ELEVATION_WORDS = ("elev", "dem", "dsm", "dtm", "height", "altitude", "bathy", "terrain")
_CLASS_WORDS = ("class", "landcover", "land cover", "land_cover", "categor")
_NIR_WORDS = ("nir", "near infrared", "near-infrared", "near_infrared", "infrared")


class Detection(BaseModel):
    """A raster's type, the confidence in it (0 to 1), and the reason for it."""

    model_config = ConfigDict(frozen=True)

    raster_type: RasterType
    confidence: float
    reason: str


def detect(dataset: DatasetReader, location: Location) -> Detection:
    """Return the type of an open raster; reads at most nine small windows, never the whole raster.

    Raises
    ------
    CorruptRaster
        One of the sampled blocks cannot be decoded.
    """
    interp = dataset.colorinterp
    words = _words(dataset)
    if dataset.count == 1:
        return _detect_single(dataset, location, interp[0], words)
    if dataset.count == 2:
        return _found("multispectral", 0.5, "two bands")
    if dataset.count in (3, 4) and _floating(dataset):
        return _found("multispectral", 0.7, f"{dataset.count} bands of floating-point numbers")
    if dataset.count == 3:
        if interp == RGB:
            return _found("rgb", 0.95, "three bands, marked red, green, blue")
        return _found("rgb", 0.8 if dataset.dtypes[0] == "uint8" else 0.6, f"three {dataset.dtypes[0]} bands")
    if dataset.count == 4:
        return _detect_four(dataset, location, interp, words)
    return _found("multispectral", 0.9, f"{dataset.count} bands")


def _detect_four(
    dataset: DatasetReader, location: Location, interp: tuple[ColorInterp, ...], words: str
) -> Detection:
    # GDAL's writers mark a fourth band as alpha by themselves, so a description takes precedence.
    if any(word in words for word in _NIR_WORDS):
        return _found("nir", 0.95, "four bands, one described as near infrared")
    if interp[3] == ColorInterp.alpha:
        return _found("rgba", 0.95, "four bands, the last marked alpha")
    if getattr(interp[3], "name", "") in ("nir", "NIR"):
        return _found("nir", 0.95, "four bands, the last marked near infrared")
    if _alpha_like(_sample(dataset, location, 4), dataset.dtypes[3]):
        return _found("rgba", 0.8, "four bands, the last only fully opaque or transparent")
    return _found("nir", 0.7, "four bands, the last a continuous one")


def _detect_single(dataset: DatasetReader, location: Location, interp: ColorInterp, words: str) -> Detection:
    dtype = np.dtype(numpy_dtypes(dataset)[0])
    if interp == ColorInterp.palette:
        return _found("categorical", 0.95, "one band with a colour table")
    if any(word in words for word in _CLASS_WORDS) and dtype.kind in "iu":
        return _found("categorical", 0.9, "one band, described as classes")
    if any(word in words for word in _ELEVATION_WORDS):
        return _found("dem", 0.95, "one band, described as elevation")
    if dtype.kind in "fc":
        return _found("dem", 0.8, "one band of floating-point numbers")
    values = _sample(dataset, location, 1)
    if (there := holding_data(values, nodata_of(dataset))) is not None:
        values = values[there]
    distinct = np.unique(values)
    if 0 < distinct.size <= _MAX_CLASSES and np.ptp(distinct.astype("float64")) < 1024:
        return _found("categorical", 0.7, f"one band with {distinct.size} distinct values in a sample")
    if dtype.itemsize >= 2 and dtype.kind == "i":
        return _found("dem", 0.75, f"one {dtype.name} band of many values")
    return _found("multispectral", 0.5, f"one {dtype.name} band of many values: imagery")


def _words(dataset: DatasetReader) -> str:
    texts = [text for text in (*dataset.descriptions, *dataset.units) if text]
    texts += [v for band in dataset.indexes for v in dataset.tags(band).values()][:64]
    return " ".join(texts).lower()


def _floating(dataset: DatasetReader) -> bool:
    return any(np.dtype(name).kind in "fc" for name in numpy_dtypes(dataset))


def _alpha_like(values: NDArray[Any], dtype: str) -> bool:
    distinct = set(np.unique(values).tolist())
    return bool(distinct) and distinct <= {0, 1, 255, np.iinfo(dtype).max} and bool(distinct - {0})


def _sample(dataset: DatasetReader, location: Location, band: int) -> NDArray[Any]:
    """Return values of `band` from up to nine windows that are spread over the raster.

    Each window begins at the edge of a block.
    """
    rows, cols = dataset.block_shapes[band - 1]
    height = min(_WINDOW, max(rows, 16), dataset.height)
    width = min(_WINDOW, dataset.width)
    shares = [i / (_SAMPLED_WINDOWS - 1) for i in range(_SAMPLED_WINDOWS)]
    row_offs = sorted({int(share * (dataset.height - height)) // rows * rows for share in shares})
    col_offs = sorted({int(share * (dataset.width - width)) // cols * cols for share in shares})
    parts = []
    for row_off in row_offs:
        for col_off in col_offs:
            # A window of nodata says nothing, but costs as little as any other.
            window = Window(
                col_off,
                row_off,
                min(width, dataset.width - col_off),
                min(height, dataset.height - row_off),
            )
            parts.append(read_window(dataset, location, window, indexes=[band]).ravel())
    return np.concatenate(parts)


def _found(raster_type: RasterType, confidence: float, reason: str) -> Detection:
    return Detection(raster_type=raster_type, confidence=confidence, reason=reason)
