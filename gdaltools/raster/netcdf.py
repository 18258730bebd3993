"""netCDF: which files are opened, and how one of several variables is named without GDAL's own syntax.

Classic netCDF ("CDF", versions 1 and 2) holds its own numbers. netCDF-4 is HDF5, whose datasets can lie in
any other file that the process may read (HDF5, "External storage", "External links", "Virtual datasets"), and
GDAL follows them. Such files are opened only if the driver HDF5 is allowed by name.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rasterio.errors import RasterioError
from rasterio.io import DatasetReader

from gdaltools import storage
from gdaltools.errors import CorruptRaster, InvalidParameter
from gdaltools.raster.limits import Limits
from gdaltools.runtime.scratch import scratch_folder
from gdaltools.storage import Location

DRIVER = "netCDF"
HDF5_MAGIC = b"\x89HDF"

_SUFFIXES = (".nc", ".nc3", ".cdf")
_CLASSIC_MAGIC = b"CDF"
# Bytes that are read of a header: as many as its dimensions may take.
_HEAD_BYTES = 16 << 10
_DIMENSIONS = 10


def drivers_for(location: Location, limits: Limits) -> list[str]:
    """Return those of the allowed drivers that may try to open this file.

    A file is netCDF by its suffix and its first bytes; nothing is read of a file with another suffix.

    Raises
    ------
    CorruptRaster
        It is netCDF and claims to be longer than it is; GDAL would allocate memory for the claim.
    SourceNotFound, StorageError
        It cannot be read.
    """
    if DRIVER not in limits.drivers:
        return list(limits.drivers)
    if location.filename.lower().endswith(_SUFFIXES):
        head = storage.read_range(location, 0, _HEAD_BYTES)
        if head.startswith(_CLASSIC_MAGIC):
            _check_dimensions(head, location)
            return [DRIVER]
        if head.startswith(HDF5_MAGIC) and "HDF5" in limits.drivers:
            return [DRIVER]
    return [name for name in limits.drivers if name != DRIVER]


@contextmanager
def gdal_name(location: Location, drivers: list[str]) -> Iterator[str]:
    """Yield the name by which GDAL opens the file, or its variable, inside the block.

    The netCDF library reads only local files; others are staged for as long as they are open.

    Raises
    ------
    InvalidParameter
        The variable does not exist, the file is not netCDF, or its path has a quotation mark.
    StorageError
        The file cannot be staged.
    """
    if drivers != [DRIVER]:
        if location.variable is not None:
            raise InvalidParameter(
                f"{location} is not netCDF: variable {location.variable!r} means nothing there"
            )
        with storage.gdal_name(location) as name:
            yield name
    elif location.path is not None:
        yield _of_variable(location, location.path)
    else:
        with scratch_folder(Path(tempfile.gettempdir())) as folder:
            path = folder / "variables.nc"
            storage.fetch(location, path)
            yield _of_variable(location, path)


def variables(dataset: DatasetReader) -> tuple[str, ...]:
    """Return the names of the rasters in an open file that holds several."""
    return tuple(name.rpartition(":")[2] for name in dataset.subdatasets)


def _check_dimensions(head: bytes, location: Location) -> None:
    """Refuse a dimension that is longer than the file has bytes (The NetCDF Classic Format, dim_list)."""
    size = storage.stat(location).size
    stream = io.BytesIO(head[8:])

    def number() -> int:
        return int.from_bytes(stream.read(4), "big")

    if number() != _DIMENSIONS:
        return  # no dimensions, or not a valid header: the library reports it
    for _ in range(min(number(), _HEAD_BYTES)):
        length = number()
        stream.seek(-(-length // 4) * 4, io.SEEK_CUR)
        claimed = number()
        if claimed > size:
            raise CorruptRaster(
                f"{location} claims a dimension of {claimed} and has {size} bytes, as if cut short: "
                "upload it again"
            )


def _of_variable(location: Location, path: Path) -> str:
    if location.variable is None:
        return str(path)
    if '"' in str(path):
        raise InvalidParameter(f"{location} has a quotation mark in its name: rename it to open a variable")
    try:
        with DatasetReader(str(path), driver=[DRIVER], sharing=False) as dataset:
            known = variables(dataset)
    except RasterioError:
        known = ()  # the next attempt to open it reports why
    # A file with one raster lists no variables.
    if known and location.variable not in known:
        raise InvalidParameter(f"{location} has no variable {location.variable!r}: it has {', '.join(known)}")
    return f'NETCDF:"{path}":{location.variable}'
