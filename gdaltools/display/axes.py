"""Drawings by matplotlib: a scheme over its raster, a COG's levels, a histogram, what readers ask for.

Each takes the Axes to draw in, or makes some, and returns them. matplotlib comes with the extra ``notebook``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.transform import Affine
from rasterio.warp import reproject
from rasterio.windows import Window

from gdaltools import storage
from gdaltools.band_names import distinct
from gdaltools.errors import GdalToolsError, InvalidParameter, MissingExtra
from gdaltools.geo.crs import parse_crs
from gdaltools.raster.dataset import open_dataset, reading
from gdaltools.raster.picture import GLANCE_PIXELS, Picture, file_name, glance_cost, picture
from gdaltools.runtime.text import megabytes

if TYPE_CHECKING:
    from gdaltools.cog.reads import ReadTrace
    from gdaltools.raster.info import RasterInfo
    from gdaltools.tiles.scheme import TilingScheme

# Longer side of a picture below a drawing, pixels.
_SIDE = 640
# With more tiles their names would cover each other.
_MOST_NAMES = 150
_MOST_TILES = 5_000
_BINS = 128
_TILE_COLOURS = ("#0969da", "#bf3989")
_COLOURS = {"Red": "#cf222e", "Green": "#1a7f37", "Blue": "#0969da"}
# Bands in a histogram: of more nobody can tell the lines apart.
_MOST_BANDS = 8


def new_axes(ax: Any, *, width: float = 8.0, height: float = 4.5) -> Any:
    """The given Axes, else new ones of so many inches.

    Raises
    ------
    MissingExtra
        matplotlib is not installed.
    """
    if ax is not None:
        return ax
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise MissingExtra("plots need matplotlib: pip install 'gdaltools[notebook]'") from error
    _, made = pyplot.subplots(figsize=(width, height), layout="constrained")
    return made


def plot_scheme(scheme: TilingScheme, ax: Any = None, *, names: bool = True) -> Any:
    """The tiles of a scheme over a picture of its raster, in the scheme's CRS; overlaps are darker."""
    if len(scheme) > _MOST_TILES:
        raise InvalidParameter(f"{len(scheme)} tiles cannot be told apart in a plot: {_MOST_TILES} can")
    grid = scheme.grid
    aspect = grid.height * grid.resolution[1] / (grid.width * grid.resolution[0])
    ax = new_axes(ax, width=6.4, height=min(max(6.4 * aspect, 2.0), 8.0))
    from matplotlib.patches import Rectangle

    left, bottom, right, top = grid.bounds
    painted = _in_grid(scheme)
    if painted is not None:
        ax.imshow(painted, extent=(left, right, bottom, top), aspect="equal", interpolation="nearest")
    for row in range(scheme.rows):
        for col in range(scheme.cols):
            window = scheme.window(row, col)
            x0, y0, x1, y1 = grid.bounds_of(window.col_off, window.row_off, window.width, window.height)
            colour = _TILE_COLOURS[(row + col) % 2]
            across, down = x1 - x0, y1 - y0
            ax.add_patch(Rectangle((x0, y0), across, down, facecolor=colour, alpha=0.18, linewidth=0))
            ax.add_patch(Rectangle((x0, y0), across, down, fill=False, edgecolor=colour, linewidth=0.8))
            if names and len(scheme) <= _MOST_NAMES:
                ax.text(
                    (x0 + x1) / 2, (y0 + y1) / 2, f"{row}_{col}", ha="center", va="center", fontsize=8,
                    bbox={"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 1.5},
                )  # fmt: skip
    ax.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")
    ax.set_title(
        f"{len(scheme)} tiles of up to {scheme.tile_size} pixels that share {scheme.overlap}, "
        f"{grid.crs.split(',')[0][:40]}",
        fontsize=10,
    )
    return ax


def _in_grid(scheme: TilingScheme) -> Picture | None:
    """A picture of the raster on the scheme's grid; None where the raster cannot be read at a glance."""
    try:
        found = picture(scheme.source, _SIDE)
    except GdalToolsError:
        return None
    if found is None or not scheme.warps:
        return found
    source, grid = scheme.source_grid, scheme.grid
    scale = max(1.0, max(grid.width, grid.height) / _SIDE)
    rows, cols = max(1, round(grid.height / scale)), max(1, round(grid.width / scale))
    target = np.zeros((4, rows, cols), "uint8")
    reproject(
        np.ascontiguousarray(found.transpose(2, 0, 1)),
        target,
        src_transform=source.affine
        * Affine.scale(source.width / found.shape[1], source.height / found.shape[0]),
        src_crs=parse_crs(source.crs, "source CRS"),
        dst_transform=grid.affine * Affine.scale(grid.width / cols, grid.height / rows),
        dst_crs=parse_crs(grid.crs, "CRS"),
        resampling=Resampling.nearest,
    )
    return target.transpose(1, 2, 0)


def plot_pyramid(
    levels: Sequence[tuple[int, int]], ax: Any = None, *, blocksize: int, title: str = ""
) -> Any:
    """The levels of a COG, (width, height) each, the full resolution below; thin lines are blocks."""
    ax = new_axes(ax, width=8.0, height=0.55 * len(levels) + 1.2)
    widest = levels[0][0]
    for level, (width, height) in enumerate(levels):
        share = width / widest
        ax.barh(level, share, left=(1 - share) / 2, height=0.8, color="#0969da", alpha=0.75)
        across = -(-width // blocksize)
        for number in range(1, across if across <= 200 else 0):
            ax.plot(
                [(1 - share) / 2 + number * blocksize / widest] * 2, [level - 0.4, level + 0.4], "w", lw=0.4
            )
        label = f"{width:,} x {height:,}" + (f"  (1/{round(widest / width)})" if level else "")
        outside = share < 0.35
        ax.text(
            0.5 + (share / 2 + 0.01 if outside else 0), level, label, va="center", fontsize=9,
            ha="left" if outside else "center", color="0.3" if outside else "white",
        )  # fmt: skip
    ax.set(xlim=(-0.02, 1.02), yticks=range(len(levels)), xticks=[])
    ax.set_yticklabels(["full", *(f"overview {number}" for number in range(1, len(levels)))])
    ax.spines[:].set_visible(False)
    ax.set_title(title, fontsize=10)
    return ax


def plot_histogram(info: RasterInfo, ax: Any = None) -> Any:
    """How often values occur in each band, by a sample of about a million pixels that are data.

    Raises
    ------
    MissingExtra
        matplotlib is not installed.
    SourceNotFound, CorruptRaster, StorageError
        The raster cannot be read any more.
    """
    ax = new_axes(ax, height=3.2)
    bands, sampled = _sampled(info)
    found = np.concatenate([*bands.values()])
    low, high = (float(found.min()), float(found.max())) if found.size else (0.0, 1.0)
    whole = all(np.dtype(name).kind in "iu" for name in info.dtypes) and high - low < 4 * _BINS
    edges = np.arange(low, high + 2) - 0.5 if whole else np.linspace(low, high + 1e-12, _BINS + 1)
    for name, values in bands.items():
        counts, _ = np.histogram(values, edges)
        ax.stairs(counts / max(1, counts.sum()), edges, label=name, color=_COLOURS.get(name), linewidth=1.3)
    ax.set(xlabel="value", ylabel="share of pixels", yticks=[])
    ax.legend(fontsize=8, frameon=False)
    ax.set_title(f"{file_name(info.location)}, by {sampled}", fontsize=10)
    return ax


def _sampled(info: RasterInfo) -> tuple[dict[str, NDArray[Any]], str]:
    """Values of each band that are data, by their names, and of what they are a sample."""
    location = storage.locate(info.location)
    with open_dataset(location, verify=False) as dataset:
        rows, cols, count = dataset.height, dataset.width, min(dataset.count, _MOST_BANDS)
        window, told = Window(0, 0, cols, rows), "an overview"
        if glance_cost(dataset, _SIDE) > GLANCE_PIXELS:
            across, down = min(cols, _SIDE), min(rows, _SIDE)
            window, told = Window((cols - across) // 2, (rows - down) // 2, across, down), "its middle"
        scale = max(1.0, max(window.width, window.height) / _SIDE)
        shape = max(1, round(window.height / scale)), max(1, round(window.width / scale))
        with reading(location, window):
            data = dataset.read(list(range(1, count + 1)), window=window, out_shape=(count, *shape))
            seen = dataset.dataset_mask(window=window, out_shape=shape) > 0
    values = np.abs(data) if np.iscomplexobj(data) else data
    names = distinct(info.band_names.values())
    bands = {name: band[seen & np.isfinite(band)] for name, band in zip(names, values, strict=False)}
    return bands, f"{told} of {shape[1]} x {shape[0]} pixels"


def plot_reads(traces: Sequence[ReadTrace], ax: Any = None) -> Any:
    """Which parts of each file were read, from its first byte to its last, and by how many requests."""
    ax = new_axes(ax, width=9.0, height=0.9 * len(traces) + 0.9)
    for row, trace in enumerate(traces):
        y = len(traces) - 1 - row
        ax.barh(y, 1.0, height=0.5, color="0.9", edgecolor="0.6", linewidth=0.6)
        for request in trace.requests:
            width = max(request.length / trace.size_bytes, 0.0015)
            ax.barh(y, width, left=request.offset / trace.size_bytes, height=0.5, color="#cf222e")
        ax.text(
            0, y + 0.32, f"{file_name(trace.location)}: {len(trace.requests)} requests, "
            f"{megabytes(trace.read_bytes)} of {megabytes(trace.size_bytes)}, about {trace.seconds():.1f} s",
            fontsize=9,
        )  # fmt: skip
    ax.set(xlim=(-0.005, 1.005), ylim=(-0.4, len(traces) - 0.3), yticks=[])
    ax.set_xticks([0, 0.5, 1], ["first byte", "", "last byte"], fontsize=8)
    ax.spines[["left", "right", "top", "bottom"]].set_visible(False)
    return ax
