"""Files on this machine, and blobs that are stored as files below ``GDALTOOLS_BLOB_ROOT``."""

from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import IO, Any, cast

from gdaltools.errors import SourceChanged, SourceNotFound, StorageError, TargetExists
from gdaltools.runtime import crash_points
from gdaltools.runtime.scratch import is_scratch
from gdaltools.storage.location import Location
from gdaltools.storage.store import BlobTraits, Stat, Store


class LocalStore(Store):
    """A `Store` of local files; a file appears by one rename or hard link within its folder."""

    def stat(self, location: Location) -> Stat:
        """As `Store.stat`."""
        path = _path(location)
        try:
            found = path.stat()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise SourceNotFound(f"{location} does not exist") from error
        except OSError as error:
            raise StorageError(f"{location} cannot be read: {error.strerror}") from error
        if path.is_dir():
            raise SourceNotFound(f"{location} is a folder, not a file")
        etag = f"{found.st_ino:x}-{found.st_size:x}-{found.st_mtime_ns:x}"
        return Stat(found.st_size, etag, datetime.fromtimestamp(found.st_mtime, UTC))

    def open(self, location: Location, found: Stat) -> IO[bytes]:
        """As `Store.open`."""
        try:
            return _path(location).open("rb")
        except OSError as error:
            raise StorageError(f"{location} cannot be read: {error.strerror}") from error

    def list_names(self, prefix: Location, *, depth: int | None) -> list[str]:
        """As `Store.list_names`; folders are searched at most `depth` parts of a name deep."""
        base = _path(prefix)
        levels = ["**/*"] if depth is None else ["/".join("*" * level) for level in range(1, depth + 1)]
        below = chain.from_iterable(base.glob(level) for level in levels)
        found = (p.relative_to(base) for p in below if p.is_file())
        lead = f"{prefix.name.rstrip('/')}/" if prefix.container and prefix.name else ""
        return sorted(lead + p.as_posix() for p in found if not is_scratch(p))

    def fetch(self, location: Location, found: Stat, path: Path) -> None:
        """As `Store.fetch`."""
        try:
            shutil.copyfile(_path(location), path)
        except OSError as error:
            raise StorageError(f"{location} cannot be copied to {path.parent}: {error.strerror}") from error
        if self.stat(location) != found:
            raise SourceChanged(f"{location} was replaced while it was read: start again")

    def scratch_place(self, location: Location) -> Path:
        """As `Store.scratch_place`: the target's own folder, from which a file can be renamed."""
        folder = _path(location).parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"folder {folder} cannot be made: {error.strerror}") from error
        return folder

    def publish(self, path: Path, location: Location, traits: BlobTraits | None, *, overwrite: bool) -> None:
        """As `Store.publish`."""
        target = _path(location)
        try:
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
            crash_points.reach("file-before-publish")
            if overwrite:
                path.replace(target)
            else:
                target.hardlink_to(path)
            crash_points.reach("file-published")
            folder = os.open(target.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except FileExistsError as error:
            raise TargetExists(f"{target} appeared meanwhile: pass overwrite=True to replace it") from error
        except OSError as error:
            raise StorageError(f"{target} cannot be written: {error.strerror}") from error

    def append(self, location: Location, data: bytes) -> None:
        """As `Store.append`."""
        path = _path(location)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab", buffering=0) as stream:
                written = stream.write(data)
        except OSError as error:
            raise StorageError(f"{location} cannot be written: {error.strerror}") from error
        if written != len(data):
            raise StorageError(f"{location} took {written} of {len(data)} bytes: is there space left?")

    def delete(self, location: Location) -> None:
        """As `Store.delete`."""
        _path(location).unlink(missing_ok=True)

    def url(self, location: Location) -> str:
        """As `Store.url`: ``file://…``."""
        return _path(location).as_uri()

    def filesystem(self, location: Location) -> Any:
        """As `Store.filesystem`; its names are paths."""
        from fsspec.implementations.local import LocalFileSystem

        return LocalFileSystem()


def _path(location: Location) -> Path:
    return cast(Path, location.path)
