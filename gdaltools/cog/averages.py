"""Averages of the pixels below each pixel of an overview, with the roundings of GDAL's own.

On an even side two source pixels count in full; on an odd one a target pixel covers a little more than two,
and three count by their share. Integers of 8 and 16 bits are first computed in whichever order is fast; where
that comes so close to a rounding boundary that GDAL's order could fall on its other side, it is followed.

Source: GDAL, gcore/overview.cpp, GDALResampleChunk_AverageOrRMS_T and GDALGetNoDataReplacementValue, 3.10.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gdaltools.cog.axes import Axis

Pixels = NDArray[Any]
Valid = NDArray[np.bool_]

# Target rows at a time, and samples of a target row that make them so few: temporaries stay in the cache.
_FEW_ROWS, _MANY_ROWS, _STRIP_SAMPLES = 8, 64, 128_000
# Target columns at a time where some source pixels are no data: whole stretches of all or nothing stay fast.
_SEGMENT = 1024
# GDAL, overview.cpp: guards against rounding when a window's first and last source pixel are found.
_EPSILON = 1e-8
# What the fast order of additions may be off by, at the most: singles for 8 bits, doubles for 16.
_CLOSE = {np.dtype(np.uint8): 5e-4, np.dtype(np.uint16): 1e-6}


def average(
    pixels: Pixels, valid: Valid | None, rows: Axis, cols: Axis, nodata: float | None
) -> tuple[Pixels, Valid | None]:
    """The averages of a window of the next level, and where its mask has data.

    Parameters
    ----------
    pixels : ndarray, shape (rows, cols, samples), C-contiguous
        Of a real dtype.
    valid : ndarray of bool, shape (rows, cols), optional
        The per-dataset mask; it counts instead of `nodata`.
    """
    down, across = Weights.of(rows), Weights.of(cols)
    vectors = cols.target // 4 * 4 - cols.window.start
    averages = np.empty((down.count, across.count, pixels.shape[2]), pixels.dtype)
    found = None if valid is None else np.empty((down.count, across.count), bool)
    value = comparable(nodata, pixels.dtype)
    step = max(_FEW_ROWS, min(_MANY_ROWS, _STRIP_SAMPLES // (across.count * pixels.shape[2])))
    for top in range(0, down.count, step):
        lines = slice(top, min(top + step, down.count))
        taken = down.span(lines)
        strip = _Strip(pixels[taken], down.part(lines), across, vectors)
        if valid is not None and found is not None:
            found[lines] = strip.any(valid[taken])
            _average(strip, valid[taken][:, :, None], averages[lines], value)
        elif (there := holding_data(strip.pixels, nodata)) is not None:
            _average(strip, there, averages[lines], value)
        else:
            _average_all(strip, averages[lines], masked=False)
    return averages, found


def any_below(there: NDArray[np.bool_], rows: Axis, cols: Axis) -> NDArray[np.bool_]:
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
    def of(cls, axis: Axis) -> Weights:
        """The weights of the target pixels in the window of `axis`."""
        ratio = axis.source / axis.target
        wanted = np.arange(axis.window.start, axis.window.stop)
        begin, end = wanted * ratio, (wanted + 1) * ratio
        first = (begin + _EPSILON).astype(np.int64)
        last = np.minimum(np.ceil(end - _EPSILON).astype(np.int64), axis.source)
        length = int(last[0] - first[0])
        left = np.ones(len(wanted)) if length == 1 else 1 - (begin - first)
        right = 1 - (last - end)
        total = left if length == 1 else left + (length - 2) + right
        return cls(
            int(first[0]) - axis.given.start, len(wanted), length, *map(np.asarray, (left, right, total))
        )

    @property
    def step(self) -> int:
        """From a target pixel's first source pixel to the next one's."""
        return 1 if self.length == 1 else 2

    @property
    def plain(self) -> bool:
        """Whether two source pixels count in full."""
        return self.length == 2

    def span(self, wanted: slice) -> slice:
        """The source pixels of some of the target's."""
        start = self.first + wanted.start * self.step
        return slice(start, start + (wanted.stop - wanted.start - 1) * self.step + self.length)

    def part(self, wanted: slice) -> Weights:
        """The weights of some target pixels alone, counted from the first of their source pixels."""
        chosen = (self.left[wanted], self.right[wanted], self.total[wanted])
        return Weights(0, wanted.stop - wanted.start, self.length, *chosen)

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
class _Strip:
    """Source rows of a few target rows, and how they are weighed.

    `vectors` counts the target columns that GDAL computes four at a time; the last ones it adds in a row.
    """

    pixels: Pixels
    down: Weights
    across: Weights
    vectors: int

    @property
    def plain(self) -> bool:
        return self.down.plain and self.across.plain

    def any(self, there: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Where any source pixel of a target pixel is `there`."""
        return self.across.any(self.down.any(there, axis=0), axis=1)

    def segment(self, wanted: slice) -> _Strip:
        """Some of its target columns."""
        pixels = np.ascontiguousarray(self.pixels[:, self.across.span(wanted)])
        return _Strip(pixels, self.down, self.across.part(wanted), self.vectors - wanted.start)


def _average(strip: _Strip, there: NDArray[np.bool_], out: Pixels, nodata: Any) -> None:
    """Only the source pixels that are `there`, shape (rows, cols, samples or 1), count."""
    empty = 0 if nodata is None else nodata
    if there.all():
        _average_all(strip, out, masked=True)
        _keep_apart(out, nodata, None)
    elif not there.any():
        out[...] = empty
    elif strip.across.count <= _SEGMENT:
        _average_some(strip, there, out, empty)
        if nodata is not None:
            _keep_apart(out, nodata, strip.any(there))
    else:
        for left in range(0, strip.across.count, _SEGMENT):
            wanted = slice(left, min(left + _SEGMENT, strip.across.count))
            _average(strip.segment(wanted), there[:, strip.across.span(wanted)], out[:, wanted], nodata)


def _average_all(strip: _Strip, out: Pixels, *, masked: bool) -> None:
    """Every source pixel counts; where others of the level do not, `masked`, GDAL rounds differently."""
    kind = out.dtype
    if kind in (np.uint8, np.uint16):
        if strip.plain:
            _average_integers(strip, out)
        else:
            _average_weighed_integers(strip, out, masked=masked)
    elif strip.plain and not masked and (kind.itemsize <= 2 or kind == np.float32):
        _average_singles(strip, out)
    elif strip.plain and not masked:
        # overview.cpp adds doubles one after the other.
        a, b, c, d = (
            part.astype(np.float64)
            for row in strip.down.views(strip.pixels, 0)
            for part in strip.across.views(row, 1)
        )
        _store((a + b + c + d) * 0.25, out)
    else:
        lines = _weighed(strip.across.views(strip.pixels, 1), strip.across, axis=1)
        total = _weighed(strip.down.views(lines, 0), strip.down, axis=0)
        weight = _weight(strip, np.arange(out.shape[0])[:, None], np.arange(out.shape[1])[None, :], masked)
        _store(np.divide(total, weight[:, :, None], out=total), out)


def _average_some(strip: _Strip, there: NDArray[np.bool_], out: Pixels, empty: Any) -> None:
    values = np.where(there, strip.pixels, strip.pixels.dtype.type(0))
    if strip.plain and out.dtype in (np.uint8, np.uint16):
        # Such sums over 1 to 4 are exact enough in singles: none comes near a tie but by being one.
        total = _sums(values, strip, _wide(out.dtype)).astype(np.float32)
        weight = _sums(there.view(np.uint8), strip, np.uint8).astype(np.float32)
        nothing = weight == 0
        weight[nothing] = 1
        total /= weight
        total += np.float32(0.5)
        out[...] = total
        out[np.broadcast_to(nothing, out.shape)] = empty
        return
    lines = _weighed(strip.across.views(values, 1), strip.across, axis=1)
    counts = _weighed(strip.across.views(there, 1), strip.across, axis=1)
    quotient = _weighed(strip.down.views(lines, 0), strip.down, axis=0)
    weights = _weighed(strip.down.views(counts, 0), strip.down, axis=0)
    nothing = weights == 0
    weights[nothing] = 1
    quotient /= weights
    _store(quotient, out)
    out[np.broadcast_to(nothing, out.shape)] = empty


def _weighed(parts: list[Pixels], weights: Weights, *, axis: int) -> NDArray[np.float64]:
    """The weighted sum of the pixels of each window along one axis, in overview.cpp's order."""
    if weights.plain:
        return np.add(parts[0], parts[1], dtype=np.float64)
    shape = (-1, 1, 1) if axis == 0 else (1, -1, 1)
    total = np.multiply(parts[0], weights.left.reshape(shape), dtype=np.float64)
    for part in parts[1:-1]:
        total += part
    if len(parts) > 1:
        total += np.multiply(parts[-1], weights.right.reshape(shape), dtype=np.float64)
    return total


def _weight(
    strip: _Strip, rows: NDArray[np.intp], cols: NDArray[np.intp], masked: bool
) -> NDArray[np.float64]:
    """What all source pixels of some target pixels weigh together, with the roundings of overview.cpp."""
    down, across = strip.down, strip.across.total[cols]
    if not masked:
        return np.asarray(across * down.total[rows])
    weight = across * down.left[rows]
    for _ in range(down.length - 2):
        weight = weight + across
    return np.asarray(weight + across * down.right[rows] if down.length > 1 else weight)


def _wide(dtype: np.dtype[Any]) -> type[np.unsignedinteger[Any]]:
    return np.uint16 if dtype == np.uint8 else np.uint32


def _average_integers(strip: _Strip, out: Pixels) -> None:
    """(a + b + c + d + 2) / 4."""
    quarters = _sums(strip.pixels, strip, _wide(out.dtype))
    quarters += 2
    quarters >>= 2
    out[...] = quarters


def _average_singles(strip: _Strip, out: Pixels) -> None:
    """In single precision: down first and then across, as GDAL's SSE2 code; its last columns in a row."""
    pixels = strip.pixels.astype(np.float32, copy=False)
    averages = _sums(pixels, strip, np.float32)
    averages *= np.float32(0.25)
    if out.dtype == np.float32 and strip.vectors < averages.shape[1]:
        rest = slice(max(0, strip.vectors), None)
        a, b, c, d = (
            part[:, rest] for row in strip.down.views(pixels, 0) for part in strip.across.views(row, 1)
        )
        averages[:, rest] = (a + b + c + d) * np.float32(0.25)
    _store(averages, out)


def _average_weighed_integers(strip: _Strip, out: Pixels, *, masked: bool) -> None:
    close = _CLOSE[out.dtype]
    kind = np.float32 if out.dtype == np.uint8 else np.float64
    down, across = strip.down, strip.across
    parts = down.views(strip.pixels, 0)
    if down.length == 3:
        lines = np.multiply(parts[0], down.left.astype(kind)[:, None, None], dtype=kind)
        lines += parts[1]
        lines += np.multiply(parts[2], down.right.astype(kind)[:, None, None], dtype=kind)
    else:
        lines = parts[0].astype(kind) if down.length == 1 else np.add(parts[0], parts[1], dtype=kind)
    values = _across(lines, across)
    # On one axis all windows weigh the same but for roundings.
    values *= kind(1 / (down.total[0] * across.total[0]))
    values += kind(0.5)
    out[...] = values
    values -= out
    values -= kind(0.5)
    doubtful = np.flatnonzero(np.abs(values, out=values) > 0.5 - close)
    if doubtful.size:
        places = np.unravel_index(doubtful, out.shape)
        out[places] = _exactly(strip, places, masked)


def _exactly(strip: _Strip, places: tuple[NDArray[np.intp], ...], masked: bool) -> Pixels:
    """Single averages, in overview.cpp's order."""
    rows, cols, samples = places
    down, across = strip.down, strip.across
    total = np.zeros(len(rows))
    for line in range(down.length):
        y = down.first + rows * down.step + line
        sums = np.zeros(len(rows))
        for column in range(across.length):
            values = strip.pixels[y, across.first + cols * across.step + column, samples].astype(np.float64)
            sums += values * _share(across, column, cols)
        total += sums * _share(down, line, rows)
    return np.asarray(total / _weight(strip, rows, cols, masked) + 0.5)


def _share(weights: Weights, position: int, wanted: NDArray[np.intp]) -> NDArray[np.float64] | float:
    if position == 0:
        return weights.left[wanted]
    return weights.right[wanted] if position == weights.length - 1 else 1.0


def _sums(pixels: Pixels, strip: _Strip, dtype: Any) -> Pixels:
    """The sums of two by two pixels: down, then across."""
    upper, lower = strip.down.views(pixels, 0)
    return _across(np.add(upper, lower, dtype=dtype), strip.across)


def _across(lines: Pixels, across: Weights) -> Pixels:
    """The weighted sums along the columns of contiguous `lines`, shape (rows, cols, samples).

    Windows that begin at every column are summed in one sweep, and every second sum is kept: far faster than
    strides.
    """
    if across.length == 1:
        return lines[:, across.first : across.first + across.count]
    rows, cols, samples = lines.shape
    flat = lines.reshape(rows, cols * samples)
    width = (2 * across.count - 1) * samples
    parts = [
        flat[:, start : start + width]
        for start in ((across.first + offset) * samples for offset in range(across.length))
    ]
    swept = np.empty((rows, 2 * across.count * samples), lines.dtype)
    sums = swept[:, :width]
    if across.plain:
        np.add(parts[0], parts[1], out=sums)
    else:
        left, right = (
            np.repeat(share.astype(lines.dtype), 2 * samples)[:width] for share in (across.left, across.right)
        )
        np.multiply(parts[0], left, out=sums)
        sums += parts[1]
        sums += parts[2] * right
    pixel = np.dtype((np.void, samples * lines.dtype.itemsize))
    kept = np.ascontiguousarray(swept.view(pixel)[:, ::2])
    return kept.view(lines.dtype).reshape(rows, across.count, samples)


def _store(values: NDArray[np.floating[Any]], out: Pixels) -> None:
    """Round to the dtype of `out` as GDAL does: unsigned upwards from .5, signed away from zero."""
    if out.dtype.kind == "f":
        out[...] = values
        return
    if out.dtype.kind == "u":
        values += 0.5
    else:
        if values.dtype == np.float64 and out.dtype.itemsize <= 2:
            values = values.astype(np.float32)  # what overview.cpp hands on for these dtypes
        values += np.copysign(values.dtype.type(0.5), values)
    limits = np.iinfo(out.dtype)
    if out.dtype.itemsize == 8:
        top = values >= float(limits.max)
        values[top] = 0
        out[...] = values
        out[top] = limits.max
        return
    out[...] = np.clip(values, limits.min, limits.max)


def comparable(nodata: float | None, dtype: np.dtype[Any]) -> Any:
    """`nodata` as a value of `dtype`; None where no pixel can have it."""
    if nodata is None:
        return None
    if dtype.kind in "fc":
        return dtype.type(nodata)
    limits = np.iinfo(dtype)
    if not (np.isfinite(nodata) and limits.min <= nodata <= limits.max and nodata == int(nodata)):
        return None
    return dtype.type(int(nodata))


def holding_data(samples: Pixels, nodata: float | None) -> NDArray[np.bool_] | None:
    """Where samples are not `nodata`, a NaN included; None where all hold data, as none can be it."""
    value = comparable(nodata, samples.dtype)
    if value is None:
        return None
    there: NDArray[np.bool_] = ~np.isnan(samples) if np.isnan(value) else samples != value
    return there


def _keep_apart(out: Pixels, nodata: Any, where: NDArray[np.bool_] | None) -> None:
    """An average that is by chance the nodata value becomes its neighbour."""
    if nodata is None or np.isnan(nodata):
        return
    hit = out == nodata
    if where is not None:
        hit &= where
    if not hit.any():
        return
    dtype = out.dtype
    if dtype.kind == "f":
        beyond = dtype.type(0) if nodata == np.finfo(dtype).max else np.finfo(dtype).max
        out[hit] = np.nextafter(dtype.type(nodata), beyond)
    else:
        value = int(nodata)
        out[hit] = value - 1 if value == np.iinfo(dtype).max else value + 1
