"""The plan of a warp, decided before its first pixel: the kernel, its scale, and whether GDAL computes.

Our own kernels (`gdaltools.warp.kernels`) handle the common case, GDAL the rest. The choice holds for the
whole warp, is part of its plan and can be read there:

>>> str(plan)  # doctest: +SKIP
'bilinear by own kernel, nodes every 32 px'
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from rasterio.enums import ColorInterp, Resampling
from rasterio.io import DatasetReader

from gdaltools.errors import InvalidParameter, UnsupportedRaster
from gdaltools.geo.grid import Grid
from gdaltools.raster.dataset import nodata_of, numpy_dtypes
from gdaltools.raster.facts import MaskKind, mask_kind, sample_bits
from gdaltools.warp.nodes import agrees_with_gdal, node_step, shared_places, source_pixels

Engine = Literal["auto", "kernel", "gdal"]

#: GDAL's kernels that never mix values: the only ones for classes and colour tables.
CLASS_RESAMPLING = ("nearest", "mode")

#: GDAL finishes warps of fewer target pixels before the kernels would be compiled or loaded.
WORTHWHILE_PIXELS = 16_000_000

KERNELS = ("nearest", "bilinear", "cubic")
KERNEL_DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")

# Below this ratio of target to source pixels GDAL's wider, anti-aliasing kernel is used.
_ANTIALIAS_BELOW = 0.5
# Below this ratio a kernel needs a very wide window of the source for few target pixels.
_COARSEST_SCALE = 1 / 64
_NOT_FOR_WARP = ("gauss",)
_CELL_BYTES = 16 << 20
_CELL_MAX, _CELL_MIN = 512, 64


@dataclass(frozen=True)
class WarpPlan:
    """The plan of a warp, decided before the first pixel.

    Attributes
    ----------
    scale : (float, float)
        GDAL's XSCALE and YSCALE for the whole warp: 1 where the target is finer than half the source, else
        the median ratio of target to source pixels.
    cell : int
        Side of a cell, in pixels.
    mask : str
        How the source marks missing data.
    alpha : int
        Number of the alpha band, counted from 1; 0 without one. Fully transparent samples leave their weight
        to the others.
    adds_mask : bool
        Whether the target needs a mask of its own, because nothing else could mark what lies outside the
        source.
    step : int
        Target pixels from node to node if our own kernel computes, else 0.
    because : str
        Why GDAL computes; empty if our own kernel does. Even then GDAL computes the cells in which the
        projection is torn or bends too much.
    """

    source: Grid
    target: Grid
    resampling: str
    scale: tuple[float, float]
    cell: int
    mask: MaskKind
    alpha: int
    adds_mask: bool
    nodata: float | None
    count: int
    dtype: str
    step: int
    because: str

    @property
    def fill(self) -> float:
        """The value of pixels outside the source."""
        return 0 if self.nodata is None else self.nodata

    def __str__(self) -> str:
        if not self.step:
            return f"{self.resampling} by GDAL: {self.because}"
        wide = "" if self.scale == (1, 1) else f", widened to scale {self.scale[0]:.3g} x {self.scale[1]:.3g}"
        return f"{self.resampling} by own kernel, nodes every {self.step} px{wide}"


def cell_side(tile_size: int, overlap: int) -> int:
    """Return the side of the cells that tiles are assembled from; it divides the tiles' offsets if possible.

    >>> cell_side(4096, 512), cell_side(4096, 100), cell_side(256, 32)
    (512, 256, 128)
    """
    aligned = math.gcd(tile_size, overlap, _CELL_MAX)
    if aligned >= _CELL_MAX // 2:
        return aligned
    return max(_CELL_MIN, min(_CELL_MAX // 2, 1 << ((tile_size // 2).bit_length() - 1)))


def plan_warp(
    dataset: DatasetReader,
    source: Grid,
    target: Grid,
    resampling: str,
    *,
    cell: int = _CELL_MAX,
    engine: Engine = "auto",
) -> WarpPlan:
    """Return the plan for warping an open raster onto `target`.

    Parameters
    ----------
    source : Grid
        The raster's grid, which may correct the CRS of its file.
    cell : int
        Requested side of a cell; rasters of very many bands get smaller cells.
    engine : "auto", "kernel" or "gdal"
        "auto" uses our own kernel where it is possible and worth it; "kernel" requires it, however small the
        warp; "gdal" uses GDAL.

    Raises
    ------
    InvalidParameter
        GDAL's warp has no such resampling, or the requested kernel cannot warp this raster.
    UnsupportedRaster
        The nodata value is an integer that GDAL's warp cannot compare with or the samples cannot hold, or the
        raster has both a mask and an alpha band.
    """
    check_resampling(resampling)
    flips = source.upright and source.flipped == target
    if flips:  # every target pixel is one of the source's: nothing is mixed
        resampling = "nearest"
    kind = mask_kind(dataset)
    nodata = nodata_of(dataset) if kind == "nodata" else None
    if isinstance(nodata, int) and int(float(nodata)) != nodata:
        raise UnsupportedRaster(
            f"GDAL's warp compares with nodata as a float64, and {nodata} is none: "
            "set another nodata value, or convert the raster to another dtype"
        )
    bits = sample_bits(dataset)
    if bits and nodata is not None and not 0 <= nodata < 1 << bits:
        raise UnsupportedRaster(
            f"samples of {bits} bits cannot hold the nodata value {nodata}, which a warp writes where the "
            "raster does not reach: set another nodata value"
        )
    if kind == "mask" and ColorInterp.alpha in dataset.colorinterp:
        raise UnsupportedRaster(
            "the raster has a mask and an alpha band, and a warp can honour only one: leave out the other"
        )
    dtype = np.result_type(*numpy_dtypes(dataset))
    fitting = max(1, math.isqrt(_CELL_BYTES // (dtype.itemsize * dataset.count)))
    scale = (1.0, 1.0) if resampling == "nearest" else _kernel_scale(source, target)
    step, because = _step_or_why(dataset, source, target, resampling, scale, engine)
    if because and engine == "kernel":
        raise InvalidParameter(f"the kernel cannot warp this raster: {because}; use engine='auto'")
    return WarpPlan(
        source=source,
        target=target,
        resampling=resampling,
        scale=scale,
        cell=min(cell, max(_CELL_MIN, 1 << (fitting.bit_length() - 1))),
        mask=kind,
        alpha=dataset.colorinterp.index(ColorInterp.alpha) + 1 if kind == "alpha" else 0,
        adds_mask=kind == "mask" or (kind == "none" and not flips),
        nodata=nodata,
        count=dataset.count,
        dtype=dtype.name,
        step=step,
        because=because,
    )


def _step_or_why(
    dataset: DatasetReader,
    source: Grid,
    target: Grid,
    resampling: str,
    scale: tuple[float, float],
    engine: Engine,
) -> tuple[int, str]:
    """Return the pixels from node to node for our own kernel; or 0, and why GDAL computes."""
    if engine == "gdal":
        return 0, "it was asked for"
    if only_gdal := why_gdal(dataset, source, target, resampling, scale):
        return 0, only_gdal
    if engine == "auto" and target.width * target.height < WORTHWHILE_PIXELS:
        return 0, f"fewer than {WORTHWHILE_PIXELS / 1e6:.0f} million pixels are not worth compiling for"
    if no_numba := _why_no_numba():
        return 0, no_numba
    step = node_step(source, target)
    if step is None:
        return 0, "the target bends too much for coordinates between nodes"
    if not agrees_with_gdal(source, target):
        return 0, "GDAL takes another way between the two CRSs than PROJ"
    return step, ""


def why_gdal(
    dataset: DatasetReader, source: Grid, target: Grid, resampling: str, scale: tuple[float, float]
) -> str:
    """Return what in a raster and its warp requires GDAL, in words; empty if our own kernel can do it all."""
    dtypes = set(numpy_dtypes(dataset))
    dtype = np.dtype(next(iter(dtypes)))
    support = 2 if resampling == "cubic" else 1
    if resampling not in KERNELS:
        return f"there is no own kernel for {resampling}"
    if len(dtypes) > 1:
        return f"bands of different types ({', '.join(sorted(dtypes))})"
    if dtype.name not in KERNEL_DTYPES:
        return f"there is no own kernel for {dtype.name}"
    if mask_kind(dataset) == "alpha" and min(scale) < 1:
        return "an alpha band in a kernel that is widened"
    if mask_kind(dataset) == "nodata" and not _holds(dtype, dataset.nodata):
        return f"nodata {dataset.nodata} is no {dtype.name}"
    if dataset.rpcs is not None:
        return "the raster has RPCs beside its transform"
    if min(scale) < _COARSEST_SCALE:
        return f"the target is coarser than 1/{1 / _COARSEST_SCALE:.0f} of the source"
    if source.width <= 2 * support / scale[0] or source.height <= 2 * support / scale[1]:
        return f"the source ({source.width} x {source.height}) is smaller than a kernel"
    return ""


def _why_no_numba() -> str:
    try:
        import numba  # noqa: F401 - a version that is incompatible with numpy's raises here
    except ImportError as error:
        return f"numba cannot be had (pip install 'gdaltools[warp]'): {error}"
    return ""


def _holds(dtype: np.dtype[Any], value: float) -> bool:
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            return bool(np.isfinite(dtype.type(value)) or not math.isfinite(value))
    limits = np.iinfo(dtype)
    return float(value).is_integer() and limits.min <= value <= limits.max


def check_resampling(name: str) -> None:
    """Refuse a resampling that GDAL's warp does not have.

    Raises
    ------
    InvalidParameter
        `name` is not one of rasterio's names, or is one that GDAL's warp does not have.
    """
    if name not in Resampling.__members__ or name in _NOT_FOR_WARP:
        known = ", ".join(member for member in Resampling.__members__ if member not in _NOT_FOR_WARP)
        raise InvalidParameter(f"resampling {name!r}: give one of {known}")


def chosen_resampling(dataset: DatasetReader, requested: str | None, *, categorical: bool) -> str:
    """Return the `requested` resampling; by default nearest for classes and colour tables, else bilinear.

    Raises
    ------
    InvalidParameter
        GDAL's warp has no such resampling, or it would mix the indexes of a colour table.
    """
    palette = ColorInterp.palette in dataset.colorinterp
    name = requested or ("nearest" if categorical or palette else "bilinear")
    check_resampling(name)
    if palette and name not in CLASS_RESAMPLING:
        raise InvalidParameter(
            f"resampling {name!r} would mix the numbers of a colour table: "
            f"use {' or '.join(CLASS_RESAMPLING)}"
        )
    return name


def _kernel_scale(source: Grid, target: Grid) -> tuple[float, float]:
    """Return target pixels per source pixel along the source's axes, from the Jacobian at shared places."""
    cols, rows = shared_places(source, target)
    x, y = source_pixels(source, target, cols, rows)
    x_right, y_right = source_pixels(source, target, cols + 1, rows)
    x_down, y_down = source_pixels(source, target, cols, rows + 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        across = 1 / np.hypot(x_right - x, x_down - x)
        down = 1 / np.hypot(y_right - y, y_down - y)
    used = np.isfinite(across) & np.isfinite(down)
    if not used.any():
        return 1.0, 1.0
    # As Python's floats: a numpy scalar's repr reaches GDAL as text, which it silently misreads.
    medians = float(np.median(across[used])), float(np.median(down[used]))
    x_scale, y_scale = (1.0 if scale >= _ANTIALIAS_BELOW else scale for scale in medians)
    return x_scale, y_scale
