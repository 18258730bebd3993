"""Natural Earth's shaded relief of the Earth, 5400 x 2700 pixels, which is in the public domain.

Its authors are Tom Patterson and Nathaniel Vaughn Kelso (naturalearthdata.com/about/terms-of-use);
``relief.txt`` beside the picture says where it was taken from and what was done to it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rasterio
from rasterio.enums import Resampling
from rasterio.transform import from_bounds
from rasterio.windows import Window

from gdaltools import storage
from gdaltools.errors import InvalidParameter
from gdaltools.raster.dataset import open_dataset
from gdaltools.storage import Location, StrPath

PICTURE = Path(__file__).with_name("relief.jpg")
# Of the raster, not of the picture: twice as wide and high.
WIDTH, HEIGHT = 10800, 5400
_ROWS = 512


def relief(dst: StrPath | Location, *, width: int = WIDTH) -> Location:
    """Write Natural Earth's shaded relief of the Earth as a striped, uncompressed GeoTIFF in EPSG:4326.

    It is stored as large sources mostly are: in strips, without overviews. What is there already is kept.

    Parameters
    ----------
    width : int
        Pixels, 64 to 10800, which take 175 MB; the height is half of it. The picture itself is 5400 pixels
        wide: a wider raster is interpolated (cubic) and shows no more, a narrower one has averages.

    Raises
    ------
    InvalidParameter
        The width is not from 64 to 10800.
    StorageError
        It cannot be written.
    """
    target = storage.locate(dst)
    if storage.exists(target):
        return target
    if not 64 <= width <= WIDTH:
        raise InvalidParameter(f"width {width}: give 64 to {WIDTH} pixels")
    down = round(width * HEIGHT / WIDTH)
    with open_dataset(PICTURE) as jpeg, storage.writing(target) as path:
        profile: dict[str, Any] = {
            "driver": "GTiff",
            "width": width,
            "height": down,
            "count": jpeg.count,
            "dtype": jpeg.dtypes[0],
            "interleave": "pixel",
            "photometric": "RGB",
            "crs": "EPSG:4326",
            "transform": from_bounds(-180, -90, 180, 90, width, down),
        }
        resampling = Resampling.average if width < jpeg.width else Resampling.cubic
        with rasterio.open(path, "w", **profile) as dataset:
            for top in range(0, down, _ROWS):
                rows = min(_ROWS, down - top)
                scale = jpeg.height / down
                pixels = jpeg.read(
                    window=Window(0, top * scale, jpeg.width, rows * scale),
                    out_shape=(jpeg.count, rows, width),
                    resampling=resampling,
                )
                dataset.write(pixels, window=Window(0, top, width, rows))
    return target
