"""Windows of overviews that GDAL's own resampling computes, from a copy in memory.

Source: GDAL 3.10, gcore/overview.cpp (GDALResampleChunk_ConvolutionT, GDALResampleChunk_ModeT), and
gcore/rasterio.cpp, which calls them for a window of any place and size.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.io import MemoryFile
from rasterio.windows import Window

from gdaltools.cog.overviews.axis import HalvingAxis
from gdaltools.cog.overviews.windows import any_below
from gdaltools.raster.pixels.nodata import comparable, holding_data

Pixels = NDArray[Any]
Valid = NDArray[np.bool_]

# GDAL cannot go back to a row of a mask whose strips have more than 2000, as those of narrow ones would.
_STRIP_ROWS = 512
#: What weighs each sample by its mask's value, and not only by whether that is 0.
CONVOLUTIONS = ("bilinear", "cubic", "cubic_spline", "lanczos")


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
    """The window of the next level that `rows` and `cols` name, and its mask, as of `overviews.halve`."""
    out = _read(pixels, valid, rows, cols, resampling, dtype=dtype, nodata=nodata, sample_bits=sample_bits)
    mode = resampling == "mode"
    if valid is None:
        counted = holding_data(pixels, nodata) if mode else None
        if counted is not None:
            # Where there is nodata alone, GDAL 3.10's mode gives 0, of all dtypes but unsigned integers.
            out[~any_below(counted, rows, cols)] = comparable(nodata, pixels.dtype)
        return out, None
    # Of a mask GDAL counts only the valid pixels, as if the others were its nodata; but not for the mode.
    flags = np.where(valid, np.uint8(255), np.uint8(0))[:, :, None]
    found = _read(flags, None, rows, cols, resampling, dtype="uint8", nodata=None if mode else 0)
    return out, found[:, :, 0] > 0


def resampled_weighed(
    pixels: Pixels, weights: NDArray[np.uint8], rows: HalvingAxis, cols: HalvingAxis, resampling: str
) -> Pixels:
    """The same of samples that count by their `weights`, shape (rows, cols, samples).

    The dtype is uint8 or uint16: those of which GDAL takes an alpha band for the mask, at 8 bits.
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
    """GDAL's resampling of all samples; with `alpha` of all but the last, which weighs them."""
    height, width, samples = pixels.shape
    down, across = rows.source / rows.target, cols.source / cols.target
    window = Window(
        cols.window.start * across - cols.available.start,
        rows.window.start * down - rows.available.start,
        len(cols.window) * across,
        len(rows.window) * down,
    )
    chosen = list(range(1, samples + (not alpha)))
    # Kernels that overshoot are cut off at what so many bits can hold.
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
            dataset.read(chosen, out=out.transpose(2, 0, 1), window=window, resampling=Resampling[resampling])
    return out


def as_half_floats(pixels: Pixels) -> Pixels:
    """Samples of float32 as they are when GDAL has stored them with 16 bits, shape (rows, cols, samples)."""
    height, width, samples = pixels.shape
    flat = pixels.reshape(1, height, width * samples)
    with rasterio.Env(GDAL_PAM_ENABLED="NO"), MemoryFile() as memory:
        with memory.open(
            driver="GTiff", width=width * samples, height=height, count=1, dtype="float32", nbits=16
        ) as dataset:
            dataset.write(flat)
        with memory.open() as dataset:
            return np.asarray(dataset.read()).reshape(pixels.shape)
