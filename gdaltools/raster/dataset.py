"""The one door through which rasters are opened and read: safe drivers, bounded memory, typed errors.

Only formats that hold their own pixels are opened. A VRT, a service description or a format that names
other files is refused, as it could make a server read what its author, not its user, may read.
Side-car files (``.aux.xml``, ``.ovr``, ``.msk``, world files) are not looked for, for the same reason.
"""

from __future__ import annotations

import logging
import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio._env import get_gdal_config, set_gdal_config
from rasterio._err import CPLE_BaseError
from rasterio.errors import NotGeoreferencedWarning, RasterioError, RasterioIOError
from rasterio.io import DatasetReader
from rasterio.windows import Window

from gdaltools import storage
from gdaltools.errors import CorruptRaster, GdalToolsError, StorageError, UnsupportedRaster
from gdaltools.raster import netcdf
from gdaltools.raster.gdal_errors import heard, is_transport, whole_text
from gdaltools.raster.limits import Limits
from gdaltools.runtime import interruption
from gdaltools.runtime.text import redacted
from gdaltools.storage import Location, StrPath

#: GDAL's block cache for the whole process, in MB, unless GDAL_CACHEMAX is set; GDAL would take 5% of RAM.
CACHE_MB = 128

_SAMPLED_BLOCKS = 64
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_MAGIC = (*_TIFF_MAGIC, b"\xff\xd8\xff", b"\x89PNG", b"\0\0\0\x0cjP", b"\xff\x4f\xff", b"CDF")
# GDAL's complaints reach the caller in our errors; without a handler Python would print them as well.
logging.getLogger("rasterio").addHandler(logging.NullHandler())
# `RasterInfo.georeferenced` says it; warnings.catch_warnings is not for threads before Python 3.14.
warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)

# distributed sends errors with their causes by tblib 3, which sets `args`; rasterio 1.4's have only a getter,
# and of a read error would arrive a bare Exception.
CPLE_BaseError.__reduce__ = lambda error: (type(error), (error.error, error.errno, error.errmsg))


@contextmanager
def open_dataset(
    src: StrPath | Location, *, verify: bool = True, overview_level: int | None = None
) -> Iterator[DatasetReader]:
    """The raster at `src`, open for reading in this thread, for the length of the block.

    Parameters
    ----------
    src : path, URL or Location
        A local path or ``abfs://container/blob``.
    verify : bool
        Compare some of a TIFF's block offsets with the file's size, so that a file that was cut short
        is refused before work is spent on it.
    overview_level : int, optional
        Open this overview, 0 the largest, as if it were the raster.

    Raises
    ------
    SourceNotFound
        Nothing is stored there.
    UnsupportedRaster
        It is no raster, of a format that is not allowed, or over one of `gdaltools.raster.limits`.
    CorruptRaster
        It is empty, cut short, or its header cannot be read.
    SourceChanged
        It is not the version any more that was pinned, or that was opened.
    StorageError
        Storage did not answer.
    """
    location = storage.locate(src)
    found = storage.check_unchanged(location)
    size, limits = found.size, Limits.from_environment()
    if size > limits.file_bytes:
        raise UnsupportedRaster(
            f"{location} has {size / 1e9:,.0f} GB: "
            f"the limit is {limits.file_bytes >> 30} (GDALTOOLS_MAX_FILE_GB)"
        )
    if size == 0:
        raise CorruptRaster(f"{location} is empty (0 bytes): upload it again")
    os.environ.setdefault("GDAL_CACHEMAX", str(CACHE_MB))
    with (
        _of_one_version(replace(location, etag=found.etag)),
        rasterio.Env(**storage.gdal_options(location), **_READ_OPTIONS),
        _opened(location, limits, overview_level) as dataset,
    ):
        _check_limits(dataset, location, limits)
        if verify:
            check_blocks(dataset, location, size)
        try:
            yield dataset
        except CPLE_BaseError as error:  # what GDAL reads late of a header, rasterio does not translate
            raise _open_error(location, error) from error
        except UnicodeDecodeError as error:
            raise _not_utf8(location, error) from error


_caches: list[int] = []
_caches_lock = threading.Lock()


@contextmanager
def block_cache(size_bytes: int) -> Iterator[None]:
    """In the block GDAL's cache, which is the process's, holds at least so many bytes of decoded blocks."""
    os.environ.setdefault("GDAL_CACHEMAX", str(CACHE_MB))
    with _caches_lock:
        if not _caches:
            _caches.append(int(get_gdal_config("GDAL_CACHEMAX")))
        _caches.append(size_bytes)
        set_gdal_config("GDAL_CACHEMAX", max(_caches))
    try:
        yield
    finally:
        with _caches_lock:
            _caches.remove(size_bytes)
            set_gdal_config("GDAL_CACHEMAX", max(_caches))
            if len(_caches) == 1:
                _caches.clear()


