"""Target pixels computed from a window of the source: nearest, bilinear, cubic, and wide against aliasing.

The formulas are GDAL's (alg/gdalwarpkernel.cpp), in double precision and in its order, so that only the
coordinates can make a difference. A pixel depends on its place in the target and on the source, and on
nothing else: not on the window that is asked for, nor on the part of the source that is at hand.

Compiled by numba, which the extra ``warp`` brings, when a kernel first meets a dtype. What is compiled is
kept on disk where numba finds a folder for it, and holds no lock of the interpreter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numba
import numpy as np
from numpy.typing import NDArray

from gdaltools.warp_nodes import Nodes

Function = TypeVar("Function", bound=Callable[..., Any])
Pixels = NDArray[Any]
Flags = NDArray[np.uint8]
Points = NDArray[np.float64]
Indexes = NDArray[np.int64]


class Part(NamedTuple):
    """What is at hand of the source: a window that holds every sample that the pixels asked for need.

    Attributes
    ----------
    pixels : array, shape (bands, rows, cols)
    valid : array of uint8, shape (rows, cols)
        0 where there is no data, 255 elsewhere; empty where all is data.
    row, col : int
        Where the window begins.
    height, width : int
        Of the whole source.
    """

    pixels: Pixels
    valid: Flags
    row: int
    col: int
    height: int
    width: int


class Range(NamedTuple):
    """What results become: rounded to integers from `low` to `high`, or left as they are."""

    low: float
    high: float
    rounds: bool


# What GDAL adds to a coordinate before it takes the pixel that holds it.
_NUDGE = 1e-10
# What a target pixel is made of: nothing, all samples of the kernel, or those that are there and valid.
_NONE, _WHOLE, _PARTLY = 0, 1, 2
_ONE, _TWO, _THREE = np.uint64(1), np.uint64(2), np.uint64(3)


def _compiled(function: Function) -> Function:
    try:
        compiled: Function = numba.njit(function, nogil=True, cache=True)
    except RuntimeError:  # there is no folder that can be written
        compiled = numba.njit(function, nogil=True)
    return compiled


@_compiled
def nearest(part: Part, nodes: Nodes, row: int, col: int, out: Pixels, mask: Flags) -> None:
    """The source pixel that holds the target pixel's centre; arguments as of `bilinear`."""
    bands, rows, cols = out.shape
    xs, ys = np.empty(cols), np.empty(cols)
    for r in range(rows):
        _row_coordinates(nodes, row + r, col, xs, ys)
        for c in range(cols):
            if _exists(part, xs[c], ys[c]):
                mask[r, c] = 255
                j = np.uint64(_holder(ys[c], part.height) - part.row)
                i = np.uint64(_holder(xs[c], part.width) - part.col)
                for b in range(bands):
                    out[b, r, c] = part.pixels[b, j, i]


@_compiled
def bilinear(part: Part, nodes: Nodes, row: int, col: int, out: Pixels, mask: Flags, values: Range) -> None:
    """The mean of the four samples around a pixel's centre, by their nearness.

    Samples that are outside of the source or not valid leave their weight to the others. A pixel exists
    where the source pixel that holds its centre does and is valid.

    Parameters
    ----------
    part : Part
        Of the source.
    nodes : Nodes
        Around all pixels of `out`.
    row, col : int
        Of the target's pixel that ``out[:, 0, 0]`` is.
    out : array, shape (bands, rows, cols)
        Pixels that exist are written.
    mask : array of uint8, shape (rows, cols)
        Of zeros; 255 is written where a pixel exists.
    values : Range
        Of the dtype.
    """
    bands, rows, cols = out.shape
    xs, ys, results = np.empty(cols), np.empty(cols), np.zeros(cols)
    left, top = np.empty(cols, np.int64), np.empty(cols, np.int64)
    kinds = np.empty(cols, np.uint8)
    for r in range(rows):
        _row_coordinates(nodes, row + r, col, xs, ys)
        all_whole = _four_samples(part, xs, ys, left, top, kinds, mask[r])
        for b in range(bands):
            band = part.pixels[b]
            for c in range(cols):
                if all_whole or kinds[c] == _WHOLE:
                    results[c] = _mean_of_four(part, band, left[c], top[c], xs[c], ys[c])
                elif kinds[c] == _PARTLY:
                    results[c] = _mean_of_those_valid(part, band, left[c], top[c], xs[c], ys[c])
            _store(results, kinds, all_whole, values, out[b, r])


