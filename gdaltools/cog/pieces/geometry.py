"""The geometry of a COG's pieces, as pure arithmetic: how levels are cut, and what each piece is built from.

Each level is a grid of pieces whose sides are whole blocks. A piece of the full resolution is read from the
source; a piece of an overview is joined from the pieces below it in the level before. If a level has an odd
side, or its resampling reaches further than two pixels, the last pixels along a seam need pixels of the
neighbouring piece. For them, each piece passes on thin strips of its border.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from gdaltools.cog.overviews.axis import HalvingAxis
from gdaltools.cog.overviews.halving import Rule, needed
from gdaltools.geo.window import Span

# The source rows (or columns) on each side of a seam from which the pending pixels there are computed.
_STRIP_AVERAGE = 4
_STRIP_KERNEL = 24


@dataclass(frozen=True)
class LevelAxis:
    """One axis of one level: its size in pixels and in pieces."""

    size: int
    piece: int

    @property
    def count(self) -> int:
        """The number of pieces along the axis."""
        return -(-self.size // self.piece)

    def span(self, index: int) -> Span:
        """Return the pixels of a piece along the axis."""
        return Span(index * self.piece, min((index + 1) * self.piece, self.size))


@dataclass(frozen=True)
class LevelStep:
    """One axis of the step from a level to the next."""

    source: LevelAxis
    target: LevelAxis
    rule: Rule

    @cached_property
    def joined(self) -> bool:
        """Whether pieces of the target need pixels from both sides of a seam of the source."""
        return self.source.count > 1 and any(len(self.pending(seam)) for seam in range(1, self.source.count))

    @property
    def strip(self) -> int:
        """The width in pixels of the border strips that a piece passes on."""
        return _STRIP_KERNEL if self.rule.by_gdal else _STRIP_AVERAGE

    def axis(self, window: Span, available: Span) -> HalvingAxis:
        """Return the axis that computes `window` of the target from `available` of the source."""
        return HalvingAxis(self.source.size, self.target.size, window, available)

    def needs(self, window: Span) -> Span:
        """Return the pixels of the source from which `window` of the target is computed."""
        return needed(window, self.source.size, self.target.size, self.rule)

    def nominal(self, index: int) -> Span:
        """Return the target pixels that belong to a piece of the source."""
        span = self.source.span(index)
        last = index == self.source.count - 1
        return Span(min(span.start // 2, self.target.size), self.target.size if last else span.stop // 2)

    def complete(self, index: int) -> Span:
        """Return those of the `nominal` pixels that can be computed from the piece alone."""
        span, nominal = self.source.span(index), self.nominal(index)
        start, stop = nominal.start, nominal.stop
        while start < stop and self.needs(Span(start, start + 1)).start < span.start:
            start += 1
        while stop > start and self.needs(Span(stop - 1, stop)).stop > span.stop:
            stop -= 1
        return Span(start, stop)

    def pending(self, seam: int) -> Span:
        """Return the target pixels that need the pieces on both sides of a seam: `seam - 1` and `seam`."""
        return Span(self.complete(seam - 1).stop, self.complete(seam).start)

    def children(self, index: int) -> range:
        """Return the pieces of the source that lie below a piece of the target."""
        span = self.target.span(index)
        first = span.start * 2 // self.source.piece
        if index == self.target.count - 1:
            return range(min(first, self.source.count - 1), self.source.count)
        return range(first, -(-(span.stop * 2) // self.source.piece))

    def around(self, index: int) -> range:
        """Return the children and, if pieces are `joined`, the pieces beside them."""
        children = self.children(index)
        if not self.joined:
            return children
        return range(max(0, children.start - 1), min(self.source.count, children.stop + 1))

    def seams(self, index: int) -> Iterator[Span]:
        """Yield the pending pixels in a piece of the target, seam by seam."""
        if not self.joined:
            return
        span = self.target.span(index)
        for seam in range(
            max(1, self.children(index).start), min(self.source.count - 1, self.children(index).stop) + 1
        ):
            pending = self.pending(seam)
            inside = Span(max(pending.start, span.start), min(pending.stop, span.stop))
            if inside.stop > inside.start:
                yield inside

    def borders(self, index: int) -> list[Span]:
        """Return the border strips of a piece that its neighbours' pixels may need."""
        if not self.joined:
            return []
        span = self.source.span(index)
        if len(span) <= 2 * self.strip:
            return [span]
        return [Span(span.start, span.start + self.strip), Span(span.stop - self.strip, span.stop)]


def spread(height: int, width: int, rows: int, cols: int) -> Iterator[list[tuple[int, int]]]:
    """Yield `rows` rows of `cols` places (row, column) each, from all over a grid.

    There are few rows, because a source in strips is read by rows. Each begins at another offset, so that
    rows do not share their columns.

    >>> list(spread(10, 10, 2, 2))
    [[(2, 0), (2, 5)], [(7, 2), (7, 7)]]
    """
    for line in range(rows):
        row = (2 * line + 1) * height // (2 * rows)
        yield [(row, int((col + line / rows) * width / cols)) for col in range(cols)]


def next_piece(piece: int, blocksize: int) -> int:
    """Return the side of the next level's pieces: half of `piece` if that is whole blocks, else `piece`."""
    return piece // 2 if piece % (2 * blocksize) == 0 else piece


def level_axes(sizes: tuple[int, ...], piece: int, blocksize: int) -> tuple[LevelAxis, ...]:
    """Return one axis of all levels.

    >>> [(axis.piece, axis.count) for axis in level_axes((4000, 2000, 1000, 500), 1024, 512)]
    [(1024, 4), (512, 4), (512, 2), (512, 1)]
    """
    axes = []
    for size in sizes:
        axes.append(LevelAxis(size, piece))
        piece = next_piece(piece, blocksize)
    return tuple(axes)
