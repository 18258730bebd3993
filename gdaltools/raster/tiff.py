"""The layout of a TIFF file, read from its bytes: IFDs, tags, block offsets and GDAL's ghost area.

It has what a check of a COG needs and GDAL does not report, for classic TIFF and BigTIFF of both byte
orders. It is safe on hostile files: every offset and count is checked against the file's size before use,
and chains of IFDs that loop or never end are refused.

Sources: TIFF 6.0 §2; BigTIFF (libtiff.gitlab.io/libtiff/specification/bigtiff.html); GDAL's COG driver page,
"Header ghost area".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO

import numpy as np
from numpy.typing import NDArray

from gdaltools.errors import CorruptRaster, UnsupportedRaster

NEW_SUBFILE_TYPE, IMAGE_WIDTH, IMAGE_LENGTH = 254, 256, 257
COMPRESSION, STRIP_OFFSETS, ROWS_PER_STRIP, STRIP_COUNTS = 259, 273, 278, 279
SAMPLES_PER_PIXEL, PLANAR_CONFIGURATION = 277, 284
BITS_PER_SAMPLE, PHOTOMETRIC, FILL_ORDER, PREDICTOR, SAMPLE_FORMAT = 258, 262, 266, 317, 339
YCBCR_SUBSAMPLING, REFERENCE_BLACK_WHITE, JPEG_TABLES = 530, 532, 347
TILE_WIDTH, TILE_LENGTH, TILE_OFFSETS, TILE_COUNTS = 322, 323, 324, 325

COMPRESSION_NAMES = {
    1: "NONE",
    5: "LZW",
    7: "JPEG",
    8: "DEFLATE",
    32773: "PACKBITS",
    32946: "DEFLATE",
    34887: "LERC",
    34925: "LZMA",
    50000: "ZSTD",
    50001: "WEBP",
    50002: "JXL",
    52546: "JXL",
}

#: Bytes of a value of each type (TIFF 6.0 §2 and BigTIFF).
TYPE_BYTES = dict(zip(range(1, 19), (1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8), strict=True))
#: The unsigned integer types, the only ones that layout tags use.
INTEGER_TYPES = {1: "u1", 3: "u2", 4: "u4", 13: "u4", 16: "u8", 18: "u8"}
_READ_TAGS = frozenset(
    {
        NEW_SUBFILE_TYPE,
        IMAGE_WIDTH,
        IMAGE_LENGTH,
        COMPRESSION,
        STRIP_OFFSETS,
        ROWS_PER_STRIP,
        STRIP_COUNTS,
        SAMPLES_PER_PIXEL,
        PLANAR_CONFIGURATION,
        TILE_WIDTH,
        TILE_LENGTH,
        TILE_OFFSETS,
        TILE_COUNTS,
    }
)
_MAX_IFDS = 1024
_MAX_ENTRIES = 4096
# Offsets of 64 million blocks: a raster of 4 million pixels a side in blocks of 512.
_MAX_VALUES = 1 << 26
_GHOST_KEY = b"GDAL_STRUCTURAL_METADATA_SIZE="
_GHOST_HEAD = len(b"GDAL_STRUCTURAL_METADATA_SIZE=000000 bytes\n")
_MAX_GHOST = 1 << 16

#: TIFF tiles are multiples of this many pixels (TIFF 6.0 §15).
BLOCK_UNIT = 16


@dataclass(frozen=True)
class Ifd:
    """One image of the file: the full resolution, an overview, or the mask of either.

    `offsets` and `counts` hold a value for each block, row by row (and plane by plane if bands have separate
    blocks); zeros mark a block that is not stored.
    """

    position: int
    subfile_type: int
    width: int
    height: int
    tiled: bool
    block_width: int
    block_height: int
    compression: int
    samples: int
    planar: int
    offsets: NDArray[np.uint64] = field(repr=False)
    counts: NDArray[np.uint64] = field(repr=False)

    @property
    def is_overview(self) -> bool:
        """Whether it is a reduced-resolution image (TIFF 6.0, NewSubfileType bit 0)."""
        return bool(self.subfile_type & 1)

    @property
    def is_mask(self) -> bool:
        """Whether it is a transparency mask (TIFF 6.0, NewSubfileType bit 2)."""
        return bool(self.subfile_type & 4)

    @property
    def first_data(self) -> int:
        """Offset of the first stored block; 0 if none is stored."""
        stored = self.offsets[self.offsets > 0]
        return int(stored[0]) if stored.size else 0


@dataclass(frozen=True)
class TiffLayout:
    """Where everything lies in a TIFF.

    Attributes
    ----------
    size : int
        Bytes in the file.
    bigtiff : bool
        Whether offsets have 64 bits.
    little_endian : bool
        Whether numbers, including samples, have their lowest byte first.
    ghost : dict of str to str
        GDAL's structural metadata; empty if there is none.
    ghost_end : int
        The first byte after the header and the ghost area.
    ifds : tuple of Ifd
        In the order of their chain.
    """

    size: int
    bigtiff: bool
    little_endian: bool
    ghost: dict[str, str]
    ghost_end: int
    ifds: tuple[Ifd, ...]


def read_layout(stream: IO[bytes], *, name: str) -> TiffLayout:
    """Return the layout of the TIFF in `stream`; `name` is what errors call it.

    Raises
    ------
    UnsupportedRaster
        It is not a TIFF.
    CorruptRaster
        Its header, an IFD or a table of blocks is damaged or lies outside the file.
    """
    return _Reader(stream, name).layout()


def read_values(
    stream: IO[bytes], ifd: Ifd, tags: frozenset[int], *, name: str
) -> dict[int, tuple[int, ...] | bytes]:
    """Return the values of those `tags` that an IFD has: integers, or the bytes of any other type.

    Raises
    ------
    CorruptRaster
        A value is damaged or lies outside the file.
    """
    return _Reader(stream, name).values(ifd.position, tags)


class _Reader:
    def __init__(self, stream: IO[bytes], name: str) -> None:
        self._stream = stream
        self._name = name
        self._size = stream.seek(0, 2)
        head = self._at(0, min(16, self._size))
        self._order = {b"II": "<", b"MM": ">"}.get(head[:2], "")
        magic = struct.unpack(self._order + "H", head[2:4])[0] if self._order and len(head) >= 8 else 0
        if magic not in (42, 43):
            if not self._size:
                raise CorruptRaster(f"{name} is empty (0 bytes): upload it again")
            raise UnsupportedRaster(f"{name} is not a TIFF: it begins with {head[:4]!r}")
        self._big = magic == 43
        if self._big and len(head) < 16:
            raise CorruptRaster(f"{name} ends within its header: upload it again")
        self._first = struct.unpack(
            self._order + ("Q" if self._big else "I"), head[8:16] if self._big else head[4:8]
        )[0]

    def layout(self) -> TiffLayout:
        ghost, end = self._ghost()
        return TiffLayout(self._size, self._big, self._order == "<", ghost, end, tuple(self._ifds()))

    def _at(self, offset: int, length: int) -> bytes:
        if offset < 0 or length < 0 or offset + length > self._size:
            raise CorruptRaster(
                f"{self._name} points to bytes {offset}..{offset + length}, the file has {self._size}: "
                "it was cut short or damaged"
            )
        self._stream.seek(offset)
        data = self._stream.read(length)
        if len(data) != length:
            raise CorruptRaster(f"{self._name} ended while it was read at byte {offset}")
        return data

    def _ghost(self) -> tuple[dict[str, str], int]:
        start = 16 if self._big else 8
        if self._size < start + _GHOST_HEAD:
            return {}, start
        head = self._at(start, _GHOST_HEAD)
        digits = head[len(_GHOST_KEY) : len(_GHOST_KEY) + 6]
        if not head.startswith(_GHOST_KEY) or not digits.isdigit():
            return {}, start
        length = min(int(digits), _MAX_GHOST, self._size - start - _GHOST_HEAD)
        text = self._at(start + _GHOST_HEAD, length).decode("latin-1")
        pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
        end = start + _GHOST_HEAD + length
        return {key.strip(): value.strip() for key, _, value in pairs}, end + end % 2

    def _ifds(self) -> Iterator[Ifd]:
        position, seen = self._first, set[int]()
        while position:
            if position in seen:
                raise CorruptRaster(f"{self._name} has a chain of IFDs that comes back to byte {position}")
            if len(seen) >= _MAX_IFDS:
                raise CorruptRaster(f"{self._name} has more than {_MAX_IFDS} IFDs")
            seen.add(position)
            tags, following = self._tags(position)
            yield self._ifd(position, tags)
            position = following
        if not seen:
            raise CorruptRaster(f"{self._name} has no IFD: it was not finished when it was written")

    def _tags(self, position: int) -> tuple[dict[int, NDArray[np.uint64]], int]:
        entries, following = self._entries(position)
        tags = {tag: self._integers(tag, kind, rest) for tag, kind, rest in entries if tag in _READ_TAGS}
        return tags, following

    def values(self, position: int, tags: frozenset[int]) -> dict[int, tuple[int, ...] | bytes]:
        found: dict[int, tuple[int, ...] | bytes] = {}
        for tag, kind, rest in self._entries(position)[0]:
            if tag in tags and kind in INTEGER_TYPES:
                found[tag] = tuple(self._integers(tag, kind, rest).tolist())
            elif tag in tags:
                found[tag] = self._data(tag, kind, rest, TYPE_BYTES.get(kind, 0))
        return found

    def _entries(self, position: int) -> tuple[list[tuple[int, int, bytes]], int]:
        """Return code, type and remaining bytes of each entry of an IFD, and the offset of the next IFD."""
        count_size, entry_size, next_size = (8, 20, 8) if self._big else (2, 12, 4)
        words = self._order + ("Q" if self._big else "H")
        (count,) = struct.unpack(words, self._at(position, count_size))
        if not 0 < count <= _MAX_ENTRIES:
            raise CorruptRaster(f"{self._name} has an IFD of {count} entries at byte {position}")
        table = self._at(position + count_size, count * entry_size + next_size)
        entries = []
        for start in range(0, count * entry_size, entry_size):
            tag, kind = struct.unpack(self._order + "HH", table[start : start + 4])
            entries.append((tag, kind, table[start + 4 : start + entry_size]))
        (following,) = struct.unpack(self._order + ("Q" if self._big else "I"), table[-next_size:])
        return entries, following

    def _integers(self, tag: int, kind: int, rest: bytes) -> NDArray[np.uint64]:
        dtype = np.dtype(self._order + INTEGER_TYPES.get(kind, "u1"))
        data = self._data(tag, kind, rest, dtype.itemsize if kind in INTEGER_TYPES else 0)
        return np.frombuffer(data, dtype).astype(np.uint64)

    def _data(self, tag: int, kind: int, rest: bytes, value_bytes: int) -> bytes:
        word = 8 if self._big else 4
        (count,) = struct.unpack(self._order + ("Q" if self._big else "I"), rest[:word])
        if not value_bytes or not 0 < count <= _MAX_VALUES:
            raise CorruptRaster(f"{self._name} has a tag {tag} of type {kind} with {count} values")
        length = count * value_bytes
        if length <= word:
            return rest[word : word + length]
        (offset,) = struct.unpack(self._order + ("Q" if self._big else "I"), rest[word:])
        return self._at(offset, length)

    def _ifd(self, position: int, tags: dict[int, NDArray[np.uint64]]) -> Ifd:
        def one(tag: int, default: int | None = None) -> int:
            if tag in tags:
                return int(tags[tag][0])
            if default is None:
                raise CorruptRaster(f"{self._name} has an IFD at byte {position} without tag {tag}")
            return default

        width, height = one(IMAGE_WIDTH), one(IMAGE_LENGTH)
        tiled = TILE_OFFSETS in tags or TILE_WIDTH in tags
        if tiled:
            block_width, block_height = one(TILE_WIDTH), one(TILE_LENGTH)
        else:
            block_width, block_height = width, min(one(ROWS_PER_STRIP, height), height)
        offsets = tags.get(TILE_OFFSETS if tiled else STRIP_OFFSETS, tags.get(STRIP_OFFSETS))
        counts = tags.get(TILE_COUNTS if tiled else STRIP_COUNTS, tags.get(STRIP_COUNTS))
        ifd = Ifd(
            position=position,
            subfile_type=one(NEW_SUBFILE_TYPE, 0),
            width=width,
            height=height,
            tiled=tiled,
            block_width=block_width,
            block_height=block_height,
            compression=one(COMPRESSION, 1),
            samples=one(SAMPLES_PER_PIXEL, 1),
            planar=one(PLANAR_CONFIGURATION, 1),
            offsets=np.zeros(0, np.uint64) if offsets is None else offsets,
            counts=np.zeros(0, np.uint64) if counts is None else counts,
        )
        self._check_blocks(ifd)
        return ifd

    def _check_blocks(self, ifd: Ifd) -> None:
        sides = (ifd.width, ifd.height, ifd.block_width, ifd.block_height)
        where = f"{self._name}, IFD at byte {ifd.position}:"
        if min(sides) < 1:
            raise CorruptRaster(f"{where} an image or block of no pixels {sides}")
        across, down = -(-ifd.width // ifd.block_width), -(-ifd.height // ifd.block_height)
        expected = across * down * (ifd.samples if ifd.planar == 2 else 1)
        if ifd.offsets.size != expected or ifd.counts.size != expected:
            raise CorruptRaster(
                f"{where} {expected} blocks, but {ifd.offsets.size} offsets and {ifd.counts.size} sizes"
            )
        ends = ifd.offsets.astype(np.float64) + ifd.counts.astype(np.float64)
        if ends.size and float(ends.max()) > self._size:
            raise CorruptRaster(
                f"{where} block {int(ends.argmax())} ends at byte {int(ends.max())}, the file has "
                f"{self._size}: it was cut short"
            )
