"""A TIFF that is read while it is being downloaded: a window waits for its blocks, which then come first.

Everything that is not a block (header, tables, tags) is available before the first window is read, and so is
the first block of each image, which GDAL looks at when it opens a file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gdaltools import storage
from gdaltools.errors import CorruptRaster, UnsupportedRaster
from gdaltools.geo.window import Span
from gdaltools.raster import tiff
from gdaltools.raster.pixels.source import Pixels, Source, Valid
from gdaltools.storage import Location

Parts = list[tuple[int, int]]

# GDAL, "Header ghost area": a block's size before it, and its last bytes repeated after it.
_AROUND_BYTES = 8
# Searching a table of more blocks takes longer than streaming saves.
_MOST_BLOCKS = 1 << 20


@dataclass(frozen=True)
class BlockPlaces:
    """Where the blocks of an image lie in the file.

    Attributes
    ----------
    block : (int, int)
        Rows and columns of a block.
    begins, ends : ndarray of int64, shape (stored planes, block rows, block cols)
        A block that is not stored begins and ends at 0.
    """

    block: tuple[int, int]
    begins: NDArray[np.int64] = field(repr=False)
    ends: NDArray[np.int64] = field(repr=False)

    @classmethod
    def of(cls, ifd: tiff.Ifd) -> BlockPlaces:
        """Return the places of an image's blocks."""
        down, across = -(-ifd.height // ifd.block_height), -(-ifd.width // ifd.block_width)
        shape = (ifd.samples if ifd.planar == 2 else 1, down, across)
        offsets, counts = (each.astype(np.int64).reshape(shape) for each in (ifd.offsets, ifd.counts))
        stored = (offsets > 0) & (counts > 0)
        begins, ends = np.where(stored, offsets, 0), np.where(stored, offsets + counts, 0)
        return cls((ifd.block_height, ifd.block_width), begins, ends)

    def within(self, rows: Span, cols: Span) -> Parts:
        """Return the parts of the file that hold a window, with what GDAL may read around its blocks."""
        high, wide = self.block
        part = (
            slice(None),
            slice(rows.start // high, -(-rows.stop // high)),
            slice(cols.start // wide, -(-cols.stop // wide)),
        )
        pairs = zip(self.begins[part].ravel().tolist(), self.ends[part].ravel().tolist(), strict=True)
        return [(max(0, begin - _AROUND_BYTES), end + _AROUND_BYTES) for begin, end in pairs if end]


@dataclass(frozen=True)
class FileParts:
    """The parts of a file, in the order in which they are needed.

    Attributes
    ----------
    images : tuple of BlockPlaces
        The full resolution, and its mask if there is one.
    rest : list of (int, int)
        Everything that is not a block, and the first block of each image.
    """

    images: tuple[BlockPlaces, ...]
    rest: Parts

    def order(self) -> Iterator[int]:
        """Yield offsets in the file, in the order in which they are needed."""
        yield from (begin for begin, _ in self.rest)
        for image in self.images:
            yield from np.sort(image.begins.ravel()).tolist()


@dataclass(frozen=True)
class StreamedSource:
    """A source whose file is being downloaded."""

    inner: Source
    images: tuple[BlockPlaces, ...]
    wait: Callable[[Iterable[tuple[int, int]]], None] = field(repr=False)

    @property
    def name(self) -> str:
        """The name that errors use."""
        return self.inner.name

    def read(
        self, rows: Span, cols: Span, dtype: np.dtype[Any], *, planes: int
    ) -> tuple[Pixels, Valid | None]:
        """As `Source.read`, once the window's blocks are available.

        Raises
        ------
        SourceChanged, StorageError
            The blocks cannot be downloaded.
        """
        for image in self.images:
            self.wait(image.within(rows, cols))
        return self.inner.read(rows, cols, dtype, planes=planes)


def file_parts(location: Location) -> FileParts | None:
    """Return where the parts of a file lie; None if it is not a TIFF or its table of blocks is too large.

    Raises
    ------
    SourceNotFound, StorageError
        The file cannot be read.
    """
    with storage.opening(location) as stream:
        try:
            layout = tiff.read_layout(stream, name=str(location))
        except (CorruptRaster, UnsupportedRaster):
            return None  # not a TIFF, or one that only GDAL understands
    if sum(ifd.offsets.size for ifd in layout.ifds) > _MOST_BLOCKS:
        return None
    everything = [BlockPlaces.of(ifd) for ifd in layout.ifds]
    masks = [ifd.is_mask and not ifd.is_overview for ifd in layout.ifds]
    images = (everything[0], *(image for image, is_mask in zip(everything, masks, strict=True) if is_mask))
    firsts = [_first_block(image) for image in everything]
    # Between the blocks of a file with a ghost area lie only their sizes, which `within` includes.
    least = _AROUND_BYTES if layout.ghost else 0
    return FileParts(images, [*_gaps(everything, layout.size, least), *filter(None, firsts)])


def _first_block(image: BlockPlaces) -> tuple[int, int] | None:
    begin, end = int(image.begins.ravel()[0]), int(image.ends.ravel()[0])
    return (begin, end) if end else None


def _gaps(images: list[BlockPlaces], size: int, least: int) -> Parts:
    """Return the gaps between the blocks of all images that are larger than `least` bytes."""
    begins = np.concatenate([image.begins.ravel() for image in images])
    ends = np.concatenate([image.ends.ravel() for image in images])
    order = np.argsort(begins[ends > 0], kind="stable")
    begins, ends = begins[ends > 0][order], np.maximum.accumulate(ends[ends > 0][order])
    starts, stops = np.append(0, ends), np.append(begins, size)
    return [(int(a), int(b)) for a, b in zip(starts, stops, strict=True) if b - a > least]
