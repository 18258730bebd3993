"""Average the pixels below each pixel of an overview, or their squares, with GDAL's rounding.

Integers of 8 and 16 bits are first averaged in the fastest order of additions. Results so close to a rounding
boundary that GDAL's order could round the other way are computed again in GDAL's order. Stretches of columns
that hold only data, or no data, are averaged as a whole; in the others, the pixels along the border of the
data are averaged one by one.

Source: GDAL, gcore/overview.cpp, GDALResampleChunk_AverageOrRMS_T, 3.10.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gdaltools.cog.overviews.axis import HalvingAxis
from gdaltools.cog.overviews.windows import Cover, Strip, Weights
from gdaltools.raster.pixels.nodata import comparable, holding_data, keep_apart

Pixels = NDArray[Any]
Valid = NDArray[np.bool_]

# The largest number of source pixels each way that a pixel of the next level covers: of 3 pixels it makes 1.
_MOST_HALVING = 3
# The target rows that are searched at a time for stretches that hold only data, or none.
_ROWS = 64
# The samples that are averaged at a time, so that temporaries stay in the cache, and the fewest rows of them:
# more rows where some source pixels hold no data, because those calls have a higher fixed cost.
_STRIP_SAMPLES, _FEW_ROWS, _FEW_MIXED_ROWS = 128_000, 8, 32
# The fewest target columns of a stretch, all or none of whose source pixels hold data, worth a separate call.
_SHORT = 64
# The share of partly filled windows above which averaging them one by one does not pay.
_MANY_MIXED = 0.3
# The largest error of the fast order of additions: in single precision for 8 bits, in double for 16.
_CLOSE = {np.dtype(np.uint8): 5e-4, np.dtype(np.uint16): 1e-6}


def average(
    pixels: Pixels, valid: Valid | None, rows: HalvingAxis, cols: HalvingAxis, nodata: float | None
) -> tuple[Pixels, Valid | None]:
    """Return the averages of a window of the next level, and its mask if there is one.

    Parameters
    ----------
    pixels : ndarray, shape (rows, cols, samples), C-contiguous
        Samples of a real dtype.
    valid : ndarray of bool, shape (rows, cols), optional
        The per-dataset mask; it takes precedence over `nodata`.
    """
    if max(rows.source / rows.target, cols.source / cols.target) > _MOST_HALVING:
        return _in_order(pixels, valid, rows, cols, nodata, _store)
    down, across = Weights.of(rows), Weights.of(cols)
    vectors = cols.target // 4 * 4 - cols.window.start
    averages = np.empty((down.count, across.count, pixels.shape[2]), pixels.dtype)
    found = None if valid is None else np.empty((down.count, across.count), bool)
    value = comparable(nodata, pixels.dtype)
    for lines in _parts(down.count, _ROWS):
        taken = down.span(lines)
        strip = Strip(pixels[taken], down.part(lines), across, vectors)
        if valid is not None and found is not None:
            found[lines] = strip.any(valid[taken])
            _average(strip, valid[taken][:, :, None], averages[lines], value)
        elif (there := holding_data(strip.pixels, nodata)) is not None:
            _average(strip, there, averages[lines], value)
        else:
            _average_all(strip, averages[lines], masked=False)
    return averages, found


def root_mean_squares(
    pixels: Pixels, valid: Valid | None, rows: HalvingAxis, cols: HalvingAxis, nodata: float | None
) -> tuple[Pixels, Valid | None]:
    """Return what `average` returns, of the root mean squares."""
    return _in_order(pixels, valid, rows, cols, nodata, _store_roots, power=2)


def _in_order(
    pixels: Pixels,
    valid: Valid | None,
    rows: HalvingAxis,
    cols: HalvingAxis,
    nodata: float | None,
    store: Callable[[NDArray[np.float64], Pixels], None],
    power: int = 1,
) -> tuple[Pixels, Valid | None]:
    """Average a `power` of the source pixels below each pixel, however many, and `store` the means.

    They are added one after another, in overview.cpp's order: whether ties round up depends on it.
    """
    down, across = Cover.of(rows), Cover.of(cols)
    count, samples = len(down.first), pixels.shape[2]
    means = np.empty((count, len(across.first), samples), pixels.dtype)
    found = None if valid is None else np.empty(means.shape[:2], bool)
    value = comparable(nodata, pixels.dtype)
    most = int(down.length.max()) * pixels.shape[1] * samples
    for lines in _parts(count, max(1, _STRIP_SAMPLES // most)):
        taken, part, out = down.span(lines), down.part(lines), means[lines]
        known = pixels[taken]
        there = holding_data(known, nodata) if valid is None else valid[taken][:, :, None]
        if there is not None:
            known = np.where(there, known, known.dtype.type(0))
        if power == 2:
            known = np.multiply(known, known, dtype=np.float64)
        total = part.sum(across.sum(known, axis=1), axis=0)
        if there is None:
            store(total / np.multiply.outer(part.total, across.total)[:, :, None], out)
            continue
        weights = part.sum(across.sum(there, axis=1), axis=0)
        some = weights > 0
        store(total / np.where(some, weights, 1), out)
        some = np.broadcast_to(some, out.shape)
        keep_apart(out, value, some)
        np.copyto(out, 0 if value is None else value, where=~some)
        if found is not None:
            found[lines] = some[:, :, 0]
    return means, found


def _parts(count: int, step: int) -> Iterator[slice]:
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


def _strips(strip: Strip, few: int) -> Iterator[slice]:
    """Yield groups of target rows whose temporaries stay in the cache, of at least `few` rows."""
    return _parts(strip.down.count, max(few, _STRIP_SAMPLES // (strip.across.count * strip.pixels.shape[2])))


def _average(strip: Strip, there: NDArray[np.bool_], out: Pixels, nodata: Any) -> None:
    """Average only the source pixels that are `there`, shape (rows, cols, samples or 1)."""
    if there.all():
        _average_all(strip, out, masked=True)
        keep_apart(out, nodata, None)
        return
    for chosen, kind in _stretches(strip.across, there):
        part, target = strip.segment(chosen), out[:, chosen]
        if kind is _Kind.EMPTY:
            target[...] = 0 if nodata is None else nodata
        elif kind is _Kind.WHOLE:
            _average_all(part, target, masked=True)
            keep_apart(target, nodata, None)
        else:
            known = there[:, strip.across.span(chosen)]
            for lines in _strips(part, _FEW_MIXED_ROWS):
                _average_some(part.lines(lines), known[part.down.span(lines)], target[lines], nodata)


class _Kind(enum.IntEnum):
    """Whether none, some or all of the source pixels of some target columns hold data."""

    EMPTY = 0
    MIXED = 1
    WHOLE = 2


def _stretches(across: Weights, there: NDArray[np.bool_]) -> Iterator[tuple[slice, _Kind]]:
    """Yield stretches of target columns of one kind, from left to right; short ones count as mixed."""
    # Reductions are fast along the first axis of contiguous arrays.
    complete = np.logical_and.reduce(np.ascontiguousarray(np.logical_and.reduce(there, axis=0).T), axis=0)
    holding = np.logical_or.reduce(np.ascontiguousarray(np.logical_or.reduce(there, axis=0).T), axis=0)
    kinds = across.any(holding, axis=0).astype(np.int8) + ~across.any(~complete, axis=0)
    begins = np.flatnonzero(np.diff(kinds, prepend=-1))
    short = np.diff(begins, append=across.count) < _SHORT
    found = np.where(short, _Kind.MIXED, kinds[begins])
    kept = np.flatnonzero(np.diff(found, prepend=-1))
    ends = [*begins[kept[1:]].tolist(), across.count]
    for begin, end, kind in zip(begins[kept].tolist(), ends, found[kept].tolist(), strict=True):
        yield slice(begin, end), _Kind(kind)


def _average_all(strip: Strip, out: Pixels, *, masked: bool) -> None:
    """Average all source pixels; `masked` says that others of the level do not count.

    GDAL rounds differently in that case.
    """
    for lines in _strips(strip, _FEW_ROWS):
        _average_strip(strip.lines(lines), out[lines], masked=masked)


def _average_strip(strip: Strip, out: Pixels, *, masked: bool) -> None:
    kind = out.dtype
    if kind in (np.uint8, np.uint16):
        if strip.plain:
            _average_integers(strip, out)
        else:
            _average_weighed_integers(strip, out, masked=masked)
    elif strip.plain and not masked and (kind.itemsize <= 2 or kind == np.float32):
        _average_singles(strip, out)
    elif strip.plain and not masked:
        # overview.cpp adds doubles one after another.
        a, b, c, d = (
            part.astype(np.float64)
            for row in strip.down.views(strip.pixels, 0)
            for part in strip.across.views(row, 1)
        )
        _store((a + b + c + d) * 0.25, out)
    else:
        lines = _weighed(strip.across.views(strip.pixels, 1), strip.across, axis=1)
        total = _weighed(strip.down.views(lines, 0), strip.down, axis=0)
        if strip.plain:
            total *= 0.25
            _store(total, out)
            return
        weight = _weight(strip, np.arange(out.shape[0])[:, None], np.arange(out.shape[1])[None, :], masked)
        _store(np.divide(total, weight[:, :, None], out=total), out)


def _average_some(strip: Strip, there: NDArray[np.bool_], out: Pixels, nodata: Any) -> None:
    """Average only the source pixels that are `there`.

    If few windows hold both data and no data, all windows are averaged as if full, and those few again.
    """
    counts = _counts(strip, there)
    whole = strip.down.length * strip.across.length
    # Counts are uint8, so 0 - 1 wraps to 255 and empty windows are not mixed.
    mixed = np.flatnonzero(counts - np.uint8(1) < whole - 1)
    if mixed.size > _MANY_MIXED * counts.size:
        _average_dense(strip, there, counts, out)
    else:
        _average_strip(strip, out, masked=True)
        if mixed.size:
            _average_mixed(strip, there, mixed, out)
    none = counts == 0
    if nodata is not None:
        keep_apart(out, nodata, ~none)
    np.copyto(out, 0 if nodata is None else nodata, where=none)


def _counts(strip: Strip, there: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return how many source pixels of each target pixel are `there`, shape (rows, cols, samples or 1)."""
    return _across(strip.down.sum(there.view(np.uint8), axis=0), strip.across.alike)


