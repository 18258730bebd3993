"""Convert any raster to a Cloud Optimized GeoTIFF in one pass and bounded memory, complete or not at all.

>>> create_cog("scene.tif", "scene_cog_analysis.tif").overview_levels
(2,)
"""

from __future__ import annotations

import os
from functools import partial
from typing import Any, BinaryIO, Literal, Unpack, cast, overload

import dask
from dask.delayed import Delayed

from gdaltools import storage
from gdaltools.cog.encode.profiles import CogProfile
from gdaltools.cog.options import CogKeywords, CogOptions, spelled_out
from gdaltools.cog.plan import CogPlan
from gdaltools.cog.planning import plan_for, profile_for, with_estimate
from gdaltools.cog.result import CogResult
from gdaltools.cog.write.build import build_cog, build_later
from gdaltools.cog.write.reuse import with_reuse
from gdaltools.display.progress import ProgressOption
from gdaltools.display.relay import Relay
from gdaltools.display.reporting import expecting
from gdaltools.errors import InvalidParameter
from gdaltools.raster.dataset import open_dataset
from gdaltools.raster.picture import file_name
from gdaltools.storage import Location, StrPath

__all__ = ["CogPlan", "CogResult", "cog_profile", "create_cog", "plan_cog"]


@overload
def create_cog(
    src: Any,
    dst: StrPath | Location | BinaryIO,
    profile: str = ...,
    *,
    reuse: bool = ...,
    overwrite: bool = ...,
    progress: ProgressOption = ...,
    compute: Literal[True] = ...,
    **options: Unpack[CogKeywords],
) -> CogResult: ...


@overload
def create_cog(
    src: Any,
    dst: StrPath | Location | BinaryIO,
    profile: str = ...,
    *,
    reuse: bool = ...,
    overwrite: bool = ...,
    progress: ProgressOption = ...,
    compute: Literal[False],
    **options: Unpack[CogKeywords],
) -> Delayed: ...


@overload
def create_cog(
    src: Any,
    dst: StrPath | Location | BinaryIO,
    profile: str = ...,
    *,
    reuse: bool = ...,
    overwrite: bool = ...,
    progress: ProgressOption = ...,
    compute: bool,
    **options: Unpack[CogKeywords],
) -> CogResult | Delayed: ...


@spelled_out(CogKeywords)
def create_cog(
    src: Any,
    dst: StrPath | Location | BinaryIO,
    profile: str = "analysis",
    *,
    reuse: bool = False,
    overwrite: bool = False,
    progress: ProgressOption = "auto",
    compute: bool = True,
    **options: Unpack[CogKeywords],
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
        What the COG is for: see `CogOptions`.
    **options : CogKeywords
        How it is encoded: the other fields of `CogOptions`.
    reuse : bool
        Copy a source in storage that already is the requested COG and has the default overviews; its blocks
        are decoded only to check that they can be. If it only lacks overviews or a COG's block order, copy
        its stored full-resolution blocks. This does not apply with `level` or `size_tolerance`, nor to LERC
        and WEBP, and to JPEG only if it was stored with at most the requested `quality`.
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
    requested = CogOptions(profile, **options)
    target = storage.locate(dst) if isinstance(dst, (str, os.PathLike, Location)) else dst
    if isinstance(target, Location):
        storage.check_target(target, overwrite=overwrite)
    elif not compute:
        raise InvalidParameter("compute=False needs a path or URL: an open file is of this process alone")
    plan = plan_for(src, requested)
    if reuse:
        plan = with_reuse(plan, requested)
    expected = partial(_expected_seconds, plan)
    if not compute:
        relay = Relay(
            progress,
            label=f"cog {file_name(str(dst))}",
            total=plan.blocks,
            unit="blocks",
            expected=expected,
        )
        delayed = dask.delayed(build_later, pure=False, traverse=False)
        return cast(Delayed, delayed(plan, target, overwrite=overwrite, relay=relay))
    source_bytes = storage.stat(plan.location).size if plan.location else None
    with expecting(expected):
        result = build_cog(plan, target, overwrite=overwrite, progress=progress)
    return result.model_copy(update={"source_bytes": source_bytes})


def _expected_seconds(plan: CogPlan) -> float:
    from gdaltools.cost.estimation import Layout, estimate_layout

    (width, height), facts = plan.levels[0], plan.facts
    layout = Layout(width, height, facts.count, facts.numpy_dtype.itemsize)
    return estimate_layout("create_cog", layout, variant=plan.profile.tier, warps=plan.warps).seconds


@spelled_out(CogKeywords)
def plan_cog(
    src: Any,
    profile: str = "analysis",
    **options: Unpack[CogKeywords],
) -> CogPlan:
    """Return the plan by which `create_cog` would write `src`: levels, pieces, codec, memory and file size.

    The file size is estimated from six blocks, which are read and encoded. Nothing is written.

    Parameters
    ----------
    src
        As for `create_cog`.
    profile : str
        What the COG is for: see `CogOptions`.
    **options : CogKeywords
        How it is encoded: the other fields of `CogOptions`.

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
    requested = CogOptions(profile, **options)
    return with_estimate(plan_for(src, requested))


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
