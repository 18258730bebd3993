"""A raster whose stored blocks are copied into the COG unchanged; only the overviews use its pixels.

Each block is still decoded once, so a damaged block is noticed and not copied. `gdaltools.cog.write.reuse`
decides which rasters qualify.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from gdaltools import storage
from gdaltools.cog.format.template import Tag, Template
from gdaltools.errors import CorruptRaster
from gdaltools.geo.window import Span
from gdaltools.raster import tiff
from gdaltools.raster.pixels.source import Pixels, RasterSource, Valid
from gdaltools.storage import Location

# TIFF 6.0 §2: the type of JPEGTables (TIFF Technical Note 2).
_UNDEFINED = 7


@dataclass(frozen=True)
class BlockTable:
    """Offsets and sizes of the blocks of an image, shape (planes, block rows, block cols)."""

    offsets: NDArray[np.uint64] = field(repr=False)
    counts: NDArray[np.uint64] = field(repr=False)


@dataclass(frozen=True)
class EncodedBlocks:
    """The stored blocks of a piece by (plane, block row); None for a row that lacks a stored block."""

    rows: dict[tuple[int, int], tuple[bytes, ...] | None] = field(repr=False)

    def row(self, plane: int, block_row: int) -> tuple[bytes, ...] | None:
        """Return a row of blocks if all of them are stored, otherwise None."""
        return self.rows[plane, block_row]


@dataclass(frozen=True)
class CopiedSource:
    """A raster file, and the offsets of its stored blocks.

    Attributes
    ----------
    tables : tuple of BlockTable
        The tables of the full resolution and, if they are kept, of the overviews.
    jpeg_tables : bytes or None
        The JPEG tables that all blocks of a JPEG-compressed file share.
    level : int or None
        As `RasterSource.level`.
    """

    raster: RasterSource
    blocksize: int
    tables: tuple[BlockTable, ...]
    jpeg_tables: bytes | None = None
    level: int | None = None

    @property
    def name(self) -> str:
        """The name of the source in errors."""
        return self.raster.name

    @property
    def location(self) -> Location:
        """The location of the raster."""
        return self.raster.location

    @property
    def masked(self) -> bool:
        """Whether the raster's mask is read."""
        return self.raster.masked

    def at(self, location: Location) -> Self:
        """Return the same source with its bytes at `location`."""
        return replace(self, raster=self.raster.at(location))

    def read(
        self, rows: Span, cols: Span, dtype: np.dtype[Any], *, planes: int
    ) -> tuple[Pixels, Valid | None]:
        """Read a window as `RasterSource.read` does."""
        return replace(self.raster, level=self.level).read(rows, cols, dtype, planes=planes)

    def stored(self, rows: Span, cols: Span) -> EncodedBlocks:
        """Return the stored blocks of a window that begins at the edge of a block.

        Raises
        ------
        CorruptRaster, StorageError
            The file has changed, or storage does not answer.
        """
        table = self.tables[0 if self.level is None else self.level + 1]
        size = self.blocksize
        first, last = rows.start // size, -(-rows.stop // size)
        across = slice(cols.start // size, -(-cols.stop // size))
        found: dict[tuple[int, int], tuple[bytes, ...] | None] = {}
        with storage.opening(self.raster.location) as stream:
            for plane, line in np.ndindex(len(table.offsets), last - first):
                offsets = table.offsets[plane, first + line, across]
                counts = table.counts[plane, first + line, across]
                if not (offsets.all() and counts.all()):
                    found[plane, line] = None
                    continue
                blocks = []
                for offset, count in zip(offsets.tolist(), counts.tolist(), strict=True):
                    stream.seek(offset)
                    block = stream.read(count)
                    if len(block) != count:
                        raise CorruptRaster(f"{self.name} ended while it was read at byte {offset}")
                    blocks.append(block)
                found[plane, line] = tuple(blocks)
        return EncodedBlocks(found)

    def tags(self, template: Template, *, kept: bool) -> Template:
        """Return the template with the JPEG tables of the stored blocks."""
        if not any(tag.code == tiff.JPEG_TABLES for tag in template.main) and self.jpeg_tables is None:
            return template
        return replace(
            template,
            main=self._with_tables(template.main),
            overview=self._with_tables(template.overview) if kept else template.overview,
        )

    def _with_tables(self, tags: tuple[Tag, ...]) -> tuple[Tag, ...]:
        others = [tag for tag in tags if tag.code != tiff.JPEG_TABLES]
        if self.jpeg_tables is not None:
            others.append(Tag(tiff.JPEG_TABLES, _UNDEFINED, len(self.jpeg_tables), self.jpeg_tables))
        return tuple(sorted(others, key=lambda tag: tag.code))
