"""The plan of an extraction: what each reader reads and in which order, decided before the first pixel.

A reader takes a group of tiles, a part of the grid that is as wide as memory allows, and goes through it from
top to bottom with one open file. Tiles beside and below each other get their rows from the same strips, so
each block of the source is decoded once for all of them. Groups follow the layout of the source: in rows if
it is stored in strips, along the Hilbert curve if it is stored in tiles.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from gdaltools.cog.plan import CogPlan
from gdaltools.cost.cog_memory import KERNEL_BYTES, strips_bytes
from gdaltools.cost.tiles_memory import CACHE_BYTES, STRIP_BYTES, extraction_memory_bound
from gdaltools.display.shown import ShownInOneLine
from gdaltools.errors import InvalidParameter
from gdaltools.geo.window import PixelWindow
from gdaltools.raster.dataset import CACHE_MB
from gdaltools.raster.pixels.blocks import Reading, StoredBlocks, reading_of
from gdaltools.storage import Location
from gdaltools.storage.staging import is_worth_staging
from gdaltools.tiles.extract.format import TileFormat
from gdaltools.tiles.extract.groups import Position, TileGroup, TileStrip, _by_group, _columns, hilbert
from gdaltools.tiles.scheme import TilingScheme
from gdaltools.warp.strips import WarpPlan
from gdaltools.warp.target import GridPixels, TargetPixels

# A group holds at most about this many bytes, and less if there would be too few groups for all threads.
_GROUP_BYTES = 256 << 20
_GROUPS_PER_THREAD = 4
# Groups should keep threads busy for this share of the time; otherwise the last groups become narrower. Below
# the second share even so, tiles are written one after the other, each by all threads.
_BUSY, _LEAST_BUSY = 0.95, 0.75
# Block cache for all threads together; groups become narrower rather than take more.
_MODEST_CACHE_BYTES = 256 << 20
# A strip of a source that can be read in any order: there narrow groups decode nothing in vain.
_ANY_ORDER_STRIP_BYTES = STRIP_BYTES // 3
# The most groups, and strips of each, that are sampled to estimate how often blocks are decoded.
_LOOKED_AT, _STRIPS_LOOKED_AT = 24, 48


@dataclass(frozen=True, repr=False)
class ExtractionPlan(ShownInOneLine):
    """The plan of an extraction.

    Attributes
    ----------
    tiles : int
        Number of tiles to write.
    groups : tuple of TileGroup
        Groups, in the order in which readers take them.
    side_by_side : bool
        Whether each thread writes groups of its own; else all threads write one tile after the other.
    reading : Reading
        How often stored blocks are decoded, estimated from sampled groups.
    cached : bool
        Whether a row of a group's cells, for every thread, fits GDAL's block cache.
    decode_first : bool
        Whether the source is first decoded once into a scratch file, any part of which can be read.
    staged : bool
        Whether the source is first copied from Azure to the local disk.
    estimated_bytes, estimated_seconds : number or None
        Estimates for all tiles together; None if they were not requested.
    """

    scheme: TilingScheme
    pixels: GridPixels
    layout: TileFormat
    blocks: StoredBlocks
    groups: tuple[TileGroup, ...]
    tiles: int
    total_pixels: int
    threads: int
    side_by_side: bool
    reading: Reading
    cached: bool
    decode_first: bool = False
    staged: bool = False
    estimated_bytes: int | None = None
    estimated_seconds: float | None = None

    @property
    def source(self) -> Location:
        """The raster that is read."""
        return self.file.location

    @property
    def file(self) -> TargetPixels:
        """The pixels of a plan that reads a file."""
        if not isinstance(self.pixels, TargetPixels):
            raise InvalidParameter(f"{self.pixels.name} is an array: only tiles of a file can do this")
        return self.pixels

    def part(self, group: TileGroup) -> ExtractionPlan:
        """Return the plan for one group, with only the pixels that it reads.

        Examples
        --------
        >>> plan = gt.plan_extraction("scene.tif", scheme)
        >>> plan.part(plan.groups[0]).groups == plan.groups[:1]
        True
        """
        windows = [self.scheme.window(*place) for place in group]
        top, left = min(w.row_off for w in windows), min(w.col_off for w in windows)
        extent = PixelWindow(
            row_off=top,
            col_off=left,
            height=max(w.row_off + w.height for w in windows) - top,
            width=max(w.col_off + w.width for w in windows) - left,
        )
        return replace(self, groups=(group,), pixels=self.pixels.part(extent))

    @property
    def warp(self) -> WarpPlan | None:
        """How pixels are warped; None if tiles are plain windows."""
        return self.pixels.warp

    @property
    def rereads(self) -> float:
        """How often a stored block is decoded on average; 1 means once."""
        return self.reading.rereads if self.cached else self.reading.rereads_without_cache

    @property
    def in_any_order(self) -> bool:
        """Whether any part of the source can be read without decoding anything beside it."""
        return self.decode_first or self.file.raw is not None

    @property
    def cache_bytes(self) -> int:
        """The size of GDAL's block cache."""
        options = self.reading.cache_bytes * self.threads
        return min(CACHE_BYTES, max(CACHE_MB << 20, options))

    @property
    def _more_cache(self) -> int:
        return self.cache_bytes - (CACHE_MB << 20)

    def positions(self) -> Iterator[Position]:
        """Yield the row and column of every tile, in the order of the groups.

        Examples
        --------
        >>> plan = gt.plan_extraction("scene.tif", scheme, tiles=["tile_0_0", "tile_0_1"])
        >>> sorted(plan.positions())
        [(0, 0), (0, 1)]
        """
        return (place for group in self.groups for place in group)

    def plan_of(self, place: Position) -> CogPlan:
        """Return the plan for writing the tile at `place`.

        Examples
        --------
        >>> plan = gt.plan_extraction("scene.tif", scheme, as_cog=True)
        >>> plan.plan_of((2, 3)).levels[0]
        (128, 152)
        """
        return self.layout.plan_of(self.scheme, self.scheme.window(*place), self.pixels)

    def memory_bytes(self, threads: int | None = None) -> int:
        """Return the most memory that a process with `threads` threads needs (by default those of the plan).

        Examples
        --------
        >>> plan = gt.plan_extraction("scene.tif", scheme, threads=4)
        >>> plan.memory_bytes(1) <= plan.memory_bytes()
        True
        """
        threads = threads or self.threads
        if not self.side_by_side:
            tile = self.plan_of(next(self.positions()))
            rows, cols = (min(pair) for pair in zip(tile.piece, tile.levels[0][::-1], strict=True))
            piece = rows * cols * tile.facts.pixel_bytes
            kernels = KERNEL_BYTES if self.warp is not None else 0
            return tile.memory_bytes(threads) + threads * strips_bytes(piece) + kernels + self._more_cache
        busy = min(threads, len(self.groups))
        widest = max(self._width(group) for group in self.groups)
        return extraction_memory_bound(
            self.layout.facts.pixel_bytes,
            width=widest,
            tile_width=self.scheme.tile_size,
            step=self.pixels.step,
            block=self.layout.profile.blocksize,
            threads=busy,
            cache_bytes=min(CACHE_BYTES, max(CACHE_MB << 20, self.reading.cache_bytes * busy)),
            cogs=self.layout.cogs,
            warps=self.warp is not None,
        )

    def _width(self, group: TileGroup) -> int:
        windows = [self.scheme.window(group.rows.start, col) for col in group.cols]
        return windows[-1].col_off + windows[-1].width - windows[0].col_off

    def _rows(self) -> dict[str, str]:
        scheme, profile = self.scheme, self.layout.profile
        level = f" level {profile.level}" if profile.level else ""
        if profile.size_tolerance is not None:
            level = f", adaptive, at most {profile.size_tolerance:.1%} larger than level 6"
        kind = "COGs" if self.layout.cogs else "plain tiles"
        how = "plain windows of the source, bit-identical"
        if self.warp is not None:
            how = f"warped in cells of {self.warp.cell} pixels, {self.warp}"
        lines = {
            "source": f"{self.source}, blocks of {self.blocks.cols} x {self.blocks.rows} pixels"
            + (", brought to the local disk first" if self.staged else ""),
            "tiles": f"{self.tiles} of up to {scheme.tile_size} pixels that share {scheme.overlap}, "
            f"{self.total_pixels / 1e6:,.1f} Mpixels",
            "pixels": how,
            "written": f"{kind}, {profile.compression}{level}, predictor {profile.predictor}, "
            f"blocks of {profile.blocksize}",
            "order": self._spec(),
            "decoding": self._decoding(),
            "memory": f"at most {self.memory_bytes() / 1e6:,.0f} MB on {self.threads} threads",
        }
        if self.estimated_bytes is not None:
            lines["size"] = f"about {self.estimated_bytes / 1e6:,.1f} MB"
        if self.estimated_seconds is not None:
            lines["time"] = f"about {self.estimated_seconds:,.0f} s"
        return lines

    def _about(self) -> str:
        return self.source.filename

    def _spec(self) -> str:
        if not self.side_by_side:
            return "one tile after the other, each by all threads"
        most = max(len(group.rows) * len(group.cols) for group in self.groups)
        layout = "in rows, as the source's strips" if self.blocks.striped else "along Hilbert's curve"
        return f"{len(self.groups)} groups of up to {most} tiles, {layout}"

    def _decoding(self) -> str:
        if self.file.raw is not None:
            return "none, as nothing is compressed: only what is needed of a block is read"
        if self.decode_first:
            return f"each stored block once, into a scratch file of {self.blocks.decoded_bytes / 1e6:,.0f} MB"
        if self.rereads < 1.02:
            return "each stored block once"
        if not self.side_by_side:
            why = "pieces of a tile are read apart from each other"
        elif not self.cached:
            why = (
                f"a row of cells takes {self.reading.cache_bytes / 1e6:,.0f} MB of decoded blocks for each "
                f"thread, and {CACHE_BYTES / 2**20:g} MB is the limit for all"
            )
        elif self.blocks.striped and min(len(group.cols) for group in self.groups) < self.scheme.cols:
            why = "strips are as wide as the raster and groups, for memory or to busy all threads, are not"
        else:
            why = "blocks on the border of two groups are read by both"
        return f"each stored block {self.rereads:.2f} times, as {why}"


