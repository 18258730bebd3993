"""Source pixels on the target grid, the same pixels whichever window is asked for.

GDAL's warp gives slightly other values for the same pixel when it is part of another window: its
approximate transformer breaks each scanline at places that move with the window. So the grid is cut
into cells that are anchored at its origin, a cell is always warped whole, alone and with one set of
parameters, and a window is put together from the cells that it touches.

What counts as no data: GDAL's rule, with all bands together. A pixel exists where its nearest source
sample does; samples without data are left out of the weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.io import DatasetReader
from rasterio.transform import Affine
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from gdaltools.crs import parse_crs, transform_points
from gdaltools.dataset import numpy_dtypes, read_window, reading
from gdaltools.errors import InvalidParameter
from gdaltools.grid import Grid
from gdaltools.raster import MaskKind, mask_kind
from gdaltools.storage import Location

Pixels = NDArray[Any]
Mask = NDArray[np.uint8]

#: GDAL's kernels that take values apart from their neighbours: the only ones for classes and colour tables.
CLASS_RESAMPLING = ("nearest", "mode")

_CELL_BYTES = 16 << 20
_CELL_MAX, _CELL_MIN = 512, 64
# Below this ratio of target to source pixels GDAL's wider, anti-aliasing kernel is used.
_ANTIALIAS_BELOW = 0.5
_NOT_FOR_WARP = ("gauss",)


@dataclass(frozen=True)
class WarpPlan:
    """Everything about a warp that is decided before the first pixel.

    Attributes
    ----------
    scale : (float, float)
        GDAL's XSCALE and YSCALE, one for the whole job: 1 where the target is finer than half the
        source, else the median ratio of target to source pixels.
    cell : int
        Side of a cell in pixels.
    mask : str
        How the source tells what is no data.
    adds_mask : bool
        Whether the target needs a mask of its own, as nothing else could tell what lies outside.
    """

    source: Grid
    target: Grid
    resampling: str
    scale: tuple[float, float]
    cell: int
    mask: MaskKind
    adds_mask: bool
    nodata: float | None
    count: int
    dtype: str


def cell_side(tile_size: int, overlap: int) -> int:
    """The side of cells that tiles are best put together from: one that divides where they begin.

    >>> cell_side(4096, 512), cell_side(4096, 100), cell_side(256, 32)
    (512, 256, 128)
    """
    aligned = math.gcd(tile_size, overlap, _CELL_MAX)
    if aligned >= _CELL_MAX // 2:
        return aligned
    return max(_CELL_MIN, min(_CELL_MAX // 2, 1 << ((tile_size // 2).bit_length() - 1)))


def plan_warp(
    dataset: DatasetReader, source: Grid, target: Grid, resampling: str, *, cell: int = _CELL_MAX
) -> WarpPlan:
    """The plan for warping an open raster, whose grid `source` may correct its file's CRS, onto `target`.

    `cell` is the wanted side of a cell; rasters of very many bands get smaller ones.

    Raises
    ------
    InvalidParameter
        GDAL's warp has no such resampling, or it would mix the numbers of classes.
    """
    check_resampling(resampling)
    kind = mask_kind(dataset)
    dtype = np.result_type(*numpy_dtypes(dataset))
    fitting = max(1, math.isqrt(_CELL_BYTES // (dtype.itemsize * dataset.count)))
    return WarpPlan(
        source=source,
        target=target,
        resampling=resampling,
        scale=_kernel_scale(source, target),
        cell=min(cell, max(_CELL_MIN, 1 << (fitting.bit_length() - 1))),
        mask=kind,
        adds_mask=kind in ("none", "mask"),
        nodata=dataset.nodata if kind == "nodata" else None,
        count=dataset.count,
        dtype=dtype.name,
    )


def check_resampling(name: str) -> None:
    """Refuse a resampling that GDAL's warp does not have.

    Raises
    ------
    InvalidParameter
        Its name is none of rasterio's.
    """
    if name not in Resampling.__members__ or name in _NOT_FOR_WARP:
        known = ", ".join(member for member in Resampling.__members__ if member not in _NOT_FOR_WARP)
        raise InvalidParameter(f"resampling {name!r}: give one of {known}")


def warped_strips(
    dataset: DatasetReader, location: Location, plan: WarpPlan, window: Window
) -> Iterator[tuple[Pixels, Mask | None]]:
    """A window of the target grid, from top to bottom, in strips that end where cells do.

    Yields pixels, shape (bands, rows, cols), and their mask, (rows, cols) of 0 and 255, if the plan adds one.

    Raises
    ------
    CorruptRaster, StorageError
        The source cannot be decoded, or read.
    """
    top, bottom = int(window.row_off), int(window.row_off + window.height)
    left, right = int(window.col_off), int(window.col_off + window.width)
    size = plan.cell
    for cell_row in range(top // size, -(-bottom // size)):
        first, last = max(top, cell_row * size), min(bottom, (cell_row + 1) * size)
        strip = np.empty((plan.count, last - first, right - left), plan.dtype)
        mask = np.empty((last - first, right - left), "uint8") if plan.adds_mask else None
        for cell_col in range(left // size, -(-right // size)):
            begin, end = max(left, cell_col * size), min(right, (cell_col + 1) * size)
            inside = (
                slice(first - cell_row * size, last - cell_row * size),
                slice(begin - cell_col * size, end - cell_col * size),
            )
            pixels, valid = warp_cell(dataset, location, plan, cell_row, cell_col)
            strip[:, :, begin - left : end - left] = pixels[:, inside[0], inside[1]]
            if mask is not None and valid is not None:
                mask[:, begin - left : end - left] = valid[inside]
        yield strip, mask


def warp_cell(
    dataset: DatasetReader, location: Location, plan: WarpPlan, cell_row: int, cell_col: int
) -> tuple[Pixels, Mask | None]:
    """One cell of the grid: pixels, and their mask if the plan adds one.

    Raises
    ------
    CorruptRaster, StorageError
        As `warped_strips` does.
    """
    row_off, col_off = cell_row * plan.cell, cell_col * plan.cell
    window = Window(
        col_off,
        row_off,
        min(plan.cell, plan.target.width - col_off),
        min(plan.cell, plan.target.height - row_off),
    )
    reach = _reach(plan, window)
    if reach == "outside":
        return _nothing(plan, int(window.height), int(window.width))
    # A cell whose every pixel is in a source without gaps needs no alpha band, which halves GDAL's speed.
    tracks_alpha = plan.adds_mask and not (reach == "inside" and plan.mask == "none")
    x_scale, y_scale = plan.scale
    with (
        reading(location, window, frame=" of the target grid"),
        WarpedVRT(
            dataset,
            src_crs=parse_crs(plan.source.crs, "source CRS"),
            crs=parse_crs(plan.target.crs, "target CRS"),
            transform=Affine(*plan.target.transform_of(col_off, row_off)),
            width=int(window.width),
            height=int(window.height),
            resampling=Resampling[plan.resampling],
            src_nodata=plan.nodata,
            nodata=plan.nodata,
            add_alpha=tracks_alpha,
            num_threads=1,
            XSCALE=x_scale,
            YSCALE=y_scale,
        ) as warped,
    ):
        pixels = warped.read(list(range(1, plan.count + 1)))
        if not plan.adds_mask:
            return pixels, None
        if not tracks_alpha:
            return pixels, np.full(pixels.shape[1:], 255, "uint8")
        mask = np.where(warped.read(plan.count + 1) > 0, 255, 0).astype("uint8")
        pixels[:, mask == 0] = 0
        return pixels, mask


def plain_strips(
    dataset: DatasetReader, location: Location, window: Window, rows: int, *, mask: bool
) -> Iterator[tuple[Pixels, Mask | None]]:
    """A window of the source as it is, from top to bottom, in strips of so many rows.

    Raises
    ------
    CorruptRaster, StorageError
        As `read_window` does.
    """
    bottom = int(window.row_off + window.height)
    for row_off in range(int(window.row_off), bottom, rows):
        part = Window(window.col_off, row_off, window.width, min(rows, bottom - row_off))
        pixels = read_window(dataset, location, part)
        yield pixels, read_window(dataset, location, part, mask=True) if mask else None


def _nothing(plan: WarpPlan, rows: int, cols: int) -> tuple[Pixels, Mask | None]:
    fill = 0 if plan.nodata is None else plan.nodata
    pixels = np.full((plan.count, rows, cols), fill, plan.dtype)
    return pixels, np.zeros((rows, cols), "uint8") if plan.adds_mask else None


def _reach(plan: WarpPlan, window: Window) -> str:
    """Whether a window lies inside the source with room for the kernel, outside of it, or neither is sure."""
    share = np.linspace(0, 1, 9)
    cols, rows = np.meshgrid(window.col_off + share * window.width, window.row_off + share * window.height)
    x, y = _source_pixels(plan.source, plan.target, cols.ravel(), rows.ravel())
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return "unsure"
    # Between the points the outline bends by far less than a tenth of the window, but at seams.
    room_x, room_y = 8 + 0.1 * np.ptp(x), 8 + 0.1 * np.ptp(y)
    if (
        x.min() > room_x
        and y.min() > room_y
        and x.max() < plan.source.width - room_x
        and y.max() < plan.source.height - room_y
    ):
        return "inside"
    beyond_x = x.max() < -room_x or x.min() > plan.source.width + room_x
    beyond_y = y.max() < -room_y or y.min() > plan.source.height + room_y
    return "outside" if beyond_x or beyond_y else "unsure"


def _source_pixels(
    source: Grid, target: Grid, cols: NDArray[np.float64], rows: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where in the source's pixels points of the target's pixels lie."""
    x, y = transform_points(target.crs, source.crs, *target.world(cols, rows))
    with np.errstate(invalid="ignore"):
        return source.pixels(x, y)


def _kernel_scale(source: Grid, target: Grid) -> tuple[float, float]:
    """Target pixels per source pixel along the source's axes, from the Jacobian at 81 places of the job."""
    share = np.linspace(0.02, 0.98, 9)
    cols, rows = (part.ravel() for part in np.meshgrid(share * target.width, share * target.height))
    x, y = _source_pixels(source, target, cols, rows)
    x_right, y_right = _source_pixels(source, target, cols + 1, rows)
    x_down, y_down = _source_pixels(source, target, cols, rows + 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        across = 1 / np.hypot(x_right - x, x_down - x)
        down = 1 / np.hypot(y_right - y, y_down - y)
        used = (x >= 0) & (x <= source.width) & (y >= 0) & (y <= source.height)
    used &= np.isfinite(across) & np.isfinite(down)
    if not used.any():
        return 1.0, 1.0
    # As Python's floats: a numpy scalar's repr reaches GDAL as text, which it silently misreads.
    medians = float(np.median(across[used])), float(np.median(down[used]))
    x_scale, y_scale = (1.0 if scale >= _ANTIALIAS_BELOW else scale for scale in medians)
    return x_scale, y_scale