@contextmanager
def _of_one_version(location: Location) -> Iterator[None]:
    """Refuse what was read from Azure in the block if the blob was replaced meanwhile.

    A local file or memory that is open stays the one that was opened.
    """
    try:
        yield
    except GdalToolsError:
        if location.in_azure:
            storage.check_unchanged(location)
        raise
    if location.in_azure:
        storage.check_unchanged(location)


_READ_OPTIONS = {
    # libjpeg fills a cut-off image with grey and only warns.
    "GDAL_ERROR_ON_LIBJPEG_WARNING": "YES",
    "GDAL_PAM_ENABLED": "NO",
    # Where VRT was allowed by name: a file is never a program.
    "GDAL_VRT_ENABLE_PYTHON": "NO",
    "GDAL_GEOREF_SOURCES": "INTERNAL",
}


@contextmanager
def _opened(location: Location, limits: Limits, overview_level: int | None) -> Iterator[DatasetReader]:
    options = {} if overview_level is None else {"overview_level": overview_level}
    drivers = netcdf.drivers_for(location, limits)
    with netcdf.gdal_name(location, drivers) as name:
        try:
            # rasterio.open takes one driver; its class takes the list that GDAL may choose from.
            dataset = DatasetReader(name, driver=drivers, sharing=False, **options)
        except RasterioError as error:
            raise _open_error(location, error) from error
        except UnicodeDecodeError as error:
            raise _not_utf8(location, error) from error
        with _read_from(dataset, location):
            yield dataset


@contextmanager
def _read_from(dataset: DatasetReader, location: Location) -> Iterator[None]:
    with dataset:
        if not dataset.count:
            raise _several(dataset, location)
        if location.in_azure:
            _check_arrived(dataset, location)
        try:
            yield
        except CPLE_BaseError as error:  # what rasterio does not turn into an error of its own
            text = redacted(str(error))
            if is_transport(location, text):
                raise StorageError(f"{location} cannot be read: {text}") from error
            raise CorruptRaster(
                f"{location} has a part that cannot be read: {text}; upload it again"
            ) from error


def _check_arrived(dataset: DatasetReader, location: Location) -> None:
    """Refuse a blob of which GDAL lost the way to the mask or the overviews, and would go on without them."""
    with heard() as texts:
        _ = dataset.mask_flag_enums  # makes GDAL look at all directories of a TIFF
    if not texts:
        return
    from gdaltools.raster.tiff import read_layout

    try:
        with storage.opening(location) as stream:
            read_layout(stream, name=str(location))
    except (CorruptRaster, UnsupportedRaster):
        return  # it is the file that is damaged there
    raise StorageError(f"{location} cannot be read: {redacted('; '.join(texts))}")


def _not_utf8(location: Location, error: UnicodeDecodeError) -> UnsupportedRaster:
    return UnsupportedRaster(
        f"{location} names bands, units, domains or its CRS in an encoding other than UTF-8 "
        f"({bytes(error.object[:40])!r}): rewrite these texts"
    )


def _several(dataset: DatasetReader, location: Location) -> UnsupportedRaster:
    names = netcdf.variables(dataset) if dataset.driver == netcdf.DRIVER else ()
    if not names:
        return UnsupportedRaster(f"{location} holds no raster band (only subdatasets): name a GeoTIFF")
    return UnsupportedRaster(
        f"{location} holds several rasters ({', '.join(names)}): "
        f"name one, as gdaltools.storage.locate(..., variable={names[0]!r})"
    )


def _open_error(location: Location, error: BaseException) -> GdalToolsError:
    text = whole_text(error)
    if location.in_azure and is_transport(location, text):
        return StorageError(f"{location} cannot be read: {text}")
    try:
        with storage.opening(location) as stream:
            magic = stream.read(16)
    except GdalToolsError as problem:
        return problem
    drivers = Limits.from_environment().drivers
    if magic.startswith(netcdf.HDF5_MAGIC) and "HDF5" not in drivers:
        return UnsupportedRaster(
            f"{location} is HDF5 (or netCDF-4), which can point to other files: convert it to GeoTIFF, or "
            f"trust it with GDALTOOLS_ALLOWED_DRIVERS={','.join(drivers)},HDF5,HDF5Image"
        )
    if magic.startswith(_MAGIC):
        return CorruptRaster(f"{location} has a header that cannot be read, as if cut short: {text}")
    return UnsupportedRaster(
        f"{location} is not a raster of a supported format ({', '.join(drivers)}): convert it to GeoTIFF"
    )


