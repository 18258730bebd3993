"""Decode a raster once, from top to bottom, into a scratch file of which any part can be read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import rasterio
from rasterio.enums import ColorInterp
from rasterio.errors import RasterioError
from rasterio.windows import Window

from gdaltools import storage
from gdaltools.errors import StorageError
from gdaltools.raster.dataset import numpy_dtypes, open_dataset, reading
from gdaltools.storage import Location


def decoded(location: Location, folder: Path, blocksize: int, *, masked: bool) -> Location:
    """Write the raster's pixels, and its mask if `masked`, to an uncompressed GeoTIFF in `folder`; return it.

    Its blocks are `blocksize` pixels a side.

    Raises
    ------
    CorruptRaster, StorageError
        The source cannot be decoded, or the scratch file cannot be written.
    """
    path = folder / "source.tif"
    with open_dataset(location, verify=False) as dataset:
        rows, _ = dataset.block_shapes[0]
        step = max(rows, blocksize)
        with (
            _storing(path),
            rasterio.Env(GDAL_TIFF_INTERNAL_MASK="YES"),
            rasterio.open(
                path,
                "w",
                driver="GTiff",
                width=dataset.width,
                height=dataset.height,
                count=dataset.count,
                dtype=np.result_type(*numpy_dtypes(dataset)).name,
                crs=dataset.crs,
                transform=dataset.transform,
                nodata=dataset.nodata,
                interleave="pixel",
                bigtiff="if_safer",
                photometric="minisblack",
                tiled=True,
                blockxsize=blocksize,
                blockysize=blocksize,
            ) as decode_first,
        ):
            if ColorInterp.alpha in dataset.colorinterp:
                decode_first.colorinterp = dataset.colorinterp
            for top in range(0, dataset.height, step):
                window = Window(0, top, dataset.width, min(step, dataset.height - top))
                with reading(location, window):
                    data = dataset.read(window=window)
                    valid = dataset.dataset_mask(window=window) if masked else None
                decode_first.write(data, window=window)
                if valid is not None:
                    decode_first.write_mask(valid, window=window)
    return storage.locate(path)


@contextmanager
def _storing(path: Path) -> Iterator[None]:
    try:
        yield
    except RasterioError as error:
        raise StorageError(
            f"the scratch folder {path.parent} cannot be written to: {error}; make room there, or set TMPDIR"
        ) from error
