"""Compute windows of overviews by GDAL's own resampling, from a copy in memory.

Source: GDAL 3.10, gcore/overview.cpp (GDALResampleChunk_ConvolutionT, GDALResampleChunk_ModeT), and
gcore/rasterio.cpp, which calls them for a window at any place and of any size.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.io import MemoryFile
from rasterio.windows import Window

from gdaltools.cog.overviews.axis import HalvingAxis
from gdaltools.cog.overviews.windows import any_below
from gdaltools.raster.pixels.nodata import comparable, holding_data, keep_apart

Pixels = NDArray[Any]
Valid = NDArray[np.bool_]

# GDAL cannot go back to an earlier row in a mask strip of more than 2000 rows, which narrow masks would have.
_STRIP_ROWS = 512
#: Resamplings that weigh each sample by its mask's value, not only by whether that is 0.
CONVOLUTIONS = ("bilinear", "cubic", "cubic_spline", "lanczos")
# GDAL, gcore/overview.cpp, GDALGetResampleFunction: how far a kernel reaches, in target pixels.
_RADIUS = {"bilinear": 1, "cubic": 2, "cubic_spline": 2, "lanczos": 3}


def resampled(
    pixels: Pixels,
    valid: Valid | None,
    rows: HalvingAxis,
    cols: HalvingAxis,
    resampling: str,
    *,
    dtype: str,
    nodata: float | None,
    sample_bits: int | None,
) -> tuple[Pixels, Valid | None]:
    """Return the window of the next level that `rows` and `cols` name, and its mask.

    The shapes are those of `gdaltools.cog.overviews.halving.halve`.
    """
    if valid is None and isinstance(nodata, int) and int(float(nodata)) != nodata:
        # rasterio passes a float: a mask for each sample says the same.
        there = holding_data(pixels, nodata)
        parts = []
        for sample in range(0 if there is None else pixels.shape[2]):
            own = slice(sample, sample + 1)
            part, found = resampled(
                np.ascontiguousarray(pixels[:, :, own]), there[:, :, sample], rows, cols, resampling,
                dtype=dtype, nodata=None, sample_bits=sample_bits,
            )  # fmt: skip
            part[~found] = nodata
            parts.append(part)
        return np.concatenate(parts, axis=2), None
    out = _read(pixels, valid, rows, cols, resampling, dtype=dtype, nodata=nodata, sample_bits=sample_bits)
    mode = resampling == "mode"
    if valid is None:
        counted = holding_data(pixels, nodata) if mode else None
        if counted is not None:
            # Where all source pixels are nodata, GDAL 3.10's mode returns 0 for all but unsigned integers.
            out[~any_below(counted, rows, cols)] = comparable(nodata, pixels.dtype)
        return out, None
    # GDAL resamples only the valid pixels of a mask, as if the others were its nodata, except for the mode.
    flags = np.where(valid, np.uint8(255), np.uint8(0))[:, :, None]
    found = _read(flags, None, rows, cols, resampling, dtype="uint8", nodata=None if mode else 0)
    there = found[:, :, 0] > 0
    if nodata is not None and not mode:
        # Reading below a mask, GDAL leaves nodata out of account; it does not when it makes overviews.
        value = comparable(nodata, pixels.dtype)
        keep_apart(out, value, there[:, :, None])
        out[~there] = 0 if value is None else value
    return out, there


def resampled_weighed(
    pixels: Pixels, weights: NDArray[np.uint8], rows: HalvingAxis, cols: HalvingAxis, resampling: str
) -> Pixels:
    """Return the same window of samples that count by their `weights`, shape (rows, cols, samples).

    The dtype is uint8 or uint16; for these GDAL uses an alpha band as the mask, at 8 bits.
    """
    full = pixels.dtype.type(1 if pixels.dtype == np.uint8 else 257)
    parts = []
    for sample in range(pixels.shape[2]):
        both = np.stack([pixels[:, :, sample], weights[:, :, sample] * full], axis=2)
        parts.append(
            _read(both, None, rows, cols, resampling, dtype=pixels.dtype.name, nodata=None, alpha=True)
        )
    return np.concatenate(parts, axis=2)


def _read(
    pixels: Pixels,
    valid: Valid | None,
    rows: HalvingAxis,
    cols: HalvingAxis,
    resampling: str,
    *,
    dtype: str,
    nodata: float | None,
    sample_bits: int | None = None,
    alpha: bool = False,
) -> Pixels:
    """Return GDAL's resampling of all samples; with `alpha`, the last sample only weighs the others."""
    height, width, samples = pixels.shape
    kernel = "" if valid is None and nodata is None and not alpha else resampling
    chosen = list(range(1, samples + (not alpha)))
    # Kernels may overshoot; with NBITS, GDAL clips their results to what `sample_bits` can hold.
    options = {"nbits": sample_bits} if sample_bits else {}
    out = np.empty((len(rows.window), len(cols.window), len(chosen)), pixels.dtype)
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK="YES", GDAL_PAM_ENABLED="NO"),
        MemoryFile() as memory,
    ):
        with memory.open(
            driver="GTiff",
            width=width,
            height=height,
            count=samples,
            dtype=dtype,
            nodata=nodata,
            interleave="pixel",
            blockysize=min(height, _STRIP_ROWS),
            photometric="minisblack",
            alpha="YES" if alpha else "NO",
            **options,
        ) as dataset:
            dataset.write(pixels.transpose(2, 0, 1))
            if valid is not None:
                dataset.write_mask(valid)
        with memory.open() as dataset:
            for down, across in product(_parts(rows, kernel), _parts(cols, kernel)):
                dataset.read(
                    chosen,
                    out=out[down.place, across.place].transpose(2, 0, 1),
                    window=Window(across.offset, down.offset, across.size, down.size),
                    resampling=Resampling[resampling],
                )
    return out


