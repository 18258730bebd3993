"""What every kind of storage can do; other packages use it through `gdaltools.storage`."""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from gdaltools.storage.location import Location


@dataclass(frozen=True)
class Stat:
    """Size in bytes, and an opaque tag that changes whenever the content does.

    Attributes
    ----------
    modified : datetime or None
        When the object was last written, if storage was asked; ignored in comparisons.
    """

    size: int
    etag: str
    modified: datetime | None = field(default=None, compare=False)


class Store(ABC):
    """One kind of storage. Every location passed to it is of this kind."""

    @abstractmethod
    def stat(self, location: Location) -> Stat:
        """Return size and tag of the stored object; raises `SourceNotFound` or `StorageError`."""

    @abstractmethod
    def open(self, location: Location, found: Stat) -> IO[bytes]:
        """Return the object's bytes as a stream, readable at any offset, all of the version `found`."""

    @abstractmethod
    def list_names(self, prefix: Location, *, depth: int | None) -> list[str]:
        """Return names below a prefix, relative to its container, sorted."""

    @abstractmethod
    def fetch(self, location: Location, found: Stat, path: Path) -> None:
        """Copy the version `found` to a new local file."""

    def scratch_place(self, location: Location) -> Path:
        """Return the folder below which a file is prepared for `publish`."""
        return Path(tempfile.gettempdir())

    @abstractmethod
    def publish(self, path: Path, location: Location, traits: BlobTraits | None, *, overwrite: bool) -> None:
        """Store the file at `path` in one step; raises `TargetExists` or `StorageError`."""

    @abstractmethod
    def append(self, location: Location, data: bytes) -> None:
        """Append to the object, or create it, in one step."""

    @abstractmethod
    def delete(self, location: Location) -> None:
        """Delete the object; it is no error if there is none."""

    @abstractmethod
    def url(self, location: Location) -> str:
        """Return the URL of the object."""

    @abstractmethod
    def filesystem(self, location: Location) -> Any:
        """Return the fsspec filesystem that the location is in."""

    def gdal_options(self, location: Location) -> dict[str, str]:
        """Return the GDAL configuration with which the location can be read."""
        return {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR"}

    def gdal_name(self, location: Location) -> AbstractContextManager[str]:
        """Yield the name by which GDAL opens the location inside the block."""
        return nullcontext(location.gdal_path)


@dataclass(frozen=True)
class BlobTraits:
    """The properties of a blob to write, apart from its bytes.

    Attributes
    ----------
    access_tier : str or None
        Hot, Cool, Cold or Archive; None for the account's default.
    """

    content_type: str
    access_tier: str | None = None
