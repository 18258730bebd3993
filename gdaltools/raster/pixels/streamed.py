"""A TIFF that is read while it is brought near: a window waits for its blocks, and they come before others.

All that is no block (header, tables, tags) is there before the first window is read, and so is the first
block of each image, at which GDAL looks when it opens a file.
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
from gdaltools.raster.pixels.source import Pixels, RasterSource, Source, Valid

Parts = list[tuple[int, int]]

# GDAL, "Header ghost area": its size before a block, and its last bytes repeated behind it.
_AROUND_BYTES = 8
# A table of more blocks takes longer to look through than is won.
_MOST_BLOCKS = 1 << 20


@dataclass(frozen=True)
class BlockPlaces:
    """Where the blocks of an image are.

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
        """Those of an image of a file."""
        down, across = -(-ifd.height // ifd.block_height), -(-ifd.width // ifd.block_width)
        shape = (ifd.samples if ifd.planar == 2 else 1, down, across)
        offsets, counts = (each.astype(np.int64).reshape(shape) for each in (ifd.offsets, ifd.counts))
        stored = (offsets > 0) & (counts > 0)
        begins, ends = np.where(stored, offsets, 0), np.where(stored, offsets + counts, 0)
        return cls((ifd.block_height, ifd.block_width), begins, ends)

    def within(self, rows: Span, cols: Span) -> Parts:
        """What of the file holds a window, with what GDAL may read around its blocks."""
        high, wide = self.block
        part = (
            slice(None),
            slice(rows.start // high, -(-rows.stop // high)),
            slice(cols.start // wide, -(-cols.stop // wide)),
        )
        pairs = zip(self.begins[part].ravel().tolist(), self.ends[part].ravel().tolist(), strict=True)
        return [(max(0, begin - _AROUND_BYTES), end + _AROUND_BYTES) for begin, end in pairs if end]


@dataclass(frozen=True)
class FilePlaces:
    """What of a file is wanted when.

    Attributes
    ----------
    images : tuple of BlockPlaces
        The full resolution, and its mask where there is one.
    rest : list of (int, int)
        All that is no block, and the first block of each image.
    """

    images: tuple[BlockPlaces, ...]
    rest: Parts

    def order(self) -> Iterator[int]:
        """Places in the file, those that are wanted first before the others."""
        yield from (begin for begin, _ in self.rest)
        for image in self.images:
            yield from np.sort(image.begins.ravel()).tolist()


@dataclass(frozen=True)
class StreamedSource:
    """A source whose file is on its way."""

    inner: Source
    images: tuple[BlockPlaces, ...]
    wait: Callable[[Iterable[tuple[int, int]]], None] = field(repr=False)

    @property
    def name(self) -> str:
        """What errors call it."""
        return self.inner.name

    def read(
        self, rows: Span, cols: Span, dtype: np.dtype[Any], *, planes: int
    ) -> tuple[Pixels, Valid | None]:
        """As `Source.read`, once the window's blocks are there.

        Raises
        ------
        SourceChanged, StorageError
            They cannot be had.
        """
        for image in self.images:
            self.wait(image.within(rows, cols))
        return self.inner.read(rows, cols, dtype, planes=planes)


def places_of(source: RasterSource) -> FilePlaces | None:
    """Where what is in a file of Azure; None where it is not known, or not worth while.

    Raises
    ------
    SourceNotFound, StorageError
        It cannot be read.
    """
    if source.level is not None or not source.location.in_azure:
        return None
    with storage.opening(source.location) as stream:
        try:
            layout = tiff.read_layout(stream, name=source.name)
        except (CorruptRaster, UnsupportedRaster):
            return None  # no TIFF, or one of which GDAL understands more
    if sum(ifd.offsets.size for ifd in layout.ifds) > _MOST_BLOCKS:
        return None
    everything = [BlockPlaces.of(ifd) for ifd in layout.ifds]
    masks = [ifd.is_mask and not ifd.is_overview for ifd in layout.ifds]
    images = (everything[0], *(image for image, is_mask in zip(everything, masks, strict=True) if is_mask))
    firsts = [_first_block(image) for image in everything]
    # Between blocks of such a file are their sizes alone, which are waited for with the blocks.
    least = _AROUND_BYTES if layout.ghost else 0
    return FilePlaces(images, [*_gaps(everything, layout.size, least), *filter(None, firsts)])


def _first_block(image: BlockPlaces) -> tuple[int, int] | None:
    begin, end = int(image.begins.ravel()[0]), int(image.ends.ravel()[0])
    return (begin, end) if end else None


def _gaps(images: list[BlockPlaces], size: int, least: int) -> Parts:
    """What lies between the blocks of all images, where it is more than so many bytes."""
    begins = np.concatenate([image.begins.ravel() for image in images])
    ends = np.concatenate([image.ends.ravel() for image in images])
    order = np.argsort(begins[ends > 0], kind="stable")
    begins, ends = begins[ends > 0][order], np.maximum.accumulate(ends[ends > 0][order])
    starts, stops = np.append(0, ends), np.append(begins, size)
    return [(int(a), int(b)) for a, b in zip(starts, stops, strict=True) if b - a > least]
