"""How to call each library for the same COG.

A writer imports what its user would import, and returns the call to time. What the library loads inside that
call is part of its time, as it is for a user.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from benchmarks.compare.jobs import Encoding, WriteJob, usable_cores

Write = Callable[[], object]

# Chunks of the dask-based peers: a multiple of the block, 12 MB of RGB.
_CHUNK = 2048
_PREDICTOR_NAMES = {1: "NO", 2: "STANDARD", 3: "FLOATING_POINT"}
_GTIFF_LEVELS = {"DEFLATE": "ZLEVEL", "ZSTD": "ZSTD_LEVEL"}


def engine(job: WriteJob) -> Write:
    """Return a call of ``gdaltools.create_cog`` at a codec and level, or adaptive within a size tolerance."""
    import dask

    from gdaltools import create_cog

    encoding = job.encoding
    options: dict[str, Any] = {
        "codec": encoding.codec,
        "blocksize": encoding.blocksize,
        "overview_resampling": encoding.resampling,
        "predictor": "auto",
    }
    if job.size_tolerance is not None:
        options["size_tolerance"] = job.size_tolerance
    elif encoding.level is not None:
        options["level"] = encoding.level

    def write() -> None:
        with dask.config.set(num_workers=job.threads):
            create_cog(job.source, job.target, "analysis", progress=False, **options)

    return write


def engine_default(job: WriteJob) -> Write:
    """Return a call of ``gdaltools.create_cog`` with its defaults, whatever codec is requested."""
    import dask

    from gdaltools import create_cog

    def write() -> None:
        with dask.config.set(num_workers=job.threads):
            create_cog(job.source, job.target, "analysis", progress=False)

    return write


def gdal(job: WriteJob) -> Write:
    """Return a call of GDAL's COG driver through rasterio, on all threads."""
    import rasterio
    import rasterio.shutil

    options = _cog_driver_options(job)

    def write() -> None:
        with rasterio.Env(GDAL_NUM_THREADS=_threads(job)):
            rasterio.shutil.copy(job.source, job.target, driver="COG", **options)

    return write


def gdal_small_cache(job: WriteJob) -> Write:
    """Return the call of `gdal` with GDAL's block cache at 128 MB instead of 5% of the memory."""
    os.environ["GDAL_CACHEMAX"] = "128"
    return gdal(job)


def rio_cogeo(job: WriteJob) -> Write:
    """Return a call of rio-cogeo's ``cog_translate`` with its defaults, except for the shared options."""
    from rio_cogeo.cogeo import cog_translate

    return lambda: cog_translate(
        job.source,
        job.target,
        gtiff_profile(job.encoding),
        overview_resampling=job.encoding.resampling,
        quiet=True,
    )


def rio_cogeo_tuned(job: WriteJob) -> Write:
    """Return the call of `rio_cogeo` on all threads, with its intermediate on disk."""
    from rio_cogeo.cogeo import cog_translate

    return lambda: cog_translate(
        job.source,
        job.target,
        gtiff_profile(job.encoding),
        overview_resampling=job.encoding.resampling,
        in_memory=False,
        config={"GDAL_NUM_THREADS": _threads(job), "GDAL_TIFF_OVR_BLOCKSIZE": str(job.encoding.blocksize)},
        quiet=True,
    )


def rioxarray_cog(job: WriteJob) -> Write:
    """Return a call of rioxarray's ``to_raster(driver="COG")`` on a dask-backed array."""
    import dask
    import rasterio
    import rioxarray

    options = {name.lower(): value for name, value in _cog_driver_options(job).items()}

    def write() -> None:
        with (
            dask.config.set(scheduler="threads", num_workers=job.threads),
            rasterio.Env(GDAL_NUM_THREADS=_threads(job)),
            rioxarray.open_rasterio(job.source, chunks={"y": _CHUNK, "x": _CHUNK}, lock=False) as array,
        ):
            array.rio.to_raster(job.target, driver="COG", **options)

    return write


def odc_geo(job: WriteJob) -> Write:
    """Return a call of odc-geo's ``save_cog_with_dask`` on a pixel-interleaved, dask-backed array."""
    import dask
    import odc.geo.xr  # noqa: F401, registers the accessor that save_cog_with_dask uses
    import rioxarray
    from odc.geo.cog import save_cog_with_dask

    encoding = job.encoding

    def write() -> None:
        with (
            dask.config.set(scheduler="threads", num_workers=job.threads),
            rioxarray.open_rasterio(job.source, chunks={"y": _CHUNK, "x": _CHUNK}, lock=False) as array,
        ):
            pixels = array.isel(band=0, drop=True) if array.sizes["band"] == 1 else array
            dims = [dim for dim in ("y", "x", "band") if dim in pixels.dims]
            save_cog_with_dask(
                pixels.transpose(*dims),
                job.target,
                compression=encoding.codec,
                level=encoding.level,
                predictor=encoding.predictor,
                blocksize=encoding.blocksize,
                overview_resampling=encoding.resampling,
                stats=False,
            ).compute()

    return write


WRITERS: dict[str, Callable[[WriteJob], Write]] = {
    "engine": engine,
    "engine-default": engine_default,
    "gdal": gdal,
    "gdal-small-cache": gdal_small_cache,
    "rio-cogeo": rio_cogeo,
    "rio-cogeo-tuned": rio_cogeo_tuned,
    "rioxarray": rioxarray_cog,
    "odc-geo": odc_geo,
}


def _threads(job: WriteJob) -> str:
    return "ALL_CPUS" if job.threads == usable_cores() else str(job.threads)


def _cog_driver_options(job: WriteJob) -> dict[str, Any]:
    """Return the creation options of GDAL's driver "COG -- Cloud Optimized GeoTIFF generator"."""
    encoding = job.encoding
    options: dict[str, Any] = {
        "COMPRESS": encoding.codec,
        "BLOCKSIZE": encoding.blocksize,
        "OVERVIEW_RESAMPLING": encoding.resampling.upper(),
        "OVERVIEWS": "IGNORE_EXISTING",
        "NUM_THREADS": _threads(job),
    }
    if encoding.codec != "NONE":
        name = _PREDICTOR_NAMES[encoding.predictor]
        options |= {"PREDICTOR": name, "OVERVIEW_PREDICTOR": name}
    if encoding.level is not None:
        options["LEVEL"] = encoding.level
    return options


def gtiff_profile(encoding: Encoding) -> dict[str, Any]:
    """Return rio-cogeo's profile of the codec with the requested block size, level and predictor."""
    from rio_cogeo.profiles import cog_profiles

    profile: dict[str, Any] = dict(
        cog_profiles.get("raw" if encoding.codec == "NONE" else encoding.codec.lower())
    )
    profile |= {"blockxsize": encoding.blocksize, "blockysize": encoding.blocksize}
    if encoding.codec != "NONE":
        profile["predictor"] = encoding.predictor
    if encoding.level is not None:
        profile[_GTIFF_LEVELS[encoding.codec]] = encoding.level
    return profile
