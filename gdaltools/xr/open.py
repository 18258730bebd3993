"""Rasters as lazy arrays: the thread or process that computes pixels reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from rasterio.io import DatasetReader
from rasterio.windows import Window

from gdaltools import storage
from gdaltools.errors import InvalidParameter
from gdaltools.raster.dataset import numpy_dtypes, open_dataset, read_window
from gdaltools.raster.info import mask_kind
from gdaltools.raster.pixels.nodata import nodata_of
from gdaltools.storage import Location, StrPath
from gdaltools.xr.lazy import LazyPixels, blank_nodata, labelled, masked_dtype

if TYPE_CHECKING:
    import xarray

_CHUNK_BYTES = 64 << 20


def open(
    src: StrPath | Location,
    *,
    chunks: Literal["auto"] | int | tuple[int, int] | None = "auto",
    masked: bool = False,
) -> xarray.DataArray:
    """Return the raster as a lazy array (band, y, x), georeferenced for rioxarray's ``.rio``.

    The coordinate ``band_name`` names the bands; ``.gt.to_dataset()`` returns one variable per band. Pixels
    are read when they are computed, by the thread or machine that computes them, and reading raises
    gdaltools' typed errors there too.

    Parameters
    ----------
    chunks : "auto", int, (rows, cols) or None
        "auto" makes chunks of about 64 MB, aligned to the source's blocks; a number is the side in pixels;
        None reads everything immediately.
    masked : bool
        Pixels without data (nodata, mask or alpha) become NaN, and integers become floats.

    Raises
    ------
    SourceNotFound, UnsupportedRaster, CorruptRaster, StorageError
        As in `inspect`; CorruptRaster and StorageError also when pixels are computed.
    InvalidParameter
        `chunks` is none of the above.

    Examples
    --------
    >>> array = gt.open("scene.tif")
    >>> array.band_name.values.tolist()
    ['Red', 'Green', 'NIR']
    """
    import dask.array

    location = storage.locate(src)
    with open_dataset(location) as dataset:
        names = set(numpy_dtypes(dataset))
        dtype = masked_dtype(np.result_type(*names)) if masked else np.result_type(*names)
        pixels = _Pixels(location, (dataset.count, dataset.height, dataset.width), dtype, masked)
        sizes = _chunk_sizes(dataset, dtype.itemsize, chunks)
        data = dask.array.from_array(pixels, chunks=(-1, *sizes), asarray=False)
        array = labelled(
            dataset,
            data,
            name=location.stem,
            crs=dataset.crs,
            transform=dataset.transform,
            masked=masked,
        )
    return array.load() if chunks is None else array


class _Pixels(LazyPixels):
    """The raster's own pixels."""

    def __init__(
        self, location: Location, shape: tuple[int, int, int], dtype: np.dtype[Any], masked: bool
    ) -> None:
        super().__init__(location, shape, dtype)
        self.masked = masked

    def read(self, window: Window, indexes: list[int]) -> NDArray[Any]:
        """Return the file's pixels unchanged, or NaN where they are masked."""
        with open_dataset(self.location, verify=False) as dataset:
            samples = read_window(dataset, self.location, window, indexes=indexes)
            data = samples.astype(self.dtype, copy=False)
            kind = mask_kind(dataset) if self.masked else "none"
            if kind == "nodata":
                blank_nodata(data, samples, [nodata_of(dataset, index) for index in indexes])
            elif kind != "none":
                data[:, read_window(dataset, self.location, window, mask=True) == 0] = np.nan
        return data


def _chunk_sizes(
    dataset: DatasetReader, itemsize: int, chunks: Literal["auto"] | int | Sequence[int] | None
) -> tuple[int, int]:
    if isinstance(chunks, int):
        chunks = (chunks, chunks)
    if isinstance(chunks, tuple):
        if len(chunks) != 2 or any(not isinstance(size, int) or size < 1 for size in chunks):
            raise InvalidParameter(f'chunks {chunks!r}: give "auto", a number, or (rows, cols), all positive')
        return chunks[0], chunks[1]
    if chunks not in ("auto", None):
        raise InvalidParameter(f'chunks {chunks!r}: give "auto", a number, (rows, cols) or None')
    rows, cols = dataset.block_shapes[0]
    budget = _CHUNK_BYTES // (itemsize * dataset.count)
    across = min(dataset.width, max(cols, 4096 // cols * cols))
    if budget // across < rows:
        across = min(dataset.width, max(cols, budget // rows // cols * cols))
    down = min(dataset.height, max(rows, min(4096, budget // across) // rows * rows))
    return down, across