def _check_limits(dataset: DatasetReader, location: Location, limits: Limits) -> None:
    width, height, count = dataset.width, dataset.height, dataset.count
    claim = f"{location} claims {width} x {height} pixels in {count} bands"
    if count > limits.bands:
        raise UnsupportedRaster(f"{claim}: the limit is {limits.bands} bands (GDALTOOLS_MAX_BANDS)")
    if width * height * count > limits.samples:
        raise UnsupportedRaster(f"{claim}: the limit is {limits.samples} samples (GDALTOOLS_MAX_SAMPLES)")
    rows, cols = dataset.block_shapes[0]
    together = dataset.profile.get("interleave") == "pixel"
    block_bytes = rows * cols * max(np.dtype(d).itemsize for d in numpy_dtypes(dataset))
    block_bytes *= count if together else 1
    if block_bytes > limits.block_bytes:
        raise UnsupportedRaster(
            f"{location} is stored in blocks of {cols} x {rows} pixels ({block_bytes >> 20} MB each, "
            f"the limit is {limits.block_bytes >> 20} MB, GDALTOOLS_MAX_BLOCK_MB): rewrite it tiled"
        )
    blocks = -(-width // cols) * -(-height // rows) * (1 if together else count)
    if blocks > limits.blocks:
        raise UnsupportedRaster(
            f"{claim}, stored in {blocks} blocks: the limit is {limits.blocks} (GDALTOOLS_MAX_BLOCKS); "
            "rewrite it in larger blocks"
        )


def numpy_dtypes(dataset: DatasetReader) -> tuple[str, ...]:
    """The bands' dtypes as numpy names them; GDAL's complex integers become complex64."""
    return tuple("complex64" if name.startswith("complex_int") else str(name) for name in dataset.dtypes)


def check_blocks(dataset: DatasetReader, location: Location | str, size: int) -> None:
    """Refuse a TIFF whose blocks lie beyond the `size` bytes that its file has.

    Looks at the last block and at some of the others, so it costs no more for a huge file. The offsets
    come from GDAL's metadata domain "TIFF" (GDAL's GTiff driver page, BLOCK_OFFSET_x_y, BLOCK_SIZE_x_y).

    Raises
    ------
    CorruptRaster
        A block ends behind the end of the file, or a PNG has no end.
    """
    if dataset.driver == "PNG" and isinstance(location, Location) and not location.in_azure:
        _check_png_end(location, size)
    if dataset.driver not in ("GTiff", "COG"):
        return
    rows, cols = dataset.block_shapes[0]
    across, down = -(-dataset.width // cols), -(-dataset.height // rows)
    bands = range(1, dataset.count + 1) if dataset.profile.get("interleave") == "band" else (1,)
    total = across * down
    picked = sorted({round(i * (total - 1) / (_SAMPLED_BLOCKS - 1)) for i in range(_SAMPLED_BLOCKS)})
    for band in {bands[0], bands[len(bands) // 2], bands[-1]}:
        for number in picked:
            row, col = divmod(number, across)
            end = _block_end(dataset, band, row, col)
            if end > size:
                raise CorruptRaster(
                    f"{location} is cut short: block ({row}, {col}) of band {band} ends at byte {end}, "
                    f"the file has {size}; upload it again"
                )


def _check_png_end(location: Location, size: int) -> None:
    """GDAL reads what is missing of an 8-bit PNG as whatever its memory held; IEND closes every PNG."""
    tail = 4096
    with storage.opening(location) as stream:
        stream.seek(max(0, size - tail))
        if b"IEND" not in stream.read():
            raise CorruptRaster(f"{location} is cut short: a PNG ends with IEND; upload it again")


def _block_end(dataset: DatasetReader, band: int, row: int, col: int) -> int:
    offset = dataset.get_tag_item(f"BLOCK_OFFSET_{col}_{row}", "TIFF", bidx=band)
    length = dataset.get_tag_item(f"BLOCK_SIZE_{col}_{row}", "TIFF", bidx=band)
    return int(offset) + int(length) if offset and length else 0


def read_window(
    dataset: DatasetReader,
    location: Location | str,
    window: Window,
    *,
    indexes: Sequence[int] | None = None,
    mask: bool = False,
) -> NDArray[Any]:
    """Pixels of a window, shape (bands, rows, cols); with ``mask=True`` its per-dataset mask, (rows, cols).

    Raises
    ------
    CorruptRaster
        A block in the window cannot be decoded.
    StorageError
        Storage did not answer.
    """
    with reading(location, window):
        if mask:
            return np.asarray(dataset.read_masks(1, window=window))
        return np.asarray(dataset.read(None if indexes is None else list(indexes), window=window))


@contextmanager
def reading(location: Location | str, window: Window, *, frame: str = "") -> Iterator[None]:
    """Turns GDAL's errors in the block into ours, naming the window that was read, and of what.

    Raises
    ------
    CorruptRaster, StorageError
        As `read_window` says.
    KeyboardInterrupt
        The run was interrupted: nothing more is read.
    """
    interruption.check()
    try:
        yield
    except RasterioIOError as error:
        text = whole_text(error)
        where = (
            f"columns {int(window.col_off)}..{int(window.col_off + window.width)}, "
            f"rows {int(window.row_off)}..{int(window.row_off + window.height)}{frame}"
        )
        if is_transport(location, text):
            raise StorageError(f"{location} could not be read at {where}: {text}") from error
        raise CorruptRaster(f"{location} cannot be decoded at {where}: {text}; upload it again") from error
