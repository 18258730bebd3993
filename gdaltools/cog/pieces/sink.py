"""Where encoded blocks wait until the file can be written, and the one moment at which it exists.

A chunk's blocks are stored under the chunk's name by whoever encoded them: storing again what was stored
before changes nothing, so a task may run twice. The commit puts everything in order. Nothing of it can be
seen under the target's name before.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from gdaltools.errors import StorageError

# errno of a kernel or file system that cannot copy between such files on its own.
_NO_COPY_RANGE = {errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM}
_COPY_BYTES = 16 << 20


@dataclass(frozen=True)
class ByteRun:
    """Bytes of a stored chunk that belong together in the file."""

    name: str
    offset: int
    length: int


class Sink(Protocol):
    """Holds encoded blocks and makes a file of them."""

    def reachable(self) -> bool:
        """Whether this process, perhaps on another machine, can store here."""

    def store(self, name: str, pieces: Sequence[bytes], ends: Sequence[int]) -> None:
        """Keep the bytes of a chunk under its name; where they may be cut in the file, they have `ends`."""

    def commit(self, header: bytes, runs: Iterable[ByteRun]) -> None:
        """Write the file: the header, then the runs in their order."""


@dataclass(frozen=True)
class FileSink:
    """A file for each chunk in a scratch folder beside the target, joined by the kernel without a detour.

    Attributes
    ----------
    path : Path
        The file that `commit` writes; the chunks are stored in its folder.
    """

    path: Path

    def reachable(self) -> bool:
        """Whether the scratch folder is on a disk that this process sees."""
        return self.path.parent.is_dir()

    def store(self, name: str, pieces: Sequence[bytes], ends: Sequence[int]) -> None:
        """As `Sink.store`; the chunk appears whole.

        Raises
        ------
        StorageError
            The disk is full, or the folder went away.
        """
        final = self._stored(name)
        unfinished = final.with_suffix(f".{os.getpid()}")
        try:
            with unfinished.open("wb", buffering=0) as stream:
                for piece in pieces:
                    _write_all(stream.fileno(), piece)
            unfinished.replace(final)
        except OSError as error:
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)
            raise self._error(error) from error

    def commit(self, header: bytes, runs: Iterable[ByteRun]) -> None:
        """As `Sink.commit`.

        Raises
        ------
        StorageError
            The disk is full, or a chunk went away.
        """
        try:
            with self.path.open("wb", buffering=0) as target:
                _write_all(target.fileno(), header)
                for run in runs:
                    with self._stored(run.name).open("rb", buffering=0) as stored:
                        _copy(stored.fileno(), run.offset, target.fileno(), run.length)
        except OSError as error:
            raise self._error(error) from error

    def discard(self, name: str) -> None:
        """Give back the space of a chunk."""
        self._stored(name).unlink(missing_ok=True)

    def _stored(self, name: str) -> Path:
        return self.path.parent / f"{name}.blocks"

    def _error(self, error: OSError) -> StorageError:
        return StorageError(
            f"{self.path.parent} cannot be written to: {error.strerror}; is there space left?"
        )


class MemorySink:
    """Everything in memory; `content` holds the file after the commit."""

    def __init__(self) -> None:
        self._chunks: dict[str, bytes] = {}
        self.content = b""

    def reachable(self) -> bool:
        """Only the process that made it shares its memory."""
        return True

    def __reduce__(self) -> tuple[type[_Elsewhere], tuple[()]]:
        return _Elsewhere, ()

    def store(self, name: str, pieces: Sequence[bytes], ends: Sequence[int]) -> None:
        """As `Sink.store`."""
        self._chunks[name] = b"".join(pieces)

    def commit(self, header: bytes, runs: Iterable[ByteRun]) -> None:
        """As `Sink.commit`."""
        parts = [header]
        parts += [self._chunks[run.name][run.offset : run.offset + run.length] for run in runs]
        self.content = b"".join(parts)
        self._chunks.clear()


class _Elsewhere:
    """What another process has of a sink in memory: nothing."""

    def reachable(self) -> bool:
        return False


def _write_all(target: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(target, view) :]


def _copy(source: int, offset: int, target: int, length: int) -> None:
    while length:
        try:
            copied = os.copy_file_range(source, target, min(length, _COPY_BYTES), offset_src=offset)
        except OSError as error:
            if error.errno not in _NO_COPY_RANGE:
                raise
            data = os.pread(source, min(length, _COPY_BYTES), offset)
            _write_all(target, data)
            copied = len(data)
        if not copied:
            raise OSError(errno.EIO, "a stored block was cut short")
        offset += copied
        length -= copied
