"""Limits on what a raster's header may claim: trusting a header costs memory and time.

Each limit is an environment variable, and a refusal names it. Time and memory are limits of the process
that reads: the worker gives every task a process of its own, and ends it (``WORKER_TIMEOUT_MINUTES``,
``WORKER_MEMORY_LIMIT_MB``).
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from gdaltools.errors import InvalidParameter

#: GDAL drivers whose files hold their own pixels and cannot point to other files.
DRIVERS = ("GTiff", "COG", "JPEG", "PNG", "JP2OpenJPEG", "WEBP", "BMP", "GIF", "netCDF")


@dataclass(frozen=True)
class Limits:
    """The limits of this process.

    Attributes
    ----------
    drivers : tuple of str
        GDALTOOLS_ALLOWED_DRIVERS, GDAL's names separated by commas: only these open a file. netCDF alone
        is for classic files; those that are HDF5 inside, and can point to other files, need HDF5 as well.
    samples : int
        GDALTOOLS_MAX_SAMPLES: pixels times bands.
    bands, blocks : int
        GDALTOOLS_MAX_BANDS and GDALTOOLS_MAX_BLOCKS; GDAL uses some memory for each band and block.
    block_bytes : int
        GDALTOOLS_MAX_BLOCK_MB: the largest decoded block; it must fit into memory several times.
    file_bytes : int
        GDALTOOLS_MAX_FILE_GB: the largest file.
    ratio : int
        GDALTOOLS_MAX_RATIO: bytes of pixels for each byte of the file, if the pixels have more than 1 GB.
        Deflate reaches 1,032; more is a sparse file, one colour, or meant to be read without end.
    """

    drivers: tuple[str, ...] = DRIVERS
    samples: int = 1 << 46
    bands: int = 10_000
    blocks: int = 1 << 26
    block_bytes: int = 1 << 30
    file_bytes: int = 1 << 43
    ratio: int = 2048

    @classmethod
    def from_environment(cls) -> Limits:
        """Return the limits that the environment sets, with defaults for the others.

        Raises
        ------
        InvalidParameter
            A value is not a whole number above 0.
        """
        text = os.environ.get("GDALTOOLS_ALLOWED_DRIVERS", "")
        named = tuple(name.strip() for name in text.split(",") if name.strip())
        return cls(
            drivers=named or cls.drivers,
            samples=_number("GDALTOOLS_MAX_SAMPLES", cls.samples),
            bands=_number("GDALTOOLS_MAX_BANDS", cls.bands),
            blocks=_number("GDALTOOLS_MAX_BLOCKS", cls.blocks),
            block_bytes=_number("GDALTOOLS_MAX_BLOCK_MB", cls.block_bytes >> 20) << 20,
            ratio=_number("GDALTOOLS_MAX_RATIO", cls.ratio),
            file_bytes=_number("GDALTOOLS_MAX_FILE_GB", cls.file_bytes >> 30) << 30,
        )


def _number(name: str, default: int) -> int:
    text = os.environ.get(name)
    if not text:
        return default
    if not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise InvalidParameter(f"{name} {text!r} is not a whole number above 0")
    return int(text)
