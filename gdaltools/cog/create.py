"""Convert any raster to a Cloud Optimized GeoTIFF in one pass and bounded memory, complete or not at all.

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
    """Write `src` as a COG to `dst`; the file appears only when it is complete and its layout is checked.

    After an error nothing of it remains. The source is read and decoded once. Memory depends on the plan (see
    `plan_cog`), not on the size of the raster. The work runs on threads, or on the cluster of the active
    `distributed` client. Every lossless codec preserves full-resolution pixels bit for bit. Nodata, masks,
    alpha, colour tables, band names, units, scales, offsets, control points and tags are preserved.

    Parameters
    ----------
    src : path, URL, Location, WarpedVRT or xarray.DataArray
        A local path or ``abfs://container/blob``; an open rasterio WarpedVRT of one; or an array of shape
        (band, y, x) or (y, x), in memory or backed by dask, georeferenced through rioxarray.
    dst : path, URL, Location or binary file
        The target. A binary file object receives the complete COG at the end, in one write.
    profile : str
        "analysis" (DEFLATE), "fast" (ZSTD 3), "archive" (ZSTD 12) or "visualization" (JPEG, for three uint8
        bands). Without ZSTD in GDAL, "fast" and "archive" use LZW. Where JPEG cannot hold the bands,
        "visualization" becomes "analysis" and the result says why.
    raster_type : str
        rgb, rgba, dem, categorical, multispectral, nir, or "auto" to detect it.
    target_crs : str or CRS, optional
        Warp to this CRS. Nothing is warped if it equals the source's CRS.
    input_crs : str or CRS, optional
        The source's CRS, where the file has none or a wrong one.
    codec : str, optional
        Override the profile's codec: DEFLATE, ZSTD, LZW, LERC, LERC_DEFLATE, LERC_ZSTD, JPEG, WEBP or NONE.
    level : int, optional
        Compression level: 1 to 12 for DEFLATE, with the same bytes that GDAL writes; 1 to 22 for ZSTD.
    size_tolerance : float, optional
        DEFLATE without `level` uses the fastest encoder for each block that keeps the whole file within this
        share above its size at GDAL's level 6. The default is 0.015; 0 means level 6 itself.
    predictor : int or "auto"
        TIFF predictor: 1 none, 2 horizontal, 3 floating point; "auto" chooses by dtype.
    quality : int
        Quality of JPEG and WEBP, 1 to 100; WEBP at 100 is lossless.
    max_z_error : float
        LERC only: the largest allowed error of a sample.
    blocksize : int
        Side of a block in pixels: a multiple of 16, 64 to 4096. For rasters of very many bands it is halved,
        down to 128, while one decoded block exceeds 64 MiB.
    interleave : str
        "pixel" (a block holds all bands) or "band" (a block holds one band).
    overviews : str
        "build", "keep" (copy the source's overviews) or "none".
    overview_resampling, reproject_resampling : str, optional
        GDAL's names. The defaults are average and bilinear; for classes, mode and nearest.
    sparse : bool
        Leave out blocks that hold only nodata (or only zeros, where there is no nodata value).
    statistics : bool
        Compute each band's exact minimum, maximum, mean and standard deviation in the same pass, and store
        them.
    tms : str, optional
        Warp to the grid of this tile matrix set (morecantile's name, such as "WebMercatorQuad") at the zoom
        level closest to the raster's resolution, so that each block holds whole tiles.
    access_tier : str, optional
        Azure access tier of the blob: "hot", "cool", "cold" or "archive". The default is cool for the
        profile "archive", otherwise hot. A blob in the archive tier cannot be read until it has been moved
        to another tier, which takes hours.
    reuse : bool
        Copy a source in storage that already is the requested COG and has the default overviews; its blocks
        are decoded only to check that they can be. This does not apply with `level` or `size_tolerance`, nor
        to LERC and WEBP, and to JPEG only if it was stored with at most the requested `quality`.
    overwrite : bool
        Replace an existing target.
    progress : bool, "auto" or callable
        As in `gdaltools.display.progress`; the unit is a block. With ``compute=False``, progress is shown in
        this process while the Delayed is computed, even by a cluster, if that cluster is active now.
    compute : bool
        False returns a dask Delayed of the result, which any scheduler can compute.

    Raises
    ------
    InvalidParameter
        A value is out of range, or the source cannot be placed in `target_crs`.
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
    """Return the plan by which `create_cog` would write `src`: levels, pieces, codec, memory and file size.

    The file size is estimated from six blocks, which are read and encoded. Nothing is written.

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
    """Return the profile with which `create_cog` would encode `src`.

    Its `tier` may differ from the requested `profile`; its `reason` then says why.

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
