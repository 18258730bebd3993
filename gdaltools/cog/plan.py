"""The plan of a COG: everything that is decided before the first pixel is read.

>>> gt.plan_cog("scene.tif").levels
((800, 600), (400, 300))
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from dask.system import CPU_COUNT

from gdaltools import storage
from gdaltools.cog.encode.adaptive import Policy
from gdaltools.cog.encode.codec import Encoding
from gdaltools.cog.encode.profiles import CogProfile
from gdaltools.cog.overviews.halving import Rule, blended_palette
from gdaltools.cog.overviews.reduced import cascading_levels
from gdaltools.cog.pieces.geometry import LevelAxis, level_axes
from gdaltools.cog.pieces.pyramid import Work
from gdaltools.cog.pieces.sink import Sink
from gdaltools.cost.cog_memory import cog_memory_bound
from gdaltools.display import html
from gdaltools.display.shown import ShownInOneLine
from gdaltools.geo.crs import Bounds
from gdaltools.raster.facts import Facts
from gdaltools.raster.info import left_out_rows
from gdaltools.raster.picture import file_name
from gdaltools.raster.pixels.prepare import FileSource
from gdaltools.raster.pixels.raw import raw_source
from gdaltools.raster.pixels.source import RasterSource, Source
from gdaltools.storage import BlobTraits, Location
from gdaltools.warp.target import TileSource

# Sizes in ascending order: a failed upload repeats a whole block, so small blocks are preferred.
_UPLOAD_BLOCK_BYTES = (4 << 20, 16 << 20, 64 << 20, 1 << 30)


@dataclass(frozen=True, repr=False)
class CogPlan(ShownInOneLine):
    """How a COG will be written.

    Attributes
    ----------
    profile : CogProfile
        Codec, level, predictor, block size and resampling.
    levels : tuple of (int, int)
        Width and height of every level, the full resolution first.
    piece : (int, int)
        Rows and columns of the full resolution that one task holds.
    decode_first : bool
        Whether the source is first decoded into a scratch file: its format has no random access, or its
        stored blocks would be decoded too often.
    staged : bool
        Whether the source is first copied from Azure to the local disk.
    rereads : float
        How often a stored block of the source is decoded, on average; 1 means once.
    kept : bool
        Whether the overviews are copied from the source.
    estimated_bytes : int or None
        The file's estimated size, from a sample of its blocks; None if no estimate was requested.
    copies : bool
        Whether the file is copied byte by byte, because it already is the planned COG.
    side_cars : tuple of str
        Files beside a local source that are not read.
    policy : Policy or None
        The encoders of adaptive DEFLATE, if they were chosen for more than this COG; otherwise None.
    """

    source: Source
    facts: Facts
    profile: CogProfile
    encoding: Encoding
    levels: tuple[tuple[int, int], ...]
    piece: tuple[int, int]
    source_crs_wkt: str | None
    warps: bool
    decode_first: bool
    rereads: float
    kept: bool
    sparse: bool
    statistics: bool = False
    estimated_bytes: int | None = None
    staged: bool = False
    copies: bool = False
    side_cars: tuple[str, ...] = ()
    policy: Policy | None = None

    @property
    def location(self) -> Location | None:
        """The file that is read; None if the source is an array."""
        return self.source.location if isinstance(self.source, FileSource) else None

    def source_at(self, location: Location) -> Source:
        """Return the source with its bytes at `location`, by the fastest reader of that file.

        Examples
        --------
        >>> plan = gt.plan_cog("scene.tif")
        >>> type(plan.source_at(plan.location)).__name__  # the file is uncompressed
        'RawSource'
        """
        if not isinstance(self.source, FileSource):
            return self.source
        source = self.source.at(location)
        if isinstance(source, RasterSource) and not self.kept:  # only GDAL reads a file's overviews
            return raw_source(source, self.facts)
        return source

    @property
    def traits(self) -> BlobTraits:
        """Content type and access tier of a blob that holds the COG."""
        return BlobTraits(storage.COG_TYPE, self.profile.storage_tier.capitalize())

    @property
    def planes(self) -> int:
        """1 if a block holds all bands, otherwise the number of bands."""
        return self.facts.count if self.profile.interleave == "band" else 1

    @property
    def axes(self) -> tuple[tuple[LevelAxis, ...], tuple[LevelAxis, ...]]:
        """The grid of pieces of every level: its row axes, then its column axes."""
        block = self.profile.blocksize
        widths, heights = zip(*self.levels, strict=True)
        if self.kept:
            rows = tuple(LevelAxis(height, self.piece[0]) for height in heights)
            return rows, tuple(LevelAxis(width, self.piece[1]) for width in widths)
        return level_axes(heights, self.piece[0], block), level_axes(widths, self.piece[1], block)

    @property
    def pieces(self) -> int:
        """The number of pieces of the full resolution; one task reads each."""
        return math.ceil(self.levels[0][1] / self.piece[0]) * math.ceil(self.levels[0][0] / self.piece[1])

    @property
    def blocks(self) -> int:
        """The number of blocks of all levels, without masks."""
        return sum(self.level_blocks(level) for level in range(len(self.levels)))

    @property
    def cascading(self) -> int:
        """The number of levels, the full resolution included, that are computed from the level before."""
        facts, resampling = self.facts, self.profile.overview_resampling
        return cascading_levels(
            self.levels, resampling, facts.numpy_dtype, colour_table=facts.colormap is not None
        )

    def level_blocks(self, level: int) -> int:
        """Return the number of blocks of one level, without masks.

        Examples
        --------
        >>> plan = gt.plan_cog("scene.tif")
        >>> [plan.level_blocks(level) for level in range(len(plan.levels))]
        [4, 1]
        """
        width, height = self.levels[level]
        block = self.profile.blocksize
        return math.ceil(width / block) * math.ceil(height / block) * self.planes

    @property
    def upload_block_bytes(self) -> int | None:
        """The largest size in bytes of a blob block (not a TIFF block) in an upload to Azure.

        It is the smallest size with which the file fits the number of blocks that a blob may have; None if
        no size suffices.
        """
        for size in _UPLOAD_BLOCK_BYTES:
            if self.staged_blocks(size) <= storage.MOST_BLOCKS:
                return size
        return None

    def staged_blocks(self, size: int) -> int:
        """Return an upper bound for the number of blob blocks of at most `size` bytes.

        Examples
        --------
        >>> gt.plan_cog("scene.tif").staged_blocks(4 << 20) < 50_000
        True
        """
        rows, cols = self.axes
        block, pixel_bytes = self.profile.blocksize, self.facts.pixel_bytes
        parts = self.planes + (1 if self.facts.masked and self.planes > 1 else 0)
        total = 1
        for down, across in zip(rows, cols, strict=True):
            cuts = parts if across.count == 1 else parts * math.ceil(down.piece / block)
            piece_bytes = down.piece * min(across.piece, across.size) * pixel_bytes
            total += down.count * across.count * (cuts + piece_bytes // size)
        return total

    def memory_bytes(self, threads: int | None = None) -> int:
        """Return the most bytes that the process needs with `threads` concurrent tasks.

        The default is one task per core.

        Examples
        --------
        >>> plan = gt.plan_cog("scene.tif")
        >>> plan.memory_bytes(1) <= plan.memory_bytes(8)
        True
        """
        facts, (width, height) = self.facts, self.levels[0]
        return cog_memory_bound(
            width,
            height,
            facts.count,
            facts.numpy_dtype.itemsize,
            blocksize=self.profile.blocksize,
            piece=self.piece,
            planes=self.planes,
            masked=facts.masked,
            by_gdal=self.encoding.by_gdal,
            warps=self.warps,
            threads=threads,
        )

    def rule(self) -> Rule:
        """Return the rule by which overviews are computed.

        Examples
        --------
        >>> gt.plan_cog("scene.tif").rule().resampling
        'average'
        """
        facts = self.facts
        resampling = self.profile.overview_resampling
        palette = tuple((index, *colour) for index, colour in sorted((facts.colormap or {}).items()))
        return Rule(
            resampling,
            facts.dtype,
            facts.nodata,
            palette=blended_palette(resampling, palette) if facts.count == 1 else None,
            alpha=facts.hides,
            alphas=facts.own_alphas,
            sample_bits=facts.sample_bits,
        )

    def work(self, sink: Sink) -> Work:
        """Return what all tasks of the plan have in common; they store their blocks in `sink`.

        Examples
        --------
        >>> from gdaltools.cog.pieces.sink import MemorySink
        >>> len(gt.plan_cog("scene.tif").work(MemorySink()).rows)
        2
        """
        rows, cols = self.axes
        return Work(
            encoding=self.encoding,
            rule=self.rule(),
            rows=rows,
            cols=cols,
            planes=self.planes,
            bands_together=self.facts.count // self.planes,
            dtype=self.facts.numpy_dtype,
            sparse=self.sparse,
            statistics=self.statistics,
            kept=self.kept,
            sink=sink,
        )

    @property
    def limited_to(self) -> Bounds | None:
        """The area of use of the target CRS, in degrees, if the warp leaves out what lies beyond it."""
        warp = self.source.pixels.warp if isinstance(self.source, TileSource) else None
        return None if warp is None else warp.target.limited_to

    def _warped(self) -> str:
        if isinstance(self.source, TileSource) and self.source.pixels.warp is not None:
            return f", warped as it is read, {self.source.pixels.warp}"
        return ", warped as it is read" if self.warps else ""

    def _rows(self) -> dict[str, str]:
        profile, facts = self.profile, self.facts
        width, height = self.levels[0]
        across = "the whole width" if self.piece[1] >= width else f"{self.piece[1]} columns"
        level = f"level {profile.level}" if profile.level else ""
        if profile.size_tolerance is not None:
            level = f"adaptive, at most {profile.size_tolerance:.1%} larger than level 6"
        if profile.quality is not None:
            level = f"quality {profile.quality}"
        lines = {
            "source": self.source.name
            + (", brought to the local disk first" if self.staged else "")
            + self._warped(),
            "image": f"{width} x {height} pixels, {facts.count} x {facts.dtype}, by {profile.interleave}",
            "levels": ", ".join(f"{w} x {h}" for w, h in self.levels)
            + (" (the source's own)" if self.kept else f" ({profile.overview_resampling})"),
            "type": profile.type_text,
            "codec": ", ".join(
                part for part in (profile.compression, level, f"predictor {profile.predictor}") if part
            ),
            "blocks": f"{self.blocks} of {profile.blocksize} x {profile.blocksize}",
            "tasks": f"{self.pieces} pieces of {self.piece[0]} rows by {across}"
            + (", decoded once into a scratch file" if self.decode_first else ""),
            "decoding": "each stored block once"
            if self.rereads < 1.05
            else f"each stored block {self.rereads:.1f} times, as rows of blocks would not fit the memory",
            "memory": f"at most {self.memory_bytes() / 1e6:,.0f} MB on {CPU_COUNT} cores",
        }
        if self.estimated_bytes is not None:
            lines["size"] = f"about {self.estimated_bytes / 1e6:,.1f} MB"
        return lines | left_out_rows(self.limited_to)

    def plot(self, ax: Any = None) -> Any:
        """Draw the levels and return the matplotlib Axes; MissingExtra if matplotlib is not installed.

        Examples
        --------
        >>> gt.plan_cog("scene.tif").plot().get_title()
        'scene.tif'
        """
        from gdaltools.cog.plots import plot_pyramid

        return plot_pyramid(self.levels, ax, blocksize=self.profile.blocksize, title=self._about())

    def _about(self) -> str:
        return file_name(self.source.name)

    def _parts(self) -> Iterable[html.Html]:
        rows = (
            (f"1/{2**level}" if level else "full", f"{width:,} x {height:,}", self.level_blocks(level))
            for level, (width, height) in enumerate(self.levels)
        )
        yield html.table(("level", "pixels", "blocks"), rows)
