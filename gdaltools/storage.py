"""Where bytes live: a local path, or a blob named ``abfs://container/name``.

One door for reading and writing, so that no other module asks whether a raster is a file or a blob.
What is written appears under its name whole or not at all; readers never see a part of it.

``GDALTOOLS_BLOB_ROOT`` makes ``abfs://container/name`` mean the file ``container/name`` below that folder;
without it blobs are Azure's, reached by its SDK, adlfs and GDAL's ``/vsiaz/`` with the same credentials.
"""

from __future__ import annotations

import mimetypes
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

from gdaltools import crash_points, interruption
from gdaltools._azure import accounts, blobs, download
from gdaltools._azure.block_blob import (
    MOST_BLOCKS,
    BlobTraits,
    StagedBlob,
    Uploads,
    copy_blob,
    put_file,
)
from gdaltools.errors import (
    InvalidLocation,
    InvalidParameter,
    SourceChanged,
    SourceNotFound,
    StorageError,
    TargetExists,
)
from gdaltools.location import Location, StrPath, blob, check_blob_name, check_container_name, locate
from gdaltools.phases import phase
from gdaltools.scratch import is_scratch, scratch_folder

__all__ = [
    "COG_TYPE",
    "MOST_BLOCKS",
    "BlobTraits",
    "Location",
    "StagedBlob",
    "Staging",
    "Stat",
    "StrPath",
    "Uploads",
    "append_bytes",
    "blob",
    "check_blob_name",
    "check_container_name",
    "check_target",
    "check_unchanged",
    "copy",
    "delete",
    "exists",
    "fetch",
    "filesystem",
    "gdal_options",
    "is_staged",
    "list_names",
    "locate",
    "opening",
    "pinned",
    "read_bytes",
    "read_range",
    "staging",
    "stat",
    "url",
    "write_bytes",
    "writing",
]


#: OGC 21-026 §11, the media type of a Cloud Optimized GeoTIFF.
COG_TYPE = "image/tiff; application=geotiff; profile=cloud-optimized"

# Scratch space that is left free beside a blob that is brought near.
_SPARE_BYTES = 256 << 20


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
        known = blobs.properties(_container(location), location.name)
        return Stat(known.size, known.etag, known.modified)
    try:
        found = location.path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise SourceNotFound(f"{location} does not exist") from error
    except OSError as error:
        raise StorageError(f"{location} cannot be read: {error.strerror}") from error
    if location.path.is_dir():
        raise SourceNotFound(f"{location} is a folder, not a file")
    etag = f"{found.st_ino:x}-{found.st_size:x}-{found.st_mtime_ns:x}"
    return Stat(found.st_size, etag, datetime.fromtimestamp(found.st_mtime, UTC))


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
    with opening(source) as stream:
        try:
            return stream.read()
        except OSError as error:
            raise StorageError(f"{source} cannot be read: {error.strerror}") from error


