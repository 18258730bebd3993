"""Where bytes live: a local path, or a blob named ``abfs://container/name``.

One door for reading and writing, so that no other module asks whether a raster is a file or a blob.
What is written appears under its name whole or not at all; readers never see a part of it.

``GDALTOOLS_BLOB_ROOT`` makes ``abfs://container/name`` mean the file ``container/name`` below that folder;
without it blobs are Azure's, reached by adlfs and GDAL's ``/vsiaz/`` with the same credentials.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO
from urllib.parse import quote

from gdaltools import _azure, crash_points, interruption
from gdaltools.errors import InvalidLocation, InvalidParameter, SourceNotFound, StorageError, TargetExists
from gdaltools.location import Location, StrPath, blob, check_blob_name, check_container_name, locate
from gdaltools.scratch import is_scratch, scratch_folder

__all__ = [
    "Location",
    "Stat",
    "StrPath",
    "append_bytes",
    "blob",
    "check_blob_name",
    "check_container_name",
    "check_target",
    "delete",
    "exists",
    "gdal_options",
    "list_names",
    "locate",
    "opening",
    "read_bytes",
    "stat",
    "url",
    "write_bytes",
    "writing",
]


@dataclass(frozen=True)
class Stat:
    """Size in bytes, and an opaque tag that changes whenever the content does."""

    size: int
    etag: str


def stat(source: StrPath | Location) -> Stat:
    """Size and tag of what is stored.

    Raises
    ------
    SourceNotFound
        Nothing is stored there, or it is a folder.
    StorageError
        Storage did not answer.
    """
    location = locate(source)
    if location.path is None:
        size, etag = _azure.stat(_container(location), location.name)
        return Stat(size, etag)
    try:
        found = location.path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise SourceNotFound(f"{location} does not exist") from error
    except OSError as error:
        raise StorageError(f"{location} cannot be read: {error.strerror}") from error
    if location.path.is_dir():
        raise SourceNotFound(f"{location} is a folder, not a file")
    return Stat(found.st_size, f"{found.st_ino:x}-{found.st_size:x}-{found.st_mtime_ns:x}")


def exists(source: StrPath | Location) -> bool:
    """Whether something is stored there."""
    try:
        stat(source)
    except SourceNotFound:
        return False
    return True


def read_bytes(source: StrPath | Location) -> bytes:
    """All bytes of a small object.

    Raises
    ------
    SourceNotFound, StorageError
        As `stat` does.
    """
    with opening(source) as stream:
        try:
            return stream.read()
        except OSError as error:
            raise StorageError(f"{source} cannot be read: {error.strerror}") from error


@contextmanager
def opening(source: StrPath | Location) -> Iterator[IO[bytes]]:
    """The stored bytes as a stream that can be read at any offset.

    Raises
    ------
    SourceNotFound, StorageError
        As `stat` does.
    """
    location = locate(source)
    stat(location)
    if location.path is None:
        stream = _azure.open_stream(_container(location), location.name)
    else:
        try:
            stream = location.path.open("rb")
        except OSError as error:
            raise StorageError(f"{location} cannot be read: {error.strerror}") from error
    with stream:
        yield stream


def write_bytes(target: StrPath | Location, data: bytes, *, overwrite: bool = False) -> Location:
    """Store `data` under the target's name, whole or not at all."""
    with writing(target, overwrite=overwrite) as path:
        path.write_bytes(data)
    return locate(target)


def append_bytes(target: StrPath | Location, data: bytes) -> Location:
    """Add `data`, at most 4 MB, to what is stored there, in one step.

    Others that add to it at the same time do not tear it apart. What was added is there after the death of
    this process, though perhaps not after that of the machine. A blob that was not made by additions cannot
    be added to.

    Raises
    ------
    StorageError
        The target cannot be written.
    """
    location = locate(target)
    if location.path is None:
        _azure.append(_container(location), location.name, data)
        return location
    try:
        location.path.parent.mkdir(parents=True, exist_ok=True)
        with location.path.open("ab", buffering=0) as stream:
            written = stream.write(data)
    except OSError as error:
        raise StorageError(f"{location} cannot be written: {error.strerror}") from error
    if written != len(data):
        raise StorageError(f"{location} took {written} of {len(data)} bytes: is there space left?")
    return location


