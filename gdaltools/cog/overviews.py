"""Half the size, the same picture: one overview level from the level before it.

`halve` computes any window of a level from the part of the level before that `needed` names, with the values
that GDAL would give the whole image: level sizes are halved and rounded down, as by GDAL's COG driver, so
that on an odd side a pixel covers a little more than two source pixels and its neighbours count by their
share. Nearest and average are computed here, the same to the bit; for the rest GDAL itself is asked.

Sources: GDAL, gcore/overview.cpp (GDALResampleChunk_Near, GDALResampleChunk_AverageOrRMS_T) and
frmts/gtiff/cogdriver.cpp (sizes of the levels), version 3.10.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.io import MemoryFile
from rasterio.windows import Window

Pixels = NDArray[Any]
Valid = NDArray[np.bool_]

# Destination rows at a time: their temporaries stay in a core's cache.
_STRIP = 8
# Source pixels on each side of a window that GDAL's widest kernel reaches, at a ratio of up to 3.
_KERNEL_REACH = 10
# GDAL, overview.cpp: guards against rounding when a window's first and last source pixel are found.
_EPSILON = 1e-8


@dataclass(frozen=True)
class Span:
    """A range of rows or columns: `start` included, `stop` not."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Rule:
    """How a level is computed from the one before.

    Attributes
    ----------
    resampling : str
        GDAL's name, in rasterio's spelling.
    dtype : str
        rasterio's name of the bands' dtype.
    nodata : float or None
        The value that counts for nothing.
    palette : tuple or None
        The colour table as (index, red, green, blue, alpha) entries; GDAL blends colours, not their numbers.
    """

    resampling: str
    dtype: str
    nodata: float | None = None
    palette: tuple[tuple[int, int, int, int, int], ...] | None = None

    @property
    def by_gdal(self) -> bool:
        """Whether GDAL computes it."""
        if self.resampling == "nearest":
            return False
        return self.resampling != "average" or self.palette is not None


