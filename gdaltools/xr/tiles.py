"""An xarray.DataArray written as one COG per tile of its own grid.

>>> len(array_tiles(da, "tiles/", tile_size=512, progress=False).tiles)
4
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Self, cast

from rasterio.windows import Window

from gdaltools import storage
from gdaltools.cog.encode.adaptive import Policy
from gdaltools.cog.options import CogOptions
from gdaltools.cog.planning import plan_for
from gdaltools.cost.cog_memory import piece_shape
from gdaltools.display.progress import ProgressOption
from gdaltools.geo.window import PixelWindow, Span
from gdaltools.raster.pixels.blocks import Reading, StoredBlocks
from gdaltools.raster.pixels.source import ArraySource, Pixels, Valid
from gdaltools.runtime import graph
from gdaltools.storage import Location, StrPath
from gdaltools.tiles.extract.create import decided
from gdaltools.tiles.extract.format import TileFormat
from gdaltools.tiles.extract.groups import TileGroup
from gdaltools.tiles.extract.plan import ExtractionPlan
from gdaltools.tiles.extract.planning import chosen_tiles
from gdaltools.tiles.extract.result import ExtractionResult
from gdaltools.tiles.extract.walk import ExtractionSpec
from gdaltools.tiles.scheme import TilingScheme
from gdaltools.xr.info import own_scheme


@dataclass(frozen=True)
class ArrayPixels:
    """An array as the pixels of its own grid; a task reads a tile of it at once."""

    source: ArraySource
    step: int
    warp: None = None

    @property
    def name(self) -> str:
        """The name in error messages."""
        return self.source.name

    def part(self, window: PixelWindow) -> Self:
        """Return the window's pixels alone: an array is sent along with its tasks."""
        top, left = window.row_off - self.source.origin[0], window.col_off - self.source.origin[1]
        array = self.source.array[:, top : top + window.height, left : left + window.width]
        origin = window.row_off, window.col_off
        return replace(self, source=replace(self.source, array=array, origin=origin))

    def tile(self, window: PixelWindow) -> ArraySource:
        """Return a window as the source of a COG."""
        return replace(self.part(window).source, origin=(0, 0))

    @contextmanager
    def opened(self) -> Iterator[ArraySource]:
        """Yield the array."""
        yield self.source

    def strips(self, source: ArraySource, window: Window) -> Iterator[tuple[Pixels, Valid | None]]:
        """Yield a window, shape (bands, rows, cols), and which of its pixels are data."""
        top, left = int(window.row_off), int(window.col_off)
        rows, cols = Span(top, top + int(window.height)), Span(left, left + int(window.width))
        pixels, valid = source.read(rows, cols, source.array.dtype, planes=len(source.array))
        yield (pixels[..., 0], valid)


def array_tiles(
    array: Any,
    dst: StrPath | Location,
    *,
    tile_size: int | None = None,
    overlap: int = 0,
    stem: str | None = None,
    options: CogOptions | None = None,
    overwrite: bool = False,
    progress: ProgressOption = "auto",
) -> ExtractionResult:
    """Write an array as COGs below `dst`, as ``{stem}_tile_{row}_{col}.tif``; each is complete or absent.

    dask arrays are computed piece by piece, while the pieces are written, and are never held as a whole. A
    chunk that several tiles share is computed for each of them, so tiles of whole chunks, the default, cost
    the least.

    Parameters
    ----------
    array : xarray.DataArray
        As in `create_cog`.
    tile_size : int, optional
        Side of a tile in pixels, a multiple of 16; by default about 450 MB uncompressed, in whole chunks if
        chunks are smaller.
    overlap : int
        Pixels that neighbouring tiles share.
    stem : str, optional
        First part of the file names; by default the array's name, or "array".
    options : CogOptions, optional
        How the COGs are encoded.

    Raises
    ------
    InvalidParameter
        The sizes contradict each other, or there would be more than a million tiles.
    TargetExists
        A tile exists and `overwrite` is False; raised before any tile is written.
    UnsupportedRaster, StorageError
        As in `create_cog`.
    """
    plan = _plan(array, own_scheme(array, tile_size, overlap), options or CogOptions())
    name = stem or str(array.name or "array")
    spec = ExtractionSpec(plan, storage.locate(dst), name, overwrite, skip_empty=False, policy=Policy())
    return decided(spec, list(plan.positions())).run(progress)


def _plan(array: Any, scheme: TilingScheme, options: CogOptions) -> ExtractionPlan:
    """Return the plan for all tiles: small ones are computed side by side, large ones by all threads."""
    whole = plan_for(array, options)
    facts, block = whole.facts, whole.profile.blocksize
    largest = scheme.window(0, 0)
    rows, cols = piece_shape(largest.width, largest.height, facts.pixel_bytes, block)
    places = chosen_tiles(scheme, None, None)
    grid = scheme.grid
    return ExtractionPlan(
        scheme=scheme,
        pixels=ArrayPixels(cast(ArraySource, whole.source), step=grid.height),
        layout=TileFormat(facts, whole.profile, options, cogs=True),
        blocks=StoredBlocks(
            grid,
            grid,
            grid.height,
            grid.width,
            facts.pixel_bytes,
            warps=False,
            compressed=False,
            sequential=False,
        ),
        groups=tuple(TileGroup(range(row, row + 1), range(col, col + 1)) for row, col in places),
        tiles=len(places),
        total_pixels=sum(scheme.window(*place).pixels for place in places),
        threads=graph.cluster_threads() or graph.thread_count(),
        side_by_side=rows >= largest.height and cols >= largest.width,
        reading=Reading(0, 0, 0, 0),
        cached=True,
    )
