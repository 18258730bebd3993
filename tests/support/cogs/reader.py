"""A COG reader that relies on GDAL's ghost area alone: it finds blocks by the bytes around them.

It reads no table of sizes. From an IFD it takes the shape, the codec and the offset of the first block. Every
further block begins where the previous one ends, as ``BLOCK_ORDER=ROW_MAJOR`` promises, and its length is in
the 4 bytes in front of it, as ``BLOCK_LEADER=SIZE_AS_UINT4`` promises.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 12: 8, 16: 8}
_FORMATS = {3: "H", 4: "I", 16: "Q"}


@dataclass(frozen=True)
class Picture:
    """One IFD: the values of its tags; the offset of the first block is the only one in use."""

    tags: dict[int, tuple[int, ...]]

    @property
    def mask(self) -> bool:
        return bool(self.tags.get(254, (0,))[0] & 4)

    @property
    def planes(self) -> int:
        return self.tags[277][0] if self.tags.get(284, (1,))[0] == 2 else 1

    @property
    def grid(self) -> tuple[int, int]:
        (width,), (height,), (across,), (down,) = (self.tags[code] for code in (256, 257, 322, 323))
        return -(-height // down), -(-width // across)


class GhostReader:
    """The pictures of a COG, either uncompressed or of DEFLATE without a predictor."""

    def __init__(self, content: bytes, dtype: str) -> None:
        self._content = content
        self._dtype = np.dtype(dtype)
        self._big = content[2:4] == b"+\0"
        begin = 16 if self._big else 8
        label = b"GDAL_STRUCTURAL_METADATA_SIZE="
        assert content[begin:].startswith(label)
        size = int(content[begin + len(label) : begin + len(label) + 6])
        text = content[begin + 43 : begin + 43 + size].decode()
        self.promises = dict(line.strip().split("=") for line in text.splitlines() if line.strip())
        assert self.promises["LAYOUT"] == "IFDS_BEFORE_DATA"
        assert self.promises["BLOCK_ORDER"] == "ROW_MAJOR"
        assert self.promises["BLOCK_LEADER"] == "SIZE_AS_UINT4"
        assert self.promises["BLOCK_TRAILER"] == "LAST_4_BYTES_REPEATED"
        self.pictures = list(self._directories())

    def read(self, picture: Picture) -> NDArray[Any]:
        """Return the pixels of a picture, shape `(bands, rows, cols)`; those of a mask are 0 and 1."""
        down, across = picture.grid
        side = picture.tags[322][0]
        bands = picture.tags[277][0]
        whole = np.zeros((bands, down * side, across * side), "uint8" if picture.mask else self._dtype)
        blocks = self._blocks(picture)
        for plane in range(picture.planes):
            for row in range(down):
                for col in range(across):
                    window = slice(row * side, (row + 1) * side), slice(col * side, (col + 1) * side)
                    block = self._decoded(next(blocks), picture)
                    if picture.mask:
                        bits = np.unpackbits(np.frombuffer(block, "uint8").reshape(side, -1), axis=1)
                        whole[0][window] = bits
                        continue
                    samples = np.frombuffer(block, self._dtype).reshape(side, side, -1)
                    if picture.planes > 1:
                        whole[plane][window] = samples[..., 0]
                    else:
                        whole[:, window[0], window[1]] = samples.transpose(2, 0, 1)
        return whole[:, : picture.tags[257][0], : picture.tags[256][0]]

    def _blocks(self, picture: Picture) -> Iterator[bytes]:
        """Yield the stored blocks in order, each found after the previous one."""
        interleaved = self.promises.get("MASK_INTERLEAVED_WITH_IMAGERY") == "YES"
        down, across = picture.grid
        position = picture.tags[324][0]
        for _ in range(picture.planes * down * across):
            block, end = self._framed(position)
            yield block
            if interleaved:
                # An image's block is followed by its mask's, and that one by the image's next block.
                _, end = self._framed(end + 4) if end + 4 < len(self._content) else (b"", end)
            position = end + 4

    def _framed(self, position: int) -> tuple[bytes, int]:
        (size,) = struct.unpack_from("<I", self._content, position - 4)
        block = self._content[position : position + size]
        end = position + size
        assert len(block) == size
        assert self._content[end : end + 4] == block[-4:].rjust(4, b"\0")
        return block, end + 4

    def _decoded(self, block: bytes, picture: Picture) -> bytes:
        return zlib.decompress(block) if picture.tags[259][0] == 8 else block

    def _directories(self) -> Iterator[Picture]:
        word, count, length, inline = ("<Q", "<Q", 8, 8) if self._big else ("<I", "<H", 2, 4)
        (position,) = struct.unpack_from(word, self._content, 8 if self._big else 4)
        while position:
            (entries,) = struct.unpack_from(count, self._content, position)
            position += length
            tags = {}
            for _ in range(entries):
                code, kind = struct.unpack_from("<HH", self._content, position)
                (number,) = struct.unpack_from(word, self._content, position + 4)
                place = position + 4 + inline
                if kind in _FORMATS:
                    if number * _SIZES[kind] > inline:
                        (place,) = struct.unpack_from(word, self._content, place)
                    tags[code] = struct.unpack_from(f"<{number}{_FORMATS[kind]}", self._content, place)
                position += 4 + 2 * inline
            yield Picture(tags)
            (position,) = struct.unpack_from(word, self._content, position)
