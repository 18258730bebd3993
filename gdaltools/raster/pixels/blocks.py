"""Which stored blocks of a raster (TIFF strips or tiles) are read for windows of a target grid.

A block that two readers need is decoded by both, and one that has left the block cache is decoded again.
These figures decide the order of an extraction, and its plan reports them.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from rasterio.io import DatasetReader

from gdaltools.geo.crs import transform_points
from gdaltools.geo.grid import Grid
from gdaltools.raster.dataset import numpy_dtypes
from gdaltools.runtime import graph

# Drivers whose files are decoded fastest as a whole, or can only be decoded from the top down.
_SEQUENTIAL = ("PNG", "JPEG", "WEBP", "GIF", "JP2OpenJPEG")
# If blocks would be decoded more often than this, the raster is decoded once, into a scratch file.
_MOST_REREADS = 2.0
# Of a file that is decoded as a whole, most is at least this share.
_MOST_SHARE = 0.5
# The share of the free space that the scratch file may take; the output may go to the same disk.
_SPACE_SHARE = 0.5

# How far a kernel reaches beyond a pixel's own place, in source pixels.
_MARGIN = 4
_NODES = 3
# Parts of the grid, along each side, that are checked for whether they meet the source at all.
_LOOKS = 64
# The cache's size as a multiple of the blocks of one strip.
_SPARE = 1.05


@dataclass(frozen=True)
class StoredBlocks:
    """The blocks of a raster, and the grid that is read from them.

    Attributes
    ----------
    rows, cols : int
        Size of one block, in pixels.
    block_bytes : int
        Bytes of one decoded block, all bands together.
    warps : bool
        Whether the target's grid differs from the source's.
    compressed : bool
        Whether a block takes more time to decode than to read.
    sequential : bool
        Whether the file is decoded from the top down, as a whole.
    """

    source: Grid
    target: Grid
    rows: int
    cols: int
    block_bytes: int
    warps: bool
    compressed: bool
    sequential: bool

    @property
    def decoded_bytes(self) -> int:
        """Bytes of the whole raster, decoded."""
        return self.block_bytes // (self.rows * self.cols) * self.source.width * self.source.height

    @property
    def shape(self) -> tuple[int, int]:
        """The number of rows and of columns of blocks."""
        return -(-self.source.height // self.rows), -(-self.source.width // self.cols)

    @property
    def striped(self) -> bool:
        """Whether each block is as wide as the raster."""
        return self.shape[1] == 1

    def is_worth_decoding_first(self, rereads: float, *, share: float = 1.0) -> bool:
        """Return whether to decode the raster once, into a scratch file of which any part can be read.

        That pays if most of a file that is decoded as a whole is read, or if each block would be decoded
        `rereads` times, and the disk has room for it. `share` of the raster is
        read. Other machines of a cluster would not see the scratch file.
        """
        whole = self.sequential and share >= _MOST_SHARE
        often = whole or (self.compressed and rereads > _MOST_REREADS)
        if not often or graph.cluster_threads():
            return False
        return self.decoded_bytes < _SPACE_SHARE * shutil.disk_usage(tempfile.gettempdir()).free

    def misses(self) -> bool:
        """Return whether it is certain that no pixel of the target lies in the source."""
        if not self.warps:
            return False
        share = np.linspace(0, 1, _LOOKS + 1)
        x, y = self._placed(*np.meshgrid(share * self.target.width, share * self.target.height))
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            return False
        near = np.ones((_LOOKS, _LOOKS), bool)
        for values, extent in ((x, self.source.width), (y, self.source.height)):
            corners = np.stack([values[:-1, :-1], values[1:, :-1], values[:-1, 1:], values[1:, 1:]])
            low, high = corners.min(axis=0), corners.max(axis=0)
            # Between its corners a part of the grid bends by far less than its size.
            near &= (high + (high - low) > 0) & (low - (high - low) < extent)
        return not near.any()

    def _placed(
        self, cols: NDArray[np.float64], rows: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the positions, in source pixels, of points in target pixels; arrays of any shape."""
        x, y = self.target.world(cols.ravel(), rows.ravel())
        x, y = transform_points(self.target.crs, self.source.crs, x, y)
        with np.errstate(invalid="ignore"):
            x, y = self.source.pixels(x, y)
        return x.reshape(cols.shape), y.reshape(cols.shape)

    def cells(self, top: int, bottom: int, left: int, right: int, width: int) -> list[tuple[slice, slice]]:
        """Return block rows and columns for each cell, `width` pixels wide, of a strip of the target grid.

        A cell outside the source is left out.
        """
        edges = [*range(left, right, width), right]
        if not self.warps:
            rows = slice(top // self.rows, -(-bottom // self.rows))
            return [
                (rows, slice(first // self.cols, -(-last // self.cols))) for first, last in pairwise(edges)
            ]
        share = np.linspace(0, 1, _NODES)
        cols = np.concatenate([first + share * (last - first) for first, last in pairwise(edges)])
        x, y = self._placed(*np.meshgrid(cols, top + share * (bottom - top)))
        shape = (_NODES, len(edges) - 1, _NODES)
        return [
            found
            for index in range(len(edges) - 1)
            if (found := self._around(x.reshape(shape)[:, index], y.reshape(shape)[:, index])) is not None
        ]

    def _around(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[slice, slice] | None:
        known = np.isfinite(x) & np.isfinite(y)
        if not known.any():
            return None
        spans = []
        for values, size, extent in (
            (y[known], self.rows, self.source.height),
            (x[known], self.cols, self.source.width),
        ):
            first = max(0, int(np.clip(values.min() - _MARGIN, -1, extent + 1)))
            last = min(extent, int(np.clip(values.max() + _MARGIN, -1, extent + 1)) + 1)
            if first >= last:
                return None
            spans.append(slice(first // size, -(-last // size)))
        return spans[0], spans[1]


def stored_blocks(dataset: DatasetReader, source: Grid, target: Grid, *, warps: bool) -> StoredBlocks:
    """Return the blocks of an open raster that is read on the grid `target`."""
    rows, cols = dataset.block_shapes[0]
    itemsize = sum(np.dtype(name).itemsize for name in numpy_dtypes(dataset))
    sequential = dataset.driver in _SEQUENTIAL
    return StoredBlocks(
        source,
        target,
        rows,
        cols,
        rows * cols * itemsize,
        warps=warps,
        compressed=dataset.compression is not None or sequential,
        sequential=sequential,
    )


@dataclass(frozen=True)
class Reading:
    """What readers of strips decode.

    Attributes
    ----------
    needed : int
        Blocks that at least one reader needs.
    decoded : int
        How often a block is decoded, over all blocks and readers.
    cache_bytes : int
        The cache that one reader needs so that its own strips decode no block twice.
    thrashed : int
        What `decoded` would be without that cache.
    """

    needed: int
    decoded: int
    cache_bytes: int
    thrashed: int

    @property
    def rereads(self) -> float:
        """How often a needed block is decoded, on average."""
        return self.decoded / self.needed if self.needed else 1.0

    @property
    def rereads_without_cache(self) -> float:
        """How often a needed block is decoded without the cache, on average."""
        return self.thrashed / self.needed if self.needed else 1.0


def reading_of(
    blocks: StoredBlocks, readers: Sequence[Iterator[tuple[int, int, int, int]]], width: int
) -> Reading:
    """Return what `readers` decode; each reads strips (top, bottom, left, right) of the target in cells."""
    anybody = np.zeros(blocks.shape, bool)
    decoded = thrashed = largest = 0
    for strips in readers:
        own = np.zeros(blocks.shape, bool)
        for strip in strips:
            cells = blocks.cells(*strip, width)
            if not cells:
                continue
            box = _box(cells)
            together = np.zeros(tuple(part.stop - part.start for part in box), bool)
            for rows, cols in cells:
                thrashed += (rows.stop - rows.start) * (cols.stop - cols.start)
                together[_within(rows, box[0]), _within(cols, box[1])] = True
            own[box] |= together
            largest = max(largest, int(together.sum()))
        decoded += int(own.sum())
        anybody |= own
    # The cache drops the least recently used blocks first: those of a strip are still there for the next
    # strip, which needs some of them again.
    return Reading(int(anybody.sum()), decoded, int(_SPARE * largest * blocks.block_bytes), thrashed)


def _box(cells: Sequence[tuple[slice, slice]]) -> tuple[slice, slice]:
    return (
        slice(min(rows.start for rows, _ in cells), max(rows.stop for rows, _ in cells)),
        slice(min(cols.start for _, cols in cells), max(cols.stop for _, cols in cells)),
    )


def _within(span: slice, box: slice) -> slice:
    return slice(span.start - box.start, span.stop - box.start)
