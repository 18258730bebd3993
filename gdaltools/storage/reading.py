"""Read from storage of any kind."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from gdaltools.errors import SourceChanged, SourceNotFound, StorageError
from gdaltools.runtime.phases import phase
from gdaltools.storage.azure import download
from gdaltools.storage.azure.store import AzureStore
from gdaltools.storage.local import LocalStore
from gdaltools.storage.location import Kind, Location, StrPath, locate
from gdaltools.storage.memory import MemoryStore
from gdaltools.storage.store import Stat, Store

# Bytes of scratch space that are left free beside a staged copy.
_SPARE_BYTES = 256 << 20

#: Returns when these parts of the file, (first byte, byte after the last), are available.
Wait = Callable[[Iterable[tuple[int, int]]], None]

_STORES: dict[Kind, Store] = {"local": LocalStore(), "azure": AzureStore(), "memory": MemoryStore()}


def stat(source: StrPath | Location) -> Stat:
    """Return the size and the tag of a stored object.

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
    """Return the location, pinned to the version that is stored there now.

    Reading a pinned location raises `SourceChanged` once another version is stored there.

    Raises
    ------
    SourceNotFound, StorageError
        As for `stat`.
    """
    location = locate(source)
    return replace(location, etag=stat(location).etag)


def check_unchanged(location: Location) -> Stat:
    """Return what `stat` returns; a pinned location must still be the version that was pinned.

    Raises
    ------
    SourceChanged
        The location was pinned, and was replaced or deleted since.
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
    """Return whether something is stored at `source`."""
    try:
        stat(source)
    except SourceNotFound:
        return False
    return True


def read_bytes(source: StrPath | Location) -> bytes:
    """Return all bytes of a small object.

    Raises
    ------
    SourceNotFound, StorageError
        As for `stat`.
    """
    return read_range(source, 0, -1)


def read_range(source: StrPath | Location, offset: int, length: int) -> bytes:
    """Return at most `length` bytes from `offset`, fewer at the end; all that follow if `length` is -1.

    Raises
    ------
    SourceNotFound, StorageError
        As for `stat`.
    """
    with opening(source) as stream:
        try:
            stream.seek(offset)
            return stream.read(length)
        except OSError as error:
            raise StorageError(f"{source} cannot be read: {error.strerror}") from error


@contextmanager
def opening(source: StrPath | Location) -> Iterator[IO[bytes]]:
    """Open the stored bytes as a stream that can be read at any offset.

    All that is read of a blob belongs to one version; once it is replaced, reading raises `SourceChanged`.

    Raises
    ------
    SourceNotFound, StorageError
        As for `stat`.
    """
    location = locate(source)
    with store_of(location).open(location, check_unchanged(location)) as stream:
        yield stream


@phase("stage-in")
def fetch(source: StrPath | Location, path: Path) -> Location:
    """Copy a stored object to a new local file; return the source's location with its bytes there.

    A blob is downloaded in ranges, several at a time, and each is retried by itself when it fails. All are of
    one version, and the file is compared with the blob's size, and with its MD5 if Azure knows it. Ranges of
    that version that a dead process had already downloaded are not downloaded again.

    Raises
    ------
    SourceChanged
        The source was replaced meanwhile.
    StorageError
        Storage did not answer, or there is no space for the copy beside `path`.
    """
    location = locate(source)
    found = check_unchanged(location)
    check_space(location, found.size, path.parent)
    store_of(location).fetch(location, found, path)
    return replace(location, path=path, etag=None)


@contextmanager
def streamed(source: Location, path: Path, *, first: Iterable[int]) -> Iterator[tuple[Location, Wait]]:
    """As `fetch` of a blob in Azure, but the block begins at once, with a file that is still downloading.

    Parts that have not been waited for read as zeros. When the block ends, the file is complete, at `path`,
    and has been compared with the blob. The yielded location is valid only inside the block.

    Parameters
    ----------
    first : iterable of int
        Offsets in the file, in the order in which they are needed.

    Raises
    ------
    SourceChanged, StorageError
        As for `fetch`, at the latest when the block ends.
    """
    found = check_unchanged(source)
    check_space(source, found.size, path.parent)
    container = str(source.container)
    with download.streamed(
        container, source.name, path, etag=found.etag, size=found.size, first=first
    ) as file:
        yield replace(source, path=file.path, etag=None), file.wait


def check_space(location: Location, size: int, folder: Path) -> None:
    """Refuse to copy `size` bytes to a folder whose disk has no space for them.

    Raises
    ------
    StorageError
        The disk has too little free space.
    """
    free = shutil.disk_usage(folder).free
    if size + _SPARE_BYTES > free:
        raise StorageError(
            f"{location} has {size / 1e6:,.0f} MB, {folder} has {free / 1e6:,.0f} MB free: "
            "make space, or set TMPDIR to a larger disk"
        )


def list_names(prefix: Location, *, depth: int | None = None) -> list[str]:
    """Return the names of everything stored below a folder or prefix, relative to its container, sorted.

    With `depth`, local folders are searched at most that many parts of a name deep; other storage is always
    searched to any depth.
    """
    return store_of(prefix).list_names(prefix, depth=depth)


def url(source: StrPath | Location) -> str:
    """Return the URL of a stored object: ``https://…`` in Azure, ``file://…``, or ``memory://…``."""
    location = locate(source)
    return store_of(location).url(location)


def filesystem(location: Location) -> Any:
    """Return the fsspec filesystem that a location is in, for libraries that take one: adlfs in Azure."""
    return store_of(location).filesystem(location)


def gdal_options(source: StrPath | Location) -> dict[str, str]:
    """Return the GDAL configuration with which a location can be read; pass it to ``rasterio.Env``.

    With it an identity's token is renewed before it expires, also in open datasets, while the process lives.
    """
    location = locate(source)
    return store_of(location).gdal_options(location)


def gdal_name(source: StrPath | Location) -> AbstractContextManager[str]:
    """Yield the name by which GDAL opens a location inside the block, with `gdal_options`.

    Raises
    ------
    SourceNotFound
        The location is in memory, and nothing is stored there in this process.
    """
    location = locate(source)
    return store_of(location).gdal_name(location)


def store_of(location: Location) -> Store:
    """Return the storage that holds a location's bytes."""
    return _STORES[location.kind]