def read_range(source: StrPath | Location, offset: int, length: int) -> bytes:
    """At most `length` bytes from `offset`; fewer at the end.

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
    found = check_unchanged(location)
    stream: IO[bytes]
    if location.path is None:
        stream = blobs.open_stream(_container(location), location.name, size=found.size, etag=found.etag)
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
        blobs.append(_container(location), location.name, data)
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
        blobs.delete(_container(location), location.name)
    else:
        location.path.unlink(missing_ok=True)


def list_names(prefix: Location, *, depth: int | None = None) -> list[str]:
    """Names of everything stored below a folder or prefix, relative to its container, sorted.

    With a `depth` local folders are not searched deeper than so many parts of a name; blobs always are.
    """
    if prefix.path is None:
        return blobs.list_names(_container(prefix), prefix.name)
    base = Path(prefix.path)
    levels = ["**/*"] if depth is None else ["/".join("*" * level) for level in range(1, depth + 1)]
    below = chain.from_iterable(base.glob(level) for level in levels)
    found = (p.relative_to(base) for p in below if p.is_file())
    lead = f"{prefix.name.rstrip('/')}/" if prefix.container and prefix.name else ""
    return sorted(lead + p.as_posix() for p in found if not is_scratch(p))


def copy(source: StrPath | Location, target: StrPath | Location, *, overwrite: bool = False) -> Stat:
    """Copy what is stored, whole or not at all; between blobs of an account in Azure itself where it can.

    Raises
    ------
    SourceNotFound, TargetExists, StorageError
        As `stat` and `writing` do.
    """
    origin, goal = pinned(source), locate(target)
    check_target(goal, overwrite=overwrite)
    if origin.path is None and goal.path is None:
        blob = StagedBlob(_container(goal), goal.name)
        made = copy_blob((_container(origin), origin.name), blob, overwrite=overwrite)
        return Stat(made.size, made.etag, made.modified)
    with writing(goal, overwrite=overwrite) as path:
        fetch(origin, path)
    return stat(goal)


@phase("stage-in")
def fetch(source: StrPath | Location, path: Path) -> Location:
    """Bring what is stored to a new local file, and give the source's location with its bytes there.

    A blob comes by ranges, several at a time, each repeated by itself when it fails; all are of one version,
    and the file is compared with the blob's size, and with its MD5 where Azure knows it.

    Raises
    ------
    SourceChanged
        The source was replaced meanwhile.
    StorageError
        Storage did not answer, or there is no space for it beside `path`.
    """
    location = locate(source)
    found = check_unchanged(location)
    free = shutil.disk_usage(path.parent).free
    if found.size + _SPARE_BYTES > free:
        raise StorageError(
            f"{location} has {found.size / 1e6:,.0f} MB, {path.parent} has {free / 1e6:,.0f} MB free: "
            "make space, or set TMPDIR to a larger disk"
        )
    if location.path is None:
        download.fetch(_container(location), location.name, path, etag=found.etag, size=found.size)
    else:
        try:
            shutil.copyfile(location.path, path)
        except OSError as error:
            raise StorageError(f"{location} cannot be copied to {path.parent}: {error.strerror}") from error
        check_unchanged(replace(location, etag=found.etag))
    return replace(location, path=path, etag=None)


@contextmanager
def staging(target: StrPath | Location, traits: BlobTraits, *, overwrite: bool = False) -> Iterator[Staging]:
    """A blob put together of blocks, by any processes; it appears when the ``with`` ends without an error.

    Otherwise as `writing`; what is left of a run that died is invisible, and Azure drops it after a week.

    Raises
    ------
    TargetExists
        The target exists and `overwrite` is False.
    StorageError
        The target cannot be written.
    """
    location = locate(target)
    check_target(location, overwrite=overwrite)
    made = Staging(StagedBlob(_container(location), location.name))
    yield made
    interruption.check()
    crash_points.reach("blob-before-publish")
    made.blob.commit(made.blocks, made.size, traits, overwrite=overwrite)
    crash_points.reach("blob-published")


@dataclass
class Staging:
    """A blob in the making, and of which of its blocks it is to be made."""

    blob: StagedBlob
    blocks: list[str] = field(default_factory=list)
    size: int = 0

    def order(self, parts: Sequence[tuple[str, int, int]]) -> None:
        """Make the blob of the bytes (what, offset, length) that were staged, one after the other.

        Raises
        ------
        StorageError
            Some of them are not there any more.
        """
        self.blocks = self.blob.order(parts)
        self.size = sum(length for _, _, length in parts)


def is_staged(target: Location) -> bool:
    """Whether blocks can wait where the target will be, as they can in Azure."""
    return target.path is None


@contextmanager
def writing(
    target: StrPath | Location, *, overwrite: bool = False, traits: BlobTraits | None = None
) -> Iterator[Path]:
    """A local path to write to, whose content becomes the target when the block ends without an error.

    The target appears whole or not at all, and not after an interruption. With ``overwrite=False`` a target
    that exists is refused before the block and, should it appear meanwhile, after it; it is never replaced.
    What an earlier process left when it was killed is removed on the way. `traits` is for blobs in Azure; by
    default the content type follows from the name.

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
            blob = StagedBlob(_container(location), location.name)
            put_file(path, blob, traits or _traits(location), overwrite=overwrite)
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


def _traits(location: Location) -> BlobTraits:
    if location.filename.lower().endswith((".tif", ".tiff")):
        return BlobTraits("image/tiff; application=geotiff")
    if location.filename.lower().endswith(".geojson"):
        return BlobTraits("application/geo+json")
    return BlobTraits(mimetypes.guess_type(location.filename)[0] or "application/octet-stream")


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
    return f"{accounts.account_of(container).endpoint}/{container}/{quote(location.name)}"


def filesystem(location: Location) -> Any:
    """The fsspec filesystem that a location is in, for libraries that take one: adlfs in Azure.

    Its names are ``container/blob`` in Azure, and local paths otherwise.
    """
    if location.path is None:
        return accounts.filesystem(accounts.account_of(_container(location)))
    from fsspec.implementations.local import LocalFileSystem

    return LocalFileSystem()


def gdal_options(source: StrPath | Location) -> dict[str, str]:
    """GDAL configuration under which `Location.gdal_path` can be read; pass it to ``rasterio.Env``.

    Good for datasets that are opened now: an identity's token in it expires after about an hour.
    """
    location = locate(source)
    if location.path is not None:
        return {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR"}
    return {
        "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
        # GDAL would take what it read of an earlier version for this one's.
        "CPL_VSIL_CURL_NON_CACHED": location.gdal_path,
        "GDAL_INGESTED_BYTES_AT_OPEN": str(64 << 10),
        "CPL_VSIL_CURL_CHUNK_SIZE": str(256 << 10),
        "GDAL_HTTP_MAX_RETRY": "6",
        "GDAL_HTTP_RETRY_DELAY": "0.25",
        "GDAL_HTTP_CONNECTTIMEOUT": "10",
        "GDAL_HTTP_LOW_SPEED_TIME": "60",
        "GDAL_HTTP_LOW_SPEED_LIMIT": "1",
        **accounts.gdal_options(accounts.account_of(_container(location))),
    }
