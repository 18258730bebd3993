"""Source pixels on the target grid: the same pixels whichever window is requested.

The target is cut into cells that are anchored at its origin, and the cell alone decides what computes it.
If the plan says so, our own kernel computes it; the kernel's pixels depend on their position alone. GDAL
computes the rest. GDAL returns slightly different values for the same pixel in different windows (its
approximate transformer breaks each scanline at places that move with the window), so there a cell is always
warped whole, alone and with one set of parameters.

Missing data follow GDAL's rule. A pixel exists if its nearest source pixel has data in any band. Samples
without data are left out of the weights, each band for itself; a band without any there keeps nodata. A
pixel that exists never equals nodata in all of its bands, but becomes the next value. With an alpha band,
fully transparent pixels are missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.transform import Affine
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from gdaltools.geo.crs import parse_crs, transform_points
from gdaltools.geo.grid import Grid
from gdaltools.geo.reach import copies
from gdaltools.raster.dataset import reading
from gdaltools.raster.pixels.nodata import holding_data
from gdaltools.raster.pixels.windows import SourceWindows
from gdaltools.warp.by_kernel import warp_by_kernel
from gdaltools.warp.nodes import (
    EXACT_TOLERANCE,
    MAX_ERROR,
    Nodes,
    interpolation_error,
    nodes_among,
    nodes_around,
    source_places,
)
from gdaltools.warp.plan import (
    CLASS_RESAMPLING,
    WarpPlan,
    cell_side,
    check_resampling,
    chosen_resampling,
    plan_warp,
)

__all__ = [
    "CLASS_RESAMPLING",
    "WarpPlan",
    "cell_side",
    "check_resampling",
    "chosen_resampling",
    "plain_strips",
    "plan_warp",
    "warped_strips",
]

Pixels = NDArray[Any]
Mask = NDArray[np.uint8]

# Points along each side of a cell at which its place in the source is looked up.
_SAMPLES = 17


def warped_strips(
    source: SourceWindows, plan: WarpPlan, window: Window
) -> Iterator[tuple[Pixels, Mask | None]]:
    """Yield a window of the target grid, from top to bottom, in strips that end where cells do.

    Yields pixels, shape (bands, rows, cols), and their mask, (rows, cols) of 0 and 255, if the plan adds one.

    Raises
    ------
    CorruptRaster, StorageError
        The source cannot be decoded or read.
    InvalidParameter
        The plan was made where numba is installed, but numba is missing here.
    """
    top, bottom = int(window.row_off), int(window.row_off + window.height)
    left, right = int(window.col_off), int(window.col_off + window.width)
    size = plan.cell
    for cell_row in range(top // size, -(-bottom // size)):
        first, last = max(top, cell_row * size), min(bottom, (cell_row + 1) * size)
        # The samples of a pixel are adjacent, as kernels write them and most files store them.
        strip = np.empty((last - first, right - left, plan.count), plan.dtype).transpose(2, 0, 1)
        mask = np.empty((last - first, right - left), "uint8") if plan.adds_mask else None
        asked = Window(left, first, right - left, last - first)
        for begin, pixels, valid in _runs(source, plan, cell_row, asked):
            end = begin + pixels.shape[2]
            strip[:, :, begin - left : end - left] = pixels
            if mask is not None and valid is not None:
                mask[:, begin - left : end - left] = valid
        yield strip, mask


def _cells(plan: WarpPlan, cell_row: int, first_col: int, last_col: int) -> Window:
    """Return the window of a row's cells from the first to the last column."""
    row_off, col_off = cell_row * plan.cell, first_col * plan.cell
    return Window(
        col_off,
        row_off,
        min((last_col + 1) * plan.cell, plan.target.width) - col_off,
        min(plan.cell, plan.target.height - row_off),
    )


