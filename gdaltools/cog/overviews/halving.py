"""Compute one overview level from the level before it.

`halve` computes any window of a level from the part of the level before that `needed` returns, with the same
values that GDAL computes for the whole image. Level sizes are halved and rounded down, as in GDAL's COG
driver; on an odd side a pixel therefore covers slightly more than two source pixels, and those count by their
covered share. Nearest and averages, including those of colours, are computed here and equal GDAL's bit for
bit, as do root mean squares but for the last bit of floats; GDAL itself computes all other resamplings.

Sources: GDAL 3.10, gcore/overview.cpp (GDALResampleChunk_Near, GDALResampleChunkC32R) and
frmts/gtiff/cogdriver.cpp (sizes of the levels).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gdaltools.cog.overviews.averages import average, root_mean_squares
from gdaltools.cog.overviews.axis import HalvingAxis
from gdaltools.cog.overviews.kernels import CONVOLUTIONS, as_half_floats, resampled, resampled_weighed
from gdaltools.cog.overviews.palettes import Palette, blend, is_identity
from gdaltools.cog.overviews.windows import any_below
from gdaltools.geo.window import Span

Pixels = NDArray[Any]
Valid = NDArray[np.bool_]

# The reach of GDAL's widest kernel in source pixels on each side of a window, at a ratio of up to 3.
_KERNEL_REACH = 10
# GDAL, overview.cpp: guards against rounding in the computation of a window's first and last source pixel.
_EPSILON = 1e-8


@dataclass(frozen=True)
class Rule:
    """How a level is computed from the level before.

    Attributes
    ----------
    resampling : str
        GDAL's name, in rasterio's spelling.
    dtype : str
        rasterio's name of the bands' dtype.
    nodata : float or None
        The value of pixels that do not count.
    palette : tuple or None
        The colour table whose colours are blended, as (index, red, green, blue, alpha) entries; None if the
        numbers themselves are resampled.
    alpha : bool
        Whether the last band is an alpha that hides pixels: where it is 0, no band counts; elsewhere some
        resamplings weigh the bands by it.
    alphas : tuple of int
        Bands, counted from 0, that are alphas beside a mask or nodata; in each, the samples other than 0
        count.
    sample_bits : int or None
        GDAL's NBITS, if it is less than the bits of the dtype.
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
        """Whether GDAL computes the level."""
        if self.palette is not None or self.dtype.startswith("complex"):
            return False
        return self.resampling not in ("nearest", "average", "rms")

    @property
    def half_floats(self) -> bool:
        """Whether samples are float32 in memory and stored with 16 bits."""
        return self.dtype == "float32" and self.sample_bits == 16

    @property
    def weighs_alpha(self) -> bool:
        """Whether partly transparent samples count in part."""
        return self.alpha and self.resampling in CONVOLUTIONS


def blended_palette(resampling: str, palette: Palette) -> Palette | None:
    """Return the colour table if `resampling` blends its colours, otherwise None.

    The mode selects indices, and kernels treat indices as numbers.
    """
    blends = resampling in ("average", "rms") and bool(palette) and not is_identity(palette)
    return palette if blends else None


def half(size: int) -> int:
    """Return the side of the next level.

    >>> half(3225), half(1)
    (1612, 1)
    """
    return max(1, size // 2)


def level_sizes(width: int, height: int, blocksize: int) -> tuple[tuple[int, int], ...]:
    """Return (width, height) of every level, the full resolution first, down to one that fits into a block.

    >>> level_sizes(1411, 1300, 512)
    ((1411, 1300), (705, 650), (352, 325))
    """
    sizes = [(width, height)]
    while max(sizes[-1]) > blocksize:
        sizes.append((half(sizes[-1][0]), half(sizes[-1][1])))
    return tuple(sizes)


def needed(window: Span, source: int, target: int, rule: Rule) -> Span:
    """Return the rows (or columns) of the source level from which `window` of the target is computed.

    `source` and `target` are the sizes of both levels along the axis.

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
    """Apply `halve` to all planes, shape (planes, rows, cols, samples), and respect their alpha bands."""
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


@np.errstate(all="ignore")  # numbers near the dtype's limits overflow, as they do in GDAL
def halve(
    pixels: Pixels, valid: Valid | None, rows: HalvingAxis, cols: HalvingAxis, rule: Rule
) -> tuple[Pixels, Valid | None]:
    """Return the window of the next level that ``rows.window`` and ``cols.window`` name.

    Parameters
    ----------
    pixels : ndarray, shape (rows, cols, samples)
        The part of the level that ``rows.available`` and ``cols.available`` name; it includes at least what
        `needed` returns.
    valid : ndarray of bool, shape (rows, cols), optional
        The per-dataset mask of the same part.

    Returns
    -------
    pixels, valid
        Shapes (rows.window, cols.window, samples) and (rows.window, cols.window); `valid` is None without a
        mask.
    """
    if rule.half_floats:
        halves, found = halve(pixels, valid, rows, cols, replace(rule, sample_bits=None))
        return as_half_floats(halves), found
    if rule.by_gdal:
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
        return averages, None if valid is None else any_below(valid, rows, cols)
    means = root_mean_squares if rule.resampling == "rms" else average
    return means(pixels, valid, rows, cols, rule.nodata)


def _opacity(alpha: Pixels, samples: int, *, own: bool) -> NDArray[np.uint8]:
    """Return the weights of `samples` samples under an alpha, shape (rows, cols, samples).

    Bands are weighed by the alpha scaled to 8 bits (GDALRescaledAlphaBand). The alpha itself, the last sample
    of its `own` plane, is weighed by its own value, clipped to 255 because GDAL reads it as a mask of bytes.
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
    """Average whole pixels, in single precision for any dtype, as GDALResampleChunkC32R does."""
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
    """Round complex integers, which are complex64 in memory, in place as they will be stored."""
    parts = values.view(np.float32)
    np.trunc(parts + np.copysign(np.float32(0.5), parts), out=parts)
    return values


def _edges(axis: HalvingAxis) -> NDArray[np.intp]:
    """Return where the whole source pixels of each target pixel begin, and where those of the last end."""
    edges = (0.5 + np.arange(axis.window.start, axis.window.stop + 1) * (axis.source / axis.target)).astype(
        np.intp
    )
    if axis.window.stop == axis.target:
        edges[-1] = axis.source
    return edges - axis.available.start
