"""An uncompressed TIFF whose samples are read directly from the file.

GDAL copies them into its block cache and out again, which takes several times as long as reading them.
`raw_source` decides which files can be read so; all others are left to GDAL.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from gdaltools import storage
from gdaltools.errors import CorruptRaster, StorageError, UnsupportedRaster
from gdaltools.geo.window import Span
from gdaltools.raster import tiff
from gdaltools.raster.facts import Facts
from gdaltools.raster.pixels.source import Pixels, RasterSource, Valid
from gdaltools.storage import Location

# TIFF 6.0: the photometric interpretations whose samples GDAL passes on unchanged.
_AS_THEY_ARE = {(0,), (1,), (2,), (3,)}
_TAGS = frozenset({tiff.BITS_PER_SAMPLE, tiff.PHOTOMETRIC, tiff.FILL_ORDER})
# A table of more blocks than this is not sent to every task.
_MOST_BLOCKS = 1 << 20


@dataclass(frozen=True)
class RawSource:
    """An uncompressed TIFF and the offsets of its blocks.

    Attributes
    ----------
    location : Location
        The local file, perhaps pinned to a version.
    width : int
        Width of the raster, in pixels.
    block : (int, int)
        Rows and columns of a stored block; a strip is as wide as the raster.
    samples : int
        Samples of a pixel that lie together in a block: all, or 1.
    offsets : ndarray of uint64, shape (stored planes, block rows, block cols)
        Where each block begins in the file.
    """

    location: Location
    width: int
    block: tuple[int, int]
    samples: int
    offsets: NDArray[np.uint64] = field(repr=False)

    @property
    def name(self) -> str:
        """The name that errors use."""
        return str(self.location)

    def read(
        self, rows: Span, cols: Span, dtype: np.dtype[Any], *, planes: int
    ) -> tuple[Pixels, Valid | None]:
        """As `Source.read`; there is no mask.

        Raises
        ------
        CorruptRaster, SourceChanged, StorageError
            The file is shorter than it was, is no longer the pinned version, or cannot be read.
        """
        stored = np.empty((len(self.offsets), len(rows), len(cols), self.samples), dtype)
        try:
            with cast(Path, self.location.path).open("rb", buffering=0) as stream:
                for plane, offsets in zip(stored, self.offsets, strict=True):
                    self._fill(stream.fileno(), plane, offsets, rows, cols)
        except OSError as error:
            raise StorageError(f"{self.name} cannot be read: {error.strerror}") from error
        storage.check_unchanged(self.location)
        if planes == len(stored):
            return stored, None
        if planes == 1:
            return np.ascontiguousarray(stored[..., 0].transpose(1, 2, 0))[None], None
        return np.ascontiguousarray(stored[0].transpose(2, 0, 1))[..., None], None

    def _fill(
        self, descriptor: int, plane: Pixels, offsets: NDArray[np.uint64], rows: Span, cols: Span
    ) -> None:
        pixel = plane.dtype.itemsize * self.samples
        high, wide = self.block
        if len(cols) == wide == self.width:
            for first, last, offset in _runs(offsets[:, 0], rows, high, wide * pixel):
                self._read(descriptor, plane[first - rows.start : last - rows.start], offset)
            return
        if wide == self.width:  # of strips only the requested columns, of tiles whole rows
            for row in range(rows.start, rows.stop):
                offset = int(offsets[row // high, 0]) + (row % high * wide + cols.start) * pixel
                self._read(descriptor, plane[row - rows.start], offset)
            return
        for down, across in product(
            range(rows.start // high, -(-rows.stop // high)), range(cols.start // wide, -(-cols.stop // wide))
        ):
            lines = Span(max(rows.start, down * high), min(rows.stop, (down + 1) * high))
            part = Span(max(cols.start, across * wide), min(cols.stop, (across + 1) * wide))
            tile = np.empty((len(lines), wide, self.samples), plane.dtype)
            self._read(descriptor, tile, int(offsets[down, across]) + lines.start % high * wide * pixel)
            plane[
                lines.start - rows.start : lines.stop - rows.start,
                part.start - cols.start : part.stop - cols.start,
            ] = tile[:, part.start - across * wide : part.stop - across * wide]

    def _read(self, descriptor: int, part: Pixels, offset: int) -> None:
        view = part.reshape(-1).view(np.uint8).data
        while view:
            taken = os.preadv(descriptor, [view], offset)
            if not taken:
                raise CorruptRaster(f"{self.name} ended while it was read at byte {offset}")
            view, offset = view[taken:], offset + taken


def _runs(
    offsets: NDArray[np.uint64], rows: Span, high: int, row_bytes: int
) -> Iterator[tuple[int, int, int]]:
    """Yield first row, row after the last, and offset of strips that follow each other in the file."""
    start, begin = rows.start, int(offsets[rows.start // high]) + rows.start % high * row_bytes
    for strip in range(rows.start // high + 1, -(-rows.stop // high)):
        top = strip * high
        if int(offsets[strip]) != begin + (top - start) * row_bytes:
            yield start, top, begin
            start, begin = top, int(offsets[strip])
    yield start, rows.stop, begin


def raw_source(source: RasterSource, facts: Facts) -> RawSource | RasterSource:
    """Return a source that reads without GDAL, if that gives the same pixels; else `source` unchanged.

    Raises
    ------
    StorageError
        The file cannot be read.
    """
    path = source.location.path
    whole_samples = facts.sample_bits is None and not facts.dtype.startswith("complex_int")
    if path is None or source.masked or source.level is not None or not whole_samples:
        return source
    dtype = facts.numpy_dtype
    try:
        with path.open("rb") as stream:
            layout = tiff.read_layout(stream, name=source.name)
            ifd = layout.ifds[0]
            values = tiff.read_values(stream, ifd, _TAGS, name=source.name)
    except (CorruptRaster, UnsupportedRaster):
        return source  # GDAL reads more kinds of file, or reports what is wrong
    except OSError as error:
        raise StorageError(f"{source.name} cannot be read: {error.strerror}") from error
    if layout.little_endian != (sys.byteorder == "little") or not _stored_plainly(ifd, values, facts):
        return source
    planes = ifd.samples if ifd.planar == 2 else 1
    shape = planes, -(-ifd.height // ifd.block_height), -(-ifd.width // ifd.block_width)
    samples = ifd.samples // planes
    held = np.full(shape, ifd.block_height, np.uint64)
    if not ifd.tiled:
        held[:, -1] = ifd.height - (shape[1] - 1) * ifd.block_height
    sizes = held * np.uint64(ifd.block_width * samples * dtype.itemsize)
    if (ifd.offsets == 0).any() or (ifd.counts.reshape(shape) < sizes).any():
        return source
    block = ifd.block_height, ifd.block_width
    return RawSource(source.location, ifd.width, block, samples, ifd.offsets.reshape(shape))


def _stored_plainly(ifd: tiff.Ifd, values: Mapping[int, Any], facts: Facts) -> bool:
    """Return whether the image holds the samples of `facts`, stored as GDAL passes them on."""
    return (
        ifd.compression == 1
        and (ifd.width, ifd.height, ifd.samples) == (facts.width, facts.height, facts.count)
        and set(values.get(tiff.BITS_PER_SAMPLE, (1,))) == {facts.numpy_dtype.itemsize * 8}
        and values.get(tiff.PHOTOMETRIC) in _AS_THEY_ARE
        and values.get(tiff.FILL_ORDER, (1,)) == (1,)
        and ifd.offsets.size <= _MOST_BLOCKS
    )
