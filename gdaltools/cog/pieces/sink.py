"""Store encoded blocks until the file can be written; the commit then writes it at once.

The process that encodes a piece stores its blocks under the piece's name. Storing a piece again changes
nothing, so a task may run twice. The commit puts all blocks in order; before that, nothing is visible under
the target's name.
"""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from gdaltools.errors import StorageError

# errno values of kernels and file systems that cannot copy between these files themselves.
_NO_COPY_RANGE = {errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM}
_COPY_BYTES = 16 << 20


@dataclass(frozen=True)
class ByteRun:
    """Bytes of a stored piece that are contiguous in the file."""

    name: str
    offset: int
    length: int


class Sink(Protocol):
    """Stores encoded blocks and writes the file from them."""

    def reachable(self) -> bool:
        """Return whether this process, perhaps on another machine, can store in the sink."""

    def store(self, name: str, pieces: Sequence[bytes], ends: Sequence[int]) -> None:
        """Store the bytes of a piece under its name; in the file they may be separated at `ends`."""

    def commit(self, header: bytes, runs: Iterable[ByteRun]) -> None:
        """Write the file: the header, then the runs in their order."""

    def written(self) -> IO[bytes]:
        """Return the committed file, or only its `Front` if more would take a request."""


@dataclass(frozen=True)
class FileSink:
    """A sink with one file per piece in a scratch folder; the kernel copies them into the target.

    Attributes
    ----------
    path : Path
        The file that `commit` writes; the pieces are stored in its folder.
    """

    path: Path

    def reachable(self) -> bool:
        """Return whether the scratch folder exists on a disk that this process can access."""
        return self.path.parent.is_dir()

    def store(self, name: str, pieces: Sequence[bytes], ends: Sequence[int]) -> None:
        """Store as `Sink.store` does; the piece's file appears only when it is complete.

        Raises
        ------
        StorageError
            The disk is full, or the folder no longer exists.
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
        """Write the file as `Sink.commit` does.

        Raises
        ------
        StorageError
            The disk is full, or a piece no longer exists.
        """
        try:
            with self.path.open("wb", buffering=0) as target:
                _write_all(target.fileno(), header)
                for run in runs:
                    with self._stored(run.name).open("rb", buffering=0) as stored:
                        _copy(stored.fileno(), run.offset, target.fileno(), run.length)
        except OSError as error:
            raise self._error(error) from error

    def written(self) -> IO[bytes]:
        """Return the file, open for reading."""
        return self.path.open("rb")

    def discard(self, name: str) -> None:
        """Delete a stored piece to free its space."""
        self._stored(name).unlink(missing_ok=True)

    def _stored(self, name: str) -> Path:
        return self.path.parent / f"{name}.blocks"

    def _error(self, error: OSError) -> StorageError:
        return StorageError(
            f"{self.path.parent} cannot be written to: {error.strerror}; is there space left?"
        )


class MemorySink:
    """A sink that keeps everything in memory; `content` holds the file after the commit."""

    def __init__(self) -> None:
        self._chunks: dict[str, bytes] = {}
        self.content = b""

    def reachable(self) -> bool:
        """Return True: only the process that created the sink shares its memory."""
        return True

    def __reduce__(self) -> tuple[type[_Elsewhere], tuple[()]]:
        return _Elsewhere, ()

    def store(self, name: str, pieces: Sequence[bytes], ends: Sequence[int]) -> None:
        """Store as `Sink.store` does."""
        self._chunks[name] = b"".join(pieces)

    def commit(self, header: bytes, runs: Iterable[ByteRun]) -> None:
        """Write the file to `content`, as `Sink.commit` does."""
        parts = [header]
        parts += [self._chunks[run.name][run.offset : run.offset + run.length] for run in runs]
        self.content = b"".join(parts)
        self._chunks.clear()

    def written(self) -> IO[bytes]:
        """Return the file's content."""
        return io.BytesIO(self.content)


class _Elsewhere:
    """A sink in memory as another process sees it: not reachable."""

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
