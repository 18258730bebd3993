"""Any raster into a Cloud Optimized GeoTIFF, in bounded memory, whole or not at all.

>>> create_cog("scene.tif", "abfs://silver-cogs/scene_cog_analysis.tif")  # doctest: +SKIP
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, overload

import dask
import numpy as np
import rasterio
from dask.delayed import Delayed
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.io import DatasetReader

from gdaltools import graph, storage
from gdaltools.cog import driver, staging
from gdaltools.cog.profiles import CogProfile, choose_profile
from gdaltools.cog.result import CogResult
from gdaltools.crs import Bounds, crs_name, parse_crs
from gdaltools.dataset import numpy_dtypes, open_dataset
from gdaltools.detect import RASTER_TYPES, RasterType, detect
from gdaltools.errors import InvalidParameter, UnsupportedRaster
from gdaltools.extent import geographic_bounds
from gdaltools.progress import ProgressOption, reporting
from gdaltools.storage import Location, StrPath

__all__ = ["CogResult", "cog_profile", "create_cog"]


@dataclass(frozen=True)
class _Plan:
    """Everything that is decided before the first pixel."""

    source: Location
    target: Location
    overwrite: bool
    profile: CogProfile
    source_wkt: str | None
    target_wkt: str | None
    assign_crs: bool
    warp: bool
    mask_nodata: bool
    blocks: int


@overload
def create_cog(
    src: StrPath | Location,
    dst: StrPath | Location,
    profile: str = ...,
    *,
    raster_type: str = ...,
    target_crs: str | CRS | None = ...,
    input_crs: str | CRS | None = ...,
    jpeg_quality: int = ...,
    blocksize: int = ...,
    overview_resampling: str | None = ...,
    reproject_resampling: str | None = ...,
    overwrite: bool = ...,
    progress: ProgressOption = ...,
    compute: Literal[True] = ...,
) -> CogResult: ...


@overload
def create_cog(
    src: StrPath | Location,
    dst: StrPath | Location,
    profile: str = ...,
    *,
    raster_type: str = ...,
    target_crs: str | CRS | None = ...,
    input_crs: str | CRS | None = ...,
    jpeg_quality: int = ...,
    blocksize: int = ...,
    overview_resampling: str | None = ...,
    reproject_resampling: str | None = ...,
    overwrite: bool = ...,
    progress: ProgressOption = ...,
    compute: Literal[False],
) -> Delayed: ...


def create_cog(
    src: StrPath | Location,
    dst: StrPath | Location,
    profile: str = "analysis",
    *,
    raster_type: str = "auto",
    target_crs: str | CRS | None = None,
    input_crs: str | CRS | None = None,
    jpeg_quality: int = 85,
    blocksize: int = 512,
    overview_resampling: str | None = None,
    reproject_resampling: str | None = None,
    overwrite: bool = False,
    progress: ProgressOption = "auto",
    compute: bool = True,
) -> CogResult | Delayed:
    """Write `src` as a COG to `dst`.

    The target appears only when it is whole and its layout was checked; after an error nothing of it is left.
    Memory does not grow with the raster. Full-resolution pixels are bit-identical for every codec but JPEG;
    nodata, masks, alpha, colour tables, band names, units, scales, offsets and tags are kept.

    Parameters
    ----------
    src, dst : path, URL or Location
        Local paths or ``abfs://container/blob``.
    profile : str
        "visualization" (JPEG, for three uint8 bands; else it becomes analysis, and the result says why),
        "analysis" (DEFLATE) or "archive" (ZSTD, or LZW where GDAL lacks it).
    raster_type : str
        rgb, rgba, dem, categorical, multispectral, nir, or "auto" to look.
    target_crs : str or CRS, optional
        Warp to this CRS; the same as the source's warps nothing.
    input_crs : str or CRS, optional
        What the source's CRS is, where the file does not say or is wrong.
    jpeg_quality : int
        1 to 100.
    blocksize : int
        Side of a block: a multiple of 16, 64 to 4096; halved for rasters of so many bands that one block of
        all of them would not fit memory several times.
    overview_resampling, reproject_resampling : str, optional
        GDAL's names; by default average and bilinear, for classes mode and nearest.
    overwrite : bool
        Replace a target that exists.
    progress : bool, "auto" or callable
        As `gdaltools.progress` says.
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
    source, target = storage.locate(src), storage.locate(dst)
    storage.check_target(target, overwrite=overwrite)
    with open_dataset(source) as dataset:
        chosen = _profile(
            dataset,
            source,
            profile,
            raster_type=raster_type,
            jpeg_quality=jpeg_quality,
            blocksize=blocksize,
            overview_resampling=overview_resampling,
            reproject_resampling=reproject_resampling,
        )
        plan = _plan(dataset, source, target, chosen, target_crs, input_crs, overwrite)
    task = cast(Delayed, dask.delayed(_make, pure=False)(plan))
    if not compute:
        return task
    with reporting(progress, label=f"cog {target.filename}", total=plan.blocks, unit="blocks") as advance:
        return cast(CogResult, graph.run([task], ended=lambda *_: advance(plan.blocks))[0])


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
        return _profile(dataset, source, profile, raster_type=raster_type)


