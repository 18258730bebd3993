"""The source pixels below each target pixel of an overview, and the weight of each.

On an even side two source pixels count in full. On an odd side a target pixel covers slightly more than two,
and three count by their covered share.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gdaltools.cog.overviews.axis import HalvingAxis

Pixels = NDArray[Any]

# GDAL, overview.cpp: guards against rounding in the computation of a window's first and last source pixel.
_EPSILON = 1e-8


def any_below(there: NDArray[np.bool_], rows: HalvingAxis, cols: HalvingAxis) -> NDArray[np.bool_]:
    """Return for each target pixel whether any source pixel that it covers, even in part, is `there`."""
    return Weights.of(cols).any(Weights.of(rows).any(there, axis=0), axis=1)


@dataclass(frozen=True)
class Weights:
    """The source pixels of each target pixel along an axis, its window: the first of them and their weights.

    All windows of an axis have the same length: 2, or 3 on an odd side, or 1 where nothing is halved.
    """

    first: int
    count: int
    length: int
    left: NDArray[np.float64]
    right: NDArray[np.float64]
    total: NDArray[np.float64]

    @classmethod
    def of(cls, axis: HalvingAxis) -> Weights:
        """Return the weights of the target pixels in the window of `axis`."""
        ratio = axis.source / axis.target
        chosen = np.arange(axis.window.start, axis.window.stop)
        begin, end = chosen * ratio, (chosen + 1) * ratio
        first = (begin + _EPSILON).astype(np.int64)
        last = np.minimum(np.ceil(end - _EPSILON).astype(np.int64), axis.source)
        length = int(last[0] - first[0])
        left = np.ones(len(chosen)) if length == 1 else 1 - (begin - first)
        right = 1 - (last - end)
        total = left if length == 1 else left + (length - 2) + right
        return cls(
            int(first[0]) - axis.available.start, len(chosen), length, *map(np.asarray, (left, right, total))
        )

    @property
    def step(self) -> int:
        """The distance between the first source pixels of adjacent target pixels."""
        return 1 if self.length == 1 else 2

    @property
    def plain(self) -> bool:
        """Whether each target pixel has two source pixels that count in full."""
        return self.length == 2

    @property
    def alike(self) -> Weights:
        """The same windows with equal weights for all of their source pixels."""
        ones = np.ones(self.count)
        return replace(self, left=ones, right=ones, total=ones * self.length)

    def picked(self, chosen: NDArray[np.intp]) -> Weights:
        """Return the weights of single target pixels, without valid positions."""
        return replace(self, left=self.left[chosen], right=self.right[chosen], total=self.total[chosen])

    def span(self, chosen: slice) -> slice:
        """Return the slice of source pixels below a slice of target pixels."""
        start = self.first + chosen.start * self.step
        return slice(start, start + (chosen.stop - chosen.start - 1) * self.step + self.length)

    def part(self, chosen: slice) -> Weights:
        """Return the weights of a slice of target pixels, with positions from their first source pixel."""
        weights = (self.left[chosen], self.right[chosen], self.total[chosen])
        return Weights(0, chosen.stop - chosen.start, self.length, *weights)

    def any(self, there: NDArray[np.bool_], axis: int) -> NDArray[np.bool_]:
        """Return for each window along `axis` whether any of its source pixels is `there`."""
        first, *others = self.views(there, axis)
        found = first.copy()
        for part in others:
            np.logical_or(found, part, out=found)
        return found

    def sum(self, array: Pixels, axis: int) -> Pixels:
        """Return the unweighted sum of the source pixels of each window along `axis`."""
        first, *others = self.views(array, axis)
        total = first.copy()
        for part in others:
            total += part
        return total

    def views(self, array: Pixels, axis: int) -> list[Pixels]:
        """Return views of the first, second, … source pixel of all windows along `axis`."""
        index: list[Any] = [slice(None)] * array.ndim
        views = []
        for offset in range(self.length):
            start = self.first + offset
            index[axis] = slice(start, start + self.step * (self.count - 1) + 1, self.step)
            views.append(array[tuple(index)])
        return views


@dataclass(frozen=True)
class Strip:
    """The source rows of some target rows, and their weights.

    `vectors` is the number of target columns that GDAL computes four at a time; it computes the last columns
    one by one.
    """

    pixels: Pixels
    down: Weights
    across: Weights
    vectors: int

    @property
    def plain(self) -> bool:
        """Whether each target pixel has two by two source pixels that count in full."""
        return self.down.plain and self.across.plain

    def any(self, there: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return for each target pixel whether any of its source pixels is `there`."""
        return self.across.any(self.down.any(there, axis=0), axis=1)

    def lines(self, chosen: slice) -> Strip:
        """Return the strip of some of its target rows."""
        return Strip(self.pixels[self.down.span(chosen)], self.down.part(chosen), self.across, self.vectors)

    def segment(self, chosen: slice) -> Strip:
        """Return the strip of some of its target columns."""
        pixels = np.ascontiguousarray(self.pixels[:, self.across.span(chosen)])
        return Strip(pixels, self.down, self.across.part(chosen), self.vectors - chosen.start)
