"""Any raster into a Cloud Optimized GeoTIFF, in one pass and bounded memory, whole or not at all.

>>> create_cog("scene.tif", "abfs://silver-cogs/scene_cog_analysis.tif")  # doctest: +SKIP
"""

from __future__ import annotations

import io
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast, overload

import dask
import rasterio
from dask.delayed import Delayed
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader, MemoryFile
from rasterio.windows import Window

from gdaltools import graph, storage
from gdaltools.cog.assemble import assemble, check_made, record_tasks
from gdaltools.cog.plan import CogPlan, Wanted, plan_for, profile_for, with_estimate
from gdaltools.cog.profiles import CogProfile
from gdaltools.cog.pyramid import Record
from gdaltools.cog.result import CogResult
from gdaltools.cog.reuse import copy_checked, reused
from gdaltools.cog.sink import FileSink, MemorySink
from gdaltools.cog.source import RasterSource
from gdaltools.crs import Bounds, crs_name
from gdaltools.dataset import open_dataset, reading
from gdaltools.errors import CorruptRaster, InvalidParameter, StorageError, UnsupportedRaster
from gdaltools.extent import geographic_bounds
from gdaltools.progress import Progress, ProgressOption, reporting
from gdaltools.scratch import scratch_folder
from gdaltools.storage import Location, StrPath

__all__ = ["CogPlan", "CogResult", "cog_profile", "create_cog", "plan_cog"]


@dataclass(frozen=True)
class _Job:
    """A plan, where its file goes, and whether the source is that file already."""

    plan: CogPlan
    target: Location
    overwrite: bool
    copies: bool = False


@overload
def create_cog(
    src: Any,
    dst: StrPath | Location | BinaryIO,
    profile: str = ...,
    *,
    raster_type: str = ...,
    target_crs: str | CRS | None = ...,
    input_crs: str | CRS | None = ...,
    codec: str | None = ...,
    level: int | None = ...,
    size_tolerance: float | None = ...,
    predictor: int | str = ...,
    quality: int = ...,
    max_z_error: float = ...,
    blocksize: int = ...,
    interleave: str = ...,
    overviews: str = ...,
    overview_resampling: str | None = ...,
    reproject_resampling: str | None = ...,
    sparse: bool = ...,
    statistics: bool = ...,
    tms: str | None = ...,
    reuse: bool = ...,
    overwrite: bool = ...,
    progress: ProgressOption = ...,
    compute: Literal[True] = ...,
) -> CogResult: ...


@overload
def create_cog(
    src: Any,
    dst: StrPath | Location | BinaryIO,
    profile: str = ...,
    *,
    raster_type: str = ...,
    target_crs: str | CRS | None = ...,
    input_crs: str | CRS | None = ...,
    codec: str | None = ...,
    level: int | None = ...,
    size_tolerance: float | None = ...,
    predictor: int | str = ...,
    quality: int = ...,
    max_z_error: float = ...,
    blocksize: int = ...,
    interleave: str = ...,
    overviews: str = ...,
    overview_resampling: str | None = ...,
    reproject_resampling: str | None = ...,
    sparse: bool = ...,
    statistics: bool = ...,
    tms: str | None = ...,
    reuse: bool = ...,
    overwrite: bool = ...,
    progress: ProgressOption = ...,
    compute: Literal[False],
) -> Delayed: ...


