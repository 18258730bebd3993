"""Whether a raster of bytes looks like noise to a codec: encoders hurry through what they cannot compress.

The header does not show it, and it changes the time that a COG takes by a factor of two to four; a few
small windows show it.
"""

from __future__ import annotations

import zlib

import numpy as np
from rasterio.io import DatasetReader
from rasterio.windows import Window

from gdaltools.raster.dataset import read_window
from gdaltools.storage import Location

# Side of a window, in pixels, and the positions of windows, as shares of the raster.
_SIDE = 256
_PLACES = (0.3, 0.5, 0.7)
# Differences of neighbours are noise if the fastest DEFLATE leaves more than this share of their bytes.
_ROUGH_SHARE = 0.7
# Bytes of one stored block, decoded; larger ones are not read for this.
_LARGEST_BLOCK_BYTES = 16 << 20


def is_rough(dataset: DatasetReader, location: Location) -> bool:
    """Return whether bytes of a raster, in three windows of it, hardly compress; False if it is not examined.

    It is not examined if its samples are not bytes, or if a small window would need a large block.

    Raises
    ------
    CorruptRaster, StorageError
        A window cannot be read.
    """
    rows, cols = dataset.block_shapes[0]
    if set(dataset.dtypes) != {"uint8"} or rows * cols * dataset.count > _LARGEST_BLOCK_BYTES:
        return False
    raw = packed = 0
    for place in _PLACES:
        width, height = min(_SIDE, dataset.width), min(_SIDE, dataset.height)
        left, top = int(place * (dataset.width - width)), int(place * (dataset.height - height))
        pixels = read_window(dataset, location, Window(left, top, width, height))
        differences = np.diff(pixels, axis=-1).tobytes()
        raw += len(differences)
        packed += len(zlib.compress(differences, 1))
    return raw > 0 and packed > _ROUGH_SHARE * raw