def _profile(
    dataset: DatasetReader,
    location: Location,
    tier: str,
    *,
    raster_type: str,
    jpeg_quality: int = 85,
    blocksize: int = 512,
    overview_resampling: str | None = None,
    reproject_resampling: str | None = None,
) -> CogProfile:
    return choose_profile(
        tier,
        raster_type=_raster_type(dataset, location, raster_type),
        dtypes=numpy_dtypes(dataset),
        sample_bits=_sample_bits(dataset),
        alpha=ColorInterp.alpha in dataset.colorinterp,
        colour_table=ColorInterp.palette in dataset.colorinterp,
        jpeg_quality=jpeg_quality,
        blocksize=blocksize,
        overview_resampling=overview_resampling,
        reproject_resampling=reproject_resampling,
    )


def _raster_type(dataset: DatasetReader, location: Location, asked: str) -> RasterType:
    if asked == "auto":
        return detect(dataset, location).raster_type
    if asked not in RASTER_TYPES:
        raise InvalidParameter(
            f"raster_type {asked!r} is unknown: use auto or one of {', '.join(RASTER_TYPES)}"
        )
    return asked


def _sample_bits(dataset: DatasetReader) -> int | None:
    bits = dataset.tags(1, ns="IMAGE_STRUCTURE").get("NBITS")
    return int(bits) if bits else None


def _plan(
    dataset: DatasetReader,
    source: Location,
    target: Location,
    profile: CogProfile,
    target_crs: str | CRS | None,
    input_crs: str | CRS | None,
    overwrite: bool,
) -> _Plan:
    # Imported where it is used: xarray, which it brings, takes seconds.
    from gdaltools.raster import mask_kind, source_crs

    wanted = None if target_crs is None else parse_crs(target_crs, "target_crs")
    if wanted is not None:
        found = source_crs(dataset, source, input_crs)
    else:
        found = parse_crs(input_crs, "input_crs") if input_crs is not None else dataset.crs
    warp = wanted is not None and wanted != found
    dtypes = numpy_dtypes(dataset)
    # GDAL writes TIFFs of one dtype and picks the widest of the bands'.
    itemsize = max(np.dtype(name).itemsize for name in dtypes)
    block = driver.affordable_blocksize(profile.blocksize, dataset.count, itemsize)
    final = wanted if warp else found
    return _Plan(
        source=source,
        target=target,
        overwrite=overwrite,
        profile=profile.model_copy(update={"blocksize": block}),
        source_wkt=found.to_wkt() if found else None,
        target_wkt=final.to_wkt() if final else None,
        assign_crs=not warp and input_crs is not None and found != dataset.crs,
        warp=warp,
        mask_nodata=not profile.lossless and mask_kind(dataset) == "nodata",
        blocks=math.ceil(dataset.width / block) * math.ceil(dataset.height / block),
    )


def _make(plan: _Plan) -> CogResult:
    """The task: one COG from start to finish, on whichever machine runs it."""
    began = time.perf_counter()
    with storage.writing(plan.target, overwrite=plan.overwrite) as path:
        with (
            open_dataset(plan.source) as dataset,
            driver.environment(path.parent),
            _ready(plan, dataset, path.parent) as ready,
        ):
            driver.write(ready, path, plan.profile, source=plan.source, target=plan.target)
            shape = (ready.count, ready.height, ready.width)
        driver.check(path, shape, target=plan.target)
        with rasterio.open(path) as made:
            result = _result(plan, made, path)
    return result.model_copy(update={"seconds": time.perf_counter() - began})


@contextmanager
def _ready(plan: _Plan, dataset: DatasetReader, scratch: Path) -> Iterator[DatasetReader]:
    """The dataset that the driver is given."""
    if plan.warp:
        with staging.warped(
            dataset,
            plan.source,
            scratch,
            source_crs=CRS.from_wkt(plan.source_wkt),
            target_crs=CRS.from_wkt(plan.target_wkt),
            resampling=plan.profile.reproject_resampling,
            mask_nodata=plan.mask_nodata,
        ) as ready:
            yield ready
        return
    if plan.mask_nodata:
        with staging.masked(dataset, plan.source, scratch, crs=_crs(plan.target_wkt)) as ready:
            yield ready
        return
    if plan.assign_crs:
        with staging.with_crs(dataset, CRS.from_wkt(plan.target_wkt), scratch) as ready:
            yield ready
        return
    yield dataset


def _crs(wkt: str | None) -> CRS | None:
    return CRS.from_wkt(wkt) if wkt else None


def _result(plan: _Plan, made: DatasetReader, path: Path) -> CogResult:
    profile = plan.profile
    size = path.stat().st_size
    source, target = _crs(plan.source_wkt), _crs(plan.target_wkt)
    return CogResult(
        location=str(plan.target),
        profile=profile.requested,
        tier=profile.tier,
        storage_tier=profile.storage_tier,
        compression=profile.compression,
        predictor=profile.predictor,
        blocksize=int(made.block_shapes[0][0]),
        overview_levels=tuple(made.overviews(1)),
        overview_resampling=profile.overview_resampling,
        reproject_resampling=profile.reproject_resampling,
        reprojection_performed=plan.warp,
        source_crs=crs_name(source) if source else None,
        target_crs=crs_name(target) if target else None,
        bounds_4326=_bounds_4326(made, plan.target),
        shape=(made.height, made.width),
        band_count=made.count,
        dtype=str(made.dtypes[0]),
        size_bytes=size,
        size_mb=size / 1e6,
        raster_type=profile.raster_type,
        jpeg_quality=profile.quality,
        seconds=0.0,
        tier_profile=profile,
    )


def _bounds_4326(made: DatasetReader, target: Location) -> Bounds | None:
    try:
        return geographic_bounds(made, target)
    except UnsupportedRaster:  # without a CRS, or with a local one, it has no place on Earth
        return None
