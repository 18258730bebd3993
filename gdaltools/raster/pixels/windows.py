"""Windows of an open raster: read by GDAL, or without it if the samples are stored uncompressed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.io import DatasetReader
from rasterio.windows import Window

from gdaltools.geo.window import Span
from gdaltools.raster.dataset import numpy_dtypes, read_window, reading
from gdaltools.raster.facts import facts_of, mask_kind
from gdaltools.raster.pixels.raw import RawSource, raw_source
from gdaltools.raster.pixels.source import RasterSource
from gdaltools.runtime import interruption
from gdaltools.storage import Location


@dataclass(frozen=True)
class SourceWindows:
    """A raster that is open in this thread.

    Attributes
    ----------
    location : Location
        The name that errors use.
    raw : RawSource or None
        The same pixels without GDAL, if possible.
    """

    dataset: DatasetReader
    location: Location
    raw: RawSource | None = None

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype that holds the samples of all bands."""
        return np.result_type(*numpy_dtypes(self.dataset))

    def pixels(self, window: Window) -> NDArray[Any]:
        """Return a window's pixels, shape (rows, cols, bands), with the samples of a pixel side by side.

        Raises
        ------
        CorruptRaster, StorageError
            A block in the window cannot be decoded, or storage did not answer.
        """
        rows, cols = int(window.height), int(window.width)
        if self.raw is not None:
            interruption.check()
            top, left = int(window.row_off), int(window.col_off)
            lines, part = Span(top, top + rows), Span(left, left + cols)
            pixels, _ = self.raw.read(lines, part, self.dtype, planes=1)
            return np.asarray(pixels[0])
        found = np.empty((rows, cols, self.dataset.count), self.dtype)
        with reading(self.location, window):
            self.dataset.read(window=window, out=found.transpose(2, 0, 1))
        return found

    def mask(self, window: Window) -> NDArray[Any]:
        """Return a window's mask, shape (rows, cols), 0 where there is no data.

        Raises
        ------
        CorruptRaster, StorageError
            As for `pixels`.
        """
        return read_window(self.dataset, self.location, window, mask=True)


def raw_pixels(dataset: DatasetReader, location: Location) -> RawSource | None:
    """Return the open raster as read without GDAL; None if it is compressed, masked or not on a local disk.

    Raises
    ------
    StorageError
        The file cannot be read.
    """
    if dataset.compression is not None:
        return None
    masked = mask_kind(dataset) == "mask"
    found = raw_source(RasterSource(location, dataset.count, masked), facts_of(dataset, masked=masked))
    return found if isinstance(found, RawSource) else None
