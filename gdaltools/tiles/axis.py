"""How one axis of a grid, rows or columns, is cut into the pieces that tiles consist of."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property

from gdaltools.raster.tiff import BLOCK_UNIT

_SLIVER = 8  # a last piece that adds less than 1/8 of a step is evened out with the piece before it

Interval = tuple[int, int]


@dataclass(frozen=True)
class TileAxis:
    """An extent in pixels, cut into pieces of at most `size` that share `overlap` with their neighbours.

    >>> TileAxis(extent=100, size=48, overlap=16).spans
    [(0, 48), (32, 48), (64, 36)]
    """

    extent: int
    size: int
    overlap: int

    @property
    def step(self) -> int:
        """The distance from the start of one piece to the start of the next."""
        return self.size - self.overlap

    @cached_property
    def count(self) -> int:
        """The number of pieces: the fewest that cover the extent."""
        return max(1, -(-(self.extent - self.overlap) // self.step))

    @cached_property
    def _shared(self) -> Interval | None:
        """The lengths of the last two pieces if the last would otherwise be a sliver, else None."""
        new = self.extent - self.overlap - (self.count - 1) * self.step
        if self.count < 2 or new >= self.step // _SLIVER:
            return None
        both = self.extent - (self.count - 2) * self.step + self.overlap
        first = -(-both // (2 * BLOCK_UNIT)) * BLOCK_UNIT
        last = both - first
        better = first <= self.size and min(first, last) - self.overlap > new
        return (first, last) if better else None

    def span(self, index: int) -> Interval:
        """Return the start and length of the piece `index`."""
        start = index * self.step
        if self._shared is not None and index >= self.count - 2:
            first, last = self._shared
            if index == self.count - 2:
                return start, first
            return start - self.step + first - self.overlap, last
        return start, min(self.size, self.extent - start)

    def holding(self, pixel: int) -> int:
        """Return the index of the last piece that contains `pixel`.

        >>> [TileAxis(extent=100, size=48, overlap=16).holding(pixel) for pixel in (0, 31, 32, 47, 99)]
        [0, 0, 1, 1, 2]
        """
        return _last_before(self, pixel)

    @property
    def spans(self) -> list[Interval]:
        """The start and length of every piece."""
        return [self.span(index) for index in range(self.count)]


@dataclass(frozen=True)
class ListedAxis:
    """Pieces as another program cut them."""

    spans: tuple[Interval, ...]

    @property
    def count(self) -> int:
        """The number of pieces."""
        return len(self.spans)

    def span(self, index: int) -> Interval:
        """Return the start and length of the piece `index`."""
        return self.spans[index]

    def holding(self, pixel: int) -> int:
        """Return the index of the last piece that contains `pixel`."""
        return _last_before(self, pixel)


def _last_before(axis: TileAxis | ListedAxis, pixel: int) -> int:
    """Return the last piece that starts at or before `pixel`; it contains it, as pieces leave no gaps."""
    return bisect_right(range(axis.count), pixel, key=lambda index: axis.span(index)[0]) - 1
