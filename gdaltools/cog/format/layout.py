"""The bytes before a COG's first block: the header, GDAL's ghost area, and an IFD for each image.

The IFDs come first, then the tables of offsets and sizes, then the blocks: those of the smallest overview
first, those of the full resolution last. The blocks of each image follow row by row, each mask block right
after the pixels that it masks. All sizes are known when this is written, so whether a file needs BigTIFF is
computed, not guessed.

Sources: TIFF 6.0 §2; BigTIFF (libtiff.gitlab.io/libtiff/specification/bigtiff.html); GDAL's COG driver page,
"Header ghost area"; the order of the IFDs as GDAL 3.10 writes them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gdaltools.cog.format.template import Tag, Template
from gdaltools.raster import tiff

SHORT, LONG, LONG8 = 3, 4, 16

#: Bytes around each block: its size before it (4), and its last 4 bytes repeated after it.
BLOCK_FRAME = 8
_CLASSIC_LIMIT = 2**32 - 2**16
_GHOST = (
    "LAYOUT=IFDS_BEFORE_DATA\n"
    "BLOCK_ORDER=ROW_MAJOR\n"
    "BLOCK_LEADER=SIZE_AS_UINT4\n"
    "BLOCK_TRAILER=LAST_4_BYTES_REPEATED\n"
    "KNOWN_INCOMPATIBLE_EDITION=NO\n "
)


@dataclass(frozen=True)
class Image:
    """One level in its stored form.

    Attributes
    ----------
    sizes : ndarray of uint32, shape (planes, block rows, block cols)
        The stored bytes of each block; 0 for one that is left out.
    mask_sizes : ndarray of uint32, shape (block rows, block cols), or None
        The stored bytes of each block of the mask.
    """

    width: int
    height: int
    sizes: NDArray[np.uint32]
    mask_sizes: NDArray[np.uint32] | None = None

    @property
    def data_bytes(self) -> int:
        """The bytes of all its blocks, including their frames."""
        tables = [self.sizes] + ([] if self.mask_sizes is None else [self.mask_sizes])
        return int(sum(table.sum(dtype=np.int64) + BLOCK_FRAME * np.count_nonzero(table) for table in tables))


def header(images: tuple[Image, ...], parts: Template, blocksize: int) -> bytes:
    """Return all bytes before the first block.

    Parameters
    ----------
    images : tuple of Image
        The full resolution and its overviews, from large to small.
    parts : Template
        The tags of the images.
    blocksize : int
        Side of a block in pixels.
    """
    data = sum(image.data_bytes for image in images)
    small = _Writer(images, parts, blocksize, big=False)
    if len(small.front) + data < _CLASSIC_LIMIT:
        return small.front
    return _Writer(images, parts, blocksize, big=True).front


class _Writer:
    def __init__(self, images: tuple[Image, ...], parts: Template, blocksize: int, *, big: bool) -> None:
        self._big = big
        self._blocksize = blocksize
        self._word = "<Q" if big else "<I"
        self._interleaved = images[0].mask_sizes is not None and len(images[0].sizes) == 1
        directories = [(images[0], 0, parts.main, False)]
        masked = images[0].mask_sizes is not None
        if masked:
            directories.append((images[0], 4, parts.mask, True))
        directories += [(image, 1, parts.overview, False) for image in images[1:]]
        if masked:
            directories += [(image, 5, parts.mask, True) for image in images[1:]]
        # Assembled twice: the offsets of the blocks depend on the length of what precedes them.
        nowhere = {id(image): 0 for image in images}
        length = len(self._assembled(directories, nowhere))
        self.front = self._assembled(directories, self._begins(images, length))

    def _begins(self, images: tuple[Image, ...], position: int) -> dict[int, int]:
        """Return the offset of each image's data, keyed by the image's id."""
        begins = {}
        for image in reversed(images):
            begins[id(image)] = position
            position += image.data_bytes
        return begins

    def _offsets(self, image: Image, mask: bool, begin: int) -> NDArray[np.uint64]:
        """Return the offsets of an image's blocks, or of its mask's; the data of both begins at `begin`."""
        sizes = image.sizes.astype(np.int64)
        if image.mask_sizes is None:
            stored = sizes.reshape(-1)
            return _placed(stored, begin)
        masks = image.mask_sizes.astype(np.int64)
        if self._interleaved:
            together = np.stack([sizes[0].reshape(-1), masks.reshape(-1)], axis=1).reshape(-1)
            return _placed(together, begin)[1 if mask else 0 :: 2]
        together = np.concatenate([sizes.reshape(-1), masks.reshape(-1)])
        placed = _placed(together, begin)
        return placed[sizes.size :] if mask else placed[: sizes.size]

    def _assembled(
        self,
        directories: list[tuple[Image, int, tuple[Tag, ...], bool]],
        begins: dict[int, int],
    ) -> bytes:
        ghost = _GHOST + ("MASK_INTERLEAVED_WITH_IMAGERY=YES\n" if self._interleaved else "")
        front = bytearray(
            struct.pack("<2sHHHQ", b"II", 43, 8, 0, 0) if self._big else struct.pack("<2sHI", b"II", 42, 0)
        )
        front += f"GDAL_STRUCTURAL_METADATA_SIZE={len(ghost):06d} bytes\n{ghost}".encode()
        link = 8 if self._big else 4
        waiting: list[tuple[int, bytes]] = []
        for image, kind, fixed, mask in directories:
            _align(front)
            struct.pack_into(self._word, front, link, len(front))
            link = self._directory(front, self._tags(image, kind, fixed, mask, begins), waiting)
        for slot, data in waiting:
            _align(front)
            struct.pack_into(self._word, front, slot, len(front))
            front += data
        return bytes(front)

    def _directory(
        self, front: bytearray, tags: list[tuple[Tag, bool]], waiting: list[tuple[int, bytes]]
    ) -> int:
        """Append an IFD and the values that do not fit into its entries; return the position of its link.

        Tables of blocks go to `waiting`, so that the IFDs stay close together.
        """
        front += struct.pack("<Q" if self._big else "<H", len(tags))
        inline = 8 if self._big else 4
        slots: list[tuple[int, bytes, bool]] = []
        for tag, late in tags:
            front += struct.pack("<HH", tag.code, tag.kind) + struct.pack(self._word, tag.count)
            if len(tag.data) <= inline:
                front += tag.data.ljust(inline, b"\0")
            else:
                slots.append((len(front), tag.data, late))
                front += bytes(inline)
        link = len(front)
        front += bytes(inline)
        for slot, data, late in slots:
            if late:
                waiting.append((slot, data))
                continue
            _align(front)
            struct.pack_into(self._word, front, slot, len(front))
            front += data
        return link

    def _tags(
        self,
        image: Image,
        kind: int,
        fixed: tuple[Tag, ...],
        mask: bool,
        begins: dict[int, int],
    ) -> list[tuple[Tag, bool]]:
        counts = image.mask_sizes if mask else image.sizes
        assert counts is not None
        offset_type = "<u8" if self._big else "<u4"
        placed = [
            _number(tiff.IMAGE_WIDTH, image.width),
            _number(tiff.IMAGE_LENGTH, image.height),
            _number(tiff.TILE_WIDTH, self._blocksize),
            _number(tiff.TILE_LENGTH, self._blocksize),
        ]
        if kind:
            placed.append(Tag(tiff.NEW_SUBFILE_TYPE, LONG, 1, struct.pack("<I", kind)))
        offsets = self._offsets(image, mask, begins[id(image)]).astype(offset_type).tobytes()
        sizes = counts.reshape(-1).astype("<u4").tobytes()
        late = {
            Tag(tiff.TILE_OFFSETS, LONG8 if self._big else LONG, counts.size, offsets),
            Tag(tiff.TILE_COUNTS, LONG, counts.size, sizes),
        }
        entries = [(tag, False) for tag in (*fixed, *placed)] + [(tag, True) for tag in late]
        return sorted(entries, key=lambda entry: entry[0].code)


def _placed(sizes: NDArray[np.int64], begin: int) -> NDArray[np.uint64]:
    """Return the offsets of blocks stored one after another from `begin`; 0 for blocks not stored."""
    taken = np.where(sizes > 0, sizes + BLOCK_FRAME, 0)
    starts = begin + np.cumsum(taken) - taken + BLOCK_FRAME // 2
    return np.where(sizes > 0, starts, 0).astype(np.uint64)


def _number(code: int, value: int) -> Tag:
    if value < 1 << 16:
        return Tag(code, SHORT, 1, struct.pack("<H", value))
    return Tag(code, LONG, 1, struct.pack("<I", value))


def _align(front: bytearray, to: int = 2) -> None:
    front += bytes(-len(front) % to)