def create_cog(
    src: Any,
    dst: StrPath | Location | BinaryIO,
    profile: str = "analysis",
    *,
    raster_type: str = "auto",
    target_crs: str | CRS | None = None,
    input_crs: str | CRS | None = None,
    codec: str | None = None,
    level: int | None = None,
    size_tolerance: float | None = None,
    predictor: int | str = "auto",
    quality: int = 85,
    max_z_error: float = 0.0,
    blocksize: int = 512,
    interleave: str = "pixel",
    overviews: str = "build",
    overview_resampling: str | None = None,
    reproject_resampling: str | None = None,
    sparse: bool = False,
    statistics: bool = False,
    tms: str | None = None,
    reuse: bool = False,
    overwrite: bool = False,
    progress: ProgressOption = "auto",
    compute: bool = True,
) -> CogResult | Delayed:
    """Write `src` as a COG to `dst`.

    The target appears only when it is whole and its layout was checked; after an error nothing of it is left.
    The source is read and decoded once; memory follows the plan (`plan_cog`) and not the raster. The work
    runs on threads, or on the cluster of the active `distributed` client. Full-resolution pixels are
    bit-identical for every lossless codec; nodata, masks, alpha, colour tables, band names, units, scales,
    offsets, control points and tags are kept.

    Parameters
    ----------
    src : path, URL, Location, WarpedVRT or xarray.DataArray
        A local path or ``abfs://container/blob``; an open rasterio WarpedVRT of one; an array of (band, y, x)
        or (y, x), in memory or to be computed by dask, georeferenced as rioxarray has it.
    dst : path, URL, Location or binary file
        Where the COG goes; into a binary file object it is written at the end, in one go.
    profile : str
        "analysis" (DEFLATE), "fast" (ZSTD 3), "archive" (ZSTD 12, or LZW where GDAL lacks it) or
        "visualization" (JPEG, for three uint8 bands; else it becomes analysis, and the result says why).
    raster_type : str
        rgb, rgba, dem, categorical, multispectral, nir, or "auto" to look.
    target_crs : str or CRS, optional
        Warp to this CRS; the same as the source's warps nothing.
    input_crs : str or CRS, optional
        What the source's CRS is, where the file does not say or is wrong.
    codec : str, optional
        Instead of the profile's: DEFLATE, ZSTD, LZW, LERC, LERC_DEFLATE, LERC_ZSTD, JPEG, WEBP or NONE.
    level : int, optional
        Of DEFLATE 1 to 12, with the bytes that GDAL writes; of ZSTD 1 to 22.
    size_tolerance : float, optional
        DEFLATE without a level chooses the fastest encoder for each block that keeps the whole file within
        this share above the size that GDAL's level 6 would give it; 0.015 by default, 0 for level 6 itself.
    predictor : int or "auto"
        TIFF's predictor: 1 none, 2 horizontal, 3 floating point; "auto" by dtype.
    quality : int
        Of JPEG and WEBP, 1 to 100; WEBP's 100 is lossless.
    max_z_error : float
        Of LERC: what a sample may differ by.
    blocksize : int
        Side of a block: a multiple of 16, 64 to 4096; halved for rasters of so many bands that one block of
        all of them would not fit memory several times.
    interleave : str
        "pixel" (a block holds all bands) or "band".
    overviews : str
        "build", "keep" (the source's own) or "none".
    overview_resampling, reproject_resampling : str, optional
        GDAL's names; by default average and bilinear, for classes mode and nearest.
    sparse : bool
        Leave out blocks that hold nothing but nodata (or zeros, where there is no nodata value).
    statistics : bool
        Compute each band's exact minimum, maximum, mean and standard deviation on the way, and store them.
    tms : str, optional
        Warp to the grid of this tile matrix set (morecantile's name, as "WebMercatorQuad"), at the zoom level
        that is closest to the raster's resolution, so that each block holds whole tiles.
    reuse : bool
        Copy a source in storage that is such a COG already, with overviews as they would be by default; its
        blocks are decoded only to see that they can be. Not with `level` or `size_tolerance`, and never for
        LERC and WEBP; JPEG only if it was stored with at most the wanted `quality`.
    overwrite : bool
        Replace a target that exists.
    progress : bool, "auto" or callable
        As `gdaltools.progress` says; the unit is a block.
    compute : bool
        False gives a dask Delayed of the result, to be computed by any scheduler.

    Raises
    ------
    InvalidParameter
        A value is outside what is allowed, or the source has no place in `target_crs`.
    SourceNotFound, UnsupportedRaster, CorruptRaster
        The source cannot be read, or lacks the CRS that a warp needs.
    TargetExists, StorageError
        The target exists or cannot be written.
    """
    wanted = Wanted(
        profile=profile,
        raster_type=raster_type,
        target_crs=target_crs,
        input_crs=input_crs,
        codec=codec,
        level=level,
        size_tolerance=size_tolerance,
        predictor=predictor,
        quality=quality,
        max_z_error=max_z_error,
        blocksize=blocksize,
        interleave=interleave,
        overviews=overviews,
        overview_resampling=overview_resampling,
        reproject_resampling=reproject_resampling,
        sparse=sparse,
        statistics=statistics,
        tms=tms,
    )
    if not isinstance(dst, (str, os.PathLike, Location)):
        if not compute:
            raise InvalidParameter("compute=False needs a path or URL: an open file is of this process alone")
        return _make_in_memory(plan_for(src, wanted), dst, progress)
    target = storage.locate(dst)
    storage.check_target(target, overwrite=overwrite)
    plan = plan_for(src, wanted)
    job = _Job(plan, target, overwrite, copies=reuse and reused(plan, wanted) == "copy")
    if not compute:
        return cast(Delayed, dask.delayed(_make, pure=False)(job, False))
    return _make(job, progress)


