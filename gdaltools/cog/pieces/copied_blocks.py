"""A raster whose stored blocks go into the COG as they are; its pixels are read for the overviews only.

Each block is decoded once on the way, so that one that is damaged is noticed and not passed on.
`gdaltools.cog.write.reuse` decides of which rasters this may be said.
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
    """The stored blocks of a piece: bytes by (plane, block row); None where one of the row is not stored."""

    rows: dict[tuple[int, int], tuple[bytes, ...] | None] = field(repr=False)

    def row(self, plane: int, block_row: int) -> tuple[bytes, ...] | None:
        """A row of blocks, if all of it is stored."""
        return self.rows[plane, block_row]


@dataclass(frozen=True)
class CopiedSource:
    """A raster file, and where its blocks are.

    Attributes
    ----------
    tables : tuple of BlockTable
        Of the full resolution, and of the overviews where they are kept.
    jpeg_tables : bytes or None
        What all blocks of a JPEG-compressed file have in common.
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
        """What errors call it."""
        return self.raster.name

    @property
    def location(self) -> Location:
        """Where the raster is."""
        return self.raster.location

    def at(self, location: Location) -> Self:
        """The same, with its bytes elsewhere."""
        return replace(self, raster=self.raster.at(location))

    def read(
        self, rows: Span, cols: Span, dtype: np.dtype[Any], *, planes: int
    ) -> tuple[Pixels, Valid | None]:
        """As `RasterSource.read`."""
        return replace(self.raster, level=self.level).read(rows, cols, dtype, planes=planes)

    def stored(self, rows: Span, cols: Span) -> EncodedBlocks:
        """The blocks of a window that begins at the edge of a block.

        Raises
        ------
        CorruptRaster, StorageError
            The file has changed, or storage did not answer.
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
        """The template with the JPEG tables that the blocks were stored with."""
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
