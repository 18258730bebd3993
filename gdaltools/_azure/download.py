"""A blob brought to a local disk by ranges, several at a time; each is repeated by itself when it fails."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gdaltools._azure import accounts, blobs
from gdaltools._azure.partial import Damaged, Partial, downloading
from gdaltools.interruption import Interruption

_RANGE_BYTES = 8 << 20
_RANGES_AT_ONCE = 4


def fetch(container: str, name: str, path: Path, *, etag: str, size: int) -> None:
    """Write the bytes of a blob, of this ETag alone, to a new local file.

    What a process that died had brought of it is taken up.

    Raises
    ------
    SourceChanged
        The blob has another ETag by now, or is gone.
    StorageError
        Azure did not answer, the disk is full, or the blob's MD5, where Azure knows it, is another.
    """
    address = f"{accounts.account_of(container).endpoint}/{container}/{name}"
    with downloading(address, path, etag=etag, size=size, step=_RANGE_BYTES) as partial:
        _bring((container, name), partial, etag=etag, size=size)
        _check(container, name, partial.path, etag=etag, size=size)


def _bring(blob: tuple[str, str], partial: Partial, *, etag: str, size: int) -> None:
    interruption = Interruption()

    def copy(offset: int) -> None:
        length = min(_RANGE_BYTES, size - offset)
        partial.write(offset, blobs.read_range(*blob, offset, length, etag=etag))

    missing = [offset for offset in range(0, size, _RANGE_BYTES) if offset not in partial.arrived]
    with ThreadPoolExecutor(_RANGES_AT_ONCE, "fetch", initializer=interruption.watch) as pool:
        try:
            for _ in pool.map(copy, missing):
                pass
        except BaseException:
            interruption.tell()
            raise


def _check(container: str, name: str, path: Path, *, etag: str, size: int) -> None:
    where = blobs.where(container, name)
    found = path.stat().st_size
    if found != size:
        raise Damaged(f"{where} has {size} bytes, {found} arrived: try again")
    known = blobs.properties(container, name)
    if known.etag != etag:
        raise blobs.changed(container, name)
    if known.md5 is None:
        return
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).digest()
    if digest != known.md5:
        raise Damaged(f"{where} has another MD5 than what arrived: try again; if again so, upload it again")
