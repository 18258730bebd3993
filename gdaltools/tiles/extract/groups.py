"""Groups of tiles that one reader writes, and the strips of the grid that it reads for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from gdaltools.geo.window import PixelWindow
from gdaltools.tiles.scheme import TilingScheme

Position = tuple[int, int]
TileStrip = tuple[int, int, int, int]


@dataclass(frozen=True)
class TileGroup:
    """Tiles that one reader writes: `rows` and `cols` of the scheme, or `only` these places of them."""

    rows: range
    cols: range
    only: frozenset[Position] | None = None

    def __iter__(self) -> Iterator[Position]:
        places = ((row, col) for row in self.rows for col in self.cols)
        return places if self.only is None else (place for place in places if place in self.only)

    def split(self, parts: int) -> Iterator[TileGroup]:
        """Yield the same tiles in up to `parts` groups of some columns each; none is empty."""
        parts = min(parts, len(self.cols))
        edges = [self.cols.start + round(part * len(self.cols) / parts) for part in range(parts + 1)]
        for first, last in pairwise(edges):
            cols = range(first, last)
            only = None if self.only is None else frozenset(p for p in self.only if p[1] in cols)
            if only is None or only:
                yield TileGroup(self.rows, cols, only)

    def strips(self, scheme: TilingScheme, step: int) -> Iterator[tuple[TileStrip, tuple[Position, ...]]]:
        """Yield windows (top, bottom, left, right), from top to bottom, with the tiles that each one touches.

        No window crosses a multiple of `step` rows or a gap between tiles.
        """
        windows = {place: scheme.window(*place) for place in self}
        by_row: dict[int, list[Position]] = {}
        for place in sorted(windows):
            by_row.setdefault(place[0], []).append(place)
        rows = list(by_row)
        extents = {row: scheme.window(row, self.cols.start) for row in rows}
        if not rows:
            return
        top, end = extents[rows[0]].row_off, max(_bottom(extents[row]) for row in rows)
        while top < end:
            bottom = min((top // step + 1) * step, end)
            inside = [r for r in rows if extents[r].row_off < bottom and _bottom(extents[r]) > top]
            # Rows between tiles that lie apart are not read.
            first = max(top, min(extents[r].row_off for r in inside)) if inside else top
            last = min(bottom, max(_bottom(extents[r]) for r in inside)) if inside else bottom
            if inside:
                places = [place for row in inside for place in by_row[row]]
                for left, right, tiles in _spans(windows, places):
                    yield (first, last, left, right), tiles
            top = bottom


def _bottom(window: PixelWindow) -> int:
    return window.row_off + window.height


def _spans(
    windows: dict[Position, PixelWindow], places: Sequence[Position]
) -> Iterator[tuple[int, int, tuple[Position, ...]]]:
    """Yield spans of columns without a gap (left, right), and the tiles in each."""
    tiles: list[Position] = []
    left = right = 0
    for place in sorted(places, key=lambda place: windows[place].col_off):
        window = windows[place]
        if tiles and window.col_off > right:
            yield left, right, tuple(tiles)
            tiles = []
        if not tiles:
            left = right = window.col_off
        tiles.append(place)
        right = max(right, window.col_off + window.width)
    if tiles:
        yield left, right, tuple(tiles)


def hilbert(row: int, col: int, side: int) -> int:
    """Return the index of a place on the Hilbert curve through a square of at least `side` places a side.

    >>> [hilbert(row, col, 2) for row, col in ((0, 0), (1, 0), (1, 1), (0, 1))]
    [0, 1, 2, 3]
    """
    size = 1 << max(0, (side - 1).bit_length())
    distance, half = 0, size // 2
    while half:
        right, below = int(bool(col & half)), int(bool(row & half))
        distance += half * half * ((3 * right) ^ below)
        if not below:
            if right:
                col, row = size - 1 - col, size - 1 - row
            col, row = row, col
        half //= 2
    return distance


def _by_group(
    only: frozenset[Position] | None, rows: Sequence[range], columns: Sequence[range]
) -> dict[Position, frozenset[Position]]:
    """Return the tiles of `only` by the row and column of their group."""
    down = {row: index for index, part in enumerate(rows) for row in part}
    across = {col: index for index, part in enumerate(columns) for col in part}
    found: dict[Position, set[Position]] = {}
    for place in only or ():
        found.setdefault((down[place[0]], across[place[1]]), set()).add(place)
    return {group: frozenset(places) for group, places in found.items()}


def _columns(scheme: TilingScheme, widest: int) -> list[range]:
    """Return columns of tiles in runs at most `widest` pixels wide, each of at least one column."""
    found, first = [], 0
    for col in range(1, scheme.cols + 1):
        if col < scheme.cols:
            window = scheme.window(0, col)
            if window.col_off + window.width - scheme.window(0, first).col_off <= widest:
                continue
        found.append(range(first, col))
        first = col
    return found
