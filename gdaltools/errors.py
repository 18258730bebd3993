"""Every error that gdaltools raises on purpose, in one hierarchy.

Each message names the problem, the value and the remedy. ``retryable`` tells an unattended caller whether
the same call can succeed later with nothing changed.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import TypeVar

_Choice = TypeVar("_Choice")


class GdalToolsError(Exception):
    """The base of gdaltools' errors; unless a subclass says otherwise, a retry may help."""

    retryable: bool = True


class InvalidParameter(GdalToolsError, ValueError):
    """An argument is outside what the function accepts."""

    retryable = False


class InvalidLocation(InvalidParameter):
    """A container or blob name is malformed, absolute, or climbs out of its container."""


class SourceNotFound(GdalToolsError, FileNotFoundError):
    """The source does not exist."""

    retryable = False


class TargetExists(GdalToolsError, FileExistsError):
    """The target exists and overwriting it was not requested."""

    retryable = False


class UnsupportedRaster(GdalToolsError):
    """The source is not a raster that gdaltools can read, or lacks what the operation needs."""

    retryable = False


class CorruptRaster(GdalToolsError):
    """The source is a raster whose header or pixels cannot be read."""

    retryable = False


class MissingExtra(GdalToolsError, ImportError):
    """A library that only some of gdaltools' functions need is not installed."""

    retryable = False


class BindingsMissing(MissingExtra):
    """GDAL's Python bindings are not installed, or are of another GDAL version than rasterio's."""


class StorageError(GdalToolsError):
    """Reading from or writing to storage failed for a reason other than the data."""


class SourceChanged(StorageError):
    """The source was replaced while it was being read, so the data read belongs to two versions."""


class SourceArchived(StorageError):
    """The source is in Azure's archive tier, which cannot be read."""

    retryable = False


class StorageDenied(StorageError):
    """Storage denied access: the credentials are missing, unknown or not permitted."""


def one_of(parameter: str, value: object, choices: Sequence[_Choice]) -> _Choice:
    """Return `value`, which must be one of `choices`.

    Raises
    ------
    InvalidParameter
        It is none of them.

    Examples
    --------
    >>> one_of("interleave", "line", ("pixel", "band"))
    Traceback (most recent call last):
    gdaltools.errors.InvalidParameter: interleave 'line' is unknown: use one of pixel, band
    """
    for choice in choices:
        if value == choice:
            return choice
    raise InvalidParameter(f"{parameter} {value!r} is unknown: use one of {', '.join(map(str, choices))}")


# Names that have moved; for one version they are also found here. `runtime.moved` is a floor above.
_MOVED = {"UnknownTaskType": "worker.errors"}


def __getattr__(name: str) -> object:
    if name not in _MOVED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(f"{__name__}.{name} is now {_MOVED[name]}.{name}", DeprecationWarning, stacklevel=2)
    return getattr(import_module(_MOVED[name]), name)
