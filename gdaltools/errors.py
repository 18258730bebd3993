"""Every error that gdaltools raises on purpose, in one hierarchy.

Each message says what was wrong, with what, and what to do about it. ``retryable`` tells a caller that
runs unattended whether the same call can succeed later without anybody changing anything.
"""

from __future__ import annotations

import warnings
from importlib import import_module


class GdalToolsError(Exception):
    """Something went wrong in gdaltools; trying again may help."""

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
    """The target exists and overwriting it was not asked for."""

    retryable = False


class UnsupportedRaster(GdalToolsError):
    """The source is not a raster that gdaltools reads, or lacks what the operation needs."""

    retryable = False


class CorruptRaster(GdalToolsError):
    """The source is a raster whose header or pixels cannot be read."""

    retryable = False


class MissingExtra(GdalToolsError, ImportError):
    """A library is not installed that only some of gdaltools' functions need."""

    retryable = False


class BindingsMissing(MissingExtra):
    """GDAL's Python bindings are not installed, or are of another GDAL than rasterio's."""


class StorageError(GdalToolsError):
    """Reading from or writing to storage failed for a reason outside the data."""


class SourceChanged(StorageError):
    """The source was replaced while it was read; what was read of it belongs to two versions."""


class SourceArchived(StorageError):
    """The source is in Azure's archive tier, which cannot be read."""

    retryable = False


class StorageDenied(StorageError):
    """Storage knows who asks, or does not, and refuses."""


# Names that have moved; for one version they are also found here. `runtime.moved` is a floor above.
_MOVED = {"UnknownTaskType": "worker.errors"}


def __getattr__(name: str) -> object:
    if name not in _MOVED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(f"{__name__}.{name} is now {_MOVED[name]}.{name}", DeprecationWarning, stacklevel=2)
    return getattr(import_module(_MOVED[name]), name)
