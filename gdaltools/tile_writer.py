"""A tile's GeoTIFF: what of the source's metadata it carries, and how its pixels arrive in it.

Tiles are read once more, to become COGs, so they are blocked like these and compressed as fast as is
lossless: ZSTD at level 1 with a predictor.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.enums import ColorInterp
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader, DatasetWriter
from rasterio.transform import Affine
from rasterio.windows import Window

from gdaltools.crs import parse_crs
from gdaltools.dataset import check_blocks, numpy_dtypes
from gdaltools.errors import CorruptRaster, StorageError
from gdaltools.raster import mask_kind
from gdaltools.tiling import PixelWindow, TilingScheme
from gdaltools.warping import Mask, Pixels

_RGB = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
_BLOCK_BYTES = 64 << 20
# Uncompressed bytes of one strip of a tile: what a task holds, about three times over.
_STRIP_BYTES = 32 << 20
# Statistics of the whole raster are not the tile's; GDAL writes the rest of these itself.
_DROPPED_TAGS = ("STATISTICS_", "TIFFTAG_XRESOLUTION", "TIFFTAG_YRESOLUTION", "TIFFTAG_RESOLUTIONUNIT")


@dataclass(frozen=True)
class TileProfile:
    """What all tiles of a raster have in common."""

    crs: str
    count: int
    dtype: str
    nodata: float | None
    masked: bool
    block: int
    interleave: str
    predictor: int
    colorinterp: tuple[Any, ...]
    colormap: dict[int, tuple[int, int, int, int]] | None
    descriptions: tuple[str | None, ...]
    units: tuple[str | None, ...]
    scales: tuple[float, ...]
    offsets: tuple[float, ...]
    tags: dict[str, str]
    band_tags: tuple[dict[str, str], ...]

    @property
    def pixel_bytes(self) -> int:
        """Bytes of one pixel, all bands together."""
        return int(np.dtype(self.dtype).itemsize * self.count)

    def with_mask(self) -> TileProfile:
        """The same with a per-dataset mask."""
        return replace(self, masked=True)


def affordable_block(block: int, pixel_bytes: int) -> int:
    """`block`, halved until a block of all bands fits the memory that one may take.

    >>> affordable_block(512, 3), affordable_block(512, 4000)
    (512, 128)
    """
    while block > 64 and block**2 * pixel_bytes > _BLOCK_BYTES:
        block //= 2
    return block


def strip_width(block: int, pixel_bytes: int) -> int:
    """Columns of a strip that is one block high: whole blocks, as many as its memory allows.

    >>> strip_width(512, 3), strip_width(512, 1000)
    (21504, 512)
    """
    return max(block, _STRIP_BYTES // (block * pixel_bytes) // block * block)


def tile_profile(dataset: DatasetReader, scheme: TilingScheme) -> TileProfile:
    """The profile of the tiles of an open raster."""
    dtype = np.result_type(*numpy_dtypes(dataset))
    palette = dataset.colorinterp[0] == ColorInterp.palette
    plain = palette or scheme.raster_type == "categorical" or dtype.kind == "c" or dtype.itemsize > 4
    return TileProfile(
        crs=scheme.grid.crs,
        count=dataset.count,
        dtype=dtype.name,
        nodata=dataset.nodata,
        masked=mask_kind(dataset) == "mask",
        block=affordable_block(scheme.cog_blocksize, dtype.itemsize * dataset.count),
        interleave="pixel" if dataset.count <= 8 else "band",
        predictor=1 if plain else 3 if dtype.kind == "f" else 2,
        colorinterp=tuple(dataset.colorinterp),
        colormap=dict(dataset.colormap(1)) if palette else None,
        descriptions=dataset.descriptions,
        units=dataset.units,
        scales=dataset.scales,
        offsets=dataset.offsets,
        tags=_kept(dataset.tags()),
        band_tags=tuple(_kept(dataset.tags(band)) for band in dataset.indexes),
    )


class TileFile:
    """A tile that is being written: strips go in from top to bottom, whole rows of blocks go to the file."""

    def __init__(self, dataset: DatasetWriter, block: int) -> None:
        self._dataset = dataset
        self._block = block
        self._row = 0
        self._pixels: Pixels | None = None
        self._mask: Mask | None = None

    def write(self, col_off: int, pixels: Pixels, mask: Mask | None) -> None:
        """Add the next strip of the columns that begin at `col_off`."""
        if self._pixels is not None:
            pixels = np.concatenate([self._pixels, pixels], axis=1)
            mask = None if mask is None or self._mask is None else np.concatenate([self._mask, mask])
        whole = pixels.shape[1] // self._block * self._block
        if whole:
            self._flush(col_off, pixels[:, :whole], None if mask is None else mask[:whole])
        self._pixels = pixels[:, whole:] if whole < pixels.shape[1] else None
        self._mask = None if mask is None or self._pixels is None else mask[whole:]

    def finish_columns(self, col_off: int) -> None:
        """Write what is left of these columns, and begin at the top again."""
        if self._pixels is not None:
            self._flush(col_off, self._pixels, self._mask)
        self._row, self._pixels, self._mask = 0, None, None

    def _flush(self, col_off: int, pixels: Pixels, mask: Mask | None) -> None:
        window = Window(col_off, self._row, pixels.shape[2], pixels.shape[1])
        with _written():
            if mask is not None:
                self._dataset.write_mask(mask, window=window)
            self._dataset.write(pixels, window=window)
        self._row += pixels.shape[1]


@contextmanager
def create_tile(
    path: Path, profile: TileProfile, window: PixelWindow, transform: tuple[float, ...]
) -> Iterator[TileFile]:
    """A new GeoTIFF at `path` with the profile's metadata; checked for missing bytes when the block ends.

    Raises
    ------
    StorageError
        It cannot be written whole, as on a full disk.
    """
    options: dict[str, Any] = {
        "driver": "GTiff",
        "width": window.width,
        "height": window.height,
        "count": profile.count,
        "dtype": profile.dtype,
        "crs": parse_crs(profile.crs, "CRS of the tile"),
        "transform": Affine(*transform),
        "nodata": profile.nodata,
        "tiled": True,
        "blockxsize": profile.block,
        "blockysize": profile.block,
        "interleave": profile.interleave,
        "compress": "ZSTD",
        "zstd_level": 1,
        "predictor": profile.predictor,
        "bigtiff": "IF_SAFER",
        "photometric": _photometric(profile),
    }
    if ColorInterp.alpha in profile.colorinterp:
        options["alpha"] = "YES"
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True, GDAL_PAM_ENABLED=False):
        with _written():
            dataset = rasterio.open(path, "w", **options)
        with closing(dataset):
            with _written():
                _describe(dataset, profile)
            yield TileFile(dataset, profile.block)
            with _written():
                dataset.close()
                with rasterio.open(path) as written:
                    check_blocks(written, str(path), path.stat().st_size)


@contextmanager
def _written() -> Iterator[None]:
    try:
        yield
    except (RasterioError, CorruptRaster) as error:
        raise StorageError(f"the tile could not be written whole, as on a full disk: {error}") from error


def _describe(dataset: DatasetWriter, profile: TileProfile) -> None:
    if profile.colormap is not None:
        dataset.write_colormap(1, profile.colormap)
    else:
        dataset.colorinterp = list(profile.colorinterp)
    if any(profile.descriptions):
        dataset.descriptions = list(profile.descriptions)
    if any(profile.units):
        dataset.units = list(profile.units)
    if any(scale != 1 for scale in profile.scales) or any(profile.offsets):
        dataset.scales, dataset.offsets = list(profile.scales), list(profile.offsets)
    if profile.tags:
        dataset.update_tags(**profile.tags)
    for band, tags in enumerate(profile.band_tags, start=1):
        if tags:
            dataset.update_tags(band, **tags)


def _photometric(profile: TileProfile) -> str:
    if profile.colormap is not None:
        return "PALETTE"
    rgb = profile.colorinterp[:3] == _RGB and profile.dtype in ("uint8", "uint16")
    return "RGB" if rgb else "MINISBLACK"


def _kept(tags: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in tags.items() if not name.startswith(_DROPPED_TAGS)}
