"""Kernels that compute target pixels from a window of the source: nearest, bilinear, cubic, anti-aliased.

The formulas are GDAL's (alg/gdalwarpkernel.cpp), in double precision and in the same order, so that only the
coordinates can make a difference. A pixel depends on its place in the target and on the source alone: neither
on the window that is requested, nor on the part of the source that is available.

numba, from the extra ``warp``, compiles a kernel when it first meets a dtype. The compiled code is cached on
disk if numba finds a folder for it, and runs without the GIL.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numba
import numpy as np
from numpy.typing import NDArray

from gdaltools.warp.nodes import Nodes

Function = TypeVar("Function", bound=Callable[..., Any])
Pixels = NDArray[Any]
Flags = NDArray[np.uint8]
Points = NDArray[np.float64]
Indexes = NDArray[np.int32]
FourWeights = tuple[float, float, float, float]


class Part(NamedTuple):
    """The available part of the source: a window with every sample that the requested pixels need.

    Attributes
    ----------
    pixels : array, shape (rows, cols, bands)
        In this memory order, because the samples of a pixel are read together.
    valid : array of uint8, shape (rows, cols)
        0 where there is no data, 255 elsewhere; empty if everything is data.
    exists : array of uint8, shape (rows, cols)
        As `valid`, of all bands together, if `pixels` are one of several bands.
    row, col : int
        Origin of the window in the source.
    height, width : int
        Size of the whole source.
    """

    pixels: Pixels
    valid: Flags
    exists: Flags
    row: int
    col: int
    height: int
    width: int


class Places(NamedTuple):
    """Positions of target pixels in the source, and the weights of their samples.

    Attributes
    ----------
    x, y : arrays of float64
        In source pixels.
    x_share, y_share : arrays of float64
        Weight of the upper left of the four samples around a position, along each axis.
    left, top : arrays of int32
        Column and row of that sample.
    """

    x: Points
    y: Points
    x_share: Points
    y_share: Points
    left: Indexes
    top: Indexes


class Range(NamedTuple):
    """The range of results: rounded to integers from `low` to `high` if `rounds`, else left unchanged."""

    low: float
    high: float
    rounds: bool


# GDAL ignores samples that weigh less.
_LEAST_WEIGHT = 0.00001
# GDAL adds this to a coordinate before it takes the pixel that contains it.
_NUDGE = 1e-10
# Pixels of a row that are computed together, few enough for a processor's L1 cache. One check tells whether
# the samples of all of them exist and are valid …
_SEGMENT = 256
# … from a table of source squares, this many pixels a side, that have a gap or not.
_BLOCK = 64


def _compiled(function: Function) -> Function:
    try:
        compiled: Function = numba.njit(function, nogil=True, cache=True)
    except RuntimeError:  # no folder is writable
        compiled = numba.njit(function, nogil=True)
    return compiled


@_compiled
def nearest(part: Part, nodes: Nodes, row: int, col: int, out: Pixels, mask: Flags) -> None:
    """Copy the source pixel that contains the target pixel's centre; arguments as in `bilinear`."""
    rows, cols, bands = out.shape
    xs, ys = np.empty(_SEGMENT), np.empty(_SEGMENT)
    for r in range(rows):
        for begin in range(0, cols, _SEGMENT):
            count = min(_SEGMENT, cols - begin)
            _coordinates(nodes, row + r, col + begin, xs[:count], ys[:count])
            for n in range(count):
                if _exists(part, xs[n], ys[n]):
                    mask[r, begin + n] = 255
                    j = np.uint64(_holder(ys[n], part.height) - part.row)
                    i = np.uint64(_holder(xs[n], part.width) - part.col)
                    for b in range(bands):
                        out[r, begin + n, b] = part.pixels[j, i, b]


