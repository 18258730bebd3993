"""Drawings of tiles: where they lie in their grid and where they overlap."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from rasterio.windows import Window

from gdaltools.display.axes import PICTURE_SIDE, new_axes
from gdaltools.display.html import Html, html
from gdaltools.errors import GdalToolsError, InvalidParameter
from gdaltools.geo.crs import parse_crs
from gdaltools.geo.footprint import pixels_at
from gdaltools.geo.grid import Grid
from gdaltools.geo.window import PixelWindow
from gdaltools.raster.picture import Picture, picture, sampled

# The longer side of a tile map in screen pixels, and the most tiles that can be told apart in it.
_MAP_SIDE = 260
_MOST_MAPPED = 600
# Tiles at least this wide on the screen, in pixels, are labelled with their row and column.
_NAMED = 34
# The most tiles that a plot can show, and the most whose labels do not cover each other.
_MOST_PLOTTED = 5_000
_MOST_NAMES = 150
_TILE_COLOURS = ("#0969da", "#bf3989")


Windows = Iterable[tuple[int, int, PixelWindow]]


def tile_map(grid: Grid, count: int, windows: Windows) -> Html:
    """Return the tiles as a small SVG picture; empty if there are too many to tell apart.

    Parameters
    ----------
    count : int
        The number of tiles.
    windows : iterable
        The row, column and window of each tile; not read if there are too many tiles.
    """
    if count > _MOST_MAPPED:
        return Html("")
    scale = _MAP_SIDE / max(grid.width, grid.height)
    width, height = max(1.0, grid.width * scale), max(1.0, grid.height * scale)
    shapes = []
    for row, col, window in windows:
        x, y = window.col_off * scale, window.row_off * scale
        across, down = window.width * scale, window.height * scale
        shapes.append(
            f"<rect x='{x:.1f}' y='{y:.1f}' width='{across:.1f}' height='{down:.1f}'>"
            f"<title>tile_{row}_{col}: {window.width} x {window.height}</title></rect>"
        )
        if across >= _NAMED and down >= _NAMED / 2:
            shapes.append(
                f"<text x='{x + across / 2:.1f}' y='{y + down / 2 + 4:.1f}' text-anchor='middle' "
                f"font-size='10' fill='currentColor'>{row}_{col}</text>"
            )
    label = html(f"{count} tiles")
    return Html(
        f"<svg role='img' aria-label='{label}' width='{width + 2:.0f}' height='{height + 2:.0f}' "
        f"viewBox='-1 -1 {width + 2:.1f} {height + 2:.1f}'>{''.join(shapes)}</svg>"
    )


def plot_tiles(
    grid: Grid,
    count: int,
    windows: Windows,
    ax: Any = None,
    *,
    title: str,
    source: str,
    source_grid: Grid,
    names: bool = True,
) -> Any:
    """Draw tiles over a picture of their raster, in the CRS of their grid, and return the Axes.

    Overlaps are darker.

    Parameters
    ----------
    count : int
        The number of tiles.
    windows : iterable
        The row, column and window of each tile; not read if there are too many tiles.
    source, source_grid
        The raster below the tiles, and its own grid.
    names : bool
        Label tiles with their row and column, unless there are too many.

    Raises
    ------
    InvalidParameter
        There are more than 5,000 tiles.
    """
    if count > _MOST_PLOTTED:
        raise InvalidParameter(f"{count} tiles cannot be told apart in a plot: {_MOST_PLOTTED} can")
    aspect = grid.height * grid.resolution[1] / (grid.width * grid.resolution[0])
    ax = new_axes(ax, width=6.4, height=min(max(6.4 * aspect, 2.0), 8.0))
    from matplotlib.patches import Rectangle

    left, bottom, right, top = grid.bounds
    painted = _in_grid(source, source_grid, grid)
    if painted is not None:
        ax.imshow(painted, extent=(left, right, bottom, top), aspect="equal", interpolation="nearest")
    for row, col, window in windows:
        x0, y0, x1, y1 = grid.bounds_of(window.col_off, window.row_off, window.width, window.height)
        colour = _TILE_COLOURS[(row + col) % 2]
        across, down = x1 - x0, y1 - y0
        ax.add_patch(Rectangle((x0, y0), across, down, facecolor=colour, alpha=0.18, linewidth=0))
        ax.add_patch(Rectangle((x0, y0), across, down, fill=False, edgecolor=colour, linewidth=0.8))
        if names and count <= _MOST_NAMES:
            ax.text(
                (x0 + x1) / 2, (y0 + y1) / 2, f"{row}_{col}", ha="center", va="center", fontsize=8,
                bbox={"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 1.5},
            )  # fmt: skip
    ax.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")
    ax.set_title(title, fontsize=10)
    return ax


def _in_grid(src: str, source: Grid, grid: Grid) -> Picture | None:
    """Return a picture of the raster on `grid`; None if the raster cannot be read quickly."""
    try:
        found = picture(src, PICTURE_SIDE)
    except GdalToolsError:
        return None
    if found is None or (grid == source and grid.north_up):
        return found
    scale = max(1.0, max(grid.width, grid.height) / PICTURE_SIDE)
    rows, cols = max(1, round(grid.height / scale)), max(1, round(grid.width / scale))
    shares = [(np.arange(count) + 0.5) / count for count in (cols, rows)]
    x, y = grid.world(*np.meshgrid(shares[0] * grid.width, shares[1] * grid.height))
    places = pixels_at(source, parse_crs(grid.crs, "CRS"), x, y)
    return sampled(found, Window(0, 0, source.width, source.height), *places)
