"""GDAL's COG driver: called with bounded memory and temporaries in one folder, its output checked.

GDAL, "COG -- Cloud Optimized GeoTIFF generator" names the creation options.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from dask.system import CPU_COUNT
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader
from rasterio.windows import Window

from gdaltools.cog.profiles import BLOCK_STEP, CogProfile
from gdaltools.cog.structure import check_structure, images
from gdaltools.cog.tiff import read_layout
from gdaltools.dataset import reading
from gdaltools.errors import GdalToolsError, StorageError
from gdaltools.storage import Location

# One block of all bands, decoded; each compressing thread holds a few of them.
_BLOCK_BYTES = 64 << 20
_THREAD_BLOCKS_BYTES = 256 << 20
_SMALLEST_BLOCK = 128
_GDAL_RESAMPLING = {"cubic_spline": "CUBICSPLINE"}


def affordable_blocksize(blocksize: int, bands: int, itemsize: int) -> int:
    """`blocksize`, halved until a block of all bands fits the memory that one may take.

    >>> affordable_blocksize(512, 4, 2), affordable_blocksize(512, 1000, 4)
    (512, 128)
    """
    while blocksize > _SMALLEST_BLOCK and blocksize * blocksize * bands * itemsize > _BLOCK_BYTES:
        blocksize = max(blocksize // 2 // BLOCK_STEP * BLOCK_STEP, _SMALLEST_BLOCK)
    return blocksize


def affordable_threads(cores: int, block_bytes: int) -> int:
    """Threads that compress blocks of so many bytes: one a core, fewer where the blocks are very large."""
    return max(1, min(cores, _THREAD_BLOCKS_BYTES // block_bytes))


@contextmanager
def environment(scratch: Path) -> Iterator[None]:
    """GDAL's configuration while a COG is made: its temporaries are in `scratch`, masks in the file."""
    with rasterio.Env(
        CPL_TMPDIR=str(scratch),
        GDAL_TIFF_INTERNAL_MASK="YES",
        GDAL_PAM_ENABLED="NO",
        GTIFF_IGNORE_READ_ERRORS="NO",
        GDAL_ERROR_ON_LIBJPEG_WARNING="YES",
    ):
        yield


def write(
    dataset: DatasetReader, path: Path, profile: CogProfile, *, source: Location, target: Location
) -> None:
    """Copy `dataset` to `path` as a COG.

    Raises
    ------
    CorruptRaster, StorageError
        A block of `source` cannot be read.
    StorageError
        `target` cannot be written.
    """
    itemsize = max(np.dtype("complex64" if "complex_int" in d else d).itemsize for d in dataset.dtypes)
    block_bytes = profile.blocksize**2 * dataset.count * itemsize
    threads = affordable_threads(CPU_COUNT, block_bytes)
    try:
        rasterio.shutil.copy(dataset, path, driver="COG", **_options(profile, threads))
    except (CPLE_BaseError, RasterioError) as error:
        # GDAL's text does not tell on which side it failed: the source is read again to know.
        _read_through(dataset, source)
        raise StorageError(f"{target} cannot be written: {error}; is there space left?") from error


def _options(profile: CogProfile, threads: int) -> dict[str, Any]:
    resampling = _GDAL_RESAMPLING.get(profile.overview_resampling, profile.overview_resampling.upper())
    predictor = {1: "NO", 2: "STANDARD", 3: "FLOATING_POINT"}[profile.predictor]
    options: dict[str, Any] = {
        "COMPRESS": profile.compression,
        "BLOCKSIZE": profile.blocksize,
        "OVERVIEWS": "IGNORE_EXISTING",
        "OVERVIEW_RESAMPLING": resampling,
        "NUM_THREADS": threads,
        # IF_NEEDED counts uncompressed files only: a compressed one could outgrow 4 GB at the last block.
        "BIGTIFF": "IF_SAFER",
    }
    if profile.quality is not None:
        return options | {"QUALITY": profile.quality, "OVERVIEW_QUALITY": profile.quality}
    if profile.level is not None:
        options["LEVEL"] = profile.level
    return options | {"PREDICTOR": predictor, "OVERVIEW_PREDICTOR": predictor}


def _read_through(dataset: DatasetReader, source: Location) -> None:
    rows, cols = dataset.block_shapes[0]
    for row in range(0, dataset.height, rows):
        for col in range(0, dataset.width, cols):
            window = Window(col, row, min(cols, dataset.width - col), min(rows, dataset.height - row))
            with reading(source, window):
                dataset.read(window=window)


def check(path: Path, shape: tuple[int, int, int], *, target: Location) -> None:
    """Refuse a file that is not the COG that was to be made, before anybody can see it.

    Looks at the layout and the block edges, not at pixels, so it takes no time to speak of.

    Raises
    ------
    StorageError
        It breaks a rule of the layout, or is not of `shape` (bands, rows, cols).
    """
    try:
        with path.open("rb") as stream:
            layout = read_layout(stream, name=str(target))
            findings = check_structure(layout, stream)
    except GdalToolsError as error:
        raise StorageError(f"{target} was not written whole: {error}; try again") from error
    main, _ = images(layout)
    problems = list(findings.errors + findings.warnings)
    if (main.samples, main.height, main.width) != shape:
        problems.append(f"it has the shape {(main.samples, main.height, main.width)} instead of {shape}")
    if problems:
        raise StorageError(f"{target} was not written whole: {'; '.join(problems)}; try again")
