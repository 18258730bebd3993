"""Draw a small picture of a raster from an overview of about its size, if that costs no more than a glance.

>>> thumbnail("no-such-file.tif") is None
True
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader, MemoryFile
from rasterio.windows import Window

from gdaltools import storage
from gdaltools.errors import GdalToolsError
from gdaltools.raster.dataset import open_dataset, reading
from gdaltools.raster.facts import RGB, color_table
from gdaltools.storage import Location, StrPath

Picture = NDArray[np.uint8]

#: Side of a thumbnail, in pixels.
THUMBNAIL = 192
#: Decoding more pixels than this for a picture takes longer than a person waits for an answer.
GLANCE_PIXELS = 24_000_000
#: The percentiles that become black and white in a picture of data other than 8-bit colours.
STRETCH_PERCENTILES = (2, 98)
# The step between a colour's levels in a thumbnail: it is invisible, and halves the bytes.
_THUMBNAIL_STEP = 4


def thumbnail(src: StrPath | Location, side: int = THUMBNAIL) -> bytes | None:
    """Return a PNG of the raster; None if it cannot be drawn, or only by reading much of the raster."""
    try:
        found = picture(src, side)
    except (GdalToolsError, RasterioError, OSError):
        return None
    if found is None:
        return None
    colours = found[..., :3] // _THUMBNAIL_STEP * _THUMBNAIL_STEP
    return png(np.dstack([colours, found[..., 3]]))


def picture(src: StrPath | Location, side: int) -> Picture | None:
    """Return the raster as red, green, blue and alpha, shape (rows, cols, 4), at most `side` pixels a side.

    None if it has no overview that is coarse enough to be read at a glance.

    Raises
    ------
    SourceNotFound, UnsupportedRaster, CorruptRaster, StorageError
        As for `gdaltools.inspect`.
    """
    location = storage.locate(src)
    with open_dataset(location, verify=False) as dataset:
        if glance_cost(dataset, side) > GLANCE_PIXELS:
            return None
        return painted(dataset, location, fitting_shape(dataset.width, dataset.height, side))


def png(pixels: Picture, *, effort: int = 9) -> bytes:
    """Return RGBA pixels of shape (rows, cols, 4) as a PNG, compressed at level `effort` of zlib."""
    rows, cols, bands = pixels.shape
    profile = {"driver": "PNG", "dtype": "uint8", "count": bands, "height": rows, "width": cols}
    with MemoryFile() as memory:
        with rasterio.Env(GDAL_PAM_ENABLED="NO"), memory.open(**profile, zlevel=effort) as target:
            target.write(pixels.transpose(2, 0, 1))
        return bytes(memory.read())


def glance_cost(dataset: DatasetReader, side: int) -> int:
    """Return how many pixels GDAL decodes for a picture: those of the coarsest level that is fine enough.

    A pixel counts once for each of up to three bands.
    """
    factor = max(1, max(dataset.width, dataset.height) // side)
    fitting = [level for level in dataset.overviews(1) if level <= factor * 1.2]
    level = max(fitting, default=1)
    return int(dataset.width * dataset.height * min(dataset.count, 3) // level**2)


def fitting_shape(width: float, height: float, side: int) -> tuple[int, int]:
    """Return (rows, cols) of a picture of `width` x `height` pixels that is at most `side` pixels a side.

    >>> fitting_shape(800, 600, 400), fitting_shape(800, 1, 400), fitting_shape(80, 60, 400)
    ((300, 400), (1, 400), (60, 80))
    """
    scale = max(1.0, max(width, height) / side)
    return max(1, round(height / scale)), max(1, round(width / scale))


def painted(
    dataset: DatasetReader,
    location: Location,
    shape: tuple[int, int],
    levels: tuple[float, float] | None = None,
    window: Window | None = None,
) -> Picture:
    """Return a window of an open raster, by default all of it, as a picture of `shape` (rows, cols).

    Parameters
    ----------
    levels : (float, float), optional
        The darkest and brightest value of data other than 8-bit colours; by default those of `brightness`.

    Raises
    ------
    CorruptRaster, StorageError
        A block cannot be decoded, or storage did not answer.
    """
    bands = _bands(dataset)
    classes = ColorInterp.palette in dataset.colorinterp
    how = Resampling.nearest if classes else Resampling.average
    data, seen = read_bands(dataset, location, bands, shape, how, window)
    table = color_table(dataset, bands[0])
    if table is not None:
        return _coloured(data[0], table, seen)
    if dataset.dtypes[0] != "uint8":
        data = stretched(data, levels or brightness(data, seen))
    return _opaque(data, seen)


def sampled(
    pixels: NDArray[Any], window: Window, cols: NDArray[np.float64], rows: NDArray[np.float64]
) -> NDArray[Any]:
    """Return the pixels of a picture of `window` at columns and rows of the raster; zeros outside of it.

    Parameters
    ----------
    pixels : array of shape (rows, cols, bands)
        The window's pixels, of any size.
    cols, rows : arrays of one shape
        In pixels of the raster from its upper left corner; not finite is outside.
    """
    down, across, _ = pixels.shape
    col = (cols - window.col_off) * (across / window.width)
    row = (rows - window.row_off) * (down / window.height)
    with np.errstate(invalid="ignore"):
        inside = (col >= 0) & (col < across) & (row >= 0) & (row < down)
    found = np.zeros((*cols.shape, pixels.shape[2]), pixels.dtype)
    found[inside] = pixels[row[inside].astype(int), col[inside].astype(int)]
    return found


def shown_levels(dataset: DatasetReader, location: Location, shape: tuple[int, int]) -> tuple[float, float]:
    """Return the darkest and brightest value of the raster, from all of it read at `shape` (rows, cols)."""
    return brightness(*read_bands(dataset, location, _bands(dataset), shape, Resampling.average))


def read_bands(
    dataset: DatasetReader,
    location: Location,
    bands: list[int],
    shape: tuple[int, int],
    how: Resampling,
    window: Window | None = None,
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return real numbers of the bands, shape (bands, *shape), and where all of them are valid and finite.

    Raises
    ------
    CorruptRaster, StorageError
        A block cannot be decoded, or storage did not answer.
    """
    window = window or Window(0, 0, dataset.width, dataset.height)
    with reading(location, window):
        data = dataset.read(bands, window=window, out_shape=(len(bands), *shape), resampling=how)
        seen = dataset.dataset_mask(window=window, out_shape=shape) > 0
    if np.iscomplexobj(data):
        data = np.abs(data)
    return data, seen & np.isfinite(data).all(axis=0)


