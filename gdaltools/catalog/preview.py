"""A small picture of a mosaic, read from the overviews of its COGs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import rasterio
from rasterio.enums import ColorInterp, Resampling
from rasterio.io import DatasetReader
from rasterio.windows import Window

from gdaltools import storage
from gdaltools.errors import InvalidParameter
from gdaltools.geo.crs import WGS84, Bounds
from gdaltools.geo.footprint import geographic_bounds, near, own_grid, pixels_at
from gdaltools.raster.dataset import open_dataset
from gdaltools.raster.picture import brightness, read_bands, sampled, stretched
from gdaltools.storage import Location, StrPath


def preview_mosaic(mosaicjson: StrPath | Location, dst: StrPath | Location, *, width: int = 1600) -> Location:
    """Paint every COG of a MosaicJSON onto a PNG of its bounds in EPSG:4326; missing data are transparent.

    Parameters
    ----------
    width : int
        Width of the picture in pixels; the height follows from the bounds.

    Raises
    ------
    SourceNotFound, CorruptRaster, StorageError
        The mosaic or one of its COGs cannot be read.
    InvalidParameter
        `mosaicjson` is not a MosaicJSON, or names no COGs.
    """
    assets, bounds = _contents(mosaicjson)
    left, bottom, right, top = bounds
    height = max(1, round(width * (top - bottom) / (right - left)))
    canvas = _Canvas(width, height, bounds)
    for asset in assets:
        with open_dataset(asset) as dataset:
            canvas.paint(dataset, storage.locate(asset))
    with storage.writing(dst, overwrite=True) as path:
        canvas.write(path)
    return storage.locate(dst)


class _Canvas:
    """The picture while it is painted: up to three bands, and a mask of data."""

    def __init__(self, width: int, height: int, bounds: Bounds) -> None:
        left, bottom, right, top = bounds
        self._shape = height, width
        self._resolution = (right - left) / width, (top - bottom) / height
        self._lon = left + (np.arange(width) + 0.5) * self._resolution[0]
        self._lat = top - (np.arange(height) + 0.5) * self._resolution[1]
        self._pixels = np.zeros((0, height, width), "float32")
        self._painted = np.zeros((height, width), bool)
        self._is_colour = True

    def paint(self, dataset: DatasetReader, location: Location) -> None:
        """Paint a COG in its place, from an overview at least twice as fine as the picture."""
        bands = list(dataset.indexes[: 3 if dataset.count >= 3 else 1])
        if not len(self._pixels):
            self._pixels = np.zeros((len(bands), *self._shape), "float32")
        self._is_colour &= dataset.dtypes[0] == "uint8" and ColorInterp.palette not in dataset.colorinterp
        shape = self._size_here(dataset, location)
        whole = Window(0, 0, dataset.width, dataset.height)
        data, valid = read_bands(dataset, location, bands, shape, Resampling.average)
        rows, cols = near(geographic_bounds(dataset, location), self._lon, self._lat)
        lon, lat = np.meshgrid(self._lon[cols], self._lat[rows])
        places = pixels_at(own_grid(dataset, dataset.crs), WGS84, lon, lat)
        patch = sampled(np.dstack([*data.astype("float32"), valid]), whole, *places).transpose(2, 0, 1)
        place = np.ix_(rows, cols)
        for band, found in zip(self._pixels, patch[:-1], strict=True):
            band[place] = np.where(patch[-1] > 0, found, band[place])
        self._painted[place] |= patch[-1] > 0

    def write(self, path: Path) -> None:
        """Write the painted picture as a PNG with alpha."""
        pixels, seen = self._pixels, self._painted
        colours = np.rint(pixels) if self._is_colour else stretched(pixels, brightness(pixels, seen))
        bands = [*colours.astype("uint8"), np.where(seen, 255, 0)]
        height, width = self._shape
        profile = {"driver": "PNG", "dtype": "uint8", "count": len(bands), "height": height, "width": width}
        with rasterio.open(path, "w", **profile) as picture:
            picture.write(np.stack(bands).astype("uint8"))

    def _size_here(self, dataset: DatasetReader, location: Location) -> tuple[int, int]:
        left, bottom, right, top = geographic_bounds(dataset, location)
        rows = min(dataset.height, max(1, round(2 * (top - bottom) / self._resolution[1])))
        cols = min(dataset.width, max(1, round(2 * ((right - left) % 360 or 360) / self._resolution[0])))
        return rows, cols


def _contents(mosaicjson: StrPath | Location) -> tuple[list[str], tuple[float, float, float, float]]:
    try:
        document = json.loads(storage.read_bytes(mosaicjson))
        assets = sorted({asset for names in document["tiles"].values() for asset in names})
        left, bottom, right, top = (float(value) for value in document["bounds"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidParameter(f"{mosaicjson} is no MosaicJSON: {error!r}") from error
    if not assets or right <= left or top <= bottom:
        raise InvalidParameter(f"{mosaicjson} names no COGs, or bounds without an area")
    return assets, (left, bottom, right, top)
