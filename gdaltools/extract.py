"""Tiles of a large raster as GeoTIFFs, cut from it or warped out of it.

Each tile is a task of its own: it opens the source for itself, goes through its pixels in strips, and
its file appears whole or not at all. Memory is bounded by a strip, not by the tile.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import dask
from dask.delayed import Delayed
from pydantic import BaseModel, ConfigDict

from gdaltools import graph, storage
from gdaltools.dataset import open_dataset
from gdaltools.errors import InvalidParameter
from gdaltools.progress import ProgressOption, reporting
from gdaltools.storage import Location, StrPath
from gdaltools.tile_writer import TileProfile, create_tile, tile_profile
from gdaltools.tiling import PixelWindow, TilingScheme
from gdaltools.warp import (
    CLASS_RESAMPLING,
    WarpPlan,
    cell_side,
    check_resampling,
    plain_strips,
    plan_warp,
    warped_strips,
)

Advance = Callable[[int], None]

# Uncompressed bytes of one strip of a tile: what a task holds, about three times over.
_STRIP_BYTES = 32 << 20


class ExtractedTile(BaseModel):
    """One tile that was written: where, how many bytes, and its (bands, rows, cols)."""

    model_config = ConfigDict(frozen=True)

    tile_id: str
    location: str
    size_bytes: int
    shape: tuple[int, int, int]
    started: float
    finished: float


class ExtractionResult(BaseModel):
    """What `extract_tiles` wrote.

    Attributes
    ----------
    tiles : tuple of ExtractedTile
        In the scheme's order, or that of `tiles`.
    warped : bool
        Whether pixels were resampled, by `resampling`.
    seconds : float
        From the first tile's start to the last one's end.
    facts : dict
        The scheme's (`TilingScheme.facts`).
    """

    model_config = ConfigDict(frozen=True)

    source: str
    tiles: tuple[ExtractedTile, ...]
    total_bytes: int
    total_pixels: int
    seconds: float
    warped: bool
    resampling: str | None
    facts: dict[str, Any]

    def __str__(self) -> str:
        how = f"warped ({self.resampling})" if self.warped else "cut out, not resampled"
        grid = self.facts["grid"]
        head = (
            f"{len(self.tiles)} tiles of up to {grid['tile_size_pixels']} pixels that share "
            f"{grid['overlap_pixels']}, {how}, {self.total_bytes / 1e6:,.1f} MB, {self.seconds:.1f} s"
        )
        return "\n".join([head, *(f"  {t.location}  {t.shape[2]} x {t.shape[1]}" for t in self.tiles)])


@dataclass(frozen=True)
class _Job:
    """What every tile's task is told."""

    source: Location
    scheme: TilingScheme
    target: Location
    stem: str
    plan: WarpPlan | None
    profile: TileProfile
    overwrite: bool


def extract_tiles(
    src: StrPath | Location,
    scheme: TilingScheme,
    dst: StrPath | Location,
    *,
    tiles: Sequence[str] | None = None,
    stem: str | None = None,
    resampling: str | None = None,
    input_crs: str | None = None,
    overwrite: bool = False,
    progress: ProgressOption = "auto",
    compute: bool = True,
) -> ExtractionResult | Delayed:
    """Write the scheme's tiles below `dst`, as ``{stem}_{tile_id}.tif``.

    Every tile appears whole or not at all. Where the scheme keeps the source's grid, tiles are
    bit-identical to it; else they are warped, and neighbours are identical to the pixel where they
    overlap. Nodata, masks, alpha, colours, band names, units, scales and tags survive; a warp of a
    raster that has none of the first three gives its tiles a mask, so that what lies outside of the
    source is never taken for black.

    Parameters
    ----------
    src : path, URL or Location
        The raster that the scheme was made for.
    dst : path, URL or Location
        A folder, or a container or prefix.
    tiles : sequence of str, optional
        Ids of the tiles to write; by default all.
    stem : str, optional
        First part of the names; by default the source's.
    resampling : str, optional
        rasterio's name; by default nearest for categorical rasters and colour tables, else bilinear.
    input_crs : str, optional
        Must be what the scheme was made with, which is used without it.
    progress : True, False, "auto" or callable
        See `gdaltools.progress`; in pixels. An error that a callback raises ends the work.
    compute : bool
        False returns a dask Delayed of the result, without progress.

    Raises
    ------
    InvalidParameter
        The scheme was made for another raster, or has no such tile; the resampling does not exist or
        would mix classes.
    TargetExists
        A tile exists and `overwrite` is False: found before any is written.
    SourceNotFound, UnsupportedRaster, CorruptRaster, StorageError
        As `inspect` does; CorruptRaster also where a block cannot be decoded. Tiles that were finished
        before remain.
    """
    job = _plan(src, scheme, dst, stem, resampling, input_crs, overwrite)
    chosen = _chosen(scheme, tiles)
    for tile_id in chosen:
        storage.check_target(_target(job, tile_id), overwrite=overwrite)
    shared = dask.delayed(job, traverse=False)
    extract = dask.delayed(_extract_tile, pure=False)
    if not compute:
        parts = [extract(shared, tile_id, None) for tile_id in chosen]
        return dask.delayed(_result, pure=False)(shared, parts)
    weights = [_pixels(scheme, tile_id) for tile_id in chosen]
    with (
        reporting(progress, label="tiles", total=sum(weights), unit="pixels") as advance,
        _listening(advance) as (channel, tile_ended),
    ):
        parts = [extract(shared, tile_id, channel) for tile_id in chosen]
        return _result(job, graph.run(parts, weights=weights, advance=tile_ended))