def delete(target: StrPath | Location) -> None:
    """Remove what is stored there; nothing there is no error."""
    location = locate(target)
    if location.path is None:
        _azure.delete(_container(location), location.name)
    else:
        location.path.unlink(missing_ok=True)


def list_names(prefix: Location, *, depth: int | None = None) -> list[str]:
    """Names of everything stored below a folder or prefix, relative to its container, sorted.

    With a `depth` local folders are not searched deeper than so many parts of a name; blobs always are.
    """
    if prefix.path is None:
        return _azure.list_names(_container(prefix), prefix.name)
    base = Path(prefix.path)
    levels = ["**/*"] if depth is None else ["/".join("*" * level) for level in range(1, depth + 1)]
    below = chain.from_iterable(base.glob(level) for level in levels)
    found = (p.relative_to(base) for p in below if p.is_file())
    lead = f"{prefix.name.rstrip('/')}/" if prefix.container and prefix.name else ""
    return sorted(lead + p.as_posix() for p in found if not is_scratch(p))


@contextmanager
def writing(target: StrPath | Location, *, overwrite: bool = False) -> Iterator[Path]:
    """A local path to write to, whose content becomes the target when the block ends without an error.

    The target appears whole or not at all, and not after an interruption. With ``overwrite=False`` a target
    that exists is refused before the block and, should it appear meanwhile, after it; it is never replaced.
    What an earlier process left when it was killed is removed on the way.

    Raises
    ------
    TargetExists
        The target exists and `overwrite` is False.
    StorageError
        The target cannot be written.
    KeyboardInterrupt
        The run was interrupted; the target is as it was.
    """
    location = locate(target)
    check_target(location, overwrite=overwrite)
    if location.path is None:
        with scratch_folder(Path(tempfile.gettempdir())) as folder:
            path = folder / location.filename
            yield path
            interruption.check()
            _azure.upload(path, _container(location), location.name, overwrite=overwrite)
        return
    folder = location.path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"folder {folder} cannot be made: {error.strerror}") from error
    with scratch_folder(folder) as scratch:
        path = scratch / location.path.name
        yield path
        interruption.check()
        _publish(path, location.path, overwrite=overwrite)


def check_target(target: StrPath | Location, *, overwrite: bool) -> None:
    """Refuse a target that exists, before any work is spent on it.

    Raises
    ------
    TargetExists
        It exists and `overwrite` is False.
    """
    location = locate(target)
    if location.path is not None and location.path.is_dir():
        raise InvalidParameter(f"{location} is a folder: name a file")
    if not overwrite and exists(location):
        raise TargetExists(f"{location} exists: pass overwrite=True to replace it")


def _publish(path: Path, target: Path, *, overwrite: bool) -> None:
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


def _container(location: Location) -> str:
    if location.container is None:
        raise InvalidLocation(f"{location} is not a blob")
    return location.container


def url(source: StrPath | Location) -> str:
    """The address by which others know it: ``https://…`` in Azure, ``file://…`` for a local file."""
    location = locate(source)
    if location.path is not None:
        return location.path.as_uri()
    container = _container(location)
    return f"{_azure.endpoint(container)}/{container}/{quote(location.name)}"


def gdal_options(source: StrPath | Location) -> dict[str, str]:
    """GDAL configuration under which `Location.gdal_path` can be read; pass it to ``rasterio.Env``."""
    options = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR"}
    location = locate(source)
    if location.path is None:
        options |= _azure.gdal_options(_container(location))
    return options