@_compiled
def cubic(part: Part, nodes: Nodes, row: int, col: int, out: Pixels, mask: Flags, values: Range) -> None:
    """Cubic convolution of 16 samples with a = -0.5; bilinear where one of them is missing or not valid.

    Arguments as of `bilinear`.
    """
    bands, rows, cols = out.shape
    xs, ys, results = np.empty(cols), np.empty(cols), np.zeros(cols)
    left, top = np.empty(cols, np.int64), np.empty(cols, np.int64)
    kinds = np.empty(cols, np.uint8)
    across, down = np.empty((cols, 4)), np.empty((cols, 4))
    for r in range(rows):
        _row_coordinates(nodes, row + r, col, xs, ys)
        all_whole = _four_samples(part, xs, ys, left, top, kinds, mask[r])
        for c in range(cols):
            if kinds[c] == _WHOLE and not _has_sixteen(part, left[c], top[c]):
                kinds[c] = _PARTLY
                all_whole = False
            _cubic_weights(1.0 - xs[c], across[c])
            _cubic_weights(1.0 - ys[c], down[c])
        for b in range(bands):
            band = part.pixels[b]
            for c in range(cols):
                if all_whole or kinds[c] == _WHOLE:
                    results[c] = _sum_of_sixteen(part, band, left[c], top[c], across[c], down[c])
                elif kinds[c] == _PARTLY:
                    results[c] = _mean_of_those_valid(part, band, left[c], top[c], xs[c], ys[c])
            _store(results, kinds, all_whole, values, out[b, r])


@_compiled
def scaled(
    part: Part, nodes: Nodes, row: int, col: int, out: Pixels, mask: Flags, values: Range,
    x_scale: float, y_scale: float, is_cubic: bool,
) -> None:  # fmt: skip
    """Bilinear or cubic, made so wide that samples between target pixels count too: no aliasing.

    `x_scale` and `y_scale` are target pixels for each source pixel, at most 1; the other arguments are
    those of `bilinear`. Samples that are outside or not valid leave their weight to the others.
    """
    bands, rows, cols = out.shape
    xs, ys = np.empty(cols), np.empty(cols)
    support = 2 if is_cubic else 1
    x_radius, y_radius = math.ceil(support / x_scale), math.ceil(support / y_scale)
    across, down = np.empty(2 * x_radius), np.empty(2 * y_radius)
    sums = np.empty(2 * x_radius)
    for r in range(rows):
        _row_coordinates(nodes, row + r, col, xs, ys)
        for c in range(cols):
            if not _exists(part, xs[c], ys[c]):
                continue
            left, width = _filter_weights(xs[c], x_scale, x_radius, part.width, is_cubic, across)
            top, height = _filter_weights(ys[c], y_scale, y_radius, part.height, is_cubic, down)
            i, j = left - part.col, top - part.row
            weights = _sum_of_weights(part, j, height, i, width, across, down, sums)
            if weights < 0.000001:  # cubic has negative weights
                continue
            mask[r, c] = 255
            for b in range(bands):
                value = _weighted_sum(part, b, j, height, i, width, across, down, sums) / weights
                if values.rounds:
                    value = min(max(math.floor(value + 0.5), values.low), values.high)
                out[b, r, c] = value


@_compiled
def _sum_of_weights(
    part: Part, top: int, height: int, left: int, width: int, across: Points, down: Points, sums: Points
) -> float:
    # In one order, whether or not there are gaps elsewhere in the window: floats show every other.
    column = 0.0
    for n in range(height):
        column += down[n]
    sums[:width] = column
    if part.valid.size > 0:
        sums[:width] = 0.0
        for n in range(height):
            for m in range(width):
                sums[m] += down[n] if part.valid[np.uint64(top + n), np.uint64(left + m)] else 0.0
    total = 0.0
    for m in range(width):
        total += sums[m] * across[m]
    return total


