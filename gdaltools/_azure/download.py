"""A blob brought to a local disk by ranges, several at a time; each is repeated by itself when it fails."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gdaltools._azure import blobs
from gdaltools.errors import StorageError
from gdaltools.interruption import Interruption

_RANGE_BYTES = 8 << 20
_RANGES_AT_ONCE = 4


def fetch(container: str, name: str, path: Path, *, etag: str, size: int) -> None:
    """Write the bytes of a blob, of this ETag alone, to a new local file.

    Raises
    ------
    SourceChanged
        The blob has another ETag by now, or is gone.
    StorageError
        Azure did not answer, the disk is full, or the blob's MD5, where Azure knows it, is another.
    """
    interruption = Interruption()
    with path.open("wb") as stream:
        target = stream.fileno()

        def copy(offset: int) -> None:
            length = min(_RANGE_BYTES, size - offset)
            data = blobs.read_range(container, name, offset, length, etag=etag)
            try:
                _write(target, data, offset)
            except OSError as error:
                raise StorageError(f"{path.parent} cannot be written to: {error.strerror}") from error

        with ThreadPoolExecutor(_RANGES_AT_ONCE, "fetch", initializer=interruption.watch) as pool:
            try:
                for _ in pool.map(copy, range(0, size, _RANGE_BYTES)):
                    pass
            except BaseException:
                interruption.tell()
                raise
    _check(container, name, path, etag=etag, size=size)


def _write(target: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(target, view, offset)
        view, offset = view[written:], offset + written


def _check(container: str, name: str, path: Path, *, etag: str, size: int) -> None:
    where = blobs.where(container, name)
    found = path.stat().st_size
    if found != size:
        raise StorageError(f"{where} has {size} bytes, {found} arrived: try again")
    known = blobs.properties(container, name)
    if known.etag != etag:
        raise blobs.changed(container, name)
    if known.md5 is None:
        return
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).digest()
    if digest != known.md5:
        raise StorageError(
            f"{where} has another MD5 than what arrived: try again; if again so, upload it again"
        )
