"""A download that the next process goes on with, where the one that began it died.

What has arrived lies in the folder for temporary files, under a name that follows from the blob's: the bytes,
at their places, and a journal of the ranges that are there. It is of one version of the blob, and of one run
of the machine, as the journal may outlive bytes that a crash of the machine took. Others that want the same
blob at the same time download it for themselves. What nobody came back for is removed after a day.
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
    """What arrived is not what Azure says it has."""


@dataclass
class Partial:
    """A file of which parts have arrived.

    Attributes
    ----------
    path : Path
        The file.
    arrived : set of int
        Offsets of the ranges that are there.
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
        """Make the file as long as it will be; what has not arrived reads as zeros.

        Raises
        ------
        StorageError
            The disk does not take it.
        """
        try:
            os.ftruncate(self._target, size)
        except OSError as error:
            raise self._error(error) from error

    def write(self, offset: int, data: bytes) -> None:
        """Keep a range.

        Raises
        ------
        StorageError
            The disk does not take it.
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
    """A file for the bytes of this version of a blob, which becomes `path` at the end of the block.

    After an error what has arrived is kept for the next, unless nobody will want it: the version is gone, was
    found damaged, or the error is one that will come again.

    Parameters
    ----------
    blob : str
        The blob's address.
    step : int
        Bytes of a range.
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
    """Remove what nobody came back for."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):
            if time.time() - (folder / "journal").stat().st_mtime < _OLD_SECONDS:
                continue
            journal = _owned(folder)
            if journal is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(journal)


def _owned(folder: Path) -> int | None:
    """The folder's journal, which nobody else has now; None where somebody has, or the folder is not ours."""
    with suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        # Anybody may make files in a folder for temporary ones.
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
            return None
        journal = os.open(folder / "journal", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever had it before may have removed it meanwhile.
            if os.fstat(journal).st_ino == (folder / "journal").stat().st_ino:
                return journal
        except OSError:
            pass
        os.close(journal)
    return None


def _arrived(journal: int, target: Path, kept: dict[str, object]) -> set[int]:
    """Offsets of what is there of this version; without any, the journal is begun anew."""
    content = os.pread(journal, os.fstat(journal).st_size, 0)
    head, *lines = content.split(b"\n")
    with suppress(ValueError):
        if json.loads(head) == kept and target.exists():
            # What stands after the last line's end was being written when its writer died.
            return {int(line) for line in lines[:-1] if line.isdigit()}
    os.ftruncate(journal, 0)
    target.unlink(missing_ok=True)
    os.write(journal, json.dumps(kept).encode() + b"\n")
    return set()


def _boot() -> str:
    with suppress(OSError):
        return _BOOT.read_text().strip()
    return str(round(time.time() - time.monotonic()) // 60)