def plan_cog(
    src: Any,
    profile: str = "analysis",
    *,
    raster_type: str = "auto",
    target_crs: str | CRS | None = None,
    input_crs: str | CRS | None = None,
    codec: str | None = None,
    level: int | None = None,
    size_tolerance: float | None = None,
    predictor: int | str = "auto",
    quality: int = 85,
    max_z_error: float = 0.0,
    blocksize: int = 512,
    interleave: str = "pixel",
    overviews: str = "build",
    overview_resampling: str | None = None,
    reproject_resampling: str | None = None,
    sparse: bool = False,
    statistics: bool = False,
    tms: str | None = None,
) -> CogPlan:
    """How `create_cog` would make a COG of `src`: levels, pieces, codec, memory, and the size to expect.

    Six blocks are read and encoded for the expected size; nothing is written.

    Raises
    ------
    InvalidParameter, SourceNotFound, UnsupportedRaster, CorruptRaster, StorageError
        As `create_cog` does.
    """
    wanted = Wanted(
        profile=profile,
        raster_type=raster_type,
        target_crs=target_crs,
        input_crs=input_crs,
        codec=codec,
        level=level,
        size_tolerance=size_tolerance,
        predictor=predictor,
        quality=quality,
        max_z_error=max_z_error,
        blocksize=blocksize,
        interleave=interleave,
        overviews=overviews,
        overview_resampling=overview_resampling,
        reproject_resampling=reproject_resampling,
        sparse=sparse,
        statistics=statistics,
        tms=tms,
    )
    return with_estimate(plan_for(src, wanted))


def cog_profile(
    src: StrPath | Location, profile: str = "analysis", *, raster_type: str = "auto"
) -> CogProfile:
    """How `create_cog` would encode `src`: its tier may be another than the one asked for, and says why.

    Raises
    ------
    InvalidParameter, SourceNotFound, UnsupportedRaster, CorruptRaster, StorageError
        As `create_cog` does.
    """
    source = storage.locate(src)
    with open_dataset(source) as dataset:
        return profile_for(dataset, source, Wanted(profile=profile, raster_type=raster_type))


def make_planned(plan: CogPlan, target: Location, *, overwrite: bool, progress: ProgressOption) -> CogResult:
    """What `create_cog` does once it has a plan."""
    return _make(_Job(plan, target, overwrite), progress)


def _make(job: _Job, progress: ProgressOption) -> CogResult:
    """One COG from start to finish."""
    began = time.perf_counter()
    plan, target = job.plan, job.target
    if job.copies and isinstance(plan.source, RasterSource):
        with suppress(CorruptRaster):  # an overview, perhaps, which is built again
            copied = _copied(job, plan.source.location, progress)
            return copied.model_copy(update={"seconds": time.perf_counter() - began})
    with (
        reporting(progress, label=f"cog {target.filename}", total=plan.blocks, unit="blocks") as advance,
        storage.writing(target, overwrite=job.overwrite) as path,
    ):
        _write(plan, FileSink(path), path.parent, advance)
        with path.open("rb") as stream:
            check_made(stream, plan, name=str(target))
        with rasterio.open(path) as made:
            result = _result(plan, str(target), made, path.stat().st_size)
    return result.model_copy(update={"seconds": time.perf_counter() - began})


