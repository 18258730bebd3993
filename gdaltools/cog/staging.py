"""What GDAL's COG driver is given: the source itself, or the source made ready in a scratch folder.

A source is made ready when its CRS is to be set, when it is warped, or when its nodata pixels must survive a
lossy codec, which only a mask can promise. Pixels are staged window by window into a tiled GeoTIFF, so that
memory does not grow with the raster.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader, DatasetWriter
from rasterio.transform import Affine
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from gdaltools.crs import crs_name, transform_points
from gdaltools.dataset import MAX_SAMPLES, reading
from gdaltools.errors import InvalidParameter, StorageError, UnsupportedRaster
from gdaltools.storage import Location

_BLOCK = 512
# Pixels a side that are warped at once; of many bands fewer, so that they stay within the budget.
_WINDOW = 2048
_WINDOW_BYTES = 128 << 20
# warp.md §A4: below half the source's resolution 4 samples would alias, GDAL's wider kernel does not.
_MIN_SCALE = 0.5
_SCALE_NODES = 17
_OWN_TAGS = ("IMAGE_STRUCTURE", "DERIVED_SUBDATASETS", "TIFF", "RPC", "GEOLOCATION")


def affordable_window(pixel_bytes: int) -> int:
    """Pixels a side that are warped at once, where one takes so many bytes, all bands together.

    >>> affordable_window(3), affordable_window(120)
    (2048, 1024)
    """
    side = _WINDOW
    while side > _BLOCK and side * side * pixel_bytes > _WINDOW_BYTES:
        side //= 2
    return side


@contextmanager
def with_crs(source: DatasetReader, crs: CRS, scratch: Path) -> Iterator[DatasetReader]:
    """The same pixels with another CRS, by a VRT in `scratch`; nothing is copied."""
    path = scratch / "source.vrt"
    rasterio.shutil.copy(source, path, driver="VRT")
    with rasterio.open(path, "r+") as dataset:
        dataset.crs = crs
    with rasterio.open(path, sharing=False) as dataset:
        yield dataset


@contextmanager
def masked(
    source: DatasetReader, location: Location, scratch: Path, *, crs: CRS | None
) -> Iterator[DatasetReader]:
    """The same pixels in `crs` with a mask of those that are not nodata; the nodata value stays."""
    path = scratch / "masked.tif"
    with _staged(path, source, source.count, source.nodata, crs) as staged:
        _describe(source, staged, warped=False)
        for window in _windows(source):
            with reading(location, window):
                data = source.read(window=window)
                valid = source.dataset_mask(window=window)
            with _storing(path):
                staged.write(data, window=window)
                staged.write_mask(valid, window=window)
    with rasterio.open(path, sharing=False) as ready:
        yield ready
    path.unlink()


@contextmanager
def warped(
    source: DatasetReader,
    location: Location,
    scratch: Path,
    *,
    source_crs: CRS,
    target_crs: CRS,
    resampling: str,
    mask_nodata: bool,
) -> Iterator[DatasetReader]:
    """The source warped to `target_crs`, on the grid that GDAL suggests for it.

    Where the source has neither nodata nor alpha, a mask tells the target's pixels that it does not reach;
    with `mask_nodata` also where it has nodata.

    Raises
    ------
    InvalidParameter
        The source has no place in `target_crs`, or would be beyond all measure in it.
    CorruptRaster, StorageError
        A block of the source cannot be read.
    """
    # Imported where it is used: xarray, which it brings, takes seconds.
    from gdaltools.raster import mask_kind

    transform, width, height = _target_grid(source, location, source_crs, target_crs)
    kind = mask_kind(source)
    nodata = source.nodata
    needs_mask = nodata is None and kind != "alpha"
    options: dict[str, Any] = {}
    if _finest_scale(source, source_crs, target_crs, transform, width, height) >= _MIN_SCALE:
        options = {"XSCALE": 1, "YSCALE": 1}
    path = scratch / "warped.tif"
    with (
        _translated_warp(location, target_crs),
        WarpedVRT(
            source,
            src_crs=source_crs,
            crs=target_crs,
            transform=transform,
            width=width,
            height=height,
            resampling=Resampling[resampling],
            nodata=nodata,
            add_alpha=needs_mask,
            **options,
        ) as vrt,
        _staged(path, vrt, source.count, nodata, target_crs) as staged,
    ):
        _describe(source, staged, warped=True)
        for window in _windows(vrt):
            with reading(location, window):
                data = vrt.read(window=window)
                valid = vrt.dataset_mask(window=window) if needs_mask or mask_nodata else None
            with _storing(path):
                staged.write(data[: source.count], window=window)
                if valid is not None:
                    staged.write_mask(np.where(valid, 255, 0).astype("uint8"), window=window)
    with rasterio.open(path, sharing=False) as ready:
        yield ready
    path.unlink()


@contextmanager
def _staged(
    path: Path, grid: Any, count: int, nodata: float | None, crs: CRS | None
) -> Iterator[DatasetWriter]:
    """A GeoTIFF to be filled, on the grid of the dataset `grid`."""
    with (
        _storing(path),
        rasterio.open(
            path,
            "w",
            driver="GTiff",
            width=grid.width,
            height=grid.height,
            count=count,
            dtype=grid.dtypes[0],
            crs=crs,
            transform=grid.transform,
            nodata=nodata,
            tiled=True,
            blockxsize=_BLOCK,
            blockysize=_BLOCK,
            interleave="pixel" if count <= 16 else "band",
            compress="lzw",
            bigtiff="if_safer",
            photometric="minisblack",
        ) as staged,
    ):
        yield staged


@contextmanager
def _storing(path: Path) -> Iterator[None]:
    try:
        yield
    except RasterioError as error:
        raise StorageError(f"{path.parent} cannot be written to: {error}; is there space left?") from error


@contextmanager
def _translated_warp(location: Location, target_crs: CRS) -> Iterator[None]:
    from rasterio._err import CPLE_BaseError
    from rasterio.errors import CRSError, WarpOptionsError

    try:
        yield
    except (CPLE_BaseError, CRSError, WarpOptionsError) as error:
        raise InvalidParameter(
            f"{location} cannot be warped to {crs_name(target_crs)[:60]}: {error}; choose another target_crs"
        ) from error


def _describe(source: DatasetReader, staged: DatasetWriter, *, warped: bool) -> None:
    """Everything that the file tells about its pixels, carried over; not what warped pixels make untrue."""
    interp = list(source.colorinterp)
    if ColorInterp.palette in interp:
        staged.write_colormap(1, source.colormap(1))
    else:
        staged.colorinterp = interp
    staged.descriptions = source.descriptions
    staged.units = [text or "" for text in source.units]
    staged.scales, staged.offsets = source.scales, source.offsets
    for domain in ("", *(name for name in source.tag_namespaces() if name and name not in _OWN_TAGS)):
        if tags := source.tags(ns=domain or None):
            staged.update_tags(ns=domain or None, **tags)
    for band in source.indexes:
        tags = source.tags(band)
        if warped:
            tags = {key: value for key, value in tags.items() if not key.startswith("STATISTICS_")}
        if tags:
            staged.update_tags(band, **tags)
    if not warped:
        if source.gcps[0]:
            staged.gcps = source.gcps
        if source.rpcs is not None:
            staged.rpcs = source.rpcs


def _windows(grid: Any) -> Iterator[Window]:
    itemsize = np.dtype("complex64" if "complex_int" in grid.dtypes[0] else grid.dtypes[0]).itemsize
    side = affordable_window(itemsize * grid.count)
    for row in range(0, grid.height, side):
        for col in range(0, grid.width, side):
            yield Window(col, row, min(side, grid.width - col), min(side, grid.height - row))


def _target_grid(
    source: DatasetReader, location: Location, source_crs: CRS, target_crs: CRS
) -> tuple[Affine, int, int]:
    name = crs_name(target_crs)[:60]
    with (
        _translated_warp(location, target_crs),
        WarpedVRT(source, src_crs=source_crs, crs=target_crs) as suggested,
    ):
        transform, width, height = suggested.transform, suggested.width, suggested.height
    if not all(math.isfinite(value) for value in transform) or width < 1 or height < 1:
        raise InvalidParameter(f"{location} has no place in {name}: choose another target_crs")
    if width * height * source.count > MAX_SAMPLES or max(width, height) > 2**31 - 1:
        raise UnsupportedRaster(
            f"{location} would have {width} x {height} pixels in {name}: choose another target_crs"
        )
    return transform, width, height


def _finest_scale(
    source: DatasetReader, source_crs: CRS, target_crs: CRS, transform: Affine, width: int, height: int
) -> float:
    """The least ratio of the target's to the source's resolution, over nodes spread on the target's grid.

    The scale of an axis is the inverse length of the Jacobian's column: how many source pixels one step of a
    target pixel passes. Nodes without a place in the source count for nothing.
    """
    cols, rows = np.meshgrid(
        np.linspace(0.5, max(width - 1.5, 0.5), _SCALE_NODES),
        np.linspace(0.5, max(height - 1.5, 0.5), _SCALE_NODES),
    )

    def pixels(cols: Any, rows: Any) -> Any:
        x, y = transform * (cols, rows)
        sx, sy = transform_points(target_crs, source_crs, x.ravel(), y.ravel())
        return np.stack(~source.transform * (sx, sy))

    here = pixels(cols, rows)
    steps = (pixels(cols + 1, rows) - here, pixels(cols, rows + 1) - here)
    inside = (here[0] >= 0) & (here[0] <= source.width) & (here[1] >= 0) & (here[1] <= source.height)
    longest = 1.0
    for step in steps:
        lengths = np.hypot(*step)[inside]
        lengths = lengths[np.isfinite(lengths)]
        if lengths.size:
            longest = max(longest, float(lengths.max()))
    return 1 / longest
