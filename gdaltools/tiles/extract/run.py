"""Execution of an extraction: groups on threads or a cluster, or tile by tile; progress and manifest."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import dask
from dask.delayed import Delayed
from rasterio.windows import Window

from gdaltools import storage
from gdaltools.cog.encode.adaptive import Policy
from gdaltools.cog.write.assemble import decided
from gdaltools.cog.write.build import build_cog
from gdaltools.display.progress import Share
from gdaltools.display.relay import Relay
from gdaltools.raster.dataset import block_cache
from gdaltools.runtime import graph
from gdaltools.tiles.extract.groups import Position, TileGroup
from gdaltools.tiles.extract.manifest import FinishedTile, ManifestWriter
from gdaltools.tiles.extract.plan import ExtractionPlan
from gdaltools.tiles.extract.result import ExtractedTile
from gdaltools.tiles.extract.trials import TrialResult, trial_tasks
from gdaltools.tiles.extract.walk import Callbacks, ExtractionSpec, extracted, is_empty, tile_id, walk

TileResults = dict[str, ExtractedTile | str]


class ProgressListener:
    """Receives pixels and tiles from any thread, and passes them to the progress display and the manifest."""

    def __init__(
        self,
        spec: ExtractionSpec,
        advance: Callable[[int], None],
        manifest: ManifestWriter | None,
        results: TileResults,
    ) -> None:
        self._spec = spec
        self._advance = advance
        self._manifest = manifest
        self._results = results
        self._by_pixels = False
        self._lock = threading.Lock()

    def pixels(self, count: int) -> None:
        """Count `count` more pixels as written."""
        self._by_pixels = True
        with self._lock:  # adjacent tiles finish together, and the next may take long
            if self._manifest is not None:
                self._manifest.catch_up()
        self._advance(count)

    def group(self, made: Sequence[ExtractedTile | str]) -> None:
        """Record all tiles of a finished group."""
        for tile in made:
            self.tile(tile)

    def tile(self, tile: ExtractedTile | str) -> None:
        """Record a finished tile; a tile that is reported twice counts once."""
        name = name_of(tile)
        with self._lock:
            if name in self._results:
                return
            self._results[name] = tile
            if self._manifest is not None and isinstance(tile, str):
                self._manifest.leave_out(tile)
            elif self._manifest is not None and not isinstance(tile, str):
                self._manifest.enter(_finished(tile))
        if not self._by_pixels:
            place = self._spec.plan.scheme.position(name)
            self._advance(self._spec.plan.scheme.window(*place).pixels)


def name_of(tile: ExtractedTile | str) -> str:
    """Return the id of a tile that was written or left out."""
    return tile if isinstance(tile, str) else tile.tile_id


def _finished(tile: ExtractedTile) -> FinishedTile:
    return FinishedTile(
        tile_id=tile.tile_id,
        name=storage.locate(tile.location).filename,
        size_bytes=tile.size_bytes,
        etag=tile.etag,
        shape=tile.shape,
    )


def run(spec: ExtractionSpec, listener: ProgressListener) -> None:
    """Write all tiles of the plan."""
    plan, callbacks = spec.plan, Callbacks(listener.pixels, listener.tile)
    if plan.side_by_side:
        threads = None if graph.cluster_threads() else plan.threads
        write = partial(_walk, callbacks)
        parts = (replace(spec, plan=plan.part(group)) for group in plan.groups)
        graph.run_each(write, parts, ended=listener.group, threads=threads)
        return
    for place in plan.positions():
        listener.tile(_alone(spec, callbacks, place))


def _walk(callbacks: Callbacks, spec: ExtractionSpec) -> list[ExtractedTile | str]:
    return walk(spec, callbacks, spec.plan.groups[0])


def _sent(spec: ExtractionSpec) -> ExtractionSpec:
    """Return the spec without its groups, which would burden every task that is sent to another machine."""
    return replace(spec, plan=replace(spec.plan, groups=()))


def _alone(spec: ExtractionSpec, callbacks: Callbacks, place: Position) -> ExtractedTile | str:
    """Write one tile with all threads."""
    started = time.time()
    plan, target = replace(spec.plan.plan_of(place), policy=spec.policy), spec.target(place)
    pixels = spec.plan.scheme.window(*place).pixels
    if spec.skip_empty and not _holds_data(spec, place):
        if spec.overwrite:
            storage.delete(target)
        return tile_id(place)
    with block_cache(spec.plan.cache_bytes):
        made = build_cog(plan, target, overwrite=spec.overwrite, progress=Share(pixels, callbacks.pixels))
    return extracted(target, place, plan, made.size_bytes, started)


def _holds_data(spec: ExtractionSpec, place: Position) -> bool:
    plan, window = spec.plan.plan_of(place), spec.plan.scheme.window(*place)
    across = min(window.width, plan.piece[1])
    with spec.plan.pixels.opened() as source:
        for left in range(window.col_off, window.col_off + window.width, across):
            width = min(across, window.col_off + window.width - left)
            part = Window(left, window.row_off, width, window.height)
            for pixels, valid in spec.plan.pixels.strips(source, part):
                if not is_empty(plan, pixels, valid):
                    return True
    return False


def delayed(spec: ExtractionSpec, relay: Relay) -> list[Delayed]:
    """Return the same work as dask tasks, each of which writes some tiles and reports to `relay`."""
    sent = _sent(spec)
    shared = dask.delayed(sent, traverse=False)
    plan = dask.delayed(sent.plan, traverse=False)
    trials = [dask.delayed(task, pure=False, traverse=False)() for task in trial_tasks(spec.plan)]
    policy = dask.delayed(_decided, pure=False)(plan, trials, relay)
    parts = spec.plan.groups if spec.plan.side_by_side else spec.plan.positions()
    write = dask.delayed(_write, pure=False)
    return [write(shared, policy, part, relay) for part in parts]


def _decided(plan: ExtractionPlan, results: Sequence[TrialResult], relay: Relay) -> Policy:
    """Start the relay and return the policy; all tiles depend on this task."""
    relay.begin()
    return decided([trials for _, trials in results], plan.layout.profile.size_tolerance)


def _write(
    spec: ExtractionSpec, policy: Policy, part: TileGroup | Position, relay: Relay
) -> list[ExtractedTile | str]:
    """Write a group of tiles, or a single tile, with one thread."""
    spec = replace(spec, policy=policy)
    with graph.using_threads(1), relay.telling() as advance:
        callbacks = Callbacks(pixels=advance)
        if isinstance(part, TileGroup):
            return walk(spec, callbacks, part)
        return [_alone(spec, callbacks, part)]
