"""A raster warped to another grid, as a lazy xarray.DataArray."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from gdaltools import storage
from gdaltools.errors import InvalidParameter
from gdaltools.geo.crs import CrsLike, parse_crs
from gdaltools.geo.grid import Grid
from gdaltools.geo.target import Resolution, target_grid
from gdaltools.raster.dataset import open_dataset
from gdaltools.raster.detect import detect
from gdaltools.raster.info import left_out_rows, own_grid, source_crs
from gdaltools.raster.pixels.windows import SourceWindows
from gdaltools.storage import Location, StrPath
from gdaltools.warp.strips import WarpPlan, chosen_resampling, plan_warp, warped_strips
from gdaltools.xr.lazy import LazyPixels, blank_nodata, labelled, masked_dtype

if TYPE_CHECKING:
    import xarray

_CHUNK_BYTES = 64 << 20
_CHUNK_SIDE = 4096


def warp(
    src: StrPath | Location,
    target: CrsLike | Grid,
    *,
    resolution: Resolution | None = None,
    resampling: str | None = None,
    input_crs: CrsLike | None = None,
    masked: bool = False,
) -> xarray.DataArray:
    """Return the raster on another grid, as a lazy array (band, y, x), georeferenced for ``.rio``.

    The pixels are those of `extract_tiles`: exact, and the same however the array is chunked or sliced. They
    are computed on request, by the thread or machine that computes the array.

    Parameters
    ----------
    target : str, int, mapping, CRS or Grid
        A CRS, or a grid such as ``scheme.grid``. For a CRS the grid is the one that `generate_tiling_scheme`
        would choose, which holds the whole raster.
    resolution : float or (float, float), optional
        Pixel size in units of the CRS; by default about that of the source.
    resampling : str, optional
        rasterio's name; by default nearest for categorical rasters and colour tables, else bilinear.
    input_crs : str, int, mapping or CRS, optional
        The source's CRS, if the file has none or a wrong one.
    masked : bool
        Pixels without data, and those outside the source, become NaN, and integers become floats. Otherwise
        these pixels are nodata, or 0 if the raster has no nodata value.

    Raises
    ------
    InvalidParameter
        A CRS, resampling or resolution is invalid, or `resolution` is passed with a grid.
    SourceNotFound, UnsupportedRaster, CorruptRaster, StorageError
        As in `generate_tiling_scheme`; CorruptRaster and StorageError also when pixels are computed.

    Examples
    --------
    >>> gt.warp("scene.tif", "EPSG:3857", masked=True).dtype
    dtype('float32')
    """
    import dask.array

    location = storage.locate(src)
    with open_dataset(location) as dataset:
        source = own_grid(dataset, source_crs(dataset, location, input_crs))
        grid = _grid(source, target, resolution)
        categorical = resampling is None and detect(dataset, location).raster_type == "categorical"
        name = chosen_resampling(dataset, resampling, categorical=categorical)
        plan = plan_warp(dataset, source, grid, name)
        dtype = masked_dtype(np.dtype(plan.dtype)) if masked else np.dtype(plan.dtype)
        pixels = _WarpedPixels(location, plan, dtype, masked)
        # Chunks consist of whole cells: a cell that two chunks share would be computed twice.
        fitting = math.isqrt(_CHUNK_BYTES // (dtype.itemsize * plan.count)) // plan.cell * plan.cell
        side = max(plan.cell, min(fitting, _CHUNK_SIDE))
        data = dask.array.from_array(pixels, chunks=(-1, side, side), asarray=False)
        array = labelled(
            dataset,
            data,
            name=location.stem,
            crs=parse_crs(grid.crs, "target"),
            transform=grid.affine,
            masked=masked,
        )
        rows = left_out_rows(grid.limited_to)
        return array.assign_attrs({name.replace(" ", "_"): text for name, text in rows.items()})


def _grid(source: Grid, target: CrsLike | Grid, resolution: Resolution | None) -> Grid:
    if not isinstance(target, Grid):
        return target_grid(source, parse_crs(target, "target"), resolution=resolution)
    if resolution is not None:
        raise InvalidParameter(f"resolution {resolution!r} beside a grid, which has one: leave it out")
    parse_crs(target.crs, "target")
    return target


class _WarpedPixels(LazyPixels):
    """Pixels that are warped on request."""

    def __init__(self, location: Location, plan: WarpPlan, dtype: np.dtype[Any], masked: bool) -> None:
        super().__init__(location, (plan.count, plan.target.height, plan.target.width), dtype)
        self.plan, self.masked = plan, masked

    def read(self, window: Window, indexes: list[int]) -> NDArray[Any]:
        """Warp all bands together, because they are valid together, and return the bands `indexes`."""
        data = np.empty((self.plan.count, int(window.height), int(window.width)), self.dtype)
        done = 0
        with open_dataset(self.location, verify=False) as dataset:
            for pixels, mask in warped_strips(SourceWindows(dataset, self.location), self.plan, window):
                strip = data[:, done : done + pixels.shape[1]]
                strip[:] = pixels
                if self.masked:
                    self._blank(strip, pixels, mask, [self.plan.nodata] * len(strip))
                done += pixels.shape[1]
        return data[[index - 1 for index in indexes]]

    def _blank(
        self,
        strip: NDArray[Any],
        pixels: NDArray[Any],
        mask: NDArray[np.uint8] | None,
        nodata: list[float | None],
    ) -> None:
        if mask is not None:
            strip[:, mask == 0] = np.nan
        elif self.plan.mask == "alpha":
            strip[:, pixels[-1] == 0] = np.nan
        else:
            blank_nodata(strip, pixels, nodata)
