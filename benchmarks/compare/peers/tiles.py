"""How to call each library for the same tiles, as COGs on the same grid.

As in `benchmarks.compare.peers.cogs`, a writer imports what its user would import and returns the call to
time.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.compare.jobs import TileOfGrid, TilesJob, usable_cores
from benchmarks.compare.peers.cogs import gtiff_profile

Write = Callable[[], object]

_CHUNK = 2048


def engine(job: TilesJob) -> Write:
    """Return a call of ``gdaltools.extract_tiles(as_cog=True)``, at a codec and level or adaptive."""
    return _engine(job, as_cog=True)


def engine_plain(job: TilesJob) -> Write:
    """Return the call of `engine` for plain tiles, which are no COGs yet."""
    return _engine(job, as_cog=False)


def _engine(job: TilesJob, *, as_cog: bool) -> Write:
    import dask

    from gdaltools import TilingScheme, extract_tiles

    options: dict[str, Any] = {}
    if as_cog:
        options = {"codec": job.encoding.codec, "overview_resampling": job.encoding.resampling}
        if job.size_tolerance is not None:
            options["size_tolerance"] = job.size_tolerance
        elif job.encoding.level is not None:
            options["level"] = job.encoding.level

    def write() -> None:
        scheme = TilingScheme.read(job.tiles.scheme)
        with dask.config.set(num_workers=job.threads):
            extract_tiles(job.source, scheme, job.target, stem="", as_cog=as_cog, progress=False, **options)
        for path in Path(job.target).glob("_*.tif"):
            path.rename(path.with_name(path.name.removeprefix("_")))

    return write


def sequential(job: TilesJob) -> Write:
    """Return the common loop: for each tile a WarpedVRT, a GeoTIFF of it, and rio-cogeo."""
    return _sequential(job, {})


def sequential_scale_1(job: TilesJob) -> Write:
    """Return the loop of `sequential` with XSCALE and YSCALE 1, GDAL's own remedy against its slow kernel."""
    return _sequential(job, {"XSCALE": 1, "YSCALE": 1})


def _sequential(job: TilesJob, options: dict[str, Any]) -> Write:
    import rasterio  # noqa: F401 - loaded before the call is timed
    import rio_cogeo.cogeo  # noqa: F401

    def write() -> None:
        for tile in job.tiles.tiles:
            make_tile(job, tile, options)

    return write


def processes(job: TilesJob) -> Write:
    """Return the loop of `sequential`, divided among processes."""
    return _processes(job, {})


def processes_scale_1(job: TilesJob) -> Write:
    """Return the loop of `processes` with XSCALE and YSCALE 1."""
    return _processes(job, {"XSCALE": 1, "YSCALE": 1})


def _processes(job: TilesJob, options: dict[str, Any]) -> Write:
    from multiprocessing import get_context

    import rasterio  # noqa: F401 - loaded before the fork
    import rio_cogeo.cogeo  # noqa: F401

    def write() -> None:
        with get_context("fork").Pool(job.threads) as pool:
            pool.starmap(make_tile, [(job, tile, options) for tile in job.tiles.tiles], chunksize=1)

    return write


def make_tile(job: TilesJob, tile: TileOfGrid, options: dict[str, Any]) -> None:
    """Write one tile of the loop."""
    import rasterio
    from rasterio.enums import Resampling
    from rasterio.transform import Affine
    from rasterio.vrt import WarpedVRT
    from rasterio.windows import Window
    from rio_cogeo.cogeo import cog_translate

    width, height = tile.size
    target = Path(job.target) / f"{tile.name}.tif"
    plain = target.with_suffix(".plain.tif")
    with rasterio.open(job.source) as source:
        if job.tiles.warps:
            with WarpedVRT(
                source,
                crs=job.tiles.crs,
                transform=Affine(*tile.transform),
                width=width,
                height=height,
                resampling=Resampling.bilinear,
                **options,
            ) as warped:
                pixels = warped.read()
        else:
            pixels = source.read(window=Window(*tile.window))
        profile = {
            "driver": "GTiff", "width": width, "height": height, "count": source.count,
            "dtype": source.dtypes[0], "nodata": source.nodata, "crs": job.tiles.crs,
            "transform": Affine(*tile.transform), "tiled": True, "compress": "deflate",
        }  # fmt: skip
    with rasterio.open(plain, "w", **profile) as written:
        written.write(pixels)
    cog_translate(
        str(plain),
        str(target),
        gtiff_profile(job.encoding),
        overview_resampling=job.encoding.resampling,
        quiet=True,
    )
    plain.unlink()


