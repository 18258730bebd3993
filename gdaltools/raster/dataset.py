"""Open and read rasters: the only way to do so, with safe drivers, bounded memory and typed errors.

Only formats that hold their own pixels are opened. A VRT, a service description or a format that names
other files is refused, because it could make a server read what its author, not its user, may read.
Side-car files (``.aux.xml``, ``.ovr``, ``.msk``, world files) are not looked for, for the same reason, except
a BMP's world file, which GDAL always reads.
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
from xml.etree import ElementTree

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio._env import get_gdal_config, set_gdal_config
from rasterio._err import CPLE_BaseError
from rasterio.enums import MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError, RasterioIOError
from rasterio.io import DatasetReader, MemoryFile
from rasterio.windows import Window

from gdaltools import storage
from gdaltools.errors import CorruptRaster, GdalToolsError, StorageError, UnsupportedRaster
from gdaltools.raster import netcdf
from gdaltools.raster.gdal_errors import heard, is_transport, whole_text
from gdaltools.raster.limits import DRIVERS, Limits
from gdaltools.runtime import interruption
from gdaltools.runtime.text import redacted
from gdaltools.storage import Location, StrPath

#: GDAL's block cache for the whole process, in MB, unless GDAL_CACHEMAX is set; GDAL's default is 5% of RAM.
CACHE_MB = 128

_SAMPLED_BLOCKS = 64
# Rasters of fewer bytes are read, whatever the size of their file.
_ALWAYS_READ = 1 << 30
# More samples than any byte of a file can stand for: a run of 255 in RLE; the longest string of LZW, in 12
# bits; 1,032 bytes of 8 bits by deflate (zlib's technical details); a JPEG has a bit for each 8 x 8 samples,
# and three bands of which two have a quarter of the samples.
_MOST_SAMPLES_PER_BYTE = {"BMP": 255, "GIF": 4096, "PNG": 8 * 1032, "JPEG": 4096}
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_MAGIC = (*_TIFF_MAGIC, b"\xff\xd8\xff", b"\x89PNG", b"\0\0\0\x0cjP", b"\xff\x4f\xff", b"CDF", b"GIF8")
# GDAL's errors reach the caller in ours; without a handler Python would print them as well.
logging.getLogger("rasterio").addHandler(logging.NullHandler())
# `RasterInfo.georeferenced` reports it; warnings.catch_warnings is not thread-safe before Python 3.14.
warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)

# distributed sends errors with their causes by tblib 3, which sets `args`. Those of rasterio 1.4 have only a
# getter for it, so a read error would arrive as a bare Exception.
CPLE_BaseError.__reduce__ = lambda error: (type(error), (error.error, error.errno, error.errmsg))


@contextmanager
def open_dataset(
    src: StrPath | Location, *, verify: bool = True, overview_level: int | None = None
) -> Iterator[DatasetReader]:
    """Open the raster at `src` for reading in this thread, until the block ends.

    Parameters
    ----------
    src : path, URL or Location
        A local path or ``abfs://container/blob``.
    verify : bool
        Compare some of a TIFF's block offsets with the file's size, so that a truncated file is refused
        before work is spent on it.
    overview_level : int, optional
        Open this overview, 0 the largest, as if it were the raster.

    Raises
    ------
    SourceNotFound
        Nothing is stored there.
    UnsupportedRaster
        It is not a raster, its format is not allowed, or it exceeds one of `gdaltools.raster.limits`.
    CorruptRaster
        It is empty or truncated, or its header cannot be read.
    SourceChanged
        It is no longer the version that was pinned, or that was opened.
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
        _check_claim(dataset, location, size, limits)
        if verify:
            check_blocks(dataset, location, size)
        try:
            yield dataset
        except CPLE_BaseError as error:  # of a header that GDAL reads late; rasterio does not translate it
            raise _open_error(location, error) from error
        except UnicodeDecodeError as error:
            raise _not_utf8(location, error) from error


def side_cars(location: Location) -> tuple[str, ...]:
    """Return the names of files beside a local raster that GDAL alone would read with it, and we do not.

    They hold a mask, overviews, metadata or a georeference. Beside a blob nothing is looked for.

    >>> side_cars(storage.locate("scene.tif"))
    ()
    """
    path = location.path
    if path is None:
        return ()
    suffix = path.suffix[1:]
    worlds = [suffix[:1] + suffix[-1:] + "w", suffix + "w"] if suffix else []
    # GDAL reads the world file of a BMP in any case.
    endings = [f".{text}" for text in (*worlds, "wld") if suffix.lower() != "bmp"] + _SIDE_CARS_OF_STEM
    pairs = [(path.name, text) for text in _SIDE_CARS] + [(path.stem, text) for text in endings]
    found: dict[tuple[int, int], str] = {}
    for name in (base + text for base, ending in pairs for text in (ending, ending.upper())):
        beside = path.with_name(name)
        if name != path.name and beside.is_file():
            status = beside.stat()
            found.setdefault((status.st_dev, status.st_ino), name)  # once where case does not matter
    return tuple(found.values())


_SIDE_CARS = (".msk", ".ovr", ".aux.xml")
# Georeference of MapInfo, rational polynomials and metadata of satellites' images.
_SIDE_CARS_OF_STEM = [".tab", "_rpc.txt", ".rpb", ".imd"]
_caches: list[int] = []
_caches_lock = threading.Lock()


