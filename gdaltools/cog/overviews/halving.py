"""Half the size, the same picture: one overview level from the level before it.

`halve` computes any window of a level from the part of the level before that `needed` names, with the values
that GDAL would give the whole image: level sizes are halved and rounded down, as by GDAL's COG driver, so
that on an odd side a pixel covers a little more than two source pixels and its neighbours count by their
share. Nearest and averages, of colours too, are computed here, the same to the bit; for the rest GDAL itself
is asked.

Sources: GDAL 3.10, gcore/overview.cpp (GDALResampleChunk_Near, GDALResampleChunkC32R) and
frmts/gtiff/cogdriver.cpp (sizes of the levels).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gdaltools.cog.overviews.averages import average
from gdaltools.cog.overviews.axis import HalvingAxis
from gdaltools.cog.overviews.kernels import CONVOLUTIONS, as_half_floats, resampled, resampled_weighed
from gdaltools.cog.overviews.palettes import Palette, blend, is_identity
from gdaltools.cog.overviews.windows import any_below
from gdaltools.geo.window import Span

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
        The colour table whose colours are blended, as (index, red, green, blue, alpha) entries; None where
        the numbers themselves are resampled.
    alpha : bool
        Whether the last band is an alpha that hides pixels: where it is 0, none of the bands counts, and
        where it is more, bands weigh by it with some resamplings.
    alphas : tuple of int
        Bands, from 0, that are alphas beside a mask or nodata: of each counts what is not 0 itself.
    sample_bits : int or None
        GDAL's NBITS where that is less than the dtype has.
    """

    resampling: str
    dtype: str
    nodata: float | None = None
    palette: Palette | None = None
    alpha: bool = False
    alphas: tuple[int, ...] = ()
    sample_bits: int | None = None

    @property
    def by_gdal(self) -> bool:
        """Whether GDAL computes it."""
        if self.palette is not None or self.dtype.startswith("complex"):
            return False
        return self.resampling not in ("nearest", "average")

    @property
    def half_floats(self) -> bool:
        """Whether samples are stored with half the precision that they have in memory."""
        return self.dtype == "float32" and self.sample_bits == 16

    @property
    def weighs_alpha(self) -> bool:
        """Whether what an alpha hides in part counts in part."""
        return self.alpha and self.resampling in CONVOLUTIONS


def blended_palette(resampling: str, palette: Palette) -> Palette | None:
    """The colour table, if its colours are blended; the mode picks indices, kernels take them for numbers."""
    blends = resampling in ("average", "rms") and bool(palette) and not is_identity(palette)
    return palette if blends else None


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


def halve_planes(
    planes: Pixels, valid: Valid | None, rows: HalvingAxis, cols: HalvingAxis, rule: Rule
) -> tuple[Pixels, Valid | None]:
    """`halve` for all planes, shape (planes, rows, cols, samples), with what alpha bands hide of them."""
    halves, found = [], None
    for number, plane in enumerate(planes):
        if rule.weighs_alpha:
            own = number + 1 == len(planes)
            weights = _opacity(planes[-1][:, :, -1], plane.shape[2], own=own)
            halves.append(resampled_weighed(plane, weights, rows, cols, rule.resampling))
        elif rule.alpha:
            halves.append(halve(plane, planes[-1][:, :, -1] != 0, rows, cols, rule)[0])
        else:
            half_plane, found = halve(plane, valid, rows, cols, rule)
            for sample in range(plane.shape[2]):
                if number * plane.shape[2] + sample in rule.alphas:
                    alpha = plane[:, :, sample : sample + 1].copy()
                    half_plane[:, :, sample] = halve(alpha, alpha[:, :, 0] != 0, rows, cols, rule)[0][:, :, 0]
            halves.append(half_plane)
    return halves[0][None] if len(halves) == 1 else np.stack(halves), found


