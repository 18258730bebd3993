"""A window of the target computed by our own kernel: which parts of the source it needs, and their result."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from gdaltools.errors import InvalidParameter
from gdaltools.raster.pixels.nodata import holding_data
from gdaltools.raster.pixels.windows import SourceWindows
from gdaltools.warp.nodes import Nodes, span
from gdaltools.warp.plan import WarpPlan

if TYPE_CHECKING:
    from gdaltools.warp.kernels import Part

Pixels = NDArray[Any]
Mask = NDArray[np.uint8]

# Types that share another type's kernel, because each kernel takes seconds to compile.
_COMPUTED_AS = {"int8": "int16", "int32": "float64", "uint32": "float64"}
# The target is computed in parts if its window of the source would be larger than this …
_WINDOW_BYTES = 32 << 20
# … or has more than this many times the pixels of its halves' windows, as in a rotation, unless it is small.
_WASTEFUL = 1.25
_SMALL = 1 << 20
# Margin around a kernel's samples, in pixels, so that a rounded coordinate never lies outside the window.
_ROOM = 5


def warp_by_kernel(
    source: SourceWindows, plan: WarpPlan, nodes: Nodes, asked: Window
) -> tuple[Pixels, Mask | None]:
    """Return a window of the target: its pixels, and their mask if the plan adds one.

    All of `nodes` must be exact enough for interpolation. Pixels have the shape (bands, rows, cols), the mask
    (rows, cols).

    Raises
    ------
    CorruptRaster, StorageError
        The source cannot be decoded or read.
    InvalidParameter
        The plan was made where numba is installed, but numba is missing here.
    """
    shape = int(asked.height), int(asked.width), plan.count
    pixels = np.full(shape, plan.fill, _computed_as(plan))
    mask = np.zeros(shape[:2], "uint8")
    for part in _parts(plan, nodes, asked):
        window = _source_window(plan, nodes, part)
        if not window.width or not window.height:
            continue
        top, left = int(part.row_off - asked.row_off), int(part.col_off - asked.col_off)
        inside = slice(top, top + int(part.height)), slice(left, left + int(part.width))
        # Kernels are compiled for contiguous arrays.
        some, existing = np.ascontiguousarray(pixels[inside]), np.ascontiguousarray(mask[inside])
        _run_kernel(source, plan, nodes, window, part, some, existing)
        pixels[inside], mask[inside] = some, existing
    pixels = pixels.astype(plan.dtype, copy=False).transpose(2, 0, 1)
    if plan.alpha:  # cubic can undershoot its samples
        pixels[:, pixels[plan.alpha - 1] == 0] = 0
    if plan.nodata is not None:
        _avoid_nodata(pixels, mask, plan.nodata)
    return pixels, mask if plan.adds_mask else None


def _computed_as(plan: WarpPlan) -> str:
    return _COMPUTED_AS.get(plan.dtype, plan.dtype)


def _run_kernel(
    source: SourceWindows,
    plan: WarpPlan,
    nodes: Nodes,
    window: Window,
    part: Window,
    pixels: Pixels,
    mask: Mask,
) -> None:
    try:
        from gdaltools.warp import kernels
    except ImportError as error:
        raise InvalidParameter(
            "this warp was planned where numba is installed, and numba is missing here: "
            "install gdaltools[warp] wherever its tasks run"
        ) from error
    samples = source.pixels(window)
    valid, of_bands = _validity(source, plan, window, samples)
    whole = kernels.Part(
        pixels=samples.astype(pixels.dtype, copy=False),
        valid=valid,
        exists=valid,
        row=int(window.row_off),
        col=int(window.col_off),
        height=plan.source.height,
        width=plan.source.width,
    )
    place = nodes, int(part.row_off), int(part.col_off)
    if of_bands is None or plan.resampling == "nearest":
        _compute(plan, whole, *place, pixels, mask)
        return
    for band in range(plan.count):
        one = slice(band, band + 1)
        some = whole._replace(
            pixels=np.ascontiguousarray(whole.pixels[..., one]),
            valid=np.ascontiguousarray(of_bands[..., band]),
        )
        target = np.ascontiguousarray(pixels[..., one])
        _compute(plan, some, *place, target, mask)
        pixels[..., one] = target


def _compute(
    plan: WarpPlan, available: Part, nodes: Nodes, row: int, col: int, pixels: Pixels, mask: Mask
) -> None:
    from gdaltools.warp import kernels

    place = available, nodes, row, col, pixels, mask
    if plan.resampling == "nearest":
        kernels.nearest(*place)
        return
    values = kernels.Range(-math.inf, math.inf, False)
    if np.dtype(plan.dtype).kind in "iu":
        limits = np.iinfo(plan.dtype)
        values = kernels.Range(float(limits.min), float(limits.max), True)
    if plan.scale != (1, 1):
        kernels.scaled(*place, values, *plan.scale, plan.resampling == "cubic")
    elif plan.resampling == "cubic":
        kernels.cubic(*place, values)
    else:
        kernels.bilinear(*place, values)


def _validity(
    source: SourceWindows, plan: WarpPlan, window: Window, samples: Pixels
) -> tuple[Mask, Mask | None]:
    """Return 255 where the window has data, else 0, and the same of each band if they have other gaps.

    The former is empty if the window has no gap, which gives the same pixels.
    """
    of_bands = None
    if plan.mask == "mask":
        there = source.mask(window) != 0
    elif plan.alpha:
        there = samples[..., plan.alpha - 1] != 0
    elif (known := holding_data(samples, plan.nodata)) is not None:
        there = known.any(axis=2)
        of_bands = None if (known == known[..., :1]).all() else _flags(known)
    else:
        return np.empty((0, 0), "uint8"), None
    return np.empty((0, 0), "uint8") if there.all() else _flags(there), of_bands


def _flags(there: NDArray[np.bool_]) -> Mask:
    return there.astype("uint8") * np.uint8(255)


def _avoid_nodata(pixels: Pixels, mask: Mask, nodata: float) -> None:
    """Change pixels that exist but equal nodata in all bands to the next value, as GDAL does."""
    kind = pixels.dtype.type
    alike = (pixels == kind(nodata)).all(axis=0) & (mask != 0)
    if not alike.any():
        return
    if pixels.dtype.kind == "f":
        pixels[:, alike] = np.nextafter(kind(nodata), kind(math.inf))
    else:
        pixels[:, alike] = int(nodata) + (1 if nodata == np.iinfo(pixels.dtype).min else -1)


def _parts(plan: WarpPlan, nodes: Nodes, asked: Window) -> Iterator[Window]:
    """Yield parts of a window of the target, halved until the source window of each is small enough.

    A source window must be bounded, and not much larger than those of its part's halves together.
    """
    rows, cols = int(asked.height), int(asked.width)
    top, left = int(asked.row_off), int(asked.col_off)
    if rows == cols == 1:
        yield asked
        return
    if rows >= cols:
        halves = Window(left, top, cols, rows // 2), Window(left, top + rows // 2, cols, rows - rows // 2)
    else:
        halves = Window(left, top, cols // 2, rows), Window(left + cols // 2, top, cols - cols // 2, rows)
    whole, *each = (_area(_source_window(plan, nodes, part)) for part in (asked, *halves))
    pixel_bytes = plan.count * np.dtype(_computed_as(plan)).itemsize
    if whole * pixel_bytes <= _WINDOW_BYTES and (whole <= _SMALL or whole <= _WASTEFUL * sum(each)):
        yield asked
        return
    for half in halves:
        yield from _parts(plan, nodes, half)


def _area(window: Window) -> int:
    return int(window.width * window.height)


def _source_window(plan: WarpPlan, nodes: Nodes, part: Window) -> Window:
    """Return the window of the source that a part of the target needs; its area is 0 if they do not meet."""
    support = 2 if plan.resampling == "cubic" else 1
    sides = []
    for (low, high), scale, size in zip(
        span(nodes, part), plan.scale, (plan.source.width, plan.source.height), strict=True
    ):
        room = math.ceil(support / scale) + _ROOM
        first = min(max(math.floor(low) - room, 0), size)
        sides.append((first, min(max(math.ceil(high) + room, first), size)))
    (left, right), (top, bottom) = sides
    return Window(left, top, right - left, bottom - top)