@dataclass(frozen=True)
class _Part:
    """A part of a window along one axis: its place in the window, and where GDAL reads the source for it."""

    place: slice
    offset: float
    size: float


def _parts(axis: HalvingAxis, kernel: str) -> list[_Part]:
    """Return the parts of a window that GDAL computes each in one call.

    A kernel may end exactly at the centre of a source pixel, whose weight there is 0 but for rounding. If
    GDAL counts that pixel depends on the rounding of positions, and so on the window; where all other pixels
    are absent, it decides the result. For such a target pixel the kernel is narrower by its 10⁻⁹, and the
    source pixel never counts.
    """
    ratio, first = axis.source / axis.target, axis.window.start
    ties = _ties(axis, _RADIUS[kernel]) if kernel in _RADIUS else []
    parts = []
    for start, stop in pairwise(sorted({first, axis.window.stop, *ties, *(tie + 1 for tie in ties)})):
        size = (stop - start) * ratio
        narrower = size * 1e-9 if start in ties else 0.0
        offset = start * ratio - axis.available.start + narrower / 2
        parts.append(_Part(slice(start - first, stop - first), offset, size - narrower))
    return parts


def _ties(axis: HalvingAxis, radius: int) -> list[int]:
    """Return the pixels of a window whose kernel ends exactly at the centre of a source pixel."""
    indexes = np.arange(axis.window.start, axis.window.stop)
    before, after = (
        ((2 * (indexes + side) + 1) * axis.source - axis.target) % (2 * axis.target)
        for side in (-radius, radius)
    )
    found: list[int] = indexes[(before == 0) | (after == 0)].tolist()
    return found


def as_half_floats(pixels: Pixels) -> Pixels:
    """Return float32 samples, shape (rows, cols, samples), rounded as GDAL stores them with 16 bits."""
    height, width, samples = pixels.shape
    flat = pixels.reshape(1, height, width * samples)
    with rasterio.Env(GDAL_PAM_ENABLED="NO"), MemoryFile() as memory:
        with memory.open(
            driver="GTiff", width=width * samples, height=height, count=1, dtype="float32", nbits=16
        ) as dataset:
            dataset.write(flat)
        with memory.open() as dataset:
            return np.asarray(dataset.read()).reshape(pixels.shape)
