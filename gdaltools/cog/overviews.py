"""Half the size, the same picture: one overview level from the level before it.

`halve` computes any window of a level from the part of the level before that `needed` names, with the values
that GDAL would give the whole image: level sizes are halved and rounded down, as by GDAL's COG driver, so
that on an odd side a pixel covers a little more than two source pixels and its neighbours count by their
share. Nearest and average are computed here, the same to the bit; for the rest GDAL itself is asked.

Sources: GDAL 3.10, gcore/overview.cpp (GDALResampleChunk_Near, GDALResampleChunkC32R) and
frmts/gtiff/cogdriver.cpp (sizes of the levels).
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

from gdaltools.cog.averages import average, comparable
from gdaltools.cog.axes import Axis, Span

Pixels = NDArray[Any]
Valid = NDArray[np.bool_]

# Source pixels on each side of a window that GDAL's widest kernel reaches, at a ratio of up to 3.
_KERNEL_REACH = 10
# GDAL, overview.cpp: guards against rounding when a window's first and last source pixel are found.
_EPSILON = 1e-8


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
    alpha : bool
        Whether the last band is an alpha that hides pixels: where it is 0, none of the bands counts.
    """

    resampling: str
    dtype: str
    nodata: float | None = None
    palette: tuple[tuple[int, int, int, int, int], ...] | None = None
    alpha: bool = False

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
        averages = _average_complex(pixels, rows, cols)
        if rule.dtype.startswith("complex_int"):
            averages = _whole(averages)
        return averages, None if valid is None else _any_near(valid, rows, cols)
    return average(pixels, valid, rows, cols, rule.nodata)


def _nearest(axis: Axis) -> NDArray[np.intp]:
    ratio = axis.source / axis.target
    wanted = np.arange(axis.window.start, axis.window.stop)
    return np.minimum((0.5 + wanted * ratio).astype(np.intp), axis.source - 1) - axis.given.start


def _average_complex(pixels: Pixels, rows: Axis, cols: Axis) -> Pixels:
    """In whole pixels and, whatever the dtype, to single precision: as GDALResampleChunkC32R has it."""
    down, across = _edges(rows), _edges(cols)
    wide = pixels[: down[-1], : across[-1]].astype(np.complex64).astype(np.complex128)
    sums = np.add.reduceat(np.add.reduceat(wide, across[:-1], axis=1), down[:-1], axis=0)
    counts = np.diff(down)[:, None, None] * np.diff(across)[None, :, None]
    averages: Pixels = (sums / counts).astype(np.complex64).astype(pixels.dtype)
    return averages


def _whole(values: Pixels) -> Pixels:
    """Complex integers, which are complex64 in memory: rounded as they will be stored."""
    parts = values.view(np.float32)
    np.trunc(parts + np.copysign(np.float32(0.5), parts), out=parts)
    return values


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
        if rule.resampling == "mode":
            _restore_nodata(out, pixels, rows, cols, rule)
        return out, None
    # Of a mask GDAL counts only the valid pixels, as if the others were its nodata; but not for the mode.
    flags = np.where(valid, np.uint8(255), np.uint8(0))[:, :, None]
    nodata = None if rule.resampling == "mode" else 0
    found, _ = _by_gdal(flags, None, rows, cols, Rule(rule.resampling, "uint8", nodata))
    return out, found[:, :, 0] > 0


def _restore_nodata(out: Pixels, pixels: Pixels, rows: Axis, cols: Axis, rule: Rule) -> None:
    """Where there is nodata alone, GDAL 3.10's mode gives 0, of all dtypes but unsigned integers."""
    nodata = comparable(rule.nodata, pixels.dtype)
    if nodata is not None:
        counted = ~np.isnan(pixels) if np.isnan(nodata) else pixels != nodata
        out[~_any_within(counted, rows, cols)] = nodata


def _any_within(there: NDArray[np.bool_], rows: Axis, cols: Axis) -> NDArray[np.bool_]:
    """Whether any source pixel that a target pixel covers, in part or whole, is `there`."""
    for dimension, axis in enumerate((rows, cols)):
        ratio = axis.source / axis.target
        wanted = np.arange(axis.window.start, axis.window.stop)
        first = (wanted * ratio + _EPSILON).astype(np.intp) - axis.given.start
        last = np.ceil((wanted + 1) * ratio - _EPSILON).astype(np.intp) - axis.given.start
        counts = np.insert(np.cumsum(there, axis=dimension), 0, 0, axis=dimension)
        there = counts.take(last, axis=dimension) > counts.take(first, axis=dimension)
    return there