@_compiled
def bilinear(part: Part, nodes: Nodes, row: int, col: int, out: Pixels, mask: Flags, values: Range) -> None:
    """Compute the mean of the four samples around a pixel's centre, weighted by proximity.

    Samples that are outside the source or not valid leave their weight to the others. A pixel exists if the
    source pixel that contains its centre exists and is valid.

    Parameters
    ----------
    part : Part
        The available part of the source.
    nodes : Nodes
        Nodes around all pixels of `out`.
    row, col : int
        Row and column, in the target, of ``out[0, 0]``.
    out : array, shape (rows, cols, bands)
        Output; only pixels that exist are written.
    mask : array of uint8, shape (rows, cols)
        Output, initially zeros; 255 is written where a pixel exists.
    values : Range
        Range of the dtype.
    """
    rows, cols, bands = out.shape
    places, gaps = _no_places(), _gaps(part)
    samples = part.pixels.reshape(-1)
    for r in range(rows):
        line = out[r].reshape(-1)
        for begin in range(0, cols, _SEGMENT):
            some = _placed(places, nodes, row + r, col + begin, min(_SEGMENT, cols - begin))
            if not _all_whole(part, gaps, some, 1):
                _one_by_one(part, some, 1, values, out[r], mask[r], begin)
                continue
            mask[r, begin : begin + len(some.x)] = 255
            # The usual numbers of bands are passed as constants.
            if bands == 3:
                _means_of_four(part, samples, some, 3, values, line[begin * bands :])
            elif bands == 1:
                _means_of_four(part, samples, some, 1, values, line[begin * bands :])
            else:
                _means_of_four(part, samples, some, bands, values, line[begin * bands :])


@_compiled
def cubic(part: Part, nodes: Nodes, row: int, col: int, out: Pixels, mask: Flags, values: Range) -> None:
    """Compute the cubic convolution of 16 samples with a = -0.5; bilinear if one is missing or not valid.

    Arguments as in `bilinear`.
    """
    rows, cols, bands = out.shape
    places, gaps = _no_places(), _gaps(part)
    samples = part.pixels.reshape(-1)
    for r in range(rows):
        line = out[r].reshape(-1)
        for begin in range(0, cols, _SEGMENT):
            some = _placed(places, nodes, row + r, col + begin, min(_SEGMENT, cols - begin))
            if not _all_whole(part, gaps, some, 2):
                _one_by_one(part, some, 2, values, out[r], mask[r], begin)
                continue
            mask[r, begin : begin + len(some.x)] = 255
            if bands == 3:
                _sums_of_sixteen(part, samples, some, 3, values, line[begin * bands :])
            elif bands == 1:
                _sums_of_sixteen(part, samples, some, 1, values, line[begin * bands :])
            else:
                _sums_of_sixteen(part, samples, some, bands, values, line[begin * bands :])


@_compiled
def scaled(
    part: Part, nodes: Nodes, row: int, col: int, out: Pixels, mask: Flags, values: Range,
    x_scale: float, y_scale: float, is_cubic: bool,
) -> None:  # fmt: skip
    """Compute bilinear or cubic, widened so that samples between target pixels count too: no aliasing.

    `x_scale` and `y_scale` are target pixels per source pixel, at most 1; the other arguments are those of
    `bilinear`. Samples that are outside the source or not valid leave their weight to the others.
    """
    rows, cols, bands = out.shape
    xs, ys = np.empty(cols), np.empty(cols)
    support = 2 if is_cubic else 1
    x_radius, y_radius = math.ceil(support / x_scale), math.ceil(support / y_scale)
    across, down = np.empty(2 * x_radius), np.empty(2 * y_radius)
    sums = np.empty(2 * x_radius * bands)
    for r in range(rows):
        _coordinates(nodes, row + r, col, xs, ys)
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
            _sum_down(part, j, height, i, width, down, sums)
            for b in range(bands):
                total = 0.0
                for m in range(width):
                    total += sums[m * bands + b] * across[m]
                out[r, c, b] = _as_value(total / weights, values)


@_compiled
def _sum_of_weights(
    part: Part, top: int, height: int, left: int, width: int, across: Points, down: Points, sums: Points
) -> float:
    # Summed in one order, whether or not the window has gaps elsewhere: another order changes floats.
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
def _sum_down(part: Part, top: int, height: int, left: int, width: int, down: Points, sums: Points) -> None:
    """Write each column's weighted sum, band by band, to `sums`.

    The sums are adjacent, so that processors compute several at once. Samples that are not valid are skipped,
    as they may be NaN.
    """
    bands = part.pixels.shape[2]
    sums[: width * bands] = 0.0
    for n in range(height):
        samples = part.pixels[top + n].reshape(-1)[left * bands : (left + width) * bands]
        if part.valid.size == 0:
            for k in range(len(samples)):
                sums[k] += samples[k] * down[n]
            continue
        for m in range(width):
            if part.valid[np.uint64(top + n), np.uint64(left + m)]:
                for k in range(m * bands, (m + 1) * bands):
                    sums[k] += samples[k] * down[n]