@contextmanager
def block_cache(size_bytes: int) -> Iterator[None]:
    """Inside this block GDAL's process-wide cache holds at least `size_bytes` of decoded blocks."""
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
    """Raise `SourceChanged` if a blob in Azure was replaced while the block ran.

    An open local file, or one in memory, stays the version that was opened.
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
    # libjpeg fills a truncated image with grey and only warns.
    "GDAL_ERROR_ON_LIBJPEG_WARNING": "YES",
    "GDAL_PAM_ENABLED": "NO",
    # If VRT is allowed by name, its files still cannot run code.
    "GDAL_VRT_ENABLE_PYTHON": "NO",
    # Without "PAM" here, which is off by the option above, GDAL 3.10 leaves the transform of a JPEG 2000
    # without georeference unset (GDALGeorefPamDataset::GetGeoTransform), and rasterio returns those bytes.
    "GDAL_GEOREF_SOURCES": "PAM,INTERNAL",
}


@contextmanager
def _opened(location: Location, limits: Limits, overview_level: int | None) -> Iterator[DatasetReader]:
    options = {} if overview_level is None else {"overview_level": overview_level}
    drivers = netcdf.drivers_for(location, limits)
    with netcdf.gdal_name(location, drivers) as name:
        try:
            # rasterio.open takes one driver; DatasetReader takes a list that GDAL may choose from.
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
        except CPLE_BaseError as error:  # rasterio does not translate it
            text = redacted(str(error))
            if is_transport(location, text):
                raise StorageError(f"{location} cannot be read: {text}") from error
            raise CorruptRaster(
                f"{location} has a part that cannot be read: {text}; upload it again"
            ) from error


def _check_arrived(dataset: DatasetReader, location: Location) -> None:
    """Refuse a blob whose mask or overviews GDAL failed to fetch, as it would go on without them."""
    with heard() as texts:
        _ = dataset.mask_flag_enums  # makes GDAL read all directories of a TIFF
    if not texts:
        return
    from gdaltools.raster.tiff import read_layout

    try:
        with storage.opening(location) as stream:
            read_layout(stream, name=str(location))
    except (CorruptRaster, UnsupportedRaster):
        return  # the file itself is damaged there
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


def _check_claim(dataset: DatasetReader, location: Location, size: int, limits: Limits) -> None:
    """Refuse a file that claims far more samples than it can hold, or than anyone waits for."""
    samples = dataset.width * dataset.height * dataset.count
    claim = f"{location} claims {dataset.width} x {dataset.height} pixels in {dataset.count} bands"
    most = _MOST_SAMPLES_PER_BYTE.get(dataset.driver)
    if most is not None and samples > most * size:
        raise CorruptRaster(
            f"{claim} and has {size} bytes, fewer than a {dataset.driver} file needs, as if cut short: "
            "upload it again"
        )
    pixel_bytes = samples * max(np.dtype(d).itemsize for d in numpy_dtypes(dataset))
    if pixel_bytes > max(_ALWAYS_READ, limits.ratio * size) and pixel_bytes > limits.ratio * _stored(dataset):
        raise UnsupportedRaster(
            f"{claim}, {pixel_bytes / size:,.0f} bytes for each of its {size} bytes: beyond "
            f"{_ALWAYS_READ >> 30} GB the limit is {limits.ratio} (GDALTOOLS_MAX_RATIO); if it is right, "
            "as of a sparse file, set a higher one"
        )


def _stored(dataset: DatasetReader) -> int:
    """Return the bytes of the other files that a VRT or its like names; 0 if it holds its own pixels."""
    names = dataset.files if dataset.driver not in DRIVERS else []
    return sum(os.stat(name).st_size for name in names[1:] if os.path.isfile(name))


def vrt_of(dataset: DatasetReader) -> bytes:
    """Return GDAL's description of a dataset as a VRT, which states what rasterio has no name for."""
    with MemoryFile(ext=".vrt") as memory:
        rasterio.shutil.copy(dataset, memory.name, driver="VRT")
        text: bytes = memory.read()
    return text


def nodata_of(dataset: DatasetReader, band: int = 1) -> float | None:
    """Return the nodata value of a band, counted from 1, exactly: an int in 64-bit integers.

    None if it has none. rasterio's is a float, not exact beyond 2⁵³, and None at the dtype's limit.
    """
    rounded: float | None = dataset.nodatavals[band - 1]
    if dataset.dtypes[band - 1] not in ("int64", "uint64"):
        return rounded
    if rounded is None and MaskFlags.nodata not in dataset.mask_flag_enums[band - 1]:
        return None
    if rounded is not None and abs(rounded) < 2**53:
        return int(rounded)
    text = ElementTree.fromstring(vrt_of(dataset)).findtext(f"VRTRasterBand[@band='{band}']/NoDataValue")
    return int(text) if text is not None else rounded


def numpy_dtypes(dataset: DatasetReader) -> tuple[str, ...]:
    """Return the bands' dtypes as numpy names them; GDAL's complex integers become complex64."""
    return tuple("complex64" if name.startswith("complex_int") else str(name) for name in dataset.dtypes)


def check_blocks(dataset: DatasetReader, location: Location | str, size: int) -> None:
    """Refuse a TIFF whose blocks lie beyond the file's `size` bytes.

    Checks the last block and a sample of the others, so a huge file costs no more. The offsets come from
    GDAL's metadata domain "TIFF" (GDAL's GTiff driver page, BLOCK_OFFSET_x_y, BLOCK_SIZE_x_y).

    Raises
    ------
    CorruptRaster
        A block ends after the end of the file, or a PNG lacks its end.
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
    """Refuse a PNG without IEND, which ends every PNG.

    GDAL fills the missing part of an 8-bit PNG with whatever its memory held.
    """
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
    """Return a window's pixels, shape (bands, rows, cols).

    With ``mask=True`` return the window's per-dataset mask instead, shape (rows, cols).

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
    """Turn GDAL's errors in the block into ours, which name the location and the window that was read.

    Raises
    ------
    CorruptRaster, StorageError
        As for `read_window`.
    KeyboardInterrupt
        The run was interrupted; nothing more is read.
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
