"""Tiles of a large raster as GeoTIFFs, cut from it or warped out of it.

Each tile is a task of its own: it opens the source for itself, goes through its pixels in strips, and
its file appears whole or not at all. Memory is bounded by a strip, not by the tile. A manifest beside the
tiles says which are finished, so that a run that was interrupted can be taken up again.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any
from uuid import uuid4

import dask
import rasterio
from dask.delayed import Delayed

from gdaltools import crash_points, graph, storage
from gdaltools.dataset import open_dataset
from gdaltools.errors import InvalidParameter
from gdaltools.extraction_result import ExtractedTile, ExtractionResult
from gdaltools.manifest import FinishedTile, ManifestWriter, TileManifest, finished_tiles
from gdaltools.nearness import brought_near
from gdaltools.progress import ProgressOption, reporting
from gdaltools.storage import Location, StrPath
from gdaltools.tile_writer import TileProfile, create_tile, strip_width, tile_profile
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

__all__ = ["ExtractedTile", "ExtractionResult", "extract_tiles"]

Advance = Callable[[int], None]

# Of what tiles are written as: a change of it makes tiles of earlier versions be written anew.
_TILE_FORMAT = 1
# Targets that are looked at together: one look is a round trip to storage.
_LOOKS_AT_ONCE = 32


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
    run: TileManifest


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
    resume: bool = False,
    progress: ProgressOption = "auto",
    compute: bool = True,
) -> ExtractionResult | Delayed:
    """Write the scheme's tiles below `dst`, as ``{stem}_{tile_id}.tif``.

    Every tile appears whole or not at all. Where the scheme keeps the source's grid, tiles are
    bit-identical to it; else they are warped, and neighbours are identical to the pixel where they
    overlap. Nodata, masks, alpha, colours, band names, units, scales and tags survive; a warp of a
    raster that has none of the first three gives its tiles a mask, so that what lies outside of the
    source is never taken for black.

    A manifest, ``{stem}_tiles.json`` beside the tiles, lists those that are finished while the work goes on.
    An interrupted run leaves one that is true, or none.

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
    overwrite : bool
        Replace tiles that exist.
    resume : bool
        Keep tiles that the manifest lists and that were not touched since, if the source and all that decides
        the tiles are the same; write the others. `overwrite` is for these: a run that was killed can leave
        tiles that it had not yet listed, which only ``overwrite=True`` replaces.
    progress : True, False, "auto" or callable
        See `gdaltools.progress`; in pixels. An error that a callback raises ends the work.
    compute : bool
        False returns a dask Delayed of the result, without progress. What it resumes is decided at once. It
        writes no manifest, which takes a caller that sees tiles end.

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
    target = job.target.child(f"{job.stem}_tiles.json")
    storage.check_target(target, overwrite=True)
    listed = finished_tiles(target, job.run)
    kept = _standing(job, chosen, listed if resume else {})
    missing = [tile_id for tile_id in chosen if tile_id not in kept]
    extract = dask.delayed(_extract_tile, pure=False)
    if not compute:
        shared = dask.delayed(job, traverse=False)
        parts = [kept.get(tile_id) or extract(shared, tile_id, None) for tile_id in chosen]
        return dask.delayed(_result, pure=False)(shared, parts)
    total, wanted = (sum(_pixels(scheme, tile_id) for tile_id in ids) for ids in (scheme.tile_ids(), missing))
    still = {tile_id: tile for tile_id, tile in listed.items() if tile_id not in missing}
    with (
        reporting(
            progress, label="tiles", total=sum(_pixels(scheme, tile_id) for tile_id in chosen), unit="pixels"
        ) as advance,
        _listening(advance) as (channel, tile_ended),
        ManifestWriter(target, job.run, still) as manifest,
        brought_near(job.source, share=wanted / total) as source,
    ):
        shared = dask.delayed(replace(job, source=source), traverse=False)
        advance(sum(_pixels(scheme, tile_id) for tile_id in kept))

        def ended(position: int, tile: ExtractedTile) -> None:
            manifest.enter(_finished(job, tile))
            tile_ended(_pixels(scheme, tile.tile_id))

        made = graph.run([extract(shared, tile_id, channel) for tile_id in missing], ended=ended)
    written = dict(zip(missing, made, strict=True)) | kept
    return _result(job, [written[tile_id] for tile_id in chosen])


