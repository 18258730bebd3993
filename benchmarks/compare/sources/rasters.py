"""The rasters of a comparison: generated once from a seed, kept in a folder outside of the checkout.

They are written by rows, in memory that does not grow with their size. A file is complete or absent.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import numpy as np
import rasterio
from pydantic import BaseModel, ConfigDict, computed_field
from rasterio.io import DatasetReader
from rasterio.transform import from_origin
from rasterio.windows import Window

from benchmarks.compare.sources.cases import Case
from benchmarks.compare.sources.scenes import Frame
from gdaltools.errors import SourceNotFound, UnsupportedRaster

Layout = Literal["striped", "tiled"]

# Increase this when a recipe changes: a file of another edition is not reused.
_EDITION = 1
# Rows written at a time: one row of tiles of a tiled source.
_ROWS = 256
_TRANSFORM = from_origin(399_960, 5_700_000, 10, 10)


class Raster(BaseModel):
    """A raster that methods are compared on; `name` is that of its case, or of its file."""

    model_config = ConfigDict(frozen=True)

    name: str
    description: str
    width: int
    height: int
    bands: int
    dtype: str
    nodata: float | None
    layout: str
    compression: str

    @computed_field  # type: ignore[prop-decorator]
    @property
    def size_bytes(self) -> int:
        """Uncompressed size, in bytes."""
        return self.width * self.height * self.pixel_bytes

    @property
    def pixel_bytes(self) -> int:
        """Bytes of one pixel, all bands together."""
        return self.bands * np.dtype(self.dtype).itemsize


class Source(Raster):
    """A raster, and its file."""

    path: Path


def made_source(
    case: Case,
    *,
    megabytes: float,
    folder: Path,
    layout: Layout = "striped",
    compress: str | None = None,
    seed: int = 0,
) -> Source:
    """Return the case's raster of about `megabytes`; generate it if `folder` does not hold it yet.

    Raises
    ------
    MissingPackage
        The package with its pictures is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = source_path(case, megabytes=megabytes, folder=folder, layout=layout, compress=compress, seed=seed)
    if not path.exists():
        width, height = case.size(megabytes)
        unfinished = path.with_name(f"{path.name}.{os.getpid()}")
        try:
            _write(case, Frame(width, height, seed, folder), unfinished, layout, compress)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    return _described(path, case.name, case.description)


def source_path(
    case: Case, *, megabytes: float, folder: Path, layout: Layout, compress: str | None, seed: int
) -> Path:
    """Return where `made_source` keeps a raster."""
    width, height = case.size(megabytes)
    kind = layout if compress is None else f"{layout}-{compress.lower()}"
    return folder / f"{case.name}-{width}x{height}-{kind}-seed{seed}-edition{_EDITION}.tif"


def given_source(path: Path) -> Source:
    """Return a user's own raster as a source.

    Raises
    ------
    SourceNotFound, UnsupportedRaster
        The file does not exist, GDAL cannot read it, or its bands are of several dtypes or complex.
    """
    if not path.exists():
        raise SourceNotFound(f"{path} does not exist")
    try:
        source = _described(path.resolve(), path.name, "given by --source")
    except rasterio.errors.RasterioIOError as error:
        raise UnsupportedRaster(f"{path} cannot be opened as a raster: {error}") from error
    return source


def read_through(source: Source) -> None:
    """Read the file once, so that the first run finds it in the page cache like all the others."""
    with source.path.open("rb", buffering=0) as stream:
        while stream.read(1 << 24):
            pass


def _described(path: Path, name: str, description: str) -> Source:
    with rasterio.open(path) as dataset:
        return Source(
            name=name,
            description=description,
            path=path,
            width=dataset.width,
            height=dataset.height,
            bands=dataset.count,
            dtype=_dtype(dataset),
            nodata=dataset.nodata,
            layout="tiled" if dataset.profile.get("tiled") else "striped",
            compression=dataset.compression.value.lower() if dataset.compression else "none",
        )


def _dtype(dataset: DatasetReader) -> str:
    if len(set(dataset.dtypes)) != 1 or dataset.dtypes[0].startswith("complex"):
        raise UnsupportedRaster(
            f"{dataset.name} has bands of {', '.join(sorted(set(dataset.dtypes)))}: "
            f"compared are rasters of one real dtype"
        )
    return str(dataset.dtypes[0])


def _write(case: Case, frame: Frame, path: Path, layout: Layout, compress: str | None) -> None:
    profile = {
        "driver": "GTiff",
        "width": frame.width,
        "height": frame.height,
        "count": case.bands,
        "dtype": case.dtype,
        "nodata": case.nodata,
        "crs": "EPSG:32633",
        "transform": _TRANSFORM,
        "interleave": "pixel",
        "BIGTIFF": "IF_SAFER",
    }
    if case.bands == 3:
        profile["photometric"] = "RGB"
    if layout == "tiled":
        profile |= {"tiled": True, "blockxsize": _ROWS, "blockysize": _ROWS}
    if compress is not None:
        profile |= {"compress": compress, "predictor": 3 if case.dtype.startswith("float") else 2}
    rows = case.scene(frame)
    with rasterio.Env(GDAL_CACHEMAX=64), rasterio.open(path, "w", **profile) as dataset:
        for first in range(0, frame.height, _ROWS):
            last = min(first + _ROWS, frame.height)
            window = Window(0, first, frame.width, last - first)
            dataset.write(rows(first, last).transpose(2, 0, 1), window=window)
