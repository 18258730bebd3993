"""How to call each library for the same tiles, as COGs on the same grid.

As in `benchmarks.compare.peers.cogs`, a writer imports what its user would import and returns the call to
time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.compare.jobs import Tile, TilesJob
from benchmarks.compare.peers.cogs import CHUNK, Write, engine_options, gtiff_profile, odc_save, odc_source


def engine(job: TilesJob) -> Write:
    """Return a call of ``gdaltools.extract_tiles(as_cog=True)``, at a codec and level or adaptive."""
    import dask

    from gdaltools import TilingScheme, extract_tiles

    options = engine_options(job)

    def write() -> None:
        scheme = TilingScheme.read(job.tiles.scheme)
        with dask.config.set(num_workers=job.threads):
            extract_tiles(job.source, scheme, job.target, stem="", as_cog=True, progress=False, **options)
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
            _write_tile(job, tile, options)

    return write


def processes(job: TilesJob) -> Write:
    """Return the loop of `sequential`, divided among processes."""
    from multiprocessing import get_context

    import rasterio  # noqa: F401 - loaded before the fork
    import rio_cogeo.cogeo  # noqa: F401

    def write() -> None:
        with get_context("fork").Pool(job.threads) as pool:
            pool.starmap(_write_tile, [(job, tile, {}) for tile in job.tiles.tiles], chunksize=1)

    return write


def _write_tile(job: TilesJob, tile: Tile, options: dict[str, Any]) -> None:
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


def odc_geo(job: TilesJob) -> Write:
    """Return calls of odc-geo's ``xr_reproject`` of a dask-backed array and ``save_cog_with_dask``."""
    save, opened = odc_save(job), odc_source(job)
    from odc.geo.geobox import GeoBox
    from odc.geo.xr import xr_reproject
    from rasterio.transform import Affine

    def write() -> None:
        with opened() as source:
            for tile in job.tiles.tiles:
                box = GeoBox(tile.size[::-1], Affine(*tile.transform), job.tiles.crs)
                warped = xr_reproject(source, box, resampling="bilinear", chunks=(CHUNK, CHUNK))
                save(warped, f"{job.target}/{tile.name}.tif")

    return write
