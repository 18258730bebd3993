"""Any raster into a Cloud Optimized GeoTIFF, in one pass and bounded memory, whole or not at all.

>>> create_cog("scene.tif", "scene_cog_analysis.tif").overview_levels
(2,)
"""

from __future__ import annotations

import os
from typing import Any, BinaryIO, Literal, cast, overload

import dask
from dask.delayed import Delayed
from rasterio.crs import CRS

from gdaltools import storage
from gdaltools.cog.encode.profiles import CogProfile
from gdaltools.cog.options import CogOptions
from gdaltools.cog.plan import CogPlan
from gdaltools.cog.planning import plan_for, profile_for, with_estimate
from gdaltools.cog.result import CogResult
from gdaltools.cog.write.build import build_cog, build_in_memory, build_later, copy_cog
from gdaltools.cog.write.reuse import reused
from gdaltools.display.progress import ProgressOption
from gdaltools.display.relay import Relay
from gdaltools.display.reporting import expecting
from gdaltools.errors import InvalidParameter
from gdaltools.raster.dataset import open_dataset
from gdaltools.storage import Location, StrPath

__all__ = ["CogPlan", "CogResult", "cog_profile", "create_cog", "plan_cog"]


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
    access_tier: str | None = ...,
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
    access_tier: str | None = ...,
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
    access_tier: str | None = None,
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
    access_tier : str, optional
        Of a blob in Azure: "hot", "cool", "cold" or "archive"; by default cool for the profile "archive",
        else hot. What is in the archive tier cannot be read before it is moved to another, which takes hours.
    reuse : bool
        Copy a source in storage that is such a COG already, with overviews as they would be by default; its
        blocks are decoded only to see that they can be. Not with `level` or `size_tolerance`, and never for
        LERC and WEBP; JPEG only if it was stored with at most the wanted `quality`.
    overwrite : bool
        Replace a target that exists.
    progress : bool, "auto" or callable
        As `gdaltools.display.progress` says; the unit is a block. With ``compute=False`` it is shown in this
        process while the Delayed is computed, also by a cluster that is active now.
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

    Examples
    --------
    >>> cog = create_cog("scene.tif", "fast.tif", "fast", progress=False)
    >>> cog.compression, cog.predictor
    ('ZSTD', 2)
    """
    options = CogOptions(
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
        access_tier=access_tier,
    )
    if not isinstance(dst, (str, os.PathLike, Location)):
        if not compute:
            raise InvalidParameter("compute=False needs a path or URL: an open file is of this process alone")
        return build_in_memory(plan_for(src, options), dst, progress)
    target = storage.locate(dst)
    storage.check_target(target, overwrite=overwrite)
    plan = plan_for(src, options)
    make = copy_cog if reuse and reused(plan, options) == "copy" else build_cog
    if not compute:
        relay = Relay(
            progress,
            label=f"cog {target.filename}",
            total=plan.blocks,
            unit="blocks",
            expected=lambda: _expected_seconds(plan),
        )
        delayed = dask.delayed(build_later, pure=False, traverse=False)
        return cast(Delayed, delayed(make, plan, target, overwrite=overwrite, relay=relay))
    source_bytes = _source_bytes(plan)
    with expecting(lambda: _expected_seconds(plan)):
        result = make(plan, target, overwrite=overwrite, progress=progress)
    return result.model_copy(update={"source_bytes": source_bytes})


def _expected_seconds(plan: CogPlan) -> float:
    from gdaltools.cost.estimation import Layout, estimate_layout

    (width, height), facts = plan.levels[0], plan.facts
    layout = Layout(width, height, facts.count, facts.numpy_dtype.itemsize)
    return estimate_layout("create_cog", layout, variant=plan.profile.tier, warps=plan.warps).seconds


def _source_bytes(plan: CogPlan) -> int | None:
    location = getattr(plan.source, "location", None)
    return storage.stat(location).size if isinstance(location, Location) else None


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
    access_tier: str | None = None,
) -> CogPlan:
    """How `create_cog` would make a COG of `src`: levels, pieces, codec, memory, and the size to expect.

    Six blocks are read and encoded for the expected size; nothing is written.

    Raises
    ------
    InvalidParameter, SourceNotFound, UnsupportedRaster, CorruptRaster, StorageError
        As `create_cog` does.

    Examples
    --------
    >>> plan = plan_cog("scene.tif", codec="ZSTD", level=3)
    >>> plan.blocks
    5
    """
    options = CogOptions(
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
        access_tier=access_tier,
    )
    return with_estimate(plan_for(src, options))


def cog_profile(
    src: StrPath | Location, profile: str = "analysis", *, raster_type: str = "auto"
) -> CogProfile:
    """How `create_cog` would encode `src`: its tier may be another than the one asked for, and says why.

    Raises
    ------
    InvalidParameter, SourceNotFound, UnsupportedRaster, CorruptRaster, StorageError
        As `create_cog` does.

    Examples
    --------
    >>> cog_profile("scene.tif", "visualization").compression
    'JPEG'
    """
    source = storage.locate(src)
    with open_dataset(source) as dataset:
        return profile_for(dataset, source, CogOptions(profile=profile, raster_type=raster_type))
