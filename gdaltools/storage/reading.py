"""What is read from storage, of whatever kind it is."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from gdaltools.errors import SourceChanged, SourceNotFound, StorageError
from gdaltools.runtime.phases import phase
from gdaltools.storage.azure.store import AzureStore
from gdaltools.storage.local import LocalStore
from gdaltools.storage.location import Kind, Location, StrPath, locate
from gdaltools.storage.memory import MemoryStore
from gdaltools.storage.store import Stat, Store

# Scratch space that is left free beside what is brought near.
_SPARE_BYTES = 256 << 20

_STORES: dict[Kind, Store] = {"local": LocalStore(), "azure": AzureStore(), "memory": MemoryStore()}


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
    return store_of(location).stat(location)


def pinned(source: StrPath | Location) -> Location:
    """The location, and what is stored there now: to be read as this version or not at all.

    Raises
    ------
    SourceNotFound, StorageError
        As `stat` does.
    """
    location = locate(source)
    return replace(location, etag=stat(location).etag)


def check_unchanged(location: Location) -> Stat:
    """What `stat` says, of a pinned location only while it is the version that was pinned.

    Raises
    ------
    SourceChanged
        It was replaced or deleted since.
    """
    if location.etag is None:
        return stat(location)
    try:
        found = stat(location)
    except SourceNotFound as error:
        raise SourceChanged(f"{location} was deleted while it was read: start again") from error
    if found.etag != location.etag:
        raise SourceChanged(f"{location} was replaced while it was read: start again")
    return found


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
    return read_range(source, 0, -1)


def read_range(source: StrPath | Location, offset: int, length: int) -> bytes:
    """At most `length` bytes from `offset`, fewer at the end; -1 for all that follow.

    Raises
    ------
    SourceNotFound, StorageError
        As `stat` does.
    """
    with opening(source) as stream:
        try:
            stream.seek(offset)
            return stream.read(length)
        except OSError as error:
            raise StorageError(f"{source} cannot be read: {error.strerror}") from error


@contextmanager
def opening(source: StrPath | Location) -> Iterator[IO[bytes]]:
    """The stored bytes as a stream that can be read at any offset.

    All that is read of a blob is of one version of it: once it is replaced, reading raises `SourceChanged`.

    Raises
    ------
    SourceNotFound, StorageError
        As `stat` does.
    """
    location = locate(source)
    with store_of(location).open(location, check_unchanged(location)) as stream:
        yield stream


@phase("stage-in")
def fetch(source: StrPath | Location, path: Path) -> Location:
    """Bring what is stored to a new local file, and give the source's location with its bytes there.

    A blob comes by ranges, several at a time, each repeated by itself when it fails; all are of one version,
    and the file is compared with the blob's size, and with its MD5 where Azure knows it. What a process that
    died had brought of that version already is not brought again.

    Raises
    ------
    SourceChanged
        The source was replaced meanwhile.
    StorageError
        Storage did not answer, or there is no space for it beside `path`.
    """
    location = locate(source)
    found = check_unchanged(location)
    check_space(location, found.size, path.parent)
    store_of(location).fetch(location, found, path)
    return replace(location, path=path, etag=None)


def check_space(location: Location, size: int, folder: Path) -> None:
    """Refuse to bring so many bytes to a folder whose disk has no space for them.

    Raises
    ------
    StorageError
        It has not.
    """
    free = shutil.disk_usage(folder).free
    if size + _SPARE_BYTES > free:
        raise StorageError(
            f"{location} has {size / 1e6:,.0f} MB, {folder} has {free / 1e6:,.0f} MB free: "
            "make space, or set TMPDIR to a larger disk"
        )


def list_names(prefix: Location, *, depth: int | None = None) -> list[str]:
    """Names of everything stored below a folder or prefix, relative to its container, sorted.

    With a `depth` local folders are not searched deeper than so many parts of a name; others always are.
    """
    return store_of(prefix).list_names(prefix, depth=depth)


def url(source: StrPath | Location) -> str:
    """The address by which others know it: ``https://…`` in Azure, ``file://…``, or ``memory://…``."""
    location = locate(source)
    return store_of(location).url(location)


def filesystem(location: Location) -> Any:
    """The fsspec filesystem that a location is in, for libraries that take one: adlfs in Azure.

    Its names are ``container/blob`` in Azure, ``/name/key`` in memory, and local paths otherwise.
    """
    return store_of(location).filesystem(location)


def gdal_options(source: StrPath | Location) -> dict[str, str]:
    """GDAL configuration under which a location can be read; pass it to ``rasterio.Env``.

    With it an identity's token is renewed before it expires, in datasets that are open too, while the
    process lives.
    """
    location = locate(source)
    return store_of(location).gdal_options(location)


def gdal_name(source: StrPath | Location) -> AbstractContextManager[str]:
    """The name by which GDAL opens a location inside the block, and inside `gdal_options`.

    Raises
    ------
    SourceNotFound
        It is not in this process's memory.
    """
    location = locate(source)
    return store_of(location).gdal_name(location)


def store_of(location: Location) -> Store:
    """The storage that holds a location's bytes."""
    return _STORES[location.kind]
