"""How to call each library for the same COG.

A writer imports what its user would import, and returns the call to time. What the library loads inside that
call is part of its time, as it is for a user.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.compare.jobs import Encoding, Job

Write = Callable[[], object]

#: The side of the chunks of dask-based peers: a multiple of the block, 12 MB of RGB.
CHUNK = 2048
_PREDICTOR_NAMES = {1: "NO", 2: "STANDARD", 3: "FLOATING_POINT"}
_GTIFF_LEVELS = {"DEFLATE": "ZLEVEL", "ZSTD": "ZSTD_LEVEL"}


def engine(job: Job) -> Write:
    """Return a call of ``gdaltools.create_cog`` at a codec and level, or adaptive within a size tolerance."""
    import dask

    from gdaltools import create_cog

    options = engine_options(job) | {"blocksize": job.encoding.blocksize, "predictor": "auto"}

    def write() -> None:
        with dask.config.set(num_workers=job.threads):
            create_cog(job.source, job.target, "analysis", progress=False, **options)

    return write


def engine_options(job: Job) -> dict[str, Any]:
    """Return the engine's options of encoding, for COGs and for tiles."""
    encoding = job.encoding
    options: dict[str, Any] = {"codec": encoding.codec, "overview_resampling": encoding.resampling}
    if job.size_tolerance is not None:
        options["size_tolerance"] = job.size_tolerance
    elif encoding.level is not None:
        options["level"] = encoding.level
    return options


def gdal(job: Job) -> Write:
    """Return a call of GDAL's COG driver through rasterio, on all threads."""
    import rasterio
    import rasterio.shutil

    options = _cog_driver_options(job)

    def write() -> None:
        with rasterio.Env(GDAL_NUM_THREADS=job.gdal_threads):
            rasterio.shutil.copy(job.source, job.target, driver="COG", **options)

    return write


def rio_cogeo(job: Job) -> Write:
    """Return a call of rio-cogeo's ``cog_translate`` with its defaults, except for the shared options."""
    return _rio_cogeo(job)


def rio_cogeo_tuned(job: Job) -> Write:
    """Return the call of `rio_cogeo` on all threads, with its intermediate on disk."""
    config = {"GDAL_NUM_THREADS": job.gdal_threads, "GDAL_TIFF_OVR_BLOCKSIZE": str(job.encoding.blocksize)}
    return _rio_cogeo(job, in_memory=False, config=config)


def _rio_cogeo(job: Job, **options: Any) -> Write:
    from rio_cogeo.cogeo import cog_translate

    shared = {"overview_resampling": job.encoding.resampling, "quiet": True}
    profile = gtiff_profile(job.encoding)
    return lambda: cog_translate(job.source, job.target, profile, **shared, **options)


def rioxarray_cog(job: Job) -> Write:
    """Return a call of rioxarray's ``to_raster(driver="COG")`` on a dask-backed array."""
    import dask
    import rasterio
    import rioxarray

    options = {name.lower(): value for name, value in _cog_driver_options(job).items()}

    def write() -> None:
        with (
            dask.config.set(scheduler="threads", num_workers=job.threads),
            rasterio.Env(GDAL_NUM_THREADS=job.gdal_threads),
            rioxarray.open_rasterio(job.source, chunks={"y": CHUNK, "x": CHUNK}, lock=False) as array,
        ):
            array.rio.to_raster(job.target, driver="COG", **options)

    return write


def odc_geo(job: Job) -> Write:
    """Return a call of odc-geo's ``save_cog_with_dask`` on a dask-backed array."""
    save, opened = odc_save(job), odc_source(job)

    def write() -> None:
        with opened() as array:
            save(array, job.target)

    return write


def odc_source(job: Job) -> Callable[[], Any]:
    """Return a function that opens the source as odc-geo's users do, on `threads` threads of dask."""
    from contextlib import contextmanager

    import dask
    import rioxarray

    @contextmanager
    def opened() -> Any:
        with (
            dask.config.set(scheduler="threads", num_workers=job.threads),
            rioxarray.open_rasterio(job.source, chunks={"y": CHUNK, "x": CHUNK}, lock=False) as array,
        ):
            yield array

    return opened


def odc_save(job: Job) -> Callable[[Any, str], None]:
    """Return a function that writes an array (band, y, x) as a pixel-interleaved COG."""
    import odc.geo.xr  # noqa: F401, registers the accessor that save_cog_with_dask uses
    from odc.geo.cog import save_cog_with_dask

    encoding = job.encoding

    def save(array: Any, target: str) -> None:
        band, *rows_and_cols = array.dims
        one = array.sizes[band] == 1
        save_cog_with_dask(
            array.isel({band: 0}, drop=True) if one else array.transpose(*rows_and_cols, band),
            target,
            compression=encoding.codec,
            level=encoding.level,
            predictor=encoding.predictor,
            blocksize=encoding.blocksize,
            overview_resampling=encoding.resampling,
            stats=False,
        ).compute()

    return save


def _cog_driver_options(job: Job) -> dict[str, Any]:
    """Return the creation options of GDAL's driver "COG -- Cloud Optimized GeoTIFF generator"."""
    encoding = job.encoding
    options: dict[str, Any] = {
        "COMPRESS": encoding.codec,
        "BLOCKSIZE": encoding.blocksize,
        "OVERVIEW_RESAMPLING": encoding.resampling.upper(),
        "OVERVIEWS": "IGNORE_EXISTING",
        "NUM_THREADS": job.gdal_threads,
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