def half(size: int) -> int:
    """The side of the next level.

    >>> half(3225), half(1)
    (1612, 1)
    """
    return max(1, size // 2)


def level_sizes(width: int, height: int, blocksize: int) -> tuple[tuple[int, int], ...]:
    """(width, height) of every level, the full resolution first, down to one that fits a block.

    >>> level_sizes(1411, 1300, 512)
    ((1411, 1300), (705, 650), (352, 325))
    """
    sizes = [(width, height)]
    while max(sizes[-1]) > blocksize:
        sizes.append((half(sizes[-1][0]), half(sizes[-1][1])))
    return tuple(sizes)


def needed(window: Span, source: int, target: int, rule: Rule) -> Span:
    """The rows (or columns) of a source of so many that `window` of the target's is computed from.

    >>> average = Rule("average", "uint8")
    >>> needed(Span(0, 10), 40, 20, average), needed(Span(0, 10), 41, 20, average)
    (Span(start=0, stop=20), Span(start=0, stop=21))
    """
    ratio = source / target
    reach = _KERNEL_REACH if rule.by_gdal else 0
    if rule.resampling == "nearest":
        return Span(int(0.5 + window.start * ratio), min(source, int(0.5 + (window.stop - 1) * ratio) + 1))
    start = int(window.start * ratio + _EPSILON) - reach
    stop = int(np.ceil(window.stop * ratio - _EPSILON)) + reach
    return Span(max(0, start), min(source, stop))


@dataclass(frozen=True)
class Axis:
    """One axis of a step from a level to the next: both sizes, what is wanted and what is at hand."""

    source: int
    target: int
    window: Span
    given: Span


def halve(
    pixels: Pixels, valid: Valid | None, rows: Axis, cols: Axis, rule: Rule
) -> tuple[Pixels, Valid | None]:
    """The window of the next level that `rows` and `cols` name.

    Parameters
    ----------
    pixels : ndarray, shape (rows, cols, samples)
        The part of the level that ``rows.given`` and ``cols.given`` name, at least what `needed` says.
    valid : ndarray of bool, shape (rows, cols), optional
        The per-dataset mask of the same part.

    Returns
    -------
    pixels, valid
        Of shape (rows.window, cols.window, samples) and (rows.window, cols.window); no mask gives None.
    """
    if rule.by_gdal:
        return _by_gdal(pixels, valid, rows, cols, rule)
    if rule.resampling == "nearest":
        picked = _nearest(rows)[:, None], _nearest(cols)[None, :]
        return pixels[picked], None if valid is None else valid[picked]
    if pixels.dtype.kind == "c":
        return _average_complex(pixels, rows, cols), None if valid is None else _any_near(valid, rows, cols)
    return _average(pixels, valid, rows, cols, rule)


def _nearest(axis: Axis) -> NDArray[np.intp]:
    ratio = axis.source / axis.target
    wanted = np.arange(axis.window.start, axis.window.stop)
    return np.minimum((0.5 + wanted * ratio).astype(np.intp), axis.source - 1) - axis.given.start


@dataclass(frozen=True)
class _Weights:
    """The source pixels of each target pixel along an axis: where they begin, and what each counts.

    All windows of an axis have the same length: 2, or 3 on an odd side, or 1 where nothing is halved.
    """

    first: int
    count: int
    length: int
    left: NDArray[np.float64]
    right: NDArray[np.float64]
    total: NDArray[np.float64]

    @property
    def plain(self) -> bool:
        return self.length == 2

    def parts(self, array: Pixels, axis: int) -> list[Pixels]:
        """The first, second … source pixel of all windows along `axis`, as views."""
        step = 1 if self.length == 1 else 2
        index: list[Any] = [slice(None)] * array.ndim
        views = []
        for offset in range(self.length):
            start = self.first + offset
            index[axis] = slice(start, start + step * (self.count - 1) + 1, step)
            views.append(array[tuple(index)])
        return views


def _weights(axis: Axis) -> _Weights:
    ratio = axis.source / axis.target
    wanted = np.arange(axis.window.start, axis.window.stop)
    begin, end = wanted * ratio, (wanted + 1) * ratio
    first = (begin + _EPSILON).astype(np.int64)
    last = np.minimum(np.ceil(end - _EPSILON).astype(np.int64), axis.source)
    length = int(last[0] - first[0])
    single = length == 1
    left = np.ones(len(wanted)) if single else 1 - (begin - first)
    right = 1 - (last - end)
    total = left if single else left + (length - 2) + right
    return _Weights(
        int(first[0]) - axis.given.start, len(wanted), length, *map(np.asarray, (left, right, total))
    )


def _average(
    pixels: Pixels, valid: Valid | None, rows: Axis, cols: Axis, rule: Rule
) -> tuple[Pixels, Valid | None]:
    down, across = _weights(rows), _weights(cols)
    shape = (down.count, across.count, pixels.shape[2])
    averages = np.empty(shape, pixels.dtype)
    found = None if valid is None else np.empty(shape[:2], bool)
    step = 1 if down.length == 1 else 2
    nodata = _comparable(rule.nodata, pixels.dtype)
    for top in range(0, down.count, _STRIP):
        bottom = min(top + _STRIP, down.count)
        taken = slice(down.first + top * step, down.first + (bottom - 1) * step + down.length)
        strip = _Strip(pixels[taken], slice(top, bottom), down, across, cols)
        counted = None if valid is None else valid[taken]
        if counted is not None and found is not None:
            found[top:bottom] = _any(counted, strip)
            counted = np.broadcast_to(counted[:, :, None], strip.pixels.shape)
        elif nodata is not None:
            counted = ~(np.isnan(strip.pixels) if np.isnan(nodata) else strip.pixels == nodata)
        out = averages[top:bottom]
        if counted is None:
            _average_all(strip, out, masked=False)
        elif counted.all():
            _average_all(strip, out, masked=True)
            _keep_apart(out, nodata, rule)
        elif not counted.any():
            out[...] = 0 if nodata is None else nodata
        else:
            _average_some(strip, counted, out, 0 if nodata is None else nodata)
            if nodata is not None:
                _keep_apart(out, nodata, rule, _any(counted, strip))
    return averages, found


@dataclass(frozen=True)
class _Strip:
    """Source rows of a few target rows, and how they are weighed."""

    pixels: Pixels
    rows: slice
    down: _Weights
    across: _Weights
    cols: Axis

    @property
    def local(self) -> _Weights:
        """The weights down, of these rows alone and counted from the strip's first."""
        picked = self.rows
        return _Weights(
            0,
            picked.stop - picked.start,
            self.down.length,
            self.down.left[picked],
            self.down.right[picked],
            self.down.total[picked],
        )

    @property
    def plain(self) -> bool:
        return self.down.plain and self.across.plain


def _any(valid: NDArray[np.bool_], strip: _Strip) -> NDArray[np.bool_]:
    found = None
    for row in strip.local.parts(valid, 0):
        for part in strip.across.parts(row, 1):
            found = part.copy() if found is None else np.logical_or(found, part, out=found)
    assert found is not None
    return found


def _average_all(strip: _Strip, out: Pixels, *, masked: bool) -> None:
    """Every source pixel counts; where others of the level do not, `masked`, GDAL rounds differently."""
    kind = out.dtype
    if strip.plain and kind in (np.uint8, np.uint16):
        _average_integers(strip, out)
        return
    if strip.plain and not masked and kind.itemsize <= 4 and kind not in (np.uint32, np.int32):
        _average_singles(strip, out)
        return
    if strip.plain and not masked:
        # overview.cpp adds doubles one after the other.
        a, b, c, d = (
            part.astype(np.float64)
            for row in strip.local.parts(strip.pixels, 0)
            for part in strip.across.parts(row, 1)
        )
        _store((a + b + c + d) * 0.25, out)
        return
    lines = _weighed(strip.across.parts(strip.pixels, 1), strip.across, axis=1)
    total = _weighed(strip.local.parts(lines, 0), strip.local, axis=0)
    local, across = strip.local, strip.across
    if masked:
        weight = across.total * local.left[:, None]
        if local.length > 1:
            for _ in range(local.length - 2):
                weight = weight + across.total
            weight = weight + across.total * local.right[:, None]
        weight = weight[:, :, None]
    else:
        weight = across.total[None, :, None] * local.total[:, None, None]
    _store(np.divide(total, weight, out=total), out)


def _weighed(parts: list[Pixels], weights: _Weights, *, axis: int) -> NDArray[np.float64]:
    """The weighted sum of the pixels of each window along one axis, in overview.cpp's order."""
    shape = (-1, 1, 1) if axis == 0 else (1, -1, 1)
    if len(parts) == 2 and weights.plain and np.all(weights.left == 1) and np.all(weights.right == 1):
        return np.add(parts[0], parts[1], dtype=np.float64)
    total = np.multiply(parts[0], weights.left.reshape(shape), dtype=np.float64)
    for part in parts[1:-1]:
        total += part
    if len(parts) > 1:
        total += np.multiply(parts[-1], weights.right.reshape(shape), dtype=np.float64)
    return total


def _average_integers(strip: _Strip, out: Pixels) -> None:
    """(a + b + c + d + 2) / 4 of unsigned integers."""
    wide = np.uint16 if out.dtype == np.uint8 else np.uint32
    upper, lower = strip.local.parts(strip.pixels, 0)
    quarters = _pairs(np.add(upper, lower, dtype=wide), strip.across)
    quarters += 2
    quarters >>= 2
    out[...] = quarters


def _average_singles(strip: _Strip, out: Pixels) -> None:
    """In single precision: down first and then across, as GDAL's SSE2 code; its last columns in a row."""
    upper, lower = strip.local.parts(strip.pixels.astype(np.float32, copy=False), 0)
    averages = _pairs(np.add(upper, lower), strip.across)
    averages *= np.float32(0.25)
    vectors = strip.cols.target // 4 * 4 - strip.cols.window.start
    if out.dtype == np.float32 and vectors < averages.shape[1]:
        rest = slice(max(0, vectors), None)
        a, b = (part[:, rest] for part in strip.across.parts(upper, 1))
        c, d = (part[:, rest] for part in strip.across.parts(lower, 1))
        averages[:, rest] = (a + b + c + d) * np.float32(0.25)
    _store(averages, out)


def _pairs(sums: Pixels, across: _Weights) -> Pixels:
    """The sum of each pair of neighbours along the columns; `sums`, (rows, cols, samples), is contiguous."""
    rows, cols, samples = sums.shape
    flat = sums.reshape(rows, cols * samples)
    first = across.first * samples
    width = (2 * across.count - 1) * samples
    # Neighbours of all columns are added in one sweep, and every second sum is kept: far faster than strides.
    both = np.empty((rows, 2 * across.count * samples), sums.dtype)
    np.add(
        flat[:, first : first + width],
        flat[:, first + samples : first + samples + width],
        out=both[:, :width],
    )
    pixel = np.dtype((np.void, samples * sums.dtype.itemsize))
    kept = np.ascontiguousarray(both.view(pixel)[:, ::2])
    return kept.view(sums.dtype).reshape(rows, across.count, samples)


def _average_some(strip: _Strip, counted: NDArray[np.bool_], out: Pixels, empty: Any) -> None:
    """Only the source pixels of `counted`, shape (rows, cols, samples), count."""
    values = np.where(counted, strip.pixels, strip.pixels.dtype.type(0))
    if strip.plain:
        lines = np.add(*strip.across.parts(values, 1), dtype=np.float64)
        total = np.add(*strip.local.parts(lines, 0))
        pairs = np.add(*strip.across.parts(counted, 1), dtype=np.uint8)
        weight = np.add(*strip.local.parts(pairs, 0)).astype(np.float64)
    else:
        lines = _weighed(strip.across.parts(values, 1), strip.across, axis=1)
        total = _weighed(strip.local.parts(lines, 0), strip.local, axis=0)
        weights = _weighed(strip.across.parts(counted, 1), strip.across, axis=1)
        weight = _weighed(strip.local.parts(weights, 0), strip.local, axis=0)
    nothing = weight == 0
    weight[nothing] = 1
    _store(np.divide(total, weight, out=total), out)
    out[nothing] = empty


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


def _comparable(nodata: float | None, dtype: np.dtype[Any]) -> Any:
    """`nodata` as a value of `dtype`; None where no pixel can have it."""
    if nodata is None:
        return None
    if dtype.kind == "f":
        return dtype.type(nodata)
    limits = np.iinfo(dtype)
    if not (np.isfinite(nodata) and limits.min <= nodata <= limits.max and nodata == int(nodata)):
        return None
    return dtype.type(int(nodata))


def _keep_apart(out: Pixels, nodata: Any, rule: Rule, where: NDArray[np.bool_] | None = None) -> None:
    """An average that is by chance the nodata value becomes its neighbour (GDALGetNoDataReplacementValue)."""
    if nodata is None or np.isnan(nodata):
        return
    hit = out == nodata
    if where is not None:
        hit &= where
    if not hit.any():
        return
    dtype = out.dtype
    if dtype.kind == "f":
        limits = np.finfo(dtype)
        beyond = dtype.type(0) if nodata == limits.max else limits.max
        out[hit] = np.nextafter(dtype.type(nodata), beyond)
    else:
        value = int(nodata)
        out[hit] = value - 1 if value == np.iinfo(dtype).max else value + 1


def _average_complex(pixels: Pixels, rows: Axis, cols: Axis) -> Pixels:
    """In whole pixels and, whatever the dtype, to single precision: as GDALResampleChunkC32R has it."""
    down, across = _edges(rows), _edges(cols)
    wide = pixels[: down[-1], : across[-1]].astype(np.complex64).astype(np.complex128)
    sums = np.add.reduceat(np.add.reduceat(wide, across[:-1], axis=1), down[:-1], axis=0)
    counts = np.diff(down)[:, None, None] * np.diff(across)[None, :, None]
    averages: Pixels = (sums / counts).astype(np.complex64).astype(pixels.dtype)
    return averages


def _any_near(valid: Valid, rows: Axis, cols: Axis) -> Valid:
    down, across = _edges(rows), _edges(cols)
    wide = valid[: down[-1], : across[-1]]
    near = np.logical_or.reduceat(np.logical_or.reduceat(wide, across[:-1], axis=1), down[:-1], axis=0)
    return np.asarray(near)


def _edges(axis: Axis) -> NDArray[np.intp]:
    """Where the whole source pixels of each target pixel begin, and where the last of them ends."""
    edges = (0.5 + np.arange(axis.window.start, axis.window.stop + 1) * (axis.source / axis.target)).astype(
        np.intp
    )
    if axis.window.stop == axis.target:
        edges[-1] = axis.source
    return edges - axis.given.start


def _by_gdal(
    pixels: Pixels, valid: Valid | None, rows: Axis, cols: Axis, rule: Rule
) -> tuple[Pixels, Valid | None]:
    """GDAL's own resampling of an in-memory copy."""
    height, width, samples = pixels.shape
    down, across = rows.source / rows.target, cols.source / cols.target
    window = Window(
        cols.window.start * across - cols.given.start,
        rows.window.start * down - rows.given.start,
        len(cols.window) * across,
        len(rows.window) * down,
    )
    shape = (len(rows.window), len(cols.window))
    resampling = Resampling[rule.resampling]
    out = np.empty((*shape, samples), pixels.dtype)
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK="YES", GDAL_PAM_ENABLED="NO"),
        MemoryFile() as memory,
    ):
        with memory.open(
            driver="GTiff",
            width=width,
            height=height,
            count=samples,
            dtype=rule.dtype,
            nodata=rule.nodata,
            interleave="pixel",
            photometric="palette" if rule.palette else "minisblack",
        ) as dataset:
            if rule.palette:
                dataset.write_colormap(1, {entry[0]: entry[1:] for entry in rule.palette})
            dataset.write(pixels.transpose(2, 0, 1))
            if valid is not None:
                dataset.write_mask(valid)
        with memory.open() as dataset:
            dataset.read(out=out.transpose(2, 0, 1), window=window, resampling=resampling)
    if valid is None:
        return out, None
    # Of a mask GDAL counts only the valid pixels, as if the others were its nodata; but not for the mode.
    flags = np.where(valid, np.uint8(255), np.uint8(0))[:, :, None]
    nodata = None if rule.resampling == "mode" else 0
    found, _ = _by_gdal(flags, None, rows, cols, Rule(rule.resampling, "uint8", nodata))
    return out, found[:, :, 0] > 0
