"""Arrays whose pixels are read when they are computed, labelled for xarray and rioxarray."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.io import DatasetReader
from rasterio.transform import Affine
from rasterio.windows import Window

from gdaltools import storage
from gdaltools.raster.bands import BAND_NAME, named, with_crs
from gdaltools.raster.dataset import nodata_of
from gdaltools.raster.pixels.nodata import holding_data
from gdaltools.storage import Location

if TYPE_CHECKING:  # imported at run time only where they are used: they make the import of gdaltools slow
    import dask.array
    import xarray


class LazyPixels(ABC):
    """An array, shape (bands, rows, cols), that reads a window when it is sliced: all that dask needs."""

    ndim = 3

    def __init__(self, location: Location, shape: tuple[int, int, int], dtype: np.dtype[Any]) -> None:
        self.location, self.shape, self.dtype = location, shape, dtype
        # Part of dask's name for the array, so that no cache serves an older version of the file.
        self.etag = storage.stat(location).etag

    def __getitem__(self, key: tuple[slice | int, ...]) -> NDArray[Any]:
        requested = [
            range(length)[part] if isinstance(part, slice) else range(length)[part : part + 1 or None]
            for part, length in zip(key, self.shape, strict=True)
        ]
        if all(requested):
            bands, rows, cols = (range(min(part), max(part) + 1) for part in requested)
            window = Window(cols.start, rows.start, len(cols), len(rows))
            data = self.read(window, [band + 1 for band in bands])
            data = data[tuple(slice(None, None, part.step) for part in requested)]
        else:
            data = np.empty(tuple(len(part) for part in requested), self.dtype)
        return data[tuple(slice(None) if isinstance(part, slice) else 0 for part in key)]

    @abstractmethod
    def read(self, window: Window, indexes: list[int]) -> NDArray[Any]:
        """Return a window's pixels of the bands `indexes`, counted from 1, in the array's dtype."""


def masked_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the floating-point dtype that holds all values of `dtype`, and NaN."""
    if dtype.kind in "fc":
        return dtype
    return np.dtype("float32") if dtype.itemsize <= 2 else np.result_type(dtype, "float64")


def blank_nodata(data: NDArray[Any], samples: NDArray[Any], nodata: Sequence[float | None]) -> None:
    """Set `data` to NaN, in place, where each band of `samples`, in the file's dtype, is its nodata value."""
    for band, stored, value in zip(data, samples, nodata, strict=True):
        if (there := holding_data(stored, value)) is not None:
            band[~there] = np.nan


def labelled(
    dataset: DatasetReader,
    data: dask.array.Array,
    *,
    name: str,
    crs: CRS | None,
    transform: Affine,
    masked: bool,
) -> xarray.DataArray:
    """Return pixels with their source's metadata, on a grid that may differ from the source's."""
    import rioxarray  # noqa: F401 - gives DataArray its .rio
    import xarray

    import gdaltools.xr.accessor  # noqa: F401 - gives DataArray its .gt

    colours = [getattr(colour, "name", "") for colour in dataset.colorinterp]
    names = named(dataset.descriptions, colours)
    coords: dict[str, Any] = {"band": list(dataset.indexes), BAND_NAME: ("band", names)}
    if transform.b == 0 and transform.d == 0:
        coords["x"] = transform.c + transform.a * (np.arange(data.shape[2]) + 0.5)
        coords["y"] = transform.f + transform.e * (np.arange(data.shape[1]) + 0.5)
    attrs: dict[str, Any] = {**dataset.tags()}
    if any(dataset.descriptions):
        attrs["long_name"] = tuple(text or "" for text in dataset.descriptions)
    attrs |= {"scale_factor": dataset.scales[0], "add_offset": dataset.offsets[0]}
    array = xarray.DataArray(data, dims=("band", "y", "x"), coords=coords, attrs=attrs, name=name)
    array = array.rio.write_transform(transform)
    if crs:
        array = with_crs(array, crs)
    if (nodata := nodata_of(dataset)) is not None:
        array = array.rio.write_nodata(nodata, encoded=masked)
    return array
