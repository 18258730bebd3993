"""A small picture of a raster, from the overview that is about as fine; never of more than a glance costs.

>>> thumbnail("no-such-file.tif") is None
True
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader, MemoryFile

from gdaltools import storage
from gdaltools.dataset import open_dataset, reading
from gdaltools.errors import GdalToolsError
from gdaltools.storage import Location, StrPath

Picture = NDArray[np.uint8]

#: Side of a thumbnail, pixels.
THUMBNAIL = 192
#: Decoding more than this for a picture takes longer than a person waits for an answer.
GLANCE_PIXELS = 24_000_000
# What is darkest and brightest in a picture of data that are not 8-bit colours, in percent of the pixels.
_STRETCH = (2, 98)
# Levels of a colour that a thumbnail keeps: a step that nobody sees halves its bytes.
_THUMBNAIL_STEP = 4


def thumbnail(src: StrPath | Location, side: int = THUMBNAIL) -> bytes | None:
    """A PNG of the raster; None where it cannot be had, or not without reading much of the raster."""
    try:
        found = picture(src, side)
    except (GdalToolsError, RasterioError, OSError):
        return None
    if found is None:
        return None
    colours = found[..., :3] // _THUMBNAIL_STEP * _THUMBNAIL_STEP
    return png(np.dstack([colours, found[..., 3]]))


def picture(src: StrPath | Location, side: int) -> Picture | None:
    """The raster as (rows, cols, 4) of red, green, blue and alpha, at most `side` pixels a side.

    None where it has no overview that is coarse enough to be read at a glance.

    Raises
    ------
    SourceNotFound, UnsupportedRaster, CorruptRaster, StorageError
        As `gdaltools.inspect` does.
    """
    location = storage.locate(src)
    with open_dataset(location, verify=False) as dataset:
        if glance_cost(dataset, side) > GLANCE_PIXELS:
            return None
        return _painted(dataset, location, side)


def png(pixels: Picture) -> bytes:
    """RGBA pixels of shape (rows, cols, 4) as a PNG."""
    rows, cols, bands = pixels.shape
    profile = {"driver": "PNG", "dtype": "uint8", "count": bands, "height": rows, "width": cols}
    with MemoryFile() as memory:
        with rasterio.Env(GDAL_PAM_ENABLED="NO"), memory.open(**profile, zlevel=9) as target:
            target.write(pixels.transpose(2, 0, 1))
        return bytes(memory.read())


def glance_cost(dataset: DatasetReader, side: int) -> int:
    """Pixels that GDAL decodes for a picture: those of the coarsest level that is fine enough."""
    factor = max(1, max(dataset.width, dataset.height) // side)
    fitting = [level for level in dataset.overviews(1) if level <= factor * 1.2]
    level = max(fitting, default=1)
    return int(dataset.width * dataset.height * min(dataset.count, 3) // level**2)


def _painted(dataset: DatasetReader, location: Location, side: int) -> Picture:
    scale = max(1.0, max(dataset.width, dataset.height) / side)
    rows, cols = max(1, round(dataset.height / scale)), max(1, round(dataset.width / scale))
    bands = _bands(dataset)
    palette = ColorInterp.palette in dataset.colorinterp
    how = Resampling.nearest if palette else Resampling.average
    window = rasterio.windows.Window(0, 0, dataset.width, dataset.height)
    with reading(location, window):
        data = dataset.read(bands, out_shape=(len(bands), rows, cols), resampling=how)
        seen = dataset.dataset_mask(out_shape=(rows, cols)) > 0
    if palette:
        return _coloured(data[0], dataset.colormap(bands[0]), seen)
    if np.iscomplexobj(data):
        data = np.abs(data)
    seen &= np.isfinite(data).all(axis=0)
    return _opaque(data if dataset.dtypes[0] == "uint8" else stretched(data, seen), seen)


def _bands(dataset: DatasetReader) -> list[int]:
    if ColorInterp.palette in dataset.colorinterp:
        return [dataset.colorinterp.index(ColorInterp.palette) + 1]
    wanted = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
    if all(colour in dataset.colorinterp for colour in wanted):
        return [dataset.colorinterp.index(colour) + 1 for colour in wanted]
    return [1, 2, 3] if dataset.count >= 3 else [1]


def _coloured(indexes: NDArray[Any], palette: dict[int, tuple[int, ...]], seen: NDArray[np.bool_]) -> Picture:
    colours = np.zeros((max(256, max(palette, default=0) + 1), 4), "uint8")
    for index, colour in palette.items():
        colours[index] = (*colour[:3], 255)
    found: Picture = colours[np.clip(indexes.astype("int64"), 0, len(colours) - 1)]
    found[~seen, 3] = 0
    return found


def stretched(data: NDArray[Any], seen: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Bands of any numbers as levels of 0 to 255, the darkest and brightest two percent clipped."""
    values = data.astype("float64")
    if not seen.any():
        return np.zeros(data.shape, "uint8")
    low, high = np.nanpercentile(values[:, seen], _STRETCH)
    levels = (np.nan_to_num(values) - low) / max(high - low, 1e-9) * 255
    found: Picture = np.clip(levels, 0, 255).astype("uint8")
    return found


def _opaque(data: NDArray[Any], seen: NDArray[np.bool_]) -> Picture:
    colours = np.broadcast_to(data, (3, *data.shape[1:])) if len(data) == 1 else data
    found: Picture = np.dstack([*colours.astype("uint8"), np.where(seen, 255, 0).astype("uint8")])
    return found


def file_name(location: str) -> str:
    """The last part of a location's name.

    >>> file_name("abfs://silver-cogs/2025/scene.tif")
    'scene.tif'
    """
    return os.path.basename(location.rstrip("/")) or location
