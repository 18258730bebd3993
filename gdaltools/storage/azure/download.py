"""Download a blob to a local disk in ranges, several at a time; each is retried by itself when it fails."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from gdaltools.runtime import interruption
from gdaltools.runtime.interruption import Interruption
from gdaltools.storage.azure import accounts, blobs
from gdaltools.storage.azure.partial import Damaged, Partial, downloading

_RANGE_BYTES = 8 << 20
_RANGES_AT_ONCE = 4
# Seconds between two checks whether a waiting thread was interrupted.
_LOOK_SECONDS = 0.2


def fetch(container: str, name: str, path: Path, *, etag: str, size: int) -> None:
    """Write the bytes of a blob, of this ETag only, to a new local file.

    Ranges that a dead process had already downloaded are reused.

    Raises
    ------
    SourceChanged
        The blob has another ETag by now, or is gone.
    StorageError
        Azure did not answer, the disk is full, or the file's size or MD5 differs from the one Azure knows.
    """
    with streamed(container, name, path, etag=etag, size=size):
        pass


@contextmanager
def streamed(
    container: str, name: str, path: Path, *, etag: str, size: int, first: Iterable[int] = ()
) -> Iterator[StreamedFile]:
    """As `fetch`, but the block begins at once: it may read what has been received, and wait for more.

    After the block the file is complete, at `path`, and checked, or an error is raised.

    Parameters
    ----------
    first : iterable of int
        Offsets in the file, in the order in which they are needed; all others come after them.
    """
    address = f"{accounts.account_of(container).endpoint}/{container}/{name}"
    with downloading(address, path, etag=etag, size=size, step=_RANGE_BYTES) as partial:
        partial.stretch(size)
        with _bringing((container, name), StreamedFile(partial, size, first), etag=etag) as bringing:
            yield bringing
            bringing.wait_for_all()
        _check(container, name, partial.path, etag=etag, size=size)


class StreamedFile:
    """A file of which some ranges are available, while threads download the others."""

    def __init__(self, partial: Partial, size: int, first: Iterable[int]) -> None:
        self._partial = partial
        self.size = size
        order = dict.fromkeys(place // _RANGE_BYTES * _RANGE_BYTES for place in first)
        order |= dict.fromkeys(range(0, size, _RANGE_BYTES))
        self._missing = dict.fromkeys(each for each in order if each not in partial.arrived)
        self._queued = dict.fromkeys(self._missing)
        self._changed = threading.Condition()
        self._error: BaseException | None = None

    @property
    def path(self) -> Path:
        """The file's path inside the block."""
        return self._partial.path

    def wait(self, parts: Iterable[tuple[int, int]]) -> None:
        """Wait until these parts, (first byte, byte after the last), are available; they come before others.

        Raises
        ------
        SourceChanged, StorageError
            They cannot be downloaded.
        KeyboardInterrupt
            The run was interrupted.
        """
        step = _RANGE_BYTES
        needed = {at for begin, end in parts for at in range(begin // step * step, min(end, self.size), step)}
        with self._changed:
            needed &= self._missing.keys()
            if needed:
                early = [each for each in sorted(needed) if each in self._queued]
                self._queued = dict.fromkeys(early) | self._queued
            while needed & self._missing.keys():
                interruption.check()
                self._raise()
                self._changed.wait(_LOOK_SECONDS)

    def wait_for_all(self) -> None:
        """Wait until the file is complete; otherwise as `wait`."""
        self.wait([(0, self.size)])

    def take(self) -> int | None:
        """Return the offset of the range to download next; None if there is none."""
        with self._changed:
            place = None if self._error is not None else next(iter(self._queued), None)
            if place is not None:
                del self._queued[place]
            return place

    def keep(self, place: int, data: bytes) -> None:
        """Store the range at offset `place`."""
        self._partial.write(place, data)
        with self._changed:
            del self._missing[place]
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """Record that the file will never be complete."""
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error


@contextmanager
def _bringing(blob: tuple[str, str], file: StreamedFile, *, etag: str) -> Iterator[StreamedFile]:
    stop = Interruption()

    def bring() -> None:
        stop.watch()
        try:
            while (place := file.take()) is not None:
                length = min(_RANGE_BYTES, file.size - place)
                file.keep(place, blobs.read_range(*blob, place, length, etag=etag))
        except BaseException as error:  # noqa: BLE001 - raised to whoever waits
            file.fail(error)

    with ThreadPoolExecutor(_RANGES_AT_ONCE, "fetch") as pool:
        for _ in range(_RANGES_AT_ONCE):
            pool.submit(bring)
        try:
            yield file
        except BaseException:
            stop.request()
            file.fail(KeyboardInterrupt())
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