def _plan(
    src: StrPath | Location,
    scheme: TilingScheme,
    dst: StrPath | Location,
    stem: str | None,
    resampling: str | None,
    input_crs: str | None,
    overwrite: bool,
) -> _Job:
    # One version of the source from here on: one that replaces it during the run is an error.
    location = storage.pinned(src)
    found = storage.check_unchanged(location)
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
    stem = stem if stem is not None else location.stem
    return _Job(
        source=location,
        scheme=scheme,
        target=storage.locate(dst),
        stem=stem,
        plan=plan,
        profile=profile,
        overwrite=overwrite,
        run=TileManifest(
            source=str(location),
            source_size_bytes=found.size,
            source_etag=found.etag,
            parameters_hash=_parameters_hash(scheme, stem, plan, profile),
        ),
    )


def _parameters_hash(scheme: TilingScheme, stem: str, plan: WarpPlan | None, profile: TileProfile) -> str:
    """Of all that decides what tiles there are and what is in them; the scheme holds the source's CRS."""
    decided = {
        "format": _TILE_FORMAT,
        # Releases differ in what they warp and compress to, and neighbours must agree.
        "gdal": rasterio.__gdal_version__,
        "scheme": scheme.model_dump(mode="json"),
        "stem": stem,
        "plan": None if plan is None else asdict(plan),
        "profile": asdict(profile),
    }
    return hashlib.sha256(json.dumps(decided, sort_keys=True, default=str).encode()).hexdigest()


def _chosen(scheme: TilingScheme, tiles: Sequence[str] | None) -> list[str]:
    if tiles is None:
        return list(scheme.tile_ids())
    if isinstance(tiles, str):
        raise InvalidParameter(f"tiles {tiles!r}: give a list of tile ids")
    chosen = list(dict.fromkeys(tiles))
    for tile_id in chosen:
        scheme.position(tile_id)
    return chosen


def _standing(
    job: _Job, chosen: Sequence[str], listed: Mapping[str, FinishedTile]
) -> dict[str, ExtractedTile]:
    """Tiles that are listed and still whole; of the others none may stand in the way."""

    def look(tile_id: str) -> ExtractedTile | None:
        target, tile = _target(job, tile_id), listed.get(tile_id)
        if tile is not None and tile.is_whole(target):
            return _kept(target, tile)
        storage.check_target(target, overwrite=job.overwrite)
        return None

    with ThreadPoolExecutor(_LOOKS_AT_ONCE) as pool:
        return {tile.tile_id: tile for tile in pool.map(look, chosen) if tile is not None}


def _kept(target: Location, tile: FinishedTile) -> ExtractedTile:
    now = time.time()
    return ExtractedTile(
        tile_id=tile.tile_id,
        location=str(target),
        size_bytes=tile.size_bytes,
        etag=tile.etag,
        shape=tile.shape,
        resumed=True,
        started=now,
        finished=now,
    )


def _finished(job: _Job, tile: ExtractedTile) -> FinishedTile:
    return FinishedTile(
        tile_id=tile.tile_id,
        name=_target(job, tile.tile_id).filename,
        size_bytes=tile.size_bytes,
        etag=tile.etag,
        shape=tile.shape,
    )


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
    crash_points.reach("tile-published")
    return ExtractedTile(
        tile_id=tile_id,
        location=str(target),
        size_bytes=size,
        etag=storage.stat(target).etag,
        shape=(job.profile.count, window.height, window.width),
        resumed=False,
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
    width = strip_width(job.profile.block, job.profile.pixel_bytes)
    return ((left, min(width, window.width - left)) for left in range(0, window.width, width))


def _result(job: _Job, tiles: Sequence[ExtractedTile]) -> ExtractionResult:
    made = [tile for tile in tiles if not tile.resumed]
    return ExtractionResult(
        source=str(job.source),
        tiles=tuple(tiles),
        tiles_resumed=len(tiles) - len(made),
        total_bytes=sum(tile.size_bytes for tile in tiles),
        total_pixels=sum(tile.shape[1] * tile.shape[2] for tile in tiles),
        seconds=max((t.finished for t in made), default=0.0) - min((t.started for t in made), default=0.0),
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
