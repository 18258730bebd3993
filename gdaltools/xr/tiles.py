"""An xarray.DataArray written as one COG per tile of its own grid.

>>> len(array_tiles(da, "tiles/", tile_size=512, progress=False).tiles)
4
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from gdaltools import storage
from gdaltools.cog.arrays import array_source
from gdaltools.cog.options import CogOptions
from gdaltools.cog.plan import CogPlan
from gdaltools.cog.planning import plan_for
from gdaltools.cog.write.build import build_cog
from gdaltools.cost.tiles_memory import auto_tile_size
from gdaltools.display.progress import ProgressOption
from gdaltools.display.reporting import reporting
from gdaltools.errors import InvalidParameter
from gdaltools.raster.facts import Facts
from gdaltools.raster.tiff import BLOCK_UNIT
from gdaltools.runtime import graph
from gdaltools.storage import Location, StrPath
from gdaltools.tiles.axis import TileAxis
from gdaltools.tiles.extract.result import ExtractedTile, ExtractionResult
from gdaltools.tiles.scheme import MAX_TILES


@dataclass(frozen=True)
class _TileTask:
    """The plan of a tile, and its target."""

    tile_id: str
    plan: CogPlan
    target: Location
    overwrite: bool


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
    source, facts = array_source(array)
    size = tile_size if tile_size is not None else _size_of(source.array, facts.pixel_bytes)
    _check(size, overlap)
    down, across = TileAxis(facts.height, size, overlap), TileAxis(facts.width, size, overlap)
    if down.count * across.count > MAX_TILES:
        raise InvalidParameter(
            f"{down.count} x {across.count} tiles are more than {MAX_TILES}: choose a larger tile_size"
        )
    folder, name = storage.locate(dst), stem or str(array.name or "array")
    places = [(row, col) for row in range(down.count) for col in range(across.count)]
    targets = {place: folder.child(f"{name}_tile_{place[0]}_{place[1]}.tif") for place in places}
    for target in targets.values():
        storage.check_target(target, overwrite=overwrite)
    y, x = array.rio.y_dim, array.rio.x_dim

    def tiles() -> Iterator[_TileTask]:
        for row, col in places:
            (top, height), (left, width) = down.span(row), across.span(col)
            part = array.isel({y: slice(top, top + height), x: slice(left, left + width)})
            plan = plan_for(part, options or CogOptions())
            yield _TileTask(
                f"tile_{row}_{col}", _placed(plan, facts, left, top), targets[row, col], overwrite
            )

    made: dict[str, ExtractedTile] = {}
    total = sum(down.span(row)[1] * across.span(col)[1] for row, col in places)
    with reporting(progress, label="tiles", total=total, unit="pixels") as advance:

        def ended(tile: ExtractedTile) -> None:
            made[tile.tile_id] = tile
            advance(tile.shape[1] * tile.shape[2])

        small = next(tiles()).plan.pieces == 1
        if small:
            graph.run_each(_make_alone, tiles(), ended=ended)
        else:
            for tile in tiles():
                ended(_make(tile))
    found = [made[f"tile_{row}_{col}"] for row, col in places]
    return ExtractionResult(
        source=source.name,
        tiles=tuple(found),
        tiles_resumed=0,
        total_bytes=sum(tile.size_bytes for tile in found),
        total_pixels=total,
        seconds=max(tile.finished for tile in found) - min(tile.started for tile in found),
        cogs=True,
        warped=False,
        resampling=None,
        tile_size=size,
        overlap=overlap,
    )


def _placed(plan: CogPlan, whole: Facts, left: int, top: int) -> CogPlan:
    """Return the plan with a transform derived from the whole array's: a part of a single row has none."""
    transform = whole.transform * whole.transform.translation(left, top)
    return replace(plan, facts=replace(plan.facts, transform=transform))


def _make_alone(tile: _TileTask) -> ExtractedTile:
    with graph.using_threads(1):
        return _make(tile)


def _make(tile: _TileTask) -> ExtractedTile:
    started = time.time()
    build_cog(tile.plan, tile.target, overwrite=tile.overwrite, progress=False)
    stat, facts = storage.stat(tile.target), tile.plan.facts
    return ExtractedTile(
        tile_id=tile.tile_id,
        location=str(tile.target),
        size_bytes=stat.size,
        etag=stat.etag,
        shape=(facts.count, facts.height, facts.width),
        resumed=False,
        started=started,
        finished=time.time(),
    )


def tile_size_of(array: Any) -> int:
    """Return the default side of an array's tiles."""
    source, facts = array_source(array)
    return _size_of(source.array, facts.pixel_bytes)


def _size_of(data: Any, pixel_bytes: int) -> int:
    """Return a side of about 450 MB; whole chunks, if they are smaller than that and fit TIFF's blocks."""
    size = auto_tile_size(pixel_bytes)
    chunks = getattr(data, "chunksize", None)
    if chunks is None:
        return size
    unit = math.lcm(*(int(side) for side in chunks[1:]))
    return size // unit * unit if unit <= size and unit % BLOCK_UNIT == 0 else size


def _check(size: int, overlap: int) -> None:
    if isinstance(size, bool) or not isinstance(size, int) or size < BLOCK_UNIT or size % BLOCK_UNIT:
        raise InvalidParameter(f"tile_size {size!r}: give a positive multiple of {BLOCK_UNIT}")
    if isinstance(overlap, bool) or not isinstance(overlap, int) or not 0 <= overlap < size:
        raise InvalidParameter(f"overlap {overlap!r}: give 0 or more pixels, less than tile_size {size}")