def grouped(
    scheme: TilingScheme,
    pixels: TargetPixels,
    layout: TileFormat,
    blocks: StoredBlocks,
    chosen: Sequence[Position] | None,
    threads: int,
    *,
    decode_first: bool = False,
) -> ExtractionPlan:
    """Return the plan for the `chosen` tiles (None for all) on `threads` threads."""
    only = None if chosen is None or len(chosen) == len(scheme) else frozenset(chosen)
    tiles = len(scheme) if chosen is None else len(chosen)
    plan = ExtractionPlan(
        scheme=scheme,
        pixels=pixels,
        layout=layout,
        blocks=blocks,
        groups=(),
        tiles=tiles,
        total_pixels=_total_pixels(scheme, chosen),
        threads=threads,
        side_by_side=True,
        reading=Reading(0, 0, 0, 0),
        cached=True,
        decode_first=decode_first,
        staged=is_worth_staging(pixels.location, tiles / len(scheme)),
    )
    widest = max(
        1,
        (_ANY_ORDER_STRIP_BYTES if plan.in_any_order else STRIP_BYTES)
        // (pixels.step * layout.facts.pixel_bytes),
    )
    by_rows = layout.by_rows(max(scheme.window(0, col).width for col in range(scheme.cols)))
    found: list[ExtractionPlan] = []
    while True:
        plan = replace(plan, groups=_balanced(plan, only, widest))
        plan = replace(plan, side_by_side=by_rows and _busy(plan, plan.groups) >= _LEAST_BUSY)
        if plan.in_any_order:
            return plan
        found.append(_looked_at(plan))
        # A narrower strip needs less cache; it decodes blocks again, but fewer than a thrashing cache would.
        if found[-1].reading.cache_bytes * threads <= _MODEST_CACHE_BYTES or not plan.side_by_side:
            return found[-1]
        if max(len(group.cols) for group in plan.groups) == 1:
            return min(found, key=lambda each: (not each.cached, each.reading.cache_bytes))
        widest = max(plan._width(group) for group in plan.groups) // 2


