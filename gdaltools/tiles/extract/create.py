"""Tiles of a large raster as GeoTIFFs or COGs, cut or warped out of it in one pass over its pixels.

An `ExtractionPlan` (`plan_extraction`) holds everything that is decided before the first pixel: which reader
reads which tiles, in which order, and how often blocks of the source are decoded. Each file is complete or
absent. The plan bounds the memory, whatever the size of the raster. A manifest beside the tiles lists the
finished ones, so that an interrupted run can be resumed.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Unpack

import dask
import rasterio
from dask.delayed import Delayed

from gdaltools import storage
from gdaltools.cog.encode.adaptive import Policy
from gdaltools.cog.options import EncodingKeywords, spelled_out
from gdaltools.display.progress import ProgressOption
from gdaltools.display.relay import Relay
from gdaltools.display.reporting import expecting, reporting
from gdaltools.errors import InvalidParameter, StorageError
from gdaltools.raster.pixels.prepare import prepared
from gdaltools.runtime import graph
from gdaltools.storage import Location, StrPath
from gdaltools.tiles.extract.groups import Position
from gdaltools.tiles.extract.manifest import FinishedTile, ManifestWriter, TileManifest, known_tiles
from gdaltools.tiles.extract.plan import ExtractionPlan
from gdaltools.tiles.extract.planning import (
    chosen_tiles,
    cog_options,
    estimated_bytes,
    estimated_seconds,
    planned,
    regrouped,
)
from gdaltools.tiles.extract.result import ExtractedTile, ExtractionResult
from gdaltools.tiles.extract.run import ProgressListener, TileResults, delayed, name_of
from gdaltools.tiles.extract.run import run as run_plan
from gdaltools.tiles.extract.trials import policy_of
from gdaltools.tiles.extract.walk import ExtractionSpec, tile_id
from gdaltools.tiles.scheme import TilingScheme
from gdaltools.warp.target import TargetPixels

__all__ = ["ExtractedTile", "ExtractionPlan", "ExtractionResult", "extract_tiles", "plan_extraction"]

# Version of the tiles' bytes: after a change of it, resumed runs write tiles of earlier versions again.
_TILE_FORMAT = 3
# Targets that are checked concurrently: each check is a round trip to storage.
_LOOKS_AT_ONCE = 32
# For more tiles than this the folder is listed, instead of a check of every target.
_MANY_TILES = 200


@spelled_out(EncodingKeywords)
def extract_tiles(
    src: StrPath | Location,
    scheme: TilingScheme,
    dst: StrPath | Location,
    *,
    tiles: Sequence[str] | None = None,
    area: Any = None,
    stem: str | None = None,
    resampling: str | None = None,
    input_crs: str | None = None,
    as_cog: bool = False,
    profile: str | None = None,
    skip_empty: bool = False,
    overwrite: bool = False,
    resume: bool = False,
    progress: ProgressOption = "auto",
    compute: bool = True,
    **options: Unpack[EncodingKeywords],
) -> ExtractionResult | Delayed:
    """Write the scheme's tiles below `dst`, as ``{stem}_{tile_id}.tif``; each file is complete or absent.

    If the scheme keeps the source's grid, tiles are bit-identical to the source. Otherwise they are warped,
    and neighbours are identical, pixel for pixel, where they overlap. Nodata, masks, alpha, colours, band
    names, units, scales and tags are preserved. A warp of a raster without nodata, mask or alpha gives its
    tiles a mask, so that pixels outside the source are never mistaken for black. With ``as_cog=True`` tiles
    are finished COGs, written in the same pass. Their `size_tolerance` applies to all tiles together, and
    blocks from all over the grid decide how it is used: a tile's bytes do not depend on which other tiles are
    written.

    A manifest, ``{stem}_tiles.json`` beside the tiles, lists the finished tiles while the work goes on. An
    interrupted run leaves a correct manifest or none.

    Parameters
    ----------
    src : path, URL or Location
        The raster that the scheme was made for.
    dst : path, URL or Location
        A folder, or a container or prefix.
    tiles : sequence of str, optional
        Ids of the tiles to write; by default all.
    area : GeoJSON object, path or URL, optional
        Write only tiles that touch this geometry, Feature or FeatureCollection in EPSG:4326 (RFC 7946).
    stem : str, optional
        First part of the file names; by default the source's stem.
    resampling : str, optional
        rasterio's name; by default nearest for categorical rasters and colour tables, else bilinear.
    input_crs : str, optional
        Must be the scheme's CRS of the source, which is also the default.
    as_cog : bool
        Write COGs with overviews instead of plain tiles.
    profile : str, optional
        What the COGs are for: see `CogOptions`.
    **options : EncodingKeywords
        How they are encoded: the other fields of `CogOptions`.
    skip_empty : bool
        Leave out tiles that hold only nodata or masked pixels; the result and the manifest list them.
    overwrite : bool
        Replace existing tiles.
    resume : bool
        Keep tiles that the manifest lists and that have not changed since, if the source and everything that
        decides the tiles are the same; write the others. `overwrite` applies to the others: a run that was
        killed can leave tiles that it had not listed yet, and only ``overwrite=True`` replaces them.
    progress : True, False, "auto" or callable
        See `gdaltools.display.progress`; counted in pixels. An error that a callback raises stops the work.
        With ``compute=False`` progress is shown in this process while the Delayed is computed, also by a
        cluster that is active now; a callback does not stop a cluster's work.
    compute : bool
        False returns a dask Delayed of the result. Which tiles it keeps is decided at once. It writes no
        manifest, because that takes a caller that is notified of each finished tile.

    Returns
    -------
    ExtractionResult or dask.delayed.Delayed
        The tiles that were written, kept and skipped; with ``compute=False`` a Delayed of that result.

    Raises
    ------
    InvalidParameter
        The scheme was made for another raster, or has no such tile; no tile touches the area; the resampling
        does not exist or would mix classes; the COG options contradict each other.
    TargetExists
        A tile exists and `overwrite` is False; raised before any tile is written.
    SourceNotFound, UnsupportedRaster, CorruptRaster, StorageError
        As in `inspect`; also CorruptRaster if a block cannot be decoded, and StorageError if the tiles will
        not fit on the disk. Tiles that were finished before the error remain.

    Examples
    --------
    >>> scheme = gt.generate_tiling_scheme("scene.tif", tile_size=512, overlap=64, target_crs="EPSG:3857")
    >>> result = extract_tiles("scene.tif", scheme, "tiles/", as_cog=True, progress=False)
    >>> len(result.tiles), result.cogs, result.warped
    (4, True, True)
    >>> extract_tiles("scene.tif", scheme, "tiles/", as_cog=True, resume=True, progress=False).tiles_resumed
    4
    """
    cog = cog_options(profile, options, as_cog=as_cog)
    # Pin one version of the source: another one that replaces it during the run is an error.
    source = storage.pinned(src)
    found = storage.check_unchanged(source)
    chosen = chosen_tiles(scheme, tiles, area)
    plan = planned(
        source,
        scheme,
        chosen,
        cog,
        resampling=resampling,
        input_crs=input_crs,
        threads=_threads() if compute else 1,
        may_decode_first=compute and not graph.cluster_threads(),
    )
    stem = stem if stem is not None else source.stem
    spec = ExtractionSpec(plan, storage.locate(dst), stem, overwrite, skip_empty, Policy())
    manifest = TileManifest(
        source=str(source),
        source_size_bytes=found.size,
        source_etag=found.etag,
        parameters_hash=_parameters_hash(spec),
    )
    work = decided(spec, chosen, manifest, resume=resume)
    return work.run(progress) if compute else work.delayed(progress)


@spelled_out(EncodingKeywords)
def plan_extraction(
    src: StrPath | Location,
    scheme: TilingScheme,
    *,
    tiles: Sequence[str] | None = None,
    area: Any = None,
    resampling: str | None = None,
    input_crs: str | None = None,
    as_cog: bool = False,
    profile: str | None = None,
    threads: int | None = None,
    **options: Unpack[EncodingKeywords],
) -> ExtractionPlan:
    """Return the plan of `extract_tiles`: groups, order, decoding, memory, and the expected size and time.

    Two blocks of up to six tiles are read and encoded to estimate the size; nothing is written.

    Parameters
    ----------
    profile : str, optional
        What the COGs are for: see `CogOptions`.
    **options : EncodingKeywords
        How they are encoded: the other fields of `CogOptions`.
    threads : int, optional
        Number of threads; by default as many as `extract_tiles` would use.

    Raises
    ------
    InvalidParameter, SourceNotFound, UnsupportedRaster, CorruptRaster, StorageError
        As in `extract_tiles`.

    Examples
    --------
    >>> plan = plan_extraction("scene.tif", scheme, as_cog=True, threads=2)
    >>> plan.tiles, plan.rereads, plan.warp is None
    (12, 1.0, True)
    """
    if threads is not None and threads < 1:
        raise InvalidParameter(f"{threads} threads: give at least 1")
    plan = planned(
        storage.locate(src),
        scheme,
        chosen_tiles(scheme, tiles, area),
        cog_options(profile, options, as_cog=as_cog),
        resampling=resampling,
        input_crs=input_crs,
        threads=threads or _threads(),
        may_decode_first=not graph.cluster_threads(),
    )
    return replace(plan, estimated_bytes=estimated_bytes(plan), estimated_seconds=estimated_seconds(plan))


@dataclass(frozen=True)
class _Work:
    """What is left to do: `spec` with the plan of the missing tiles, and which of the others need no work.

    Attributes
    ----------
    chosen : sequence of (row, col)
        All requested tiles, in their order.
    known : TileManifest or None
        What the manifest lists of the same source and parameters; None to keep no manifest.
    kept : mapping
        The tiles of an earlier run that are intact.
    empty : set of (row, col)
        Tiles that an earlier run found to hold no data.
    """

    spec: ExtractionSpec
    chosen: Sequence[Position]
    known: TileManifest | None
    kept: Mapping[Position, ExtractedTile]
    empty: Set[Position]
    missing: Sequence[Position]

    @property
    def _results(self) -> TileResults:
        kept: TileResults = {tile_id(place): tile for place, tile in self.kept.items()}
        return kept | {tile_id(place): tile_id(place) for place in self.empty}

    @property
    def _extent(self) -> dict[str, int]:
        """The pixels of all tiles, and of those that need no work."""
        pixels = {place: self.spec.plan.scheme.window(*place).pixels for place in self.chosen}
        return {
            "total": sum(pixels.values()),
            "begun": sum(pixels[place] for place in [*self.kept, *self.empty]),
        }

    def _seconds(self) -> float:
        return estimated_seconds(self.spec.plan) if self.missing else 0.0

    def run(self, progress: ProgressOption) -> ExtractionResult:
        """Write the missing tiles, and list each in the manifest."""
        results = self._results
        with (
            expecting(self._seconds),
            reporting(progress, label="tiles", unit="pixels", **self._extent) as advance,
            self._manifest() as manifest,
        ):
            if self.missing:
                self._write(ProgressListener(self.spec, advance, manifest, results))
        return _result(self.spec, [results[tile_id(place)] for place in self.chosen])

    def _manifest(self) -> AbstractContextManager[ManifestWriter | None]:
        if self.known is None:
            return nullcontext()
        names = {tile_id(place) for place in self.missing}
        still = {tile.tile_id: tile for tile in self.known.tiles if tile.tile_id not in names}
        return ManifestWriter(self.spec.manifest, self.known, still, set(self.known.skipped) - names)

    def _write(self, listener: ProgressListener) -> None:
        plan = self.spec.plan
        if not isinstance(plan.pixels, TargetPixels):
            run_plan(replace(self.spec, policy=policy_of(plan)), listener)
            return
        block = plan.layout.profile.blocksize if plan.decode_first else None
        with prepared(
            plan.source, staged=plan.staged, decode_first=block, masked=plan.pixels.own_mask
        ) as file:
            plan = replace(plan, pixels=plan.pixels.at(file.location))
            run_plan(replace(self.spec, plan=plan, policy=policy_of(plan)), listener)

    def delayed(self, progress: ProgressOption) -> Delayed:
        """Return the same work as one dask Delayed of the result; it keeps no manifest."""
        relay = Relay(progress, label="tiles", unit="pixels", expected=self._seconds, **self._extent)
        parts = delayed(self.spec, relay) if self.missing else []
        whole = dask.delayed(self.spec, traverse=False)
        return dask.delayed(_gathered, pure=False)(whole, self.chosen, self._results, parts, relay)


def decided(
    spec: ExtractionSpec,
    chosen: Sequence[Position],
    manifest: TileManifest | None = None,
    *,
    resume: bool = False,
) -> _Work:
    """Return which of the `chosen` tiles are missing, and the plan for those alone.

    Raises
    ------
    TargetExists
        A tile exists that is not kept, and `spec` does not overwrite.
    StorageError
        The disk has no room for the missing tiles.
    """
    known = None
    if manifest is not None:
        storage.check_target(spec.manifest, overwrite=True)
        known = known_tiles(spec.manifest, manifest)
    earlier = known if resume else None
    listed = {} if earlier is None else {tile.tile_id: tile for tile in earlier.tiles}
    kept = _standing(spec, chosen, listed)
    left_out = set(earlier.skipped) if earlier is not None and spec.skip_empty else set()
    empty = {place for place in chosen if tile_id(place) in left_out}
    missing = [place for place in chosen if place not in kept and place not in empty]
    if missing and len(missing) < len(chosen):
        spec = replace(spec, plan=regrouped(spec.plan, missing))
    if missing:
        _check_space(spec)
    return _Work(spec, chosen, known, kept, empty, missing)


def _threads() -> int:
    return graph.cluster_threads() or graph.thread_count()


def _parameters_hash(spec: ExtractionSpec) -> str:
    """Return a hash of everything that decides which tiles there are and what they contain.

    The source's CRS is part of the scheme.
    """
    plan = spec.plan
    decided = {
        "format": _TILE_FORMAT,
        # GDAL releases warp and compress differently, and neighbours must agree.
        "gdal": rasterio.__gdal_version__,
        "scheme": plan.scheme.model_dump(mode="json"),
        "stem": spec.stem,
        "warp": None if plan.warp is None else asdict(plan.warp),
        "facts": asdict(plan.layout.facts),
        "profile": plan.layout.profile.model_dump(mode="json"),
    }
    return hashlib.sha256(json.dumps(decided, sort_keys=True, default=str).encode()).hexdigest()


def _standing(
    spec: ExtractionSpec, chosen: Sequence[Position], listed: Mapping[str, FinishedTile]
) -> dict[Position, ExtractedTile]:
    """Return the listed tiles that are still intact; refuse other existing tiles unless overwriting."""

    def look(place: Position) -> ExtractedTile | None:
        target, tile = spec.target(place), listed.get(tile_id(place))
        if tile is not None and tile.is_whole(target):
            return _kept(target, tile)
        storage.check_target(target, overwrite=spec.overwrite)
        return None

    there = chosen
    if len(chosen) > _MANY_TILES:
        names = {name.rpartition("/")[2] for name in storage.list_names(spec.folder, depth=1)}
        there = [place for place in chosen if spec.target(place).filename in names]
    with ThreadPoolExecutor(_LOOKS_AT_ONCE) as pool:
        looked = zip(there, pool.map(look, there), strict=True)
        return {place: tile for place, tile in looked if tile is not None}


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


def _check_space(spec: ExtractionSpec) -> None:
    """Refuse to write tiles that the disk has no room for, estimated from a few encoded blocks."""
    if spec.folder.path is None:
        return
    folder = Path(spec.folder.path)
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    plan = spec.plan
    if plan.total_pixels * plan.layout.facts.pixel_bytes < free:
        return
    expected = estimated_bytes(plan)
    if expected > free:
        raise StorageError(
            f"{spec.folder} has {free / 1e6:,.0f} MB free, and {plan.tiles} tiles will take about "
            f"{expected / 1e6:,.0f} MB: make room, or choose another place"
        )


def _gathered(
    spec: ExtractionSpec,
    chosen: Sequence[Position],
    results: TileResults,
    parts: Sequence[Sequence[ExtractedTile | str]],
    relay: Relay,
) -> ExtractionResult:
    relay.end()
    results = results | {name_of(tile): tile for part in parts for tile in part}
    return _result(spec, [results[tile_id(place)] for place in chosen])


def _result(spec: ExtractionSpec, results: Sequence[ExtractedTile | str]) -> ExtractionResult:
    plan = spec.plan
    tiles = [tile for tile in results if isinstance(tile, ExtractedTile)]
    made = [tile for tile in tiles if not tile.resumed]
    return ExtractionResult(
        source=plan.pixels.name,
        tiles=tuple(tiles),
        tiles_resumed=len(tiles) - len(made),
        skipped=tuple(tile for tile in results if isinstance(tile, str)),
        total_bytes=sum(tile.size_bytes for tile in tiles),
        total_pixels=sum(tile.shape[1] * tile.shape[2] for tile in tiles),
        seconds=max((t.finished for t in made), default=0.0) - min((t.started for t in made), default=0.0),
        cogs=plan.layout.cogs,
        warped=plan.warp is not None,
        resampling=plan.warp.resampling if plan.warp is not None else None,
        tile_size=plan.scheme.tile_size,
        overlap=plan.scheme.overlap,
    )
