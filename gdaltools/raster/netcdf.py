"""netCDF: which files are opened, and how one of several variables is named without GDAL's own syntax.

Classic netCDF ("CDF", versions 1 and 2) holds its own numbers. netCDF-4 is HDF5, whose datasets can lie in
any other file that the process may read (HDF5, "External storage", "External links", "Virtual datasets"), and
GDAL follows them. Such files are opened only if the driver HDF5 is allowed by name.
"""

from __future__ import annotations

import io
import math
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
# Bytes that are read of a header at first, and at most.
_HEAD_BYTES = 16 << 10
_MOST_HEAD_BYTES = 64 << 20
# Tags of the lists in a header, and bytes of a value of each type (CDF-5 has the last five).
_DIMENSIONS, _VARIABLES, _ATTRIBUTES = 10, 11, 12
_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 4, 6: 8, 7: 1, 8: 2, 9: 4, 10: 8, 11: 8}


def drivers_for(location: Location, limits: Limits) -> list[str]:
    """Return those of the allowed drivers that may try to open this file.

    A file is netCDF by its suffix and its first bytes; nothing is read of a file with another suffix.

    Raises
    ------
    CorruptRaster
        It is netCDF and claims to be longer than it is.
    SourceNotFound, StorageError
        It cannot be read.
    """
    if DRIVER not in limits.drivers:
        return list(limits.drivers)
    if location.filename.lower().endswith(_SUFFIXES):
        head = storage.read_range(location, 0, _HEAD_BYTES)
        if head.startswith(_CLASSIC_MAGIC):
            _check_extent(head, location)
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


def _check_extent(head: bytes, location: Location) -> None:
    """Refuse a dimension longer than the file has bytes, and a variable that ends behind the file's end.

    The netCDF library reads what is missing as zeros.
    """
    size = storage.stat(location).size
    try:
        while True:
            try:
                header = _Header(head)
                break
            except EOFError:
                if len(head) >= min(size, _MOST_HEAD_BYTES):
                    raise
                head = storage.read_range(location, 0, 16 * len(head))
    except EOFError as error:
        raise CorruptRaster(f"{location} ends within its header, as if cut short: upload it again") from error
    except ValueError:
        return  # not a valid header: the library reports it
    claimed = max(header.dimensions, default=0)
    if claimed > size:
        raise CorruptRaster(
            f"{location} claims a dimension of {claimed} and has {size} bytes, as if cut short: "
            "upload it again"
        )
    for name, end in header.ends():
        if end > size:
            raise CorruptRaster(
                f"{location} is cut short: its variable {name!r} ends at byte {end}, the file has {size}; "
                "upload it again"
            )


class _Header:
    """The header of a classic file (The NetCDF Classic Format Specification; CDF-5 has counts of 64 bits).

    EOFError is raised if it is longer than `head`, ValueError if it breaks the format.
    """

    def __init__(self, head: bytes) -> None:
        self._stream = io.BytesIO(head)
        version = self._bytes(4)[3]
        self._count_bytes = 8 if version == 5 else 4
        self._offset_bytes = 4 if version == 1 else 8
        records = self._number(self._count_bytes)
        # All bits are set while a file is streamed: the number of records is then unknown.
        self._records = 0 if records == (1 << 8 * self._count_bytes) - 1 else records
        self.dimensions = [self._dimension() for _ in range(self._entries(_DIMENSIONS))]
        self._skip_attributes()
        self._variables = [self._variable() for _ in range(self._entries(_VARIABLES))]

    def ends(self) -> Iterator[tuple[str, int]]:
        """Yield each variable's name and the first byte behind its values."""
        by_record = [size for _, _, size, recorded in self._variables if recorded]
        # A single variable by records has no padding between them.
        record = by_record[0] if len(by_record) == 1 else sum(-(-size // 4) * 4 for size in by_record)
        for name, begin, size, recorded in self._variables:
            if not recorded:
                yield name, begin + size
            elif self._records:
                yield name, begin + (self._records - 1) * record + size

    def _bytes(self, length: int) -> bytes:
        data = self._stream.read(length)
        if len(data) < length:
            raise EOFError
        return data

    def _number(self, length: int) -> int:
        return int.from_bytes(self._bytes(length), "big")

    def _padded(self, length: int) -> bytes:
        return self._bytes(-(-length // 4) * 4)[:length]

    def _name(self) -> str:
        return self._padded(self._number(self._count_bytes)).decode("utf-8", "replace")

    def _entries(self, expected: int) -> int:
        tag, count = self._number(4), self._number(self._count_bytes)
        if tag != expected and (tag or count):
            raise ValueError(f"list {tag} instead of {expected}")
        return count

    def _dimension(self) -> int:
        self._name()
        return self._number(self._count_bytes)

    def _type_bytes(self) -> int:
        kind = self._number(4)
        if kind not in _TYPE_BYTES:
            raise ValueError(f"type {kind}")
        return _TYPE_BYTES[kind]

    def _skip_attributes(self) -> None:
        for _ in range(self._entries(_ATTRIBUTES)):
            self._name()
            width = self._type_bytes()
            self._padded(width * self._number(self._count_bytes))

    def _variable(self) -> tuple[str, int, int, bool]:
        """Return name, first byte, bytes (of one record) and whether it is stored by records."""
        name = self._name()
        numbers = [self._number(self._count_bytes) for _ in range(self._number(self._count_bytes))]
        if any(number >= len(self.dimensions) for number in numbers):
            raise ValueError("an unknown dimension")
        sides = [self.dimensions[number] for number in numbers]
        self._skip_attributes()
        width = self._type_bytes()
        self._number(self._count_bytes)  # vsize, which is wrong for large variables
        recorded = bool(sides) and sides[0] == 0
        return name, self._number(self._offset_bytes), width * math.prod(sides[recorded:]), recorded


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