def _copied(job: _Job, source: Location, progress: ProgressOption) -> CogResult:
    size, done = storage.stat(source).size, 0
    with reporting(progress, label=f"cog {job.target.filename}", total=size, unit="bytes") as advance:

        def told(state: Progress) -> None:
            nonlocal done
            before, done = done, state.done
            advance(done - before)

        copy_checked(source, job.target, size, overwrite=job.overwrite, progress=told)
    with open_dataset(job.target, verify=False) as made:
        return _result(job.plan, str(job.target), made, size)


def _make_in_memory(plan: CogPlan, target: BinaryIO, progress: ProgressOption) -> CogResult:
    """One COG, written to an open file at the end."""
    began = time.perf_counter()
    name = str(getattr(target, "name", "memory"))
    sink = MemorySink()
    with (
        reporting(progress, label=f"cog {name}", total=plan.blocks, unit="blocks") as advance,
        scratch_folder(Path(tempfile.gettempdir())) if plan.staged else nullcontext(Path()) as scratch,
    ):
        _write(plan, sink, scratch, advance)
    check_made(io.BytesIO(sink.content), plan, name=name)
    with MemoryFile(sink.content) as memory, memory.open() as made:
        result = _result(plan, name, made, len(sink.content))
    target.write(sink.content)
    return result.model_copy(update={"seconds": time.perf_counter() - began})


def _write(plan: CogPlan, sink: FileSink | MemorySink, scratch: Path, advance: Callable[[int], None]) -> None:
    """Run the tasks, and put together what they stored."""

    def ended(_: int, record: Record) -> None:
        if record.stored is not None:
            sink.store(record.name, [record.stored])
        advance(record.sizes.size)

    with _ready(plan, scratch) as ready:
        tasks = record_tasks(ready, ready.work(sink))
        records = graph.run(tasks, ended=ended, keep=lambda record: replace(record, stored=None))
    assemble(plan, records, sink)


@contextmanager
def _ready(plan: CogPlan, scratch: Path) -> Iterator[CogPlan]:
    """The plan, with a source that can be read in any order."""
    if not plan.staged or not isinstance(plan.source, RasterSource):
        yield plan
        return
    path = scratch / "source.tif"
    _decode(plan.source, path, plan.profile.blocksize)
    location = storage.locate(path)
    yield replace(plan, source=replace(plan.source, location=location))
    path.unlink()


def _decode(source: RasterSource, path: Path, blocksize: int) -> None:
    """Copy the pixels, read from top to bottom, into a GeoTIFF of which any part can be read."""
    with open_dataset(source.location, verify=False) as dataset:
        rows, _ = dataset.block_shapes[0]
        step = max(rows, blocksize)
        options: dict[str, Any] = {"tiled": True, "blockxsize": blocksize, "blockysize": blocksize}
        with (
            _storing(path),
            rasterio.Env(GDAL_TIFF_INTERNAL_MASK="YES"),
            rasterio.open(
                path,
                "w",
                driver="GTiff",
                width=dataset.width,
                height=dataset.height,
                count=dataset.count,
                dtype=dataset.dtypes[0],
                nodata=dataset.nodata,
                interleave="pixel",
                bigtiff="if_safer",
                photometric="minisblack",
                **options,
            ) as staged,
        ):
            for top in range(0, dataset.height, step):
                window = Window(0, top, dataset.width, min(step, dataset.height - top))
                with reading(source.location, window):
                    data = dataset.read(window=window)
                    valid = dataset.dataset_mask(window=window) if source.masked else None
                staged.write(data, window=window)
                if valid is not None:
                    staged.write_mask(valid, window=window)


@contextmanager
def _storing(path: Path) -> Iterator[None]:
    try:
        yield
    except RasterioError as error:
        raise StorageError(f"{path.parent} cannot be written to: {error}; is there space left?") from error


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
        bounds_4326=_bounds_4326(made, name),
        shape=(made.height, made.width),
        band_count=made.count,
        dtype=str(made.dtypes[0]),
        size_bytes=size,
        size_mb=size / 1e6,
        raster_type=profile.raster_type,
        quality=profile.quality,
        seconds=0.0,
        tier_profile=profile,
    )


def _bounds_4326(made: DatasetReader, name: str) -> Bounds | None:
    try:
        return geographic_bounds(made, name)
    except UnsupportedRaster:  # without a CRS, or with a local one, it has no place on Earth
        return None
