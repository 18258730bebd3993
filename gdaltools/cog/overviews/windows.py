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
    return Cover.of(rows).any(Cover.of(cols).any(there, axis=1), axis=0)


@dataclass(frozen=True)
class Cover:
    """The source pixels that each target pixel along an axis covers, however many, and their weights.

    `first` counts from the first pixel that is available. The source pixels between the first and the last
    one count in full.
    """

    first: NDArray[np.int64]
    length: NDArray[np.int64]
    left: NDArray[np.float64]
    right: NDArray[np.float64]

    @classmethod
    def of(cls, axis: HalvingAxis) -> Cover:
        """Return what the target pixels in the window of `axis` cover."""
        ratio = axis.source / axis.target
        chosen = np.arange(axis.window.start, axis.window.stop)
        begin, end = chosen * ratio, (chosen + 1) * ratio
        first = (begin + _EPSILON).astype(np.int64)
        last = np.minimum(np.ceil(end - _EPSILON).astype(np.int64), axis.source)
        length = last - first
        left = np.where(length == 1, 1, 1 - (begin - first))
        return cls(first - axis.available.start, length, left, 1 - (last - end))

    @property
    def total(self) -> NDArray[np.float64]:
        """The weight of all source pixels of each target pixel."""
        return np.where(self.length == 1, self.left, self.left + (self.length - 2) + self.right)

    def part(self, chosen: slice) -> Cover:
        """Return what a slice of the target pixels covers, with positions from their first source pixel."""
        first = self.first[chosen]
        return Cover(first - first[0], self.length[chosen], self.left[chosen], self.right[chosen])

    def span(self, chosen: slice) -> slice:
        """Return the slice of source pixels below a slice of target pixels."""
        first = self.first[chosen]
        return slice(int(first[0]), int(first[-1] + self.length[chosen][-1]))

    def any(self, there: NDArray[np.bool_], axis: int) -> NDArray[np.bool_]:
        """Return for each target pixel along `axis` whether any of its source pixels is `there`."""
        found = there.take(self.first, axis=axis)
        for position in range(1, int(self.length.max())):
            found |= there.take(self.first + np.minimum(position, self.length - 1), axis=axis)
        return found

    def sum(self, array: Pixels, axis: int) -> NDArray[np.float64]:
        """Return the weighted sums of `array`, (rows, cols, samples), added in overview.cpp's order."""
        shape = (-1, 1, 1) if axis == 0 else (1, -1, 1)
        total: Any = 0.0
        for position in range(int(self.length.max())):
            right = np.where(position == self.length - 1, self.right, 1)
            weights = (self.left if position == 0 else right).reshape(shape)
            # Beside the last source pixel is anything, infinities too: it is not read.
            within = (position < self.length).reshape(shape)
            part = array.take(self.first + np.minimum(position, self.length - 1), axis=axis)
            total = total + np.where(within, part * weights, 0)
        return np.asarray(total)


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
        cover = Cover.of(axis)
        return cls(
            int(cover.first[0]), len(cover.first), int(cover.length[0]), cover.left, cover.right, cover.total
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
