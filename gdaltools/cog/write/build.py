"""Build a COG by its plan, from the first task to the file, which is checked before it is published."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import BinaryIO, cast

from rasterio.crs import CRS
from rasterio.io import DatasetReader, MemoryFile

from gdaltools import storage
from gdaltools.cog.pieces.blob_sink import BlobSink
from gdaltools.cog.pieces.copied_blocks import CopiedSource
from gdaltools.cog.pieces.pyramid import PieceRecord
from gdaltools.cog.pieces.sink import FileSink, MemorySink, Sink
from gdaltools.cog.plan import CogPlan
from gdaltools.cog.result import CogResult
from gdaltools.cog.write.assemble import assemble, check_written, record_tasks
from gdaltools.cog.write.reuse import copy_checked
from gdaltools.display.progress import ProgressOption, Share
from gdaltools.display.relay import Relay
from gdaltools.display.reporting import reporting
from gdaltools.errors import CorruptRaster
from gdaltools.geo.crs import crs_name
from gdaltools.geo.footprint import bounds_4326
from gdaltools.raster.dataset import open_dataset
from gdaltools.raster.picture import file_name
from gdaltools.raster.pixels.prepare import FileSource, prepared
from gdaltools.raster.pixels.source import RasterSource, Source
from gdaltools.runtime import graph
from gdaltools.storage import Location


def build_cog(
    plan: CogPlan, target: Location | BinaryIO, *, overwrite: bool, progress: ProgressOption
) -> CogResult:
    """Write the planned COG to `target`, where it appears only when it is complete and has been checked.

    A binary file receives it at the end, in one write.

    Raises
    ------
    CorruptRaster, SourceChanged, SourceNotFound, StorageError, TargetExists
        The source cannot be read, or the target cannot be written.
    """
    began = time.perf_counter()
    result = None
    if plan.copies and isinstance(target, Location):
        result = _copied(plan, target, overwrite=overwrite, progress=progress)
    if result is None:
        label = f"cog {file_name(_name(target))}"
        with (
            reporting(progress, label=label, total=plan.blocks, unit="blocks") as advance,
            _sink(plan, target, overwrite=overwrite) as sink,
        ):
            result = _built(plan, sink, _name(target), advance)
    return result.model_copy(update={"seconds": time.perf_counter() - began})


def build_later(plan: CogPlan, target: Location, *, overwrite: bool, relay: Relay) -> CogResult:
    """Run `build_cog` as a dask task; `relay` shows its progress in the requesting process."""
    relay.begin()
    with relay.telling() as advance:
        made = build_cog(plan, target, overwrite=overwrite, progress=Share(plan.blocks, advance))
    relay.end()
    return made


def _copied(
    plan: CogPlan, target: Location, *, overwrite: bool, progress: ProgressOption
) -> CogResult | None:
    """Copy the source, which already is the planned COG; return None if a block of it is damaged."""
    source = cast(Location, plan.location)
    size = storage.stat(source).size
    with reporting(progress, label=f"cog {target.filename}", total=size, unit="bytes") as advance:
        share = Share(size, advance)
        try:
            copy_checked(source, target, size, traits=plan.traits, overwrite=overwrite, progress=share)
        except CorruptRaster:  # perhaps only an overview is damaged, and it can be built again
            return None
    # The result is read from the source: the copy may be in the archive tier, where it cannot be read.
    with open_dataset(source, verify=False) as made:
        return _result(plan, str(target), made, size).model_copy(update={"reused": "file"})


def _name(target: Location | BinaryIO) -> str:
    return str(target) if isinstance(target, Location) else str(getattr(target, "name", "memory"))


@contextmanager
def _sink(plan: CogPlan, target: Location | BinaryIO, *, overwrite: bool) -> Iterator[Sink]:
    """Yield the sink that writes to `target`, which is published when the block ends without an error."""
    if not isinstance(target, Location):
        memory = MemorySink()
        yield memory
        target.write(memory.content)
    elif storage.takes_blocks(target) and (block_bytes := plan.upload_block_bytes) is not None:
        with (
            storage.uncommitted(target, plan.traits, overwrite=overwrite) as assembly,
            storage.Uploads() as uploads,
        ):
            yield BlobSink(assembly, uploads, block_bytes)
    else:
        with storage.writing(target, overwrite=overwrite, traits=plan.traits) as path:
            yield FileSink(path)


def _built(plan: CogPlan, sink: Sink, name: str, advance: Callable[[int], None]) -> CogResult:
    """Run the tasks, assemble the file from the blocks that they stored, and check it."""

    work = plan.work(sink)

    def ended(_: int, record: PieceRecord) -> None:
        if record.stored is not None:
            sink.store(record.name, [record.stored], work.ends(record))
        advance(record.sizes.size)

    with _source_prepared(plan) as source:
        tasks = record_tasks(replace(plan, source=source), work)
        records = graph.run(tasks, ended=ended, keep=lambda record: replace(record, stored=None))
    header = assemble(plan, records, sink)
    with sink.written() as stream:
        check_written(stream, plan, name=name)
        size = stream.seek(0, io.SEEK_END)
    with MemoryFile(header) as memory, memory.open() as made:
        return _result(plan, name, made, size)


@contextmanager
def _source_prepared(plan: CogPlan) -> Iterator[Source]:
    """Yield the plan's source where its bytes are read fastest, as the plan says."""
    source = plan.source
    if not isinstance(source, FileSource):
        yield source
        return
    with prepared(
        source.location,
        staged=plan.staged,
        streams=isinstance(source, RasterSource) and not plan.kept,
        decode_first=plan.profile.blocksize if plan.decode_first else None,
        masked=source.masked,
    ) as file:
        yield file.waiting(plan.source_at(file.location))


def _result(plan: CogPlan, name: str, made: DatasetReader, size: int) -> CogResult:
    profile = plan.profile
    source = CRS.from_wkt(plan.source_crs_wkt) if plan.source_crs_wkt else None
    target = plan.facts.crs
    return CogResult(
        location=name,
        profile=profile.requested,
        tier=profile.tier,
        storage_tier=profile.storage_tier,
        compression=profile.compression,
        predictor=profile.predictor,
        blocksize=profile.blocksize,
        overview_levels=tuple(made.overviews(1)),
        overview_resampling=profile.overview_resampling,
        reproject_resampling=profile.reproject_resampling,
        reprojection_performed=plan.warps,
        source_crs=crs_name(source) if source else None,
        target_crs=crs_name(target) if target else None,
        bounds_4326=bounds_4326(made.crs, made.transform, made.width, made.height),
        shape=(made.height, made.width),
        band_count=made.count,
        dtype=str(made.dtypes[0]),
        size_bytes=size,
        size_mb=size / 1e6,
        raster_type=profile.raster_type,
        quality=profile.quality,
        seconds=0.0,
        tier_profile=profile,
        reused="blocks" if isinstance(plan.source, CopiedSource) else None,
        side_cars=plan.side_cars,
        limited_to=plan.limited_to,
    )
