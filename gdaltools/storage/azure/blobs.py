"""Operations on whole blobs: properties, ranges of bytes, listing, appending, copying and deleting."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from gdaltools.errors import SourceChanged, SourceNotFound, TargetExists
from gdaltools.storage.azure import accounts
from gdaltools.storage.azure.retries import Incomplete, with_retries

# Bytes read at once for a stream that is read in small parts, and the most bytes of one request.
_BUFFER_BYTES = 256 << 10
_RANGE_BYTES = 8 << 20
# Copy Blob From URL (learn.microsoft.com): one request, and the copy is invisible until it is complete.
LARGEST_COPY_BYTES = 256 << 20


Sent = TypeVar("Sent")


@dataclass(frozen=True)
class Properties:
    """What storage reports about a blob."""

    size: int
    etag: str
    modified: datetime
    md5: bytes | None
    content_type: str
    metadata: dict[str, str]


def client(container: str, name: str) -> Any:
    """Return the SDK's client of a blob."""
    return accounts.service(accounts.account_of(container)).get_blob_client(container, name)


def where(container: str, name: str) -> str:
    """Return the name of a blob that errors use."""
    return f"abfs://{container}/{name}"


def properties(container: str, name: str) -> Properties:
    """Return the properties of a blob that exists."""
    blob = client(container, name)
    found = with_retries(blob.get_blob_properties, where=where(container, name))
    md5 = found.content_settings.content_md5
    return Properties(
        found.size,
        found.etag.strip('"'),
        found.last_modified,
        bytes(md5) if md5 else None,
        found.content_settings.content_type or "application/octet-stream",
        dict(found.metadata or {}),
    )


def read_range(container: str, name: str, offset: int, length: int, *, etag: str) -> bytes:
    """Return bytes of a blob, which must still have this ETag."""
    if not length:
        return b""
    blob = client(container, name)

    def read() -> bytes:
        got: bytes = blob.download_blob(
            offset, length, etag=f'"{etag}"', match_condition=_conditions().IfNotModified, max_concurrency=1
        ).readall()
        if len(got) != length:
            raise Incomplete(f"{len(got)} of {length} bytes")
        return got

    try:
        return with_retries(read, where=where(container, name))
    except SourceNotFound as error:
        raise changed(container, name) from error


def changed(container: str, name: str) -> SourceChanged:
    """Return the error for a blob that was replaced or deleted."""
    return SourceChanged(f"{where(container, name)} was replaced or deleted while it was read: start again")


def exists(container: str, name: str) -> TargetExists:
    """Return the error for a blob that exists and was to be new."""
    return TargetExists(f"{where(container, name)} exists: pass overwrite=True to replace it")


class BlobStream(io.RawIOBase):
    """A blob's bytes at any offset, all of the version that was opened."""

    def __init__(self, container: str, name: str, *, size: int, etag: str) -> None:
        self._blob = container, name
        self._size, self._etag = size, etag
        self._position = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True: each read requests a range."""
        return True

    def tell(self) -> int:
        """Return the offset of the next read."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to an offset, never before the first byte."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Read at most one range into `buffer`; raises SourceChanged if the blob was replaced."""
        length = max(0, min(len(buffer), self._size - self._position, _RANGE_BYTES))
        data = read_range(*self._blob, self._position, length, etag=self._etag)
        buffer[:length] = data
        self._position += length
        return length


def open_stream(container: str, name: str, *, size: int, etag: str) -> io.BufferedReader:
    """Return a buffered `BlobStream`."""
    return io.BufferedReader(BlobStream(container, name, size=size, etag=etag), _BUFFER_BYTES)


def delete(container: str, name: str) -> None:
    """Delete a blob; it is no error if there is none."""
    with suppress(SourceNotFound):
        with_retries(client(container, name).delete_blob, where=where(container, name))


def list_names(container: str, prefix: str) -> list[str]:
    """Return the names of the blobs below `prefix`, sorted."""
    folder = f"{prefix.rstrip('/')}/" if prefix else ""

    def listed() -> list[str]:
        found = accounts.service(accounts.account_of(container)).get_container_client(container)
        names = list(found.list_blob_names(name_starts_with=folder or None))
        # An account with real folders lists them as blobs of no bytes, with a slash at the end.
        return [name for name in names if not name.endswith("/")]

    with suppress(SourceNotFound):
        return sorted(with_retries(listed, where=where(container, prefix)))
    return []


def append(container: str, name: str, data: bytes) -> None:
    """Append a block to an append blob, which is created if missing; safe with concurrent appends."""
    blob = client(container, name)

    def once() -> None:
        from azure.core.exceptions import ResourceExistsError, ResourceNotFoundError

        try:
            blob.append_block(data)
        except ResourceNotFoundError:
            make_container(container)
            with suppress(ResourceExistsError):
                blob.create_append_blob(match_condition=_conditions().IfMissing)
            blob.append_block(data)

    with_retries(once, where=where(container, name))


def copy_small(source: tuple[str, str], target: tuple[str, str], *, etag: str, overwrite: bool) -> None:
    """Copy a blob of at most `LARGEST_COPY_BYTES` to another of the same account, in one step."""
    blob = client(*target)
    condition = {} if overwrite else {"match_condition": _conditions().IfMissing}

    def copy() -> None:
        blob.start_copy_from_url(
            client(*source).url,
            requires_sync=True,
            source_etag=f'"{etag}"',
            source_match_condition=_conditions().IfNotModified,
            **condition,
        )

    in_container(target[0], lambda: with_retries(copy, where=where(*target)))


def in_container(container: str, send: Callable[[], Sent]) -> Sent:
    """Return what `send` returns; if it raises `SourceNotFound`, create the container and send once more."""
    try:
        return send()
    except SourceNotFound:
        make_container(container)
        return send()


def make_container(container: str) -> None:
    """Create a container, unless it exists or another process creates it at this moment."""
    from azure.core.exceptions import ResourceExistsError

    found = accounts.service(accounts.account_of(container)).get_container_client(container)

    def make() -> None:
        with suppress(ResourceExistsError):
            found.create_container()

    with_retries(make, where=f"abfs://{container}")


def _conditions() -> Any:
    from azure.core import MatchConditions

    return MatchConditions
