"""Where bytes live: a local path, or a blob named ``abfs://container/name``.

One door for reading and writing, so that no other module asks whether a raster is a file or a blob.
What is written appears under its name whole or not at all; readers never see a part of it.

``GDALTOOLS_BLOB_ROOT`` makes ``abfs://container/name`` mean the file ``container/name`` below that folder;
without it blobs are Azure's, reached by adlfs and GDAL's ``/vsiaz/`` with the same credentials.

>>> locate("abfs://bronze-rasters/2025/scene.tif").stem
'scene'
>>> blob("bronze-rasters", "../escape.tif")
Traceback (most recent call last):
    ...
gdaltools.errors.InvalidLocation: blob name '../escape.tif' climbs out of its container: name a blob inside it
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.parse import quote
from uuid import uuid4

from gdaltools import _azure
from gdaltools.errors import InvalidLocation, InvalidParameter, SourceNotFound, StorageError, TargetExists

StrPath = str | os.PathLike[str]

# The last is GDAL's own name for a blob, as MosaicJSON documents have it.
_SCHEMES = ("abfs://", "az://", "/vsiaz/")
# Azure's rule for container names: 3-63 characters, lower case, no double or outer hyphen.
_CONTAINER = re.compile(r"(?=.{3,63}\Z)[a-z0-9](?:-?[a-z0-9])*\Z")
_MAX_BLOB_NAME = 1024
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_SCRATCH_PREFIX = ".gdaltools-"
_LOCK_NAME = ".lock"
_scratch_folders: set[Path] = set()


@dataclass(frozen=True)
class Location:
    """A place in storage.

    Attributes
    ----------
    container : str or None
        The container of a blob; None for a local path.
    name : str
        The blob's name in its container, or the absolute local path.
    path : Path or None
        The local file that holds the bytes; None where they are in Azure.
    """

    container: str | None
    name: str
    path: Path | None

    def __str__(self) -> str:
        return self.name if self.container is None else f"abfs://{self.container}/{self.name}"

    @property
    def stem(self) -> str:
        """The last part of the name without its suffix."""
        return PurePosixPath(self.name).stem

    @property
    def filename(self) -> str:
        """The last part of the name."""
        return PurePosixPath(self.name).name

    def child(self, name: str) -> Location:
        """The place called `name` below this one, read as a folder or prefix."""
        if self.container is not None:
            return blob(self.container, f"{self.name.rstrip('/')}/{name}" if self.name else name)
        _check_name(name, "file name")
        return locate(Path(self.name) / name)

    @property
    def gdal_path(self) -> str:
        """The name by which GDAL opens it, inside `gdal_options`."""
        return str(self.path) if self.path is not None else f"/vsiaz/{self.container}/{self.name}"


@dataclass(frozen=True)
class Stat:
    """Size in bytes, and an opaque tag that changes whenever the content does."""

    size: int
    etag: str


def locate(target: StrPath | Location) -> Location:
    """The location that a path or an ``abfs://container/name`` URL means.

    Raises
    ------
    InvalidLocation
        The URL's scheme is another one, or its container or blob name is not allowed.
    """
    if isinstance(target, Location):
        return target
    text = os.fspath(target)
    if not text:
        raise InvalidLocation("an empty path names nothing: give a file or abfs://container/blob")
    for scheme in _SCHEMES:
        if text.startswith(scheme):
            container, _, name = text.removeprefix(scheme).partition("/")
            return blob(container, name)
    if "\0" in text:
        raise InvalidLocation(f"path {text!r} holds a NUL character")
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+://", text) or text.startswith("/vsi"):
        raise InvalidLocation(
            f"{text!r} is neither a local path nor abfs://container/blob: stage it to one of these first"
        )
    path = Path(text).expanduser().absolute()
    return Location(None, str(path), path)


def blob(container: str, name: str) -> Location:
    """The blob `name` of `container`, after both were checked; an empty name means the container itself.

    Raises
    ------
    InvalidLocation
        The container's name breaks Azure's rule, or the blob's name is absolute, climbs ('..'),
        or holds empty parts, backslashes or control characters.
    """
    check_container_name(container)
    if name:
        check_blob_name(name)
    root = os.environ.get("GDALTOOLS_BLOB_ROOT")
    if not root:
        return Location(container, name, None)
    folder = Path(root).expanduser().resolve() / container
    path = folder / name if name else folder
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InvalidLocation(f"blob name {name!r} leaves its container by a link: name a blob inside it")
    return Location(container, name, path)


def check_container_name(name: str) -> None:
    """Refuse a container name that Azure would not have; raises `InvalidLocation`."""
    if not _CONTAINER.match(name):
        raise InvalidLocation(
            f"container name {name!r} is not allowed: "
            "use 3 to 63 lower-case letters, digits and single hyphens"
        )


def check_blob_name(name: str) -> None:
    """Refuse a blob name that is absolute, climbs, or no name at all; raises `InvalidLocation`."""
    _check_name(name, "blob name")


def _check_name(name: str, kind: str) -> None:
    parts = name.split("/")
    if name.startswith(("/", "\\")) or re.match(r"[a-zA-Z]:", name):
        raise InvalidLocation(f"{kind} {name!r} is absolute: name a blob inside its container")
    if ".." in parts:
        raise InvalidLocation(f"{kind} {name!r} climbs out of its container: name a blob inside it")
    if len(name) > _MAX_BLOB_NAME:
        raise InvalidLocation(f"{kind} of {len(name)} characters: Azure allows {_MAX_BLOB_NAME}")
    if "\\" in name or any(part.strip() in ("", ".") for part in parts) or _UNPRINTABLE.search(name):
        raise InvalidLocation(f"{kind} {name!r} holds an empty part, a backslash or a control character")


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


def delete(target: StrPath | Location) -> None:
    """Remove what is stored there; nothing there is no error."""
    location = locate(target)
    if location.path is None:
        _azure.delete(_container(location), location.name)
    else:
        location.path.unlink(missing_ok=True)


def list_names(prefix: Location) -> list[str]:
    """Names of everything stored below a folder or prefix, relative to its container, sorted."""
    if prefix.path is None:
        return _azure.list_names(_container(prefix), prefix.name)
    base = Path(prefix.path)
    found = (p.relative_to(base) for p in base.rglob("*") if p.is_file())
    lead = f"{prefix.name.rstrip('/')}/" if prefix.container and prefix.name else ""
    return sorted(lead + p.as_posix() for p in found if not _is_scratch(p))


@contextmanager
def writing(target: StrPath | Location, *, overwrite: bool = False) -> Iterator[Path]:
    """A local path to write to, whose content becomes the target when the block ends without an error.

    The target appears whole or not at all. With ``overwrite=False`` a target that exists is refused
    before the block and, should it appear meanwhile, after it; it is never replaced. What an earlier
    process left when it was killed is removed on the way.

    Raises
    ------
    TargetExists
        The target exists and `overwrite` is False.
    StorageError
        The target cannot be written.
    """
    location = locate(target)
    check_target(location, overwrite=overwrite)
    if location.path is None:
        with _scratch_folder(Path(tempfile.gettempdir())) as folder:
            path = folder / location.filename
            yield path
            _azure.upload(path, _container(location), location.name, overwrite=overwrite)
        return
    folder = location.path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"folder {folder} cannot be made: {error.strerror}") from error
    with _scratch_folder(folder) as scratch:
        path = scratch / location.path.name
        yield path
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
        if overwrite:
            path.replace(target)
        else:
            target.hardlink_to(path)
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except FileExistsError as error:
        raise TargetExists(f"{target} appeared meanwhile: pass overwrite=True to replace it") from error
    except OSError as error:
        raise StorageError(f"{target} cannot be written: {error.strerror}") from error


@contextmanager
def _scratch_folder(beside: Path) -> Iterator[Path]:
    """A hidden folder that goes away with the block; those of killed processes are swept first.

    A live owner holds a lock on a file inside, which the kernel lets go when the process dies.
    """
    for stale in beside.glob(f"{_SCRATCH_PREFIX}*"):
        _sweep(stale)
    folder, lock = _locked_folder(beside)
    with lock:
        _scratch_folders.add(folder)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            _scratch_folders.discard(folder)


def abandon_writing() -> None:
    """Remove everything that this process has begun to write; only for a process that ends right after."""
    for folder in list(_scratch_folders):
        shutil.rmtree(folder, ignore_errors=True)


def _locked_folder(beside: Path) -> tuple[Path, IO[str]]:
    while True:
        folder = beside / f"{_SCRATCH_PREFIX}{uuid4().hex}"
        try:
            folder.mkdir()
            lock = (folder / _LOCK_NAME).open("w")
        except FileNotFoundError:
            if not beside.is_dir():
                raise StorageError(f"{beside} went away while it was written to") from None
            continue  # another process swept the folder before its lock was there
        except OSError as error:
            raise StorageError(f"{beside} cannot be written to: {error.strerror}") from error
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (folder / _LOCK_NAME).exists():
            return folder, lock
        lock.close()


def _sweep(folder: Path) -> None:
    try:
        lock = (folder / _LOCK_NAME).open("r")
    except OSError:
        with suppress(OSError):
            folder.rmdir()
        return
    with lock, suppress(OSError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)


def _is_scratch(path: Path) -> bool:
    return any(part.startswith(_SCRATCH_PREFIX) for part in path.parts)


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
