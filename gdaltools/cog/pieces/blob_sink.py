"""Encoded blocks that wait in Azure, beside the blob that they will be: no part of the file is kept here.

What is stored is cut where the file's order may cut it, and sent in blocks of a size that is soon sent again
when it fails; at the end Azure is told their order. Header, overviews and full resolution can thus be staged
in the order in which they are made, by whichever process makes them.
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
    """Stages blocks of a blob; in the process that made it by threads of its own, elsewhere at once.

    Attributes
    ----------
    header : bytes
        The file's first bytes, after the commit.
    """

    def __init__(self, assembly: BlobAssembly, uploads: Uploads, block_bytes: int) -> None:
        self._staging = assembly
        self._uploads = uploads
        self._blocks = BlobBlocks(assembly.blob, block_bytes)
        self.header = b""

    def __reduce__(self) -> tuple[type[BlobBlocks], tuple[UncommittedBlob, int]]:
        return BlobBlocks, (self._staging.blob, self._blocks.size)

    def reachable(self) -> bool:
        """It is, here."""
        return True

    def store(self, name: str, pieces: Sequence[bytes], ends: Sequence[int]) -> None:
        """As `Sink.store`; returns before everything is sent, unless too much waits already.

        Raises
        ------
        StorageError
            Azure did not take what was stored before.
        """
        for offset, data in _cut(pieces, ends, self._blocks.size):
            self._uploads.send(len(data), partial(self._blocks.stage, name, offset, data))

    def commit(self, header: bytes, runs: Iterable[ByteRun]) -> None:
        """As `Sink.commit`: order the blocks, to be published by `gdaltools.storage.uncommitted`.

        Raises
        ------
        StorageError
            Azure did not take a block, or has it no more.
        """
        parts = [(run.name, run.offset, run.length) for run in runs]
        self.store(_HEADER, [header], [len(header)])
        self._uploads.finish()
        self._staging.order([(_HEADER, 0, len(header)), *parts])
        self.header = header


@dataclass(frozen=True)
class BlobBlocks:
    """What another process has of a `BlobSink`: it stages, and returns when Azure has it.

    Attributes
    ----------
    size : int
        Bytes of a block at most.
    """

    blob: UncommittedBlob
    size: int

    def reachable(self) -> bool:
        """Whether this process has the account's name; without it, bytes go to the process that commits."""
        return self.blob.reachable()

    def store(self, name: str, pieces: Sequence[bytes], ends: Sequence[int]) -> None:
        """As `Sink.store`.

        Raises
        ------
        StorageError
            Azure did not take it.
        """
        for offset, data in _cut(pieces, ends, self.size):
            self.stage(name, offset, data)

    def stage(self, name: str, offset: int, data: bytes) -> None:
        """Send the bytes of a chunk from `offset`."""
        self.blob.stage(name, offset, data)


def _cut(pieces: Sequence[bytes], ends: Sequence[int], size: int) -> Iterator[tuple[int, bytes]]:
    """Parts of the joined pieces, each with its offset: up to each of `ends`, and none larger than `size`.

    >>> list(_cut([b"abc", b"def"], [2, 2, 6], 3))
    [(0, b'ab'), (2, b'cde'), (5, b'f')]
    """
    data = memoryview(b"".join(pieces))
    for begin, end in pairwise([0, *ends]):
        for offset in range(begin, end, size):
            yield offset, bytes(data[offset : min(offset + size, end)])


class Front(io.BytesIO):
    """The header of a file of `size` bytes whose rest is elsewhere, for those that read headers."""

    def __init__(self, header: bytes, size: int) -> None:
        super().__init__(header)
        self._whole = size

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As any stream's; the end is that of the whole file."""
        if whence == io.SEEK_END:
            return super().seek(self._whole + offset)
        return super().seek(offset, whence)
