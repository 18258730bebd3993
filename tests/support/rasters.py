"""Small rasters for tests: generated from a seed, with the requested properties, or damaged on purpose."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import DTypeLike, NDArray
from rasterio.enums import ColorInterp
from rasterio.transform import Affine, from_origin

UTM = "EPSG:32637"
WGS84 = "EPSG:4326"

#: A 10 m grid near Addis Ababa in EPSG:32637, and a grid of about the same size in degrees.
UTM_GRID = from_origin(470000.0, 1000000.0, 10.0, 10.0)
WGS84_GRID = from_origin(38.0, 9.5, 0.0001, 0.0001)


def smooth(
    bands: int = 3,
    rows: int = 300,
    cols: int = 400,
    *,
    dtype: DTypeLike = "uint8",
    seed: int = 0,
    noise: float = 4.0,
) -> NDArray[Any]:
    """Return hills with a little noise, `(bands, rows, cols)`, spread over the dtype's range.

    Integers stay within 10..250 (uint8) or 10..4000 (wider), so that 0 and 255 are free for nodata.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:rows, 0:cols].astype("float64")
    image = np.empty((bands, rows, cols))
    for band in range(bands):
        fx, fy, phase = rng.uniform((0.01, 0.01, 0), (0.08, 0.08, 6))
        image[band] = np.sin(x * fx + phase) * np.cos(y * fy - phase) + 0.3 * np.sin((x + y) * fx / 3)
    image = (image - image.min()) / max(float(np.ptp(image)), 1e-9)
    kind = np.dtype(dtype)
    if kind.kind in "fc":
        return (image * 1000 + rng.normal(0, noise, image.shape)).astype(kind)
    top = {1: 250 if kind.kind == "u" else 120}.get(kind.itemsize, 4000)
    noisy = 10 + image * (top - 10) + rng.normal(0, noise, image.shape)
    return np.clip(np.rint(noisy), 10, top).astype(kind)


def categories(rows: int = 300, cols: int = 400, *, classes: int = 6, seed: int = 0) -> NDArray[np.uint8]:
    """Return a land-cover map, `(1, rows, cols)`: patches of the values 1..classes."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(1, classes + 1, (rows // 20 + 1, cols // 20 + 1), dtype="uint8")
    return coarse.repeat(20, axis=0).repeat(20, axis=1)[np.newaxis, :rows, :cols].copy()


def elevation(rows: int = 300, cols: int = 400, *, seed: int = 0) -> NDArray[np.float32]:
    """Return a terrain model in metres, `(1, rows, cols)`, with fractions."""
    return smooth(1, rows, cols, dtype="float32", seed=seed, noise=0.5)


def write_raster(
    path: str | os.PathLike[str],
    array: NDArray[Any],
    *,
    crs: str | None = WGS84,
    transform: Affine | None = WGS84_GRID,
    nodata: float | Sequence[float] | None = None,
    mask: NDArray[np.uint8] | NDArray[np.bool_] | None = None,
    alpha: bool = False,
    colorinterp: Sequence[ColorInterp] | None = None,
    colormap: Mapping[int, tuple[int, int, int, int]] | None = None,
    descriptions: Sequence[str | None] | None = None,
    units: Sequence[str | None] | None = None,
    scales: Sequence[float] | None = None,
    offsets: Sequence[float] | None = None,
    tags: Mapping[str, str] | None = None,
    band_tags: Mapping[int, Mapping[str, str]] | None = None,
    driver: str = "GTiff",
    block: int | None = None,
    overviews: Sequence[int] = (),
    options: Mapping[str, Any] | None = None,
) -> Path:
    """Write `array`, shape `(bands, rows, cols)`, and return the path.

    ``block=None`` writes strips, a number writes square blocks; ``mask`` is an internal per-dataset mask;
    ``alpha`` marks the last band as alpha; `options` are GDAL's creation options, as rasterio takes them.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    bands, rows, cols = array.shape
    profile: dict[str, Any] = {
        "driver": driver,
        "width": cols,
        "height": rows,
        "count": bands,
        "dtype": array.dtype,
        "crs": crs,
        "transform": transform,
        "nodata": nodata,
    }
    if block is not None:
        profile |= {"tiled": True, "blockxsize": block, "blockysize": block}
    if alpha and driver == "GTiff":
        profile["alpha"] = "YES"
    profile |= dict(options or {})
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "w", **profile) as dataset:
        if alpha and colorinterp is None:
            names = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
            colorinterp = (names if bands == 4 else (ColorInterp.gray,) * (bands - 1)) + (ColorInterp.alpha,)
        if colorinterp is not None:
            dataset.colorinterp = list(colorinterp)
        dataset.write(array)
        if mask is not None:
            dataset.write_mask(np.where(mask, 255, 0).astype("uint8"))
        if colormap is not None:
            dataset.write_colormap(1, dict(colormap))
        if descriptions is not None:
            dataset.descriptions = list(descriptions)
        if units is not None:
            dataset.units = list(units)
        if scales is not None:
            dataset.scales = list(scales)
        if offsets is not None:
            dataset.offsets = list(offsets)
        if tags is not None:
            dataset.update_tags(**tags)
        for index, values in (band_tags or {}).items():
            dataset.update_tags(index, **values)
        if overviews:
            dataset.build_overviews(list(overviews))
    return path


def pixels(path: str | os.PathLike[str], **options: Any) -> NDArray[Any]:
    """Return a raster's pixels as rasterio reads them, shape (bands, rows, cols)."""
    with rasterio.open(path, **options) as dataset:
        return np.asarray(dataset.read())


def write_netcdf(path: str | os.PathLike[str], array: NDArray[Any], *, form: str = "NC") -> Path:
    """Write `array`, shape `(bands, rows, cols)`, one variable ``BandN`` per band; "NC4" is HDF5 inside."""
    path = Path(path)
    with tempfile.TemporaryDirectory() as folder, rasterio.Env():
        source = write_raster(Path(folder) / "a.tif", array)
        rasterio.shutil.copy(source, path, driver="netCDF", FORMAT=form)
    return path


def truncate(path: str | os.PathLike[str], keep: float = 0.5) -> Path:
    """Cut the file down to the share `keep` of its bytes, as a broken upload does; return the path."""
    path = Path(path)
    os.truncate(path, int(path.stat().st_size * keep))
    return path


def damage(path: str | os.PathLike[str], *, at: float = 0.6, size: int = 512) -> Path:
    """Overwrite `size` bytes at the share `at` of the file with noise, not its length; return the path."""
    path = Path(path)
    noise = np.random.default_rng(1).integers(0, 256, size, dtype="uint8").tobytes()
    with path.open("r+b") as stream:
        stream.seek(int(path.stat().st_size * at))
        stream.write(noise)
    return path