@_compiled
def _weighted_sum(
    part: Part, b: int, top: int, height: int, left: int, width: int,
    across: Points, down: Points, sums: Points,
) -> float:  # fmt: skip
    """Down first, column beside column, which processors do at once; what is not valid may be NaN."""
    sums[:width] = 0.0
    for n in range(height):
        row = np.uint64(top + n)
        if part.valid.size == 0:
            for m in range(width):
                sums[m] += part.pixels[b, row, np.uint64(left + m)] * down[n]
        else:
            for m in range(width):
                sample = part.pixels[b, row, np.uint64(left + m)] * down[n]
                sums[m] += sample if part.valid[row, np.uint64(left + m)] else 0.0
    total = 0.0
    for m in range(width):
        total += sums[m] * across[m]
    return total


@_compiled
def _row_coordinates(nodes: Nodes, row: int, col: int, xs: Points, ys: Points) -> None:
    """Where in the source the centres of ``len(xs)`` pixels of a target's row lie, from `col` on.

    Cubic through four nodes down and four along (Lagrange's polynomial).
    """
    step = nodes.step
    above = row // step
    t = (row + 0.5 - above * step) / step
    down = (
        -t * (t - 1) * (t - 2) / 6,
        (t + 1) * (t - 1) * (t - 2) / 2,
        -(t + 1) * t * (t - 2) / 2,
        (t + 1) * t * (t - 1) / 6,
    )
    i = above - nodes.row - 1
    begin, count = 0, len(xs)
    while begin < count:
        before = (col + begin) // step
        j = before - nodes.col - 1
        x0, x1, x2, x3 = _along_nodes(nodes.x, i, j, down)
        y0, y1, y2, y3 = _along_nodes(nodes.y, i, j, down)
        end = min(count, (before + 1) * step - col)
        for c in range(begin, end):
            share = (col + c + 0.5 - before * step) / step
            xs[c] = x0 + share * (x1 + share * (x2 + share * x3))
            ys[c] = y0 + share * (y1 + share * (y2 + share * y3))
        begin = end


@_compiled
def _along_nodes(
    values: Points, i: int, j: int, down: tuple[float, float, float, float]
) -> tuple[float, float, float, float]:
    """The cubic from the second to the third of four nodes, as coefficients of rising powers."""
    a = _across_nodes(values, i, j, down)
    b = _across_nodes(values, i, j + 1, down)
    c = _across_nodes(values, i, j + 2, down)
    d = _across_nodes(values, i, j + 3, down)
    return b, c - b / 2 - a / 3 - d / 6, (a + c) / 2 - b, (d - a) / 6 + (b - c) / 2


@_compiled
def _across_nodes(values: Points, i: int, j: int, down: tuple[float, float, float, float]) -> float:
    return float(
        values[i, j] * down[0]
        + values[i + 1, j] * down[1]
        + values[i + 2, j] * down[2]
        + values[i + 3, j] * down[3]
    )


@_compiled
def _holder(place: float, size: int) -> int:
    """The pixel of an axis that holds a place on it."""
    return min(math.floor(place + _NUDGE), size - 1)


@_compiled
def _exists(part: Part, x: float, y: float) -> bool:
    """Whether a place is in the source, on a pixel that is valid."""
    if not (x >= 0 and y >= 0 and x + _NUDGE <= part.width and y + _NUDGE <= part.height):
        return False
    if part.valid.size == 0:
        return True
    return bool(part.valid[_holder(y, part.height) - part.row, _holder(x, part.width) - part.col])


@_compiled
def _four_samples(
    part: Part, xs: Points, ys: Points, left: Indexes, top: Indexes, kinds: Flags, mask: Flags
) -> bool:
    """The upper left of the four samples around each place; the places become its share of the weight.

    Returns whether each place has its four.
    """
    all_whole = True
    for c in range(len(xs)):
        kinds[c] = _NONE
        if not _exists(part, xs[c], ys[c]):
            all_whole = False
            continue
        ix, iy = math.floor(xs[c] - 0.5), math.floor(ys[c] - 0.5)
        left[c], top[c] = ix, iy
        xs[c], ys[c] = 1.5 - (xs[c] - ix), 1.5 - (ys[c] - iy)
        mask[c] = 255
        whole = ix >= 0 and iy >= 0 and ix + 1 < part.width and iy + 1 < part.height
        if whole and part.valid.size > 0:
            j, i = iy - part.row, ix - part.col
            upper = part.valid[j, i] & part.valid[j, i + 1]
            whole = (upper & part.valid[j + 1, i] & part.valid[j + 1, i + 1]) != 0
        kinds[c] = _WHOLE if whole else _PARTLY
        all_whole = all_whole and whole
    return all_whole