def _runs(
    source: SourceWindows, plan: WarpPlan, cell_row: int, asked: Window
) -> Iterator[tuple[int, Pixels, Mask | None]]:
    """Yield the requested part of a row of cells, in runs of cells by our kernel and single cells by GDAL.

    Yields the column at which pixels begin, the pixels, and their mask.
    """
    left, right = int(asked.col_off), int(asked.col_off + asked.width)
    columns = range(left // plan.cell, -(-right // plan.cell))
    nodes = _row_nodes(plan, cell_row, columns)

    def is_kernels(column: int) -> bool:
        if nodes is None:
            return False
        cell = nodes_among(nodes, _cells(plan, cell_row, column, column))
        return interpolation_error(cell) <= MAX_ERROR

    for by_kernel, run in groupby(columns, is_kernels):
        cells = list(run)
        if by_kernel and nodes is not None:
            begin, end = max(left, cells[0] * plan.cell), min(right, (cells[-1] + 1) * plan.cell)
            part = Window(begin, asked.row_off, end - begin, asked.height)
            yield begin, *warp_by_kernel(source, plan, nodes, part)
            continue
        for column in cells:
            cell = _cells(plan, cell_row, column, column)
            begin, end = max(left, int(cell.col_off)), min(right, int(cell.col_off + cell.width))
            pixels, mask = _by_gdal(source, plan, cell)
            top, before = int(asked.row_off - cell.row_off), begin - int(cell.col_off)
            inside = slice(top, top + int(asked.height)), slice(before, before + end - begin)
            yield begin, pixels[:, *inside], None if mask is None else mask[inside]


def _row_nodes(plan: WarpPlan, cell_row: int, columns: range) -> Nodes | None:
    """Return the nodes around a row's cells, including those of the last cell beyond the target's edge."""
    if not plan.step:
        return None
    cells = _cells(plan, cell_row, columns[0], columns[-1])
    least = columns[-1] * plan.cell + 2 * plan.step - cells.col_off
    around = Window(cells.col_off, cells.row_off, max(cells.width, least), cells.height)
    return nodes_around(plan.source, plan.target, plan.step, around)


def _by_gdal(source: SourceWindows, plan: WarpPlan, cell: Window) -> tuple[Pixels, Mask | None]:
    pixels, mask = _nothing(plan, int(cell.height), int(cell.width))
    # GDAL does not wrap longitudes: a source beyond 180 is warped from each place where it lies.
    overlap = _overlap(plan, cell)
    for copy in overlap.copies:
        some, valid = _warped(source, plan, copy, cell, overlap)
        if overlap.inside:
            return some, valid
        there = _data(plan, some, valid)
        pixels = np.where(there, some, pixels)
        if mask is not None and valid is not None:
            mask = np.maximum(mask, valid)
    return pixels, mask


def _data(plan: WarpPlan, pixels: Pixels, mask: Mask | None) -> NDArray[np.bool_]:
    """Return where GDAL found data."""
    there: NDArray[np.bool_] = np.ones(pixels.shape[1:], bool)
    if mask is not None:
        there = mask != 0
    elif plan.alpha:
        there = pixels[plan.alpha - 1] != 0
    elif (known := holding_data(pixels, plan.nodata)) is not None:
        there = np.any(known, axis=0)
    return there


def _warped(
    source: SourceWindows, plan: WarpPlan, grid: Grid, cell: Window, overlap: _Overlap
) -> tuple[Pixels, Mask | None]:
    # A cell that lies entirely in a source without gaps needs no alpha band, which halves GDAL's speed.
    tracks_alpha = plan.adds_mask and not (overlap.inside and plan.mask == "none")
    x_scale, y_scale = plan.scale
    with (
        reading(source.location, cell, frame=" of the target grid"),
        # Beyond the edge of a map of the world GDAL would repeat its other side.
        rasterio.Env(CHECK_WITH_INVERT_PROJ="YES" if overlap.leaves_map else "NO"),
        WarpedVRT(
            source.dataset,
            src_crs=parse_crs(plan.source.crs, "source CRS"),
            src_transform=None if grid == plan.source else grid.affine,
            crs=parse_crs(plan.target.crs, "target CRS"),
            transform=Affine(*plan.target.transform_of(int(cell.col_off), int(cell.row_off))),
            width=int(cell.width),
            height=int(cell.height),
            resampling=Resampling[plan.resampling],
            src_nodata=plan.nodata,
            nodata=plan.nodata,
            add_alpha=tracks_alpha,
            num_threads=1,
            # Next to the kernel's pixels, GDAL's must be as exact.
            tolerance=EXACT_TOLERANCE if plan.step else 0.125,
            # Otherwise signed bytes become a wider type, and results of cubic would not fit.
            dtype=plan.dtype,
            XSCALE=x_scale,
            YSCALE=y_scale,
            # Otherwise nodata of one band would be mixed with its data where another band has data.
            UNIFIED_SRC_NODATA="PARTIAL",
            # From a few points GDAL would not see all of the source's window beside a seam.
            **({"SAMPLE_GRID": "YES", "SAMPLE_STEPS": "ALL"} if len(overlap.copies) > 1 else {}),
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
    source: SourceWindows, window: Window, rows: int, *, mask: bool
) -> Iterator[tuple[Pixels, Mask | None]]:
    """Yield a window of the source unchanged, from top to bottom, in strips of `rows` rows.

    Raises
    ------
    CorruptRaster, StorageError
        As in `SourceWindows.pixels`.
    """
    bottom = int(window.row_off + window.height)
    for row_off in range(int(window.row_off), bottom, rows):
        part = Window(window.col_off, row_off, window.width, min(rows, bottom - row_off))
        pixels = source.pixels(part).transpose(2, 0, 1)
        yield pixels, source.mask(part) if mask else None


def _nothing(plan: WarpPlan, rows: int, cols: int) -> tuple[Pixels, Mask | None]:
    pixels = np.full((plan.count, rows, cols), plan.fill, plan.dtype)
    return pixels, np.zeros((rows, cols), "uint8") if plan.adds_mask else None


class _Overlap(NamedTuple):
    """Where the source lies that a window of the target may meet.

    Attributes
    ----------
    copies : list of Grid
        The source's grid, in each copy of the world that the window may meet.
    inside : bool
        Whether the window lies inside the only one of them, with room for the kernel.
    leaves_map : bool
        Whether the window extends beyond the edge of the target's map of the world.
    """

    copies: list[Grid]
    inside: bool
    leaves_map: bool


def _overlap(plan: WarpPlan, window: Window) -> _Overlap:
    share = np.linspace(0, 1, _SAMPLES)
    cols, rows = np.meshgrid(window.col_off + share * window.width, window.row_off + share * window.height)
    cols, rows = cols.ravel(), rows.ravel()
    world = source_places(plan.source, plan.target, cols, rows)
    found = np.isfinite(world[0]) & np.isfinite(world[1])
    if not found.all():
        named = transform_points(plan.target.crs, plan.source.crs, *plan.target.world(cols, rows))
        leaves_map = bool((np.isfinite(named[0]) & ~found).any())
        return _Overlap(copies(plan.source, plan.target), inside=False, leaves_map=leaves_map)
    met = []
    for grid in copies(plan.source, plan.target):
        x, y = grid.pixels(*world)
        # Except at seams, the outline bends between the points by far less than a tenth of the window.
        sides = [(part, 8 + 0.1 * np.ptp(part), size) for part, size in ((x, grid.width), (y, grid.height))]
        if all(part.min() > room and part.max() < size - room for part, room, size in sides):
            return _Overlap([grid], inside=True, leaves_map=False)
        if all(part.max() >= -room and part.min() <= size + room for part, room, size in sides):
            met.append(grid)
    return _Overlap(met, inside=False, leaves_map=False)
