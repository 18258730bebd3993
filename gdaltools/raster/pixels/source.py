"""Where a COG's pixels come from: a raster file, a warp of one, or an array.

A source is a small value from which any thread, or any machine of a cluster, can read a window. Blocks of
pixels have the shape (planes, rows, cols, samples): one plane of all bands if the COG interleaves bands by
pixel, else one plane per band.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.io import DatasetReader
from rasterio.transform import Affine
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from gdaltools.geo.window import Span
from gdaltools.raster.dataset import open_dataset, reading
from gdaltools.raster.pixels.nodata import holding_data
from gdaltools.storage import Location

Pixels = NDArray[Any]
Valid = NDArray[np.bool_]


class Source(Protocol):
    """What a COG is built from."""

    @property
    def name(self) -> str:
        """The name that errors use."""

    def read(
        self, rows: Span, cols: Span, dtype: np.dtype[Any], *, planes: int
    ) -> tuple[Pixels, Valid | None]:
        """Return a window's pixels, (planes, rows, cols, samples), and its mask, (rows, cols), if any."""


@dataclass(frozen=True)
class _RasterFile:
    """What all sources in a raster file share; a subclass opens what is read.

    Attributes
    ----------
    masked : bool
        Whether `read` returns the mask.
    """

    location: Location
    count: int
    masked: bool = False

    @property
    def name(self) -> str:
        """The name that errors use."""
        return str(self.location)

    def at(self, location: Location) -> Self:
        """Return the same source with its bytes at `location`."""
        return replace(self, location=location)

    def read(
        self, rows: Span, cols: Span, dtype: np.dtype[Any], *, planes: int
    ) -> tuple[Pixels, Valid | None]:
        """As `Source.read`.

        Raises
        ------
        CorruptRaster, StorageError
            A block of the file cannot be decoded, or storage did not answer.
        """
        window = Window(cols.start, rows.start, len(cols), len(rows))
        pixels = np.empty((planes, len(rows), len(cols), self.count // planes), dtype)
        # GDAL writes straight into the requested order: the view has the order that rasterio expects.
        view = pixels[0].transpose(2, 0, 1) if planes == 1 else pixels[..., 0]
        with self._opened() as dataset, reading(self.location, window):
            dataset.read(list(range(1, self.count + 1)), window=window, out=view)
            valid = dataset.dataset_mask(window=window) > 0 if self.masked else None
        return pixels, valid

    def _opened(self) -> AbstractContextManager[DatasetReader | WarpedVRT]:
        raise NotImplementedError


@dataclass(frozen=True)
class RasterSource(_RasterFile):
    """A raster file, read unchanged.

    Attributes
    ----------
    level : int or None
        Read this overview of the file instead of its full resolution.
    """

    level: int | None = None

    def _opened(self) -> AbstractContextManager[DatasetReader]:
        return open_dataset(self.location, verify=False, overview_level=self.level)


@dataclass(frozen=True, kw_only=True)
class WarpedSource(_RasterFile):
    """A raster file on another grid, warped by GDAL as it is read.

    Attributes
    ----------
    adds_alpha : bool
        Whether the mask is that of the warp itself: it leaves out what the source does not reach or has no
        data for.
    options : tuple of (str, object)
        GDAL's warp options.
    """

    source_wkt: str
    target_wkt: str
    transform: Affine
    width: int
    height: int
    resampling: str
    source_nodata: float | None
    nodata: float | None
    adds_alpha: bool
    options: tuple[tuple[str, Any], ...] = ()

    @contextmanager
    def _opened(self) -> Iterator[WarpedVRT]:
        with (
            open_dataset(self.location, verify=False) as dataset,
            WarpedVRT(
                dataset,
                src_crs=CRS.from_wkt(self.source_wkt),
                crs=CRS.from_wkt(self.target_wkt),
                transform=self.transform,
                width=self.width,
                height=self.height,
                resampling=Resampling[self.resampling],
                src_nodata=self.source_nodata,
                nodata=self.nodata,
                add_alpha=self.adds_alpha,
                **dict(self.options),
            ) as warped,
        ):
            yield warped


@dataclass(frozen=True)
class ArraySource:
    """An array of shape (bands, rows, cols), in memory or computed by dask.

    Attributes
    ----------
    origin : (int, int)
        Row and column of the raster at which the array begins.
    nodata : float or None
        With `masked`, the value that the mask leaves out; None means NaN.
    """

    name: str
    array: Any = field(repr=False)
    origin: tuple[int, int] = (0, 0)
    nodata: float | None = None
    masked: bool = False

    @property
    def lazy(self) -> bool:
        """Whether dask computes the array."""
        return hasattr(self.array, "rechunk")

    def read(
        self, rows: Span, cols: Span, dtype: np.dtype[Any], *, planes: int
    ) -> tuple[Pixels, Valid | None]:
        """As `Source.read`."""
        top, left = self.origin
        window = self.array[:, rows.start - top : rows.stop - top, cols.start - left : cols.stop - left]
        if self.lazy:
            window = window.compute(scheduler="synchronous")
        bands = np.asarray(window)
        if not self.masked:
            return stacked(bands, dtype, planes=planes), None
        there = holding_data(bands, np.nan if self.nodata is None else self.nodata)
        valid = np.ones(bands.shape[1:], bool) if there is None else np.any(there, axis=0)
        return stacked(bands, dtype, planes=planes), valid


def stacked(bands: Pixels, dtype: np.dtype[Any], *, planes: int) -> Pixels:
    """Return bands of shape (bands, rows, cols) as (planes, rows, cols, samples)."""
    if planes == 1:
        return np.ascontiguousarray(bands.transpose(1, 2, 0), dtype)[None]
    return np.ascontiguousarray(bands, dtype)[..., None]
