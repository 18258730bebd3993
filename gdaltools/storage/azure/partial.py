"""A download that another process continues if the one that began it dies.

Received ranges are in the folder for temporary files, under a name derived from the blob's: the bytes, at
their offsets, and a journal of the ranges that are complete. They belong to one version of the blob and to
one boot of the machine, as the journal may outlive bytes that were lost in a crash of the machine. Other
processes that need the same blob at the same time download it for themselves. A download that no process
continues is removed after a day.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from gdaltools.errors import GdalToolsError, SourceChanged, StorageError

_PREFIX = "gdaltools-partial-"
_OLD_SECONDS = 24 * 3600
_BOOT = Path("/proc/sys/kernel/random/boot_id")


class Damaged(StorageError):
    """What was received is not what Azure says it has."""


@dataclass
class Partial:
    """A file of which some ranges have been received.

    Attributes
    ----------
    path : Path
        The file.
    arrived : set of int
        Offsets of the ranges that are complete.
    """

    path: Path
    arrived: set[int] = field(default_factory=set)
    _journal: int | None = None

    def __enter__(self) -> Self:
        try:
            self._target = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o600)
        except OSError as error:
            raise self._error(error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._target)

    def stretch(self, size: int) -> None:
        """Extend the file to its final size; what has not been received reads as zeros.

        Raises
        ------
        StorageError
            The disk does not accept it.
        """
        try:
            os.ftruncate(self._target, size)
        except OSError as error:
            raise self._error(error) from error

    def write(self, offset: int, data: bytes) -> None:
        """Store a range.

        Raises
        ------
        StorageError
            The disk does not accept it.
        """
        view, at = memoryview(data), offset
        try:
            while view:
                written = os.pwrite(self._target, view, at)
                view, at = view[written:], at + written
            if self._journal is not None:
                os.write(self._journal, b"%d\n" % offset)
        except OSError as error:
            raise self._error(error) from error

    def _error(self, error: OSError) -> StorageError:
        return StorageError(f"{self.path.parent} cannot be written to: {error.strerror}")


@contextmanager
def downloading(blob: str, path: Path, *, etag: str, size: int, step: int) -> Iterator[Partial]:
    """Yield a file for the bytes of this version of a blob, which becomes `path` when the block ends.

    After an error the received ranges are kept for the next process, unless they are of no use to it: the
    version is gone or was found damaged, or the error would occur again.

    Parameters
    ----------
    blob : str
        The blob's address.
    step : int
        Bytes per range.
    """
    sweep()
    digest = hashlib.blake2b(blob.encode(), digest_size=16).hexdigest()
    folder = Path(tempfile.gettempdir()) / f"{_PREFIX}{digest}"
    journal = _owned(folder)
    if journal is None:
        with Partial(path) as plain:
            yield plain
        return
    try:
        kept = {"etag": etag, "size": size, "step": step, "boot": _boot()}
        arrived = _arrived(journal, folder / "bytes", kept)
        try:
            with Partial(folder / "bytes", arrived, journal) as partial:
                yield partial
            shutil.move(folder / "bytes", path)
        except GdalToolsError as error:
            if not error.retryable or isinstance(error, SourceChanged | Damaged):
                shutil.rmtree(folder, ignore_errors=True)
            raise
        except OSError as error:
            raise StorageError(f"{path.parent} cannot be written to: {error.strerror}") from error
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(journal)


def sweep() -> None:
    """Remove downloads that no process has continued for a day."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):
            if time.time() - (folder / "journal").stat().st_mtime < _OLD_SECONDS:
                continue
            journal = _owned(folder)
            if journal is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(journal)


def _owned(folder: Path) -> int | None:
    """Return the folder's journal, held by this process only.

    None if another process holds it, or the folder does not belong to this user alone.
    """
    with suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        # Any user can create files in the folder for temporary files.
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
            return None
        journal = os.open(folder / "journal", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its previous holder may have removed it meanwhile.
            if os.fstat(journal).st_ino == (folder / "journal").stat().st_ino:
                return journal
        except OSError:
            pass
        os.close(journal)
    return None


def _arrived(journal: int, target: Path, kept: dict[str, object]) -> set[int]:
    """Return the offsets of this version's complete ranges; the journal of another version is begun anew."""
    content = os.pread(journal, os.fstat(journal).st_size, 0)
    head, *lines = content.split(b"\n")
    with suppress(ValueError):
        if json.loads(head) == kept and target.exists():
            # What follows the last line's end was being written when its writer died.
            return {int(line) for line in lines[:-1] if line.isdigit()}
    os.ftruncate(journal, 0)
    target.unlink(missing_ok=True)
    os.write(journal, json.dumps(kept).encode() + b"\n")
    return set()


def _boot() -> str:
    with suppress(OSError):
        return _BOOT.read_text().strip()
    return str(round(time.time() - time.monotonic()) // 60)
