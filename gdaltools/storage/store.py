"""What every kind of storage can do; `gdaltools.storage` is the door to all of them."""

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
        When it was last written, where that was asked of storage; it has no part in comparisons.
    """

    size: int
    etag: str
    modified: datetime | None = field(default=None, compare=False)


class Store(Protocol):
    """One kind of storage. Every location that is handed in is of this kind."""

    def stat(self, location: Location) -> Stat:
        """Of what is stored there; raises `SourceNotFound` or `StorageError`."""

    def open(self, location: Location, found: Stat) -> IO[bytes]:
        """Its bytes at any offset, all of the version that was found."""

    def list_names(self, prefix: Location, *, depth: int | None) -> list[str]:
        """Names below a prefix, relative to its container, sorted."""

    def fetch(self, location: Location, found: Stat, path: Path) -> None:
        """Copy the version that was found to a new local file."""

    def writing(
        self, location: Location, traits: BlobTraits | None, *, overwrite: bool
    ) -> AbstractContextManager[Path]:
        """A local path whose content is stored, at once, when the block ends without an error."""

    def append(self, location: Location, data: bytes) -> None:
        """Add to what is stored, or begin it, in one step."""

    def delete(self, location: Location) -> None:
        """Remove it; nothing there is no error."""

    def url(self, location: Location) -> str:
        """The address by which others know it."""

    def filesystem(self, location: Location) -> Any:
        """The fsspec filesystem that it is in."""

    def gdal_options(self, location: Location) -> dict[str, str]:
        """GDAL configuration under which it can be read."""

    def gdal_name(self, location: Location) -> AbstractContextManager[str]:
        """The name by which GDAL opens it inside the block."""


@dataclass(frozen=True)
class BlobTraits:
    """What a blob is to be but for its bytes.

    Attributes
    ----------
    access_tier : str or None
        Hot, Cool, Cold or Archive; None for the account's default.
    """

    content_type: str
    access_tier: str | None = None