@_compiled
def _mean_of_four(part: Part, band: Pixels, left: int, top: int, x_share: float, y_share: float) -> float:
    j, i = np.uint64(top - part.row), np.uint64(left - part.col)
    above = band[j, i] * x_share + band[j, i + _ONE] * (1.0 - x_share)
    below = band[j + _ONE, i] * x_share + band[j + _ONE, i + _ONE] * (1.0 - x_share)
    return float(above * y_share + below * (1.0 - y_share))


@_compiled
def _mean_of_those_valid(
    part: Part, band: Pixels, left: int, top: int, x_share: float, y_share: float
) -> float:
    """The mean of those of four samples that are in the source and valid; the nearest always is."""
    total, weights = 0.0, 0.0
    for j in range(2):
        for i in range(2):
            if not (0 <= left + i < part.width and 0 <= top + j < part.height):
                continue
            row, col = top + j - part.row, left + i - part.col
            if part.valid.size > 0 and part.valid[row, col] == 0:
                continue
            weight = (x_share if i == 0 else 1.0 - x_share) * (y_share if j == 0 else 1.0 - y_share)
            total += band[row, col] * weight
            weights += weight
    return total / weights


@_compiled
def _has_sixteen(part: Part, left: int, top: int) -> bool:
    if left < 1 or top < 1 or left + 2 >= part.width or top + 2 >= part.height:
        return False
    if part.valid.size > 0:
        for j in range(top - 1 - part.row, top + 3 - part.row):
            for i in range(left - 1 - part.col, left + 3 - part.col):
                if part.valid[j, i] == 0:
                    return False
    return True


@_compiled
def _sum_of_sixteen(part: Part, band: Pixels, left: int, top: int, across: Points, down: Points) -> float:
    total = 0.0
    i = np.uint64(left - 1 - part.col)
    for n in range(4):
        j = np.uint64(top - 1 + n - part.row)
        total += down[n] * (
            band[j, i] * across[0]
            + band[j, i + _ONE] * across[1]
            + band[j, i + _TWO] * across[2]
            + band[j, i + _THREE] * across[3]
        )
    return total


@_compiled
def _store(results: Points, kinds: Flags, all_whole: bool, values: Range, line: Pixels) -> None:
    if values.rounds:
        for c in range(len(results)):
            results[c] = min(max(np.floor(results[c] + 0.5), values.low), values.high)
    for c in range(len(results)):
        if all_whole or kinds[c] != _NONE:
            line[c] = results[c]


@_compiled
def _cubic_weights(share: float, weights: Points) -> None:
    half = 0.5 * share
    weights[0] = half * (-1 + share * (2 - share))
    weights[1] = 1 + half * share * (-5 + 3 * share)
    weights[2] = half * (1 + share * (4 - 3 * share))
    weights[3] = half * share * (-1 + share)


@_compiled
def _filter_weights(
    place: float, scale: float, radius: int, size: int, is_cubic: bool, weights: Points
) -> tuple[int, int]:
    """The first sample of an axis that a kernel around a place takes, and how many it takes."""
    before = math.floor(place - 0.5)
    first, last = max(0, before + 1 - radius), min(size - 1, before + radius)
    for i in range(first, last + 1):
        distance = abs((i + 0.5 - place) * scale)
        weight = 0.0
        if not is_cubic:
            weight = max(0.0, 1.0 - distance)
        elif distance <= 1:
            weight = distance * distance * (1.5 * distance - 2.5) + 1
        elif distance <= 2:
            weight = distance * distance * (2.5 - 0.5 * distance) - 4 * distance + 2
        weights[i - first] = weight
    return first, last + 1 - first