def _plan(
    src: StrPath | Location,
    scheme: TilingScheme,
    dst: StrPath | Location,
    stem: str | None,
    resampling: str | None,
    input_crs: str | None,
    overwrite: bool,
) -> _Job:
    location = storage.locate(src)
    with open_dataset(location) as dataset:
        scheme.check_belongs(dataset, location, input_crs)
        profile = tile_profile(dataset, scheme)
        by_class = scheme.raster_type == "categorical" or profile.colormap is not None
        name = resampling or ("nearest" if by_class else "bilinear")
        check_resampling(name)
        if profile.colormap is not None and name not in CLASS_RESAMPLING:
            raise InvalidParameter(
                f"resampling {name!r} would mix the numbers of a colour table: "
                f"use {' or '.join(CLASS_RESAMPLING)}"
            )
        cell = cell_side(scheme.tile_size, scheme.overlap)
        plan = None
        if scheme.warps:
            plan = plan_warp(dataset, scheme.source_grid, scheme.grid, name, cell=cell)
    if plan is not None and plan.adds_mask:
        profile = profile.with_mask()
    return _Job(
        source=location,
        scheme=scheme,
        target=storage.locate(dst),
        stem=stem if stem is not None else location.stem,
        plan=plan,
        profile=profile,
        overwrite=overwrite,
    )


def _chosen(scheme: TilingScheme, tiles: Sequence[str] | None) -> list[str]:
    if tiles is None:
        return list(scheme.tile_ids())
    if isinstance(tiles, str):
        raise InvalidParameter(f"tiles {tiles!r}: give a list of tile ids")
    chosen = list(dict.fromkeys(tiles))
    for tile_id in chosen:
        scheme.position(tile_id)
    return chosen


def _target(job: _Job, tile_id: str) -> Location:
    return job.target.child(f"{job.stem}_{tile_id}.tif")


def _pixels(scheme: TilingScheme, tile_id: str) -> int:
    window = scheme.window(*scheme.position(tile_id))
    return window.width * window.height


def _extract_tile(job: _Job, tile_id: str, channel: str | None) -> ExtractedTile:
    """One tile, from the source to its place in storage."""
    started = time.time()
    window = job.scheme.window(*job.scheme.position(tile_id))
    target = _target(job, tile_id)
    with (
        open_dataset(job.source, verify=False) as dataset,
        storage.writing(target, overwrite=job.overwrite) as path,
    ):
        with create_tile(path, job.profile, window, job.scheme.transform_of(window)) as tile:
            for left, width in _columns(job, window):
                part = PixelWindow(
                    col_off=window.col_off + left, row_off=window.row_off, width=width, height=window.height
                )
                for pixels, mask in _strips(job, dataset, part):
                    tile.write(left, pixels, mask)
                    _report(channel, pixels.shape[1] * pixels.shape[2])
                tile.finish_columns(left)
        size = path.stat().st_size
    return ExtractedTile(
        tile_id=tile_id,
        location=str(target),
        size_bytes=size,
        shape=(job.profile.count, window.height, window.width),
        started=started,
        finished=time.time(),
    )


def _strips(job: _Job, dataset: Any, window: PixelWindow) -> Iterator[tuple[Any, Any]]:
    if job.plan is None:
        rows = job.profile.block
        return plain_strips(dataset, job.source, window.rasterio, rows, mask=job.profile.masked)
    return warped_strips(dataset, job.source, job.plan, window.rasterio)


def _columns(job: _Job, window: PixelWindow) -> Iterator[tuple[int, int]]:
    """Columns of blocks, as wide as the memory of a strip allows."""
    block = job.profile.block
    fitting = _STRIP_BYTES // (block * job.profile.pixel_bytes)
    width = max(block, fitting // block * block)
    return ((left, min(width, window.width - left)) for left in range(0, window.width, width))


def _result(job: _Job, tiles: Sequence[ExtractedTile]) -> ExtractionResult:
    return ExtractionResult(
        source=str(job.source),
        tiles=tuple(tiles),
        total_bytes=sum(tile.size_bytes for tile in tiles),
        total_pixels=sum(tile.shape[1] * tile.shape[2] for tile in tiles),
        seconds=max((t.finished for t in tiles), default=0.0) - min((t.started for t in tiles), default=0.0),
        warped=job.plan is not None,
        resampling=job.plan.resampling if job.plan is not None else None,
        facts=job.scheme.facts(),
    )


# Tasks of this process find their caller's progress by name; in another process, as on a cluster, the
# name is unknown there, and a tile counts when it has ended.
_channels: dict[str, Advance] = {}


def _report(channel: str | None, pixels: int) -> None:
    advance = _channels.get(channel) if channel is not None else None
    if advance is not None:
        advance(pixels)


@contextmanager
def _listening(advance: Advance) -> Iterator[tuple[str, Advance]]:
    by_strips = threading.Event()

    def strip_ended(pixels: int) -> None:
        by_strips.set()
        advance(pixels)

    def tile_ended(pixels: int) -> None:
        if not by_strips.is_set():
            advance(pixels)

    channel = uuid4().hex
    _channels[channel] = strip_ended
    try:
        yield channel, tile_ended
    finally:
        del _channels[channel]