@_compiled
def _coordinates(nodes: Nodes, row: int, col: int, xs: Points, ys: Points) -> None:
    """Write the source coordinates of the centres of ``len(xs)`` pixels of a target row, from `col` on.

    They are cubic through four nodes down and four along (Lagrange's polynomial).
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
    """Return the cubic from the second to the third of four nodes, as coefficients of rising powers."""
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
    """Return the pixel of an axis that contains a position on it."""
    return min(math.floor(place + _NUDGE), size - 1)


@_compiled
def _exists(part: Part, x: float, y: float) -> bool:
    """Return whether a position is in the source, on a pixel with data."""
    if not (x >= 0 and y >= 0 and x + _NUDGE <= part.width and y + _NUDGE <= part.height):
        return False
    if part.exists.size == 0:
        return True
    return bool(part.exists[_holder(y, part.height) - part.row, _holder(x, part.width) - part.col])


@_compiled
def _no_places() -> Places:
    return Places(
        np.empty(_SEGMENT), np.empty(_SEGMENT), np.empty(_SEGMENT), np.empty(_SEGMENT),
        np.empty(_SEGMENT, np.int32), np.empty(_SEGMENT, np.int32),
    )  # fmt: skip


@_compiled
def _placed(places: Places, nodes: Nodes, row: int, col: int, count: int) -> Places:
    """Return `count` positions, from a pixel of a target row on, in the memory of `places`."""
    x, y = places.x[:count], places.y[:count]
    x_share, y_share = places.x_share[:count], places.y_share[:count]
    left, top = places.left[:count], places.top[:count]
    _coordinates(nodes, row, col, x, y)
    for n in range(count):
        i, j = math.floor(x[n] - 0.5), math.floor(y[n] - 0.5)
        left[n], top[n] = i, j
        x_share[n], y_share[n] = 1.5 - (x[n] - i), 1.5 - (y[n] - j)
    return Places(x, y, x_share, y_share, left, top)


@_compiled
def _gaps(part: Part) -> Flags:
    """Return which squares of `part` have a pixel that is not valid; empty if none has."""
    rows, cols = part.valid.shape
    found = np.zeros((-(-rows // _BLOCK), -(-cols // _BLOCK)), np.uint8)
    for j in range(rows):
        for i in range(cols):
            if part.valid[j, i] == 0:
                found[j // _BLOCK, i // _BLOCK] = 1
    return found


@_compiled
def _all_whole(part: Part, gaps: Flags, places: Places, reach: int) -> bool:
    """Return whether all positions have all samples, `reach` on either side; False if a gap is near."""
    left, top = places.left, places.top
    first, last, upper, lower = left[0], left[0], top[0], top[0]
    for n in range(len(left)):
        first, last = min(first, left[n]), max(last, left[n])
        upper, lower = min(upper, top[n]), max(lower, top[n])
    first, last, upper, lower = first - reach + 1, last + reach, upper - reach + 1, lower + reach
    if first < 0 or upper < 0 or last >= part.width or lower >= part.height:
        return False
    if part.valid.size == 0:
        return True
    for j in range((upper - part.row) // _BLOCK, (lower - part.row) // _BLOCK + 1):
        for i in range((first - part.col) // _BLOCK, (last - part.col) // _BLOCK + 1):
            if gaps[j, i]:
                return False
    return True


@_compiled
def _is_whole(part: Part, left: int, top: int, reach: int) -> bool:
    """Return whether a position has all its samples, `reach` on either side."""
    first, last, upper, lower = left - reach + 1, left + reach, top - reach + 1, top + reach
    if first < 0 or upper < 0 or last >= part.width or lower >= part.height:
        return False
    if part.valid.size > 0:
        for j in range(upper - part.row, lower - part.row + 1):
            for i in range(first - part.col, last - part.col + 1):
                if part.valid[j, i] == 0:
                    return False
    return True


@_compiled
def _one_by_one(
    part: Part, places: Places, reach: int, values: Range, line: Pixels, mask: Flags, begin: int
) -> None:
    """Compute pixels some of which do not exist or lack samples, checking each one."""
    bands, below = part.pixels.shape[2], part.pixels.shape[1] * part.pixels.shape[2]
    samples = part.pixels.reshape(-1)
    for n in range(len(places.x)):
        if not _exists(part, places.x[n], places.y[n]):
            continue
        mask[begin + n] = 255
        left, top, x_share, y_share = places.left[n], places.top[n], places.x_share[n], places.y_share[n]
        whole = _is_whole(part, left, top, reach)
        first = (top - part.row) * below + (left - part.col) * bands
        across, down = _cubic_weights(1.0 - x_share), _cubic_weights(1.0 - y_share)
        for b in range(bands):
            if not whole:
                value = _mean_of_those_valid(part, b, left, top, x_share, y_share)
                if math.isnan(value):  # this band alone has no data here
                    continue
            elif reach == 1:
                value = _mean_of_four(samples, first + b, bands, below, x_share, y_share)
            else:
                value = _sum_of_sixteen(samples, first - below - bands + b, bands, below, across, down)
            line[begin + n, b] = _as_value(value, values)


@_compiled
def _means_of_four(
    part: Part, samples: Pixels, places: Places, bands: int, values: Range, line: Pixels
) -> None:
    below = part.pixels.shape[1] * bands
    for n in range(len(places.x)):
        first = (places.top[n] - part.row) * below + (places.left[n] - part.col) * bands
        x_share, y_share = places.x_share[n], places.y_share[n]
        for b in range(bands):
            value = _mean_of_four(samples, first + b, bands, below, x_share, y_share)
            # A mean is within the range of its samples.
            line[n * bands + b] = math.floor(value + 0.5) if values.rounds else value


@_compiled
def _sums_of_sixteen(
    part: Part, samples: Pixels, places: Places, bands: int, values: Range, line: Pixels
) -> None:
    below = part.pixels.shape[1] * bands
    for n in range(len(places.x)):
        first = (places.top[n] - 1 - part.row) * below + (places.left[n] - 1 - part.col) * bands
        across = _cubic_weights(1.0 - places.x_share[n])
        down = _cubic_weights(1.0 - places.y_share[n])
        for b in range(bands):
            value = _sum_of_sixteen(samples, first + b, bands, below, across, down)
            line[n * bands + b] = _as_value(value, values)


@_compiled
def _mean_of_four(
    samples: Pixels, first: int, bands: int, below: int, x_share: float, y_share: float
) -> float:
    i, j = np.uint64(first), np.uint64(first + below)
    beside = np.uint64(bands)
    upper = samples[i] * x_share + samples[i + beside] * (1.0 - x_share)
    lower = samples[j] * x_share + samples[j + beside] * (1.0 - x_share)
    return float(upper * y_share + lower * (1.0 - y_share))


@_compiled
def _mean_of_those_valid(part: Part, band: int, left: int, top: int, x_share: float, y_share: float) -> float:
    """Return the mean of those of four samples that are in the source and valid; NaN if none of them is."""
    total, weights = 0.0, 0.0
    for j in range(2):
        for i in range(2):
            if not (0 <= left + i < part.width and 0 <= top + j < part.height):
                continue
            row, col = top + j - part.row, left + i - part.col
            if part.valid.size > 0 and part.valid[row, col] == 0:
                continue
            weight = (x_share if i == 0 else 1.0 - x_share) * (y_share if j == 0 else 1.0 - y_share)
            total += part.pixels[row, col, band] * weight
            weights += weight
    return total / weights if weights >= _LEAST_WEIGHT else math.nan


@_compiled
def _sum_of_sixteen(
    samples: Pixels, first: int, bands: int, below: int, across: FourWeights, down: FourWeights
) -> float:
    total, beside = 0.0, np.uint64(bands)
    for n in range(4):
        i = np.uint64(first + n * below)
        total += down[n] * (
            samples[i] * across[0]
            + samples[i + beside] * across[1]
            + samples[i + beside + beside] * across[2]
            + samples[i + beside + beside + beside] * across[3]
        )
    return total


@_compiled
def _as_value(value: float, values: Range) -> float:
    """Return a result rounded and clipped to its dtype."""
    return min(max(np.floor(value + 0.5), values.low), values.high) if values.rounds else value


@_compiled
def _cubic_weights(share: float) -> FourWeights:
    half = 0.5 * share
    return (
        half * (-1 + share * (2 - share)),
        1 + half * share * (-5 + 3 * share),
        half * (1 + share * (4 - 3 * share)),
        half * share * (-1 + share),
    )


@_compiled
def _filter_weights(
    place: float, scale: float, radius: int, size: int, is_cubic: bool, weights: Points
) -> tuple[int, int]:
    """Write the weights of a kernel around a position; return its first sample on the axis and the number."""
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