def gdalwarp(job: TilesJob) -> Write:
    """Return calls of ``gdalwarp -multi`` into GDAL's COG driver, one for each tile."""
    encoding = job.encoding
    options = ["-of", "COG", "-co", f"COMPRESS={encoding.codec}", "-co", f"NUM_THREADS={_threads(job)}"]
    if encoding.codec != "NONE":
        options += ["-co", "PREDICTOR=YES", "-co", f"OVERVIEW_RESAMPLING={encoding.resampling.upper()}"]
    if encoding.level is not None:
        options += ["-co", f"LEVEL={encoding.level}"]

    def write() -> None:
        for tile in job.tiles.tiles:
            (width, height), (a, _, c, _, e, f) = tile.size, tile.transform
            extent = [str(value) for value in (c, f + e * height, c + a * width, f)]
            command = ["gdalwarp", "-q", "-multi", "-wo", f"NUM_THREADS={_threads(job)}", "-r", "bilinear"]
            command += ["-t_srs", job.tiles.crs, "-te", *extent, "-ts", str(width), str(height), *options]
            subprocess.run([*command, job.source, f"{job.target}/{tile.name}.tif"], check=True)

    return write


def rioxarray_tiles(job: TilesJob) -> Write:
    """Return calls of rioxarray's ``reproject`` onto each tile's grid and ``to_raster(driver="COG")``."""
    import rasterio
    import rioxarray
    from rasterio.enums import Resampling
    from rasterio.transform import Affine

    encoding = job.encoding
    options: dict[str, Any] = {"compress": encoding.codec, "num_threads": _threads(job)}
    if encoding.codec != "NONE":
        options |= {"predictor": "YES", "overview_resampling": encoding.resampling.upper()}
    if encoding.level is not None:
        options["level"] = encoding.level

    def write() -> None:
        with (
            rasterio.Env(GDAL_NUM_THREADS=_threads(job)),
            rioxarray.open_rasterio(job.source) as source,
        ):
            for tile in job.tiles.tiles:
                warped = source.rio.reproject(
                    job.tiles.crs,
                    transform=Affine(*tile.transform),
                    shape=tile.size[::-1],
                    resampling=Resampling.bilinear,
                    num_threads=job.threads,
                )
                warped.rio.to_raster(f"{job.target}/{tile.name}.tif", driver="COG", **options)

    return write


def odc_geo(job: TilesJob) -> Write:
    """Return calls of odc-geo's ``xr_reproject`` of a dask-backed array and ``save_cog_with_dask``."""
    import dask
    import odc.geo.xr  # noqa: F401, registers the accessor that save_cog_with_dask uses
    import rioxarray
    from odc.geo.cog import save_cog_with_dask
    from odc.geo.geobox import GeoBox
    from odc.geo.xr import xr_reproject
    from rasterio.transform import Affine

    encoding = job.encoding

    def write() -> None:
        with (
            dask.config.set(scheduler="threads", num_workers=job.threads),
            rioxarray.open_rasterio(job.source, chunks={"y": _CHUNK, "x": _CHUNK}, lock=False) as source,
        ):
            for tile in job.tiles.tiles:
                box = GeoBox(tile.size[::-1], Affine(*tile.transform), job.tiles.crs)
                warped = xr_reproject(source, box, resampling="bilinear", chunks=(_CHUNK, _CHUNK))
                save_cog_with_dask(
                    warped.transpose(*warped.dims[1:], warped.dims[0]),
                    f"{job.target}/{tile.name}.tif",
                    compression=encoding.codec,
                    level=encoding.level,
                    predictor=encoding.predictor,
                    blocksize=encoding.blocksize,
                    overview_resampling=encoding.resampling,
                    stats=False,
                ).compute()

    return write


TILE_WRITERS: dict[str, Callable[[TilesJob], Write]] = {
    "tiles-engine": engine,
    "tiles-engine-plain": engine_plain,
    "tiles-sequential": sequential,
    "tiles-sequential-scale-1": sequential_scale_1,
    "tiles-processes": processes,
    "tiles-processes-scale-1": processes_scale_1,
    "tiles-gdalwarp": gdalwarp,
    "tiles-rioxarray": rioxarray_tiles,
    "tiles-odc-geo": odc_geo,
}


def _threads(job: TilesJob) -> str:
    return "ALL_CPUS" if job.threads == usable_cores() else str(job.threads)