def halve(
    pixels: Pixels, valid: Valid | None, rows: HalvingAxis, cols: HalvingAxis, rule: Rule
) -> tuple[Pixels, Valid | None]:
    """The window of the next level that `rows` and `cols` name.

    Parameters
    ----------
    pixels : ndarray, shape (rows, cols, samples)
        The part of the level that ``rows.available`` and ``cols.available`` name, at least what `needed`
        says.
    valid : ndarray of bool, shape (rows, cols), optional
        The per-dataset mask of the same part.

    Returns
    -------
    pixels, valid
        Of shape (rows.window, cols.window, samples) and (rows.window, cols.window); no mask gives None.
    """
    if rule.half_floats:
        halves, found = halve(pixels, valid, rows, cols, replace(rule, sample_bits=None))
        return as_half_floats(halves), found
    if rule.by_gdal or (rule.resampling == "average" and not _halving(rows, cols)):
        return resampled(
            pixels, valid, rows, cols, rule.resampling, dtype=rule.dtype, nodata=rule.nodata,
            sample_bits=rule.sample_bits,
        )  # fmt: skip
    if rule.palette is not None:
        blended = blend(
            pixels, valid, rows, cols, palette=rule.palette, nodata=rule.nodata,
            squares=rule.resampling == "rms",
        )  # fmt: skip
        return blended, None if valid is None else any_below(valid, rows, cols)
    if rule.resampling == "nearest":
        picked = _nearest(rows)[:, None], _nearest(cols)[None, :]
        return pixels[picked], None if valid is None else valid[picked]
    if pixels.dtype.kind == "c":
        averages = _average_complex(pixels, rows, cols, squares=rule.resampling == "rms")
        if rule.dtype.startswith("complex_int"):
            averages = _whole(averages)
        return averages, None if valid is None else _any_near(valid, rows, cols)
    return average(pixels, valid, rows, cols, rule.nodata)


def _halving(rows: HalvingAxis, cols: HalvingAxis) -> bool:
    """Whether a pixel covers little more than two source pixels each way; not so of a `ReducedSource`."""
    return max(rows.source / rows.target, cols.source / cols.target) <= 3


def _opacity(alpha: Pixels, samples: int, *, own: bool) -> NDArray[np.uint8]:
    """What each of some samples counts for under an alpha, shape (rows, cols, samples).

    Bands count by the alpha as it is at 8 bits (GDALRescaledAlphaBand); the alpha itself, the last sample of
    its `own` plane, by itself, cut off at 255 where GDAL reads it as a mask of bytes.
    """
    shape = (*alpha.shape, samples)
    if alpha.dtype == np.uint8:
        return np.broadcast_to(alpha[:, :, None], shape)
    scaled = np.where((alpha > 0) & (alpha < 257), 1, alpha.astype(np.uint32) * 255 // 65535)
    weights = np.empty(shape, np.uint8)
    weights[...] = scaled[:, :, None]
    if own:
        weights[:, :, -1] = np.minimum(alpha, 255)
    return weights


def _nearest(axis: HalvingAxis) -> NDArray[np.intp]:
    ratio = axis.source / axis.target
    chosen = np.arange(axis.window.start, axis.window.stop)
    return np.minimum((0.5 + chosen * ratio).astype(np.intp), axis.source - 1) - axis.available.start


def _average_complex(pixels: Pixels, rows: HalvingAxis, cols: HalvingAxis, *, squares: bool) -> Pixels:
    """In whole pixels and, whatever the dtype, to single precision: as GDALResampleChunkC32R has it."""
    down, across = _edges(rows), _edges(cols)
    wide = pixels[: down[-1], : across[-1]].astype(np.complex64).astype(np.complex128)
    parts = wide.view(np.float64)
    if squares:
        parts *= parts
    sums = np.add.reduceat(np.add.reduceat(wide, across[:-1], axis=1), down[:-1], axis=0)
    counts = np.diff(down)[:, None, None] * np.diff(across)[None, :, None]
    averages: Pixels = sums / counts
    if squares:
        parts = averages.view(np.float64)
        np.sqrt(parts, out=parts)
    return averages.astype(np.complex64).astype(pixels.dtype)


def _whole(values: Pixels) -> Pixels:
    """Complex integers, which are complex64 in memory: rounded as they will be stored."""
    parts = values.view(np.float32)
    np.trunc(parts + np.copysign(np.float32(0.5), parts), out=parts)
    return values


def _any_near(valid: Valid, rows: HalvingAxis, cols: HalvingAxis) -> Valid:
    down, across = _edges(rows), _edges(cols)
    wide = valid[: down[-1], : across[-1]]
    near = np.logical_or.reduceat(np.logical_or.reduceat(wide, across[:-1], axis=1), down[:-1], axis=0)
    return np.asarray(near)


def _edges(axis: HalvingAxis) -> NDArray[np.intp]:
    """Where the whole source pixels of each target pixel begin, and where the last of them ends."""
    edges = (0.5 + np.arange(axis.window.start, axis.window.stop + 1) * (axis.source / axis.target)).astype(
        np.intp
    )
    if axis.window.stop == axis.target:
        edges[-1] = axis.source
    return edges - axis.available.start