def _average_mixed(strip: Strip, there: NDArray[np.bool_], mixed: NDArray[np.intp], out: Pixels) -> None:
    """Average the source pixels that are `there` for single pixels (or samples) of `out`.

    `mixed` holds their flat indices.
    """
    down, across = strip.down, strip.across
    width, samples = strip.pixels.shape[1:]
    # One average for each pixel with all its samples, or one for each sample.
    apart = there.shape[2]
    rows, rest = np.divmod(mixed, out.shape[1] * apart)
    cols, sample = np.divmod(rest, apart)
    first = ((down.first + rows * down.step) * width + across.first + cols * across.step) * apart + sample
    offsets = np.add.outer(np.arange(down.length) * width, np.arange(across.length)) * apart
    places = offsets.reshape(-1, 1) + first
    flags = there.reshape(-1).take(places)[:, :, None]
    values = strip.pixels.reshape(-1, samples // apart).take(places, axis=0)
    values = np.where(flags, values, values.dtype.type(0))
    averages = np.empty(values.shape[1:], out.dtype)
    if strip.plain and out.dtype in (np.uint8, np.uint16):
        counts = flags.sum(axis=0, dtype=np.uint8)
        _divide_few(values.sum(axis=0, dtype=_wide(out.dtype)), counts, averages)
    else:
        total, weight = (_sum_few(strip, parts, rows, cols) for parts in (values, flags))
        _store(np.divide(total, weight, out=total), averages)
    if apart == samples:
        out[rows, cols, sample] = averages[:, 0]
    else:
        out[rows, cols] = averages


def _sum_few(
    strip: Strip, parts: Pixels, rows: NDArray[np.intp], cols: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Return the weighted sums of the windows at `rows` and `cols`.

    `parts` has the shape (source pixels, windows, samples).
    """
    lines = parts.reshape(strip.down.length, strip.across.length, *parts.shape[1:])
    sums = _weighed(list(lines.swapaxes(0, 1)), strip.across.picked(cols), axis=1)
    total = _weighed(list(sums[:, None]), strip.down.picked(rows), axis=1)
    return np.asarray(total[0])


def _divide_few(total: Pixels, counts: NDArray[np.uint8], out: Pixels) -> None:
    """Store averages of 1 to 4 integers of at most 16 bits.

    Single precision suffices: a quotient that is not a tie is never close to one.
    """
    quotient = total.astype(np.float32)
    quotient /= counts
    quotient += np.float32(0.5)
    out[...] = quotient


def _average_dense(strip: Strip, there: NDArray[np.bool_], counts: NDArray[np.uint8], out: Pixels) -> None:
    values = np.where(there, strip.pixels, strip.pixels.dtype.type(0))
    if strip.plain and out.dtype in (np.uint8, np.uint16):
        _divide_few(_sums(values, strip, _wide(out.dtype)), np.maximum(counts, 1), out)
        return
    lines = _weighed(strip.across.views(values, 1), strip.across, axis=1)
    columns = _weighed(strip.across.views(there, 1), strip.across, axis=1)
    quotient = _weighed(strip.down.views(lines, 0), strip.down, axis=0)
    weights = _weighed(strip.down.views(columns, 0), strip.down, axis=0)
    weights[weights == 0] = 1
    quotient /= weights
    _store(quotient, out)


def _weighed(parts: list[Pixels], weights: Weights, *, axis: int) -> NDArray[np.float64]:
    """Return the weighted sum of the pixels of each window along one axis, in overview.cpp's order."""
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
    strip: Strip, rows: NDArray[np.intp], cols: NDArray[np.intp], masked: bool
) -> NDArray[np.float64]:
    """Return the total weight of the source pixels of some target pixels, with overview.cpp's rounding."""
    down, across = strip.down, strip.across.total[cols]
    if not masked:
        return np.asarray(across * down.total[rows])
    weight = across * down.left[rows]
    for _ in range(down.length - 2):
        weight = weight + across
    return np.asarray(weight + across * down.right[rows] if down.length > 1 else weight)


def _wide(dtype: np.dtype[Any]) -> type[np.unsignedinteger[Any]]:
    return np.uint16 if dtype == np.uint8 else np.uint32


def _average_integers(strip: Strip, out: Pixels) -> None:
    """Store (a + b + c + d + 2) / 4, rounded down."""
    quarters = _sums(strip.pixels, strip, _wide(out.dtype))
    quarters += 2
    quarters >>= 2
    out[...] = quarters


def _average_singles(strip: Strip, out: Pixels) -> None:
    """Average in single precision: down first, then across, as GDAL's SSE2 code does.

    Its last columns are added one after another.
    """
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


def _average_weighed_integers(strip: Strip, out: Pixels, *, masked: bool) -> None:
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
    # All windows of an axis have the same total weight except for rounding.
    values *= kind(1 / (down.total[0] * across.total[0]))
    values += kind(0.5)
    out[...] = values
    values -= out
    values -= kind(0.5)
    doubtful = np.flatnonzero(np.abs(values, out=values) > 0.5 - close)
    if doubtful.size:
        places = np.unravel_index(doubtful, out.shape)
        out[places] = _exactly(strip, places, masked)


def _exactly(strip: Strip, places: tuple[NDArray[np.intp], ...], masked: bool) -> Pixels:
    """Return the averages at single `places`, in overview.cpp's order."""
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


def _share(weights: Weights, position: int, chosen: NDArray[np.intp]) -> NDArray[np.float64] | float:
    if position == 0:
        return weights.left[chosen]
    return weights.right[chosen] if position == weights.length - 1 else 1.0


def _sums(pixels: Pixels, strip: Strip, dtype: Any) -> Pixels:
    """Return the sums of two by two pixels: down, then across."""
    upper, lower = strip.down.views(pixels, 0)
    return _across(np.add(upper, lower, dtype=dtype), strip.across)


def _across(lines: Pixels, across: Weights) -> Pixels:
    """Return the weighted sums across the columns of contiguous `lines`, shape (rows, cols, samples).

    Windows that begin at every column are summed in one sweep, and every second sum is kept. This is far
    faster than strides.
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


def _store_roots(squares: NDArray[np.float64], out: Pixels) -> None:
    """Store the roots; of 8 and 16 bits, the integers whose squares are nearest, the lower ones of two."""
    roots = np.sqrt(squares)
    if out.dtype in (np.uint8, np.uint16):
        roots = np.floor(roots)
        out[...] = roots + (2 * roots * (roots + 1) + 1 < 2 * squares)
    else:
        _store(roots, out)


def _store(values: NDArray[np.floating[Any]], out: Pixels) -> None:
    """Round to the dtype of `out` as GDAL does: ties go up for unsigned, away from zero for signed dtypes."""
    if out.dtype.kind == "f":
        out[...] = values
        return
    if out.dtype.kind == "u":
        values += 0.5
    else:
        if values.dtype == np.float64 and out.dtype.itemsize <= 2:
            values = values.astype(np.float32)  # as overview.cpp does for these dtypes
        values += np.copysign(values.dtype.type(0.5), values)
    limits = np.iinfo(out.dtype)
    if out.dtype.itemsize == 8:
        top = values >= float(limits.max)
        values[top] = 0
        out[...] = values
        out[top] = limits.max
        return
    out[...] = np.clip(values, limits.min, limits.max)
