"""What every kind of storage can do; other packages use it through `gdaltools.storage`."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Protocol

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


class Store(Protocol):
    """One kind of storage. Every location passed to it is of this kind."""

    def stat(self, location: Location) -> Stat:
        """Return size and tag of the stored object; raises `SourceNotFound` or `StorageError`."""

    def open(self, location: Location, found: Stat) -> IO[bytes]:
        """Return the object's bytes as a stream, readable at any offset, all of the version `found`."""

    def list_names(self, prefix: Location, *, depth: int | None) -> list[str]:
        """Return names below a prefix, relative to its container, sorted."""

    def fetch(self, location: Location, found: Stat, path: Path) -> None:
        """Copy the version `found` to a new local file."""

    def writing(
        self, location: Location, traits: BlobTraits | None, *, overwrite: bool
    ) -> AbstractContextManager[Path]:
        """Yield a local path whose content is stored, in one step, when the block ends without an error."""

    def append(self, location: Location, data: bytes) -> None:
        """Append to the object, or create it, in one step."""

    def delete(self, location: Location) -> None:
        """Delete the object; it is no error if there is none."""

    def url(self, location: Location) -> str:
        """Return the URL of the object."""

    def filesystem(self, location: Location) -> Any:
        """Return the fsspec filesystem that the location is in."""

    def gdal_options(self, location: Location) -> dict[str, str]:
        """Return the GDAL configuration with which the location can be read."""

    def gdal_name(self, location: Location) -> AbstractContextManager[str]:
        """Yield the name by which GDAL opens the location inside the block."""


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