def _bands(dataset: DatasetReader) -> list[int]:
    if ColorInterp.palette in dataset.colorinterp:
        return [dataset.colorinterp.index(ColorInterp.palette) + 1]
    if all(colour in dataset.colorinterp for colour in RGB):
        return [dataset.colorinterp.index(colour) + 1 for colour in RGB]
    return [1, 2, 3] if dataset.count >= 3 else [1]


def _coloured(
    indexes: NDArray[Any], palette: Mapping[int, tuple[int, ...]], seen: NDArray[np.bool_]
) -> Picture:
    colours = np.zeros((max(256, max(palette, default=0) + 1), 4), "uint8")
    for index, colour in palette.items():
        colours[index] = (*colour[:3], 255)
    found: Picture = colours[np.clip(indexes.astype("int64"), 0, len(colours) - 1)]
    found[~seen, 3] = 0
    return found


def brightness(data: NDArray[Any], seen: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the darkest and brightest value: all but the outermost two percent on each side lie between."""
    if not seen.any():
        return 0.0, 1.0
    low, high = np.nanpercentile(data[:, seen].astype("float64"), STRETCH_PERCENTILES)
    return float(low), float(high)


def stretched(data: NDArray[Any], levels: tuple[float, float]) -> NDArray[np.uint8]:
    """Scale bands of any dtype to 0 (the first of `levels` and below) to 255 (the second and above)."""
    low, high = levels
    values = (np.nan_to_num(data.astype("float64")) - low) / max(high - low, 1e-9) * 255
    found: Picture = np.clip(values, 0, 255).astype("uint8")
    return found


def _opaque(data: NDArray[Any], seen: NDArray[np.bool_]) -> Picture:
    colours = np.broadcast_to(data, (3, *data.shape[1:])) if len(data) == 1 else data
    found: Picture = np.dstack([*colours.astype("uint8"), np.where(seen, 255, 0).astype("uint8")])
    return found


def file_name(location: str) -> str:
    """Return the last part of a location's name.

    >>> file_name("abfs://silver-cogs/2025/scene.tif")
    'scene.tif'
    """
    return os.path.basename(location.rstrip("/")) or location