def _balanced(plan: ExtractionPlan, only: frozenset[Position] | None, widest: int) -> tuple[TileGroup, ...]:
    """Return groups at most `widest` pixels wide; the last are narrower if threads would wait for them."""
    groups = _groups(plan, only, _columns(plan.scheme, widest))
    if plan.in_any_order:
        # Tiles take different times and narrow groups cost little here: so no thread waits long at the end.
        return groups[: -2 * plan.threads] + tuple(
            part for group in groups[-2 * plan.threads :] for part in group.split(len(group.cols))
        )
    best, most = groups, _busy(plan, groups)
    for last in (plan.threads, 2 * plan.threads):
        whole, rest = groups[:-last], groups[-last:]
        for parts in range(2, 1 + max((len(group.cols) for group in rest), default=1)):
            if most >= _BUSY:
                return best
            found = whole + tuple(part for group in rest for part in group.split(parts))
            if (busy := _busy(plan, found)) > most:
                best, most = found, busy
    return best


def _groups(
    plan: ExtractionPlan, only: frozenset[Position] | None, columns: Sequence[range]
) -> tuple[TileGroup, ...]:
    total = plan.total_pixels * plan.layout.facts.pixel_bytes
    size = min(_GROUP_BYTES, total // (_GROUPS_PER_THREAD * plan.threads))
    rows = list(_rows(plan, columns, size))
    parts = _by_group(only, rows, columns)
    found = [
        (
            (down, across),
            TileGroup(rows[down], columns[across], None if only is None else parts[down, across]),
        )
        for down in range(len(rows))
        for across in range(len(columns))
        if only is None or (down, across) in parts
    ]
    if not plan.blocks.striped:
        side = max((max(place) for place, _ in found), default=0) + 1
        found.sort(key=lambda each: hilbert(each[0][0], each[0][1], side))
    return tuple(group for _, group in found)


def _rows(plan: ExtractionPlan, columns: Sequence[range], size: int) -> Iterator[range]:
    """Yield rows of tiles that make up about `size` bytes in a group."""
    scheme = plan.scheme
    width = (
        max(sum(scheme.window(0, col).width for col in cols) for cols in columns)
        * plan.layout.facts.pixel_bytes
    )
    first, held = 0, 0
    for row in range(scheme.rows):
        held += scheme.window(row, 0).height * width
        if held >= size or row == scheme.rows - 1:
            yield range(first, row + 1)
            first, held = row + 1, 0


def _busy(plan: ExtractionPlan, groups: Sequence[TileGroup]) -> float:
    """Return the share of the threads' time that groups fill; the first free thread takes the next group."""
    ends = [0] * plan.threads
    total = 0
    for group in groups:
        pixels = sum(plan.scheme.window(*place).pixels for place in group)
        heapq.heapreplace(ends, ends[0] + pixels)
        total += pixels
    return total / (plan.threads * max(ends)) if total else 1.0


def _looked_at(plan: ExtractionPlan) -> ExtractionPlan:
    """Return the plan with how often blocks are decoded.

    Of many groups only some are sampled: the first, the middle and the last ones.
    """
    step = plan.pixels.step
    count, part = len(plan.groups), _LOOKED_AT // 3
    begins = (0, (count - part) // 2, count - part)
    chosen = (
        {begin + index for begin in begins for index in range(part)} if count > _LOOKED_AT else range(count)
    )
    readers: list[Iterator[TileStrip]] = []
    for group in (plan.groups[index] for index in sorted(chosen)):
        strips = (strip for strip, _ in islice(group.strips(plan.scheme, step), _STRIPS_LOOKED_AT))
        if plan.side_by_side:
            readers.append(strips)
        else:
            readers += [iter([part]) for part in _pieces(plan, group)]
    reading = reading_of(plan.blocks, readers, plan.warp.cell if plan.warp else plan.scheme.tile_size)
    return replace(plan, reading=reading, cached=reading.cache_bytes * plan.threads <= CACHE_BYTES)


def _pieces(plan: ExtractionPlan, group: TileGroup) -> Iterator[TileStrip]:
    for place in islice(group, _LOOKED_AT):
        window, tile = plan.scheme.window(*place), plan.plan_of(place)
        for top in range(0, window.height, tile.piece[0]):
            for left in range(0, window.width, tile.piece[1]):
                yield (
                    window.row_off + top,
                    window.row_off + min(top + tile.piece[0], window.height),
                    window.col_off + left,
                    window.col_off + min(left + tile.piece[1], window.width),
                )


def _total_pixels(scheme: TilingScheme, chosen: Sequence[Position] | None) -> int:
    if chosen is None:
        heights = sum(scheme.window(row, 0).height for row in range(scheme.rows))
        return heights * sum(scheme.window(0, col).width for col in range(scheme.cols))
    return sum(scheme.window(*place).pixels for place in chosen)
