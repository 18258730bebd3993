"""The memory of this process, for notebooks and tests: fsspec's memory file system, ``/vsimem/`` for GDAL.

No other process sees its objects, including workers of a cluster that are separate processes.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from gdaltools.errors import SourceChanged, SourceNotFound, StorageError, TargetExists
from gdaltools.storage.location import Location
from gdaltools.storage.store import BlobTraits, Stat, Store

# Held while something is looked up and replaced.
_storing = threading.Lock()


class MemoryStore(Store):
    """A `Store` in memory; objects are replaced, never altered, so readers keep the version they opened."""

    def stat(self, location: Location) -> Stat:
        """As `Store.stat`."""
        file = _file(location)
        etag = f"{file.created.timestamp():.6f}-{file.modified.timestamp():.6f}-{file.size:x}"
        return Stat(file.size, etag, file.modified)

    def open(self, location: Location, found: Stat) -> IO[bytes]:
        """As `Store.open`."""
        content = _content(location)
        if self.stat(location) != found:
            raise SourceChanged(f"{location} was replaced while it was read: start again")
        return io.BytesIO(content)

    def list_names(self, prefix: Location, *, depth: int | None) -> list[str]:
        """As `Store.list_names`, at any depth."""
        root = f"/{prefix.container}/"
        folder = f"{root}{prefix.name.rstrip('/')}/" if prefix.name else root
        with _storing:
            return sorted(name.removeprefix(root) for name in _files() if name.startswith(folder))

    def fetch(self, location: Location, found: Stat, path: Path) -> None:
        """As `Store.fetch`."""
        try:
            with self.open(location, found) as stream:
                path.write_bytes(stream.read())
        except OSError as error:
            raise StorageError(f"{location} cannot be copied to {path.parent}: {error.strerror}") from error

    def publish(self, path: Path, location: Location, traits: BlobTraits | None, *, overwrite: bool) -> None:
        """As `Store.publish`."""
        content = path.read_bytes()
        with _storing:
            if not overwrite and _key(location) in _files():
                raise TargetExists(f"{location} appeared meanwhile: pass overwrite=True to replace it")
            _store(location, content)

    def append(self, location: Location, data: bytes) -> None:
        """As `Store.append`."""
        with _storing:
            before = _content(location) if _key(location) in _files() else b""
            _store(location, before + data)

    def delete(self, location: Location) -> None:
        """As `Store.delete`."""
        with _storing:
            _files().pop(_key(location), None)

    def url(self, location: Location) -> str:
        """As `Store.url`: ``memory://…``."""
        return f"memory:/{_key(location)}"

    def filesystem(self, location: Location) -> Any:
        """As `Store.filesystem`; its names are ``/name/key``."""
        from fsspec.implementations.memory import MemoryFileSystem

        return MemoryFileSystem()

    @contextmanager
    def gdal_name(self, location: Location) -> Iterator[str]:
        """As `Store.gdal_name`: the name is for this opening only, and the bytes are not copied."""
        from rasterio.io import MemoryFile

        content = _content(location)
        with MemoryFile(content, filename=location.filename) as memory:
            yield memory.name


def _key(location: Location) -> str:
    return f"/{location.container}/{location.name}"


def _files() -> dict[str, Any]:
    from fsspec.implementations.memory import MemoryFileSystem

    files: dict[str, Any] = MemoryFileSystem.store
    return files


def _file(location: Location) -> Any:
    try:
        return _files()[_key(location)]
    except KeyError:
        raise SourceNotFound(f"{location} is not in the memory of this process") from None


def _content(location: Location) -> bytes:
    content: bytes = _file(location).getvalue()
    return content


def _store(location: Location, content: bytes) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    try:
        MemoryFileSystem().pipe_file(_key(location), content)
    except OSError as error:
        raise StorageError(f"{location} cannot be stored below what is stored itself") from error
