"""The source pixels that lie below each target pixel of an overview, and what each of them counts.

On an even side two source pixels count in full; on an odd one a target pixel covers a little more than two,
and three count by their share.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gdaltools.cog.overviews.axis import HalvingAxis

Pixels = NDArray[Any]

# GDAL, overview.cpp: guards against rounding when a window's first and last source pixel are found.
_EPSILON = 1e-8


def any_below(there: NDArray[np.bool_], rows: HalvingAxis, cols: HalvingAxis) -> NDArray[np.bool_]:
    """Whether any source pixel that a target pixel covers, in part or whole, is `there`."""
    return Weights.of(cols).any(Weights.of(rows).any(there, axis=0), axis=1)


@dataclass(frozen=True)
class Weights:
    """The source pixels of each target pixel along an axis: where they begin, and what each counts.

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
        """The weights of the target pixels in the window of `axis`."""
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
        """From a target pixel's first source pixel to the next one's."""
        return 1 if self.length == 1 else 2

    @property
    def plain(self) -> bool:
        """Whether two source pixels count in full."""
        return self.length == 2

    @property
    def alike(self) -> Weights:
        """The same windows with all of their source pixels weighing the same."""
        ones = np.ones(self.count)
        return replace(self, left=ones, right=ones, total=ones * self.length)

    def picked(self, chosen: NDArray[np.intp]) -> Weights:
        """The weights of single target pixels; where those lie is no longer told."""
        return replace(self, left=self.left[chosen], right=self.right[chosen], total=self.total[chosen])

    def span(self, chosen: slice) -> slice:
        """The source pixels of some of the target's."""
        start = self.first + chosen.start * self.step
        return slice(start, start + (chosen.stop - chosen.start - 1) * self.step + self.length)

    def part(self, chosen: slice) -> Weights:
        """The weights of some target pixels alone, counted from the first of their source pixels."""
        weights = (self.left[chosen], self.right[chosen], self.total[chosen])
        return Weights(0, chosen.stop - chosen.start, self.length, *weights)

    def any(self, there: NDArray[np.bool_], axis: int) -> NDArray[np.bool_]:
        """Whether any source pixel of each window along `axis` is `there`."""
        first, *others = self.views(there, axis)
        found = first.copy()
        for part in others:
            np.logical_or(found, part, out=found)
        return found

    def sum(self, array: Pixels, axis: int) -> Pixels:
        """The sums of the source pixels of all windows along `axis`, all of them weighing the same."""
        first, *others = self.views(array, axis)
        total = first.copy()
        for part in others:
            total += part
        return total

    def views(self, array: Pixels, axis: int) -> list[Pixels]:
        """The first, second … source pixel of all windows along `axis`."""
        index: list[Any] = [slice(None)] * array.ndim
        views = []
        for offset in range(self.length):
            start = self.first + offset
            index[axis] = slice(start, start + self.step * (self.count - 1) + 1, self.step)
            views.append(array[tuple(index)])
        return views


@dataclass(frozen=True)
class Strip:
    """Source rows of a few target rows, and how they are weighed.

    `vectors` counts the target columns that GDAL computes four at a time; the last ones it adds in a row.
    """

    pixels: Pixels
    down: Weights
    across: Weights
    vectors: int

    @property
    def plain(self) -> bool:
        """Whether two by two source pixels count in full."""
        return self.down.plain and self.across.plain

    def any(self, there: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Where any source pixel of a target pixel is `there`."""
        return self.across.any(self.down.any(there, axis=0), axis=1)

    def lines(self, chosen: slice) -> Strip:
        """Some of its target rows."""
        return Strip(self.pixels[self.down.span(chosen)], self.down.part(chosen), self.across, self.vectors)

    def segment(self, chosen: slice) -> Strip:
        """Some of its target columns."""
        pixels = np.ascontiguousarray(self.pixels[:, self.across.span(chosen)])
        return Strip(pixels, self.down, self.across.part(chosen), self.vectors - chosen.start)
