"""An xarray.DataArray written as one COG per tile of its own grid.

>>> len(array_tiles(da, "tiles/", tile_size=512, progress=False).tiles)
4
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from rasterio.transform import Affine

from gdaltools import storage
from gdaltools.cog.options import CogOptions
from gdaltools.cog.plan import CogPlan
from gdaltools.cog.planning import plan_for
from gdaltools.cog.write.build import build_cog
from gdaltools.display.progress import ProgressOption
from gdaltools.display.reporting import reporting
from gdaltools.runtime import graph
from gdaltools.storage import Location, StrPath
from gdaltools.tiles.extract.result import ExtractedTile, ExtractionResult
from gdaltools.xr.info import own_scheme


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
    scheme = own_scheme(array, tile_size, overlap)
    folder, name = storage.locate(dst), stem or str(array.name or "array")
    targets = {tile_id: folder.child(f"{name}_{tile_id}.tif") for tile_id in scheme.tile_ids()}
    for target in targets.values():
        storage.check_target(target, overwrite=overwrite)
    y, x = array.rio.y_dim, array.rio.x_dim

    def tiles() -> Iterator[_TileTask]:
        for tile_id, target in targets.items():
            window = scheme.window(*scheme.position(tile_id))
            rows = slice(window.row_off, window.row_off + window.height)
            cols = slice(window.col_off, window.col_off + window.width)
            plan = plan_for(array.isel({y: rows, x: cols}), options or CogOptions())
            # A part of a single row or column has no transform of its own.
            facts = replace(plan.facts, transform=Affine(*scheme.transform_of(window)))
            yield _TileTask(tile_id, replace(plan, facts=facts), target, overwrite)

    made: dict[str, ExtractedTile] = {}
    total = sum(scheme.window(*scheme.position(tile_id)).pixels for tile_id in targets)
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
    found = [made[tile_id] for tile_id in targets]
    return ExtractionResult(
        source=scheme.source,
        tiles=tuple(found),
        tiles_resumed=0,
        total_bytes=sum(tile.size_bytes for tile in found),
        total_pixels=total,
        seconds=max(tile.finished for tile in found) - min(tile.started for tile in found),
        cogs=True,
        warped=False,
        resampling=None,
        tile_size=scheme.tile_size,
        overlap=overlap,
    )


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
