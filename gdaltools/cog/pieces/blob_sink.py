"""Stage encoded blocks in Azure as uncommitted blocks of the target blob, without a local copy.

Stored bytes are cut wherever the file's order may separate them, and sent as blob blocks small enough to be
sent again quickly after a failure. The commit gives Azure their order. Header, overviews and full resolution
can therefore be staged in the order in which they are encoded, by any process.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

from gdaltools.cog.pieces.sink import ByteRun
from gdaltools.storage import BlobAssembly, UncommittedBlob, Uploads

_HEADER = "header"


class BlobSink:
    """Stages blocks of a blob: in the process that created it by upload threads, in others synchronously."""

    def __init__(self, assembly: BlobAssembly, uploads: Uploads, block_bytes: int) -> None:
        self._staging = assembly
        self._uploads = uploads
        self._blocks = BlobBlocks(assembly.blob, block_bytes)
        self._header = b""

    def __reduce__(self) -> tuple[type[BlobBlocks], tuple[UncommittedBlob, int]]:
        return BlobBlocks, (self._staging.blob, self._blocks.size)

    def reachable(self) -> bool:
        """Return True: the process that created the sink can store in it."""
        return True

    def store(self, name: str, pieces: Sequence[bytes], ends: Sequence[int]) -> None:
        """Store as `Sink.store` does; return before everything is sent, unless too many bytes are pending.

        Raises
        ------
        StorageError
            Azure did not accept bytes that were stored earlier.
        """
        for offset, data in _cut(pieces, ends, self._blocks.size):
            self._uploads.send(len(data), partial(self._blocks.stage, name, offset, data))

    def commit(self, header: bytes, runs: Iterable[ByteRun]) -> None:
        """Put the blocks in the file's order; `gdaltools.storage.uncommitted` then publishes the blob.

        Raises
        ------
        StorageError
            Azure did not accept a block, or no longer has it.
        """
        parts = [(run.name, run.offset, run.length) for run in runs]
        self.store(_HEADER, [header], [len(header)])
        self._uploads.finish()
        self._staging.order([(_HEADER, 0, len(header)), *parts])
        self._header = header

    def written(self) -> Front:
        """Return the front of the blob, which nobody can read yet."""
        return Front(self._header, self._staging.size)


@dataclass(frozen=True)
class BlobBlocks:
    """A `BlobSink` in another process: it stages blocks, and returns when Azure has them.

    Attributes
    ----------
    size : int
        The most bytes of a blob block.
    """

    blob: UncommittedBlob
    size: int

    def reachable(self) -> bool:
        """Return whether this process has the account's name; without it, the committing process stores."""
        return self.blob.reachable()

    def store(self, name: str, pieces: Sequence[bytes], ends: Sequence[int]) -> None:
        """Store as `Sink.store` does; return when Azure has the bytes.

        Raises
        ------
        StorageError
            Azure did not accept the bytes.
        """
        for offset, data in _cut(pieces, ends, self.size):
            self.stage(name, offset, data)

    def stage(self, name: str, offset: int, data: bytes) -> None:
        """Send the bytes of the piece `name` that begin at `offset`."""
        self.blob.stage(name, offset, data)


def _cut(pieces: Sequence[bytes], ends: Sequence[int], size: int) -> Iterator[tuple[int, bytes]]:
    """Yield parts of the joined bytes with their offsets, cut at each of `ends` and at most `size` long.

    >>> list(_cut([b"abc", b"def"], [2, 2, 6], 3))
    [(0, b'ab'), (2, b'cde'), (5, b'f')]
    """
    data = memoryview(b"".join(pieces))
    for begin, end in pairwise([0, *ends]):
        for offset in range(begin, end, size):
            yield offset, bytes(data[offset : min(offset + size, end)])


class Front(io.BytesIO):
    """A stream of a file's header that acts as a file of `size` bytes, for code that reads headers."""

    def __init__(self, header: bytes, size: int) -> None:
        super().__init__(header)
        self._whole = size

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Seek as in any stream; `io.SEEK_END` refers to the end of the whole file."""
        if whence == io.SEEK_END:
            return super().seek(self._whole + offset)
        return super().seek(offset, whence)
