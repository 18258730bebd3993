"""The tiles of a large raster: which pixels of the target grid each of them holds.

Tiles stand in rows and columns. Neighbours share exactly `overlap` pixels, every pixel of the grid is in
a tile, none is larger than `tile_size`, and no tile lies wholly inside its neighbour. They are computed
when asked for: a scheme of 100,000 tiles is as small as one of two.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator
from rasterio.io import DatasetReader
from rasterio.windows import Window

from gdaltools import footprint, storage
from gdaltools.crs import Bounds, crs_name, parse_crs
from gdaltools.dataset import open_dataset
from gdaltools.detect import RASTER_TYPES, RasterType
from gdaltools.errors import InvalidParameter
from gdaltools.grid import Grid, Resolution, target_grid
from gdaltools.raster import describe, source_crs
from gdaltools.storage import Location, StrPath

#: An automatic tile is a square of about this many uncompressed bytes, all bands together …
AUTO_TILE_BYTES = 450_000_000
#: … a multiple of this many pixels, within these limits (protocol.md §5).
AUTO_TILE_STEP, AUTO_TILE_MIN, AUTO_TILE_MAX = 512, 5_120, 20_480

#: TIFF tiles are multiples of this many pixels (TIFF 6.0 §15).
BLOCK_UNIT = 16
MAX_TILES = 1_000_000

_SLIVER = 8  # a last tile that adds less than this part of a step shares with the one before
_TILE_ID = re.compile(r"tile_(0|[1-9]\d{0,9})_(0|[1-9]\d{0,9})\Z")


@dataclass(frozen=True)
class Axis:
    """How an extent in pixels is cut into pieces of at most `size` that share `overlap` with the next.

    >>> Axis(extent=100, size=48, overlap=16).spans
    [(0, 48), (32, 48), (64, 36)]
    """

    extent: int
    size: int
    overlap: int

    @property
    def step(self) -> int:
        """From one piece's start to the next one's."""
        return self.size - self.overlap

    @cached_property
    def count(self) -> int:
        """Number of pieces: the fewest that cover the extent."""
        return max(1, -(-(self.extent - self.overlap) // self.step))

    @cached_property
    def _shared(self) -> tuple[int, int] | None:
        """Lengths of the last two pieces where the last alone would be a sliver, else None."""
        new = self.extent - self.overlap - (self.count - 1) * self.step
        if self.count < 2 or new >= self.step // _SLIVER:
            return None
        both = self.extent - (self.count - 2) * self.step + self.overlap
        first = -(-both // (2 * BLOCK_UNIT)) * BLOCK_UNIT
        last = both - first
        better = first <= self.size and min(first, last) - self.overlap > new
        return (first, last) if better else None

    def span(self, index: int) -> tuple[int, int]:
        """Start and length of a piece."""
        start = index * self.step
        if self._shared is not None and index >= self.count - 2:
            first, last = self._shared
            if index == self.count - 2:
                return start, first
            return start - self.step + first - self.overlap, last
        return start, min(self.size, self.extent - start)

    @property
    def spans(self) -> list[tuple[int, int]]:
        """All pieces."""
        return [self.span(index) for index in range(self.count)]


class PixelWindow(BaseModel):
    """A window of the target grid, in pixels."""

    model_config = ConfigDict(frozen=True)

    col_off: int
    row_off: int
    width: int
    height: int

    @property
    def rasterio(self) -> Window:
        """As rasterio takes it."""
        return Window(self.col_off, self.row_off, self.width, self.height)


class Tile(BaseModel):
    """One tile: its place in the scheme, in the grid and on Earth.

    Attributes
    ----------
    transform : tuple of 6 float
        Of the tile's own pixels, in the scheme's CRS.
    bounds_4326 : tuple of 4 float
        left, bottom, right, top in EPSG:4326; left > right across the antimeridian.
    geometry : dict
        GeoJSON Polygon (or MultiPolygon, cut at the antimeridian) in EPSG:4326.
    """

    model_config = ConfigDict(frozen=True)

    tile_id: str
    row: int
    col: int
    window: PixelWindow
    transform: tuple[float, float, float, float, float, float]
    bounds_4326: Bounds
    geometry: dict[str, Any]


class TilingScheme(BaseModel):
    """A raster's tiles in a target grid, and what the raster was found to be.

    Made by `generate_tiling_scheme`; kept and exchanged as GeoJSON (`to_geojson`, `write`, `read`).

    Attributes
    ----------
    source_grid : Grid
        The raster's own, in the CRS that it is taken to be in; `file_crs` is what its file says.
    grid : Grid
        The target's.
    raster_type : str
        As asked for, else `detected_type`.
    """

    model_config = ConfigDict(frozen=True)

    source: str
    source_grid: Grid
    file_crs: str | None
    grid: Grid
    tile_size: Annotated[int, Field(ge=BLOCK_UNIT, le=1 << 20, multiple_of=BLOCK_UNIT)]
    overlap: Annotated[int, Field(ge=0)]
    band_count: Annotated[int, Field(ge=1, le=65535)]
    data_type: Annotated[str, Field(max_length=32)]
    raster_type: RasterType
    detected_type: RasterType
    detection_confidence: Annotated[float, Field(ge=0, le=1)]
    auto_band_names: dict[str, str]
    used_band_names: dict[str, str]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.overlap >= self.tile_size:
            raise ValueError(f"overlap {self.overlap} is not smaller than tile_size {self.tile_size}")
        if len(self) > MAX_TILES:
            raise ValueError(f"{len(self)} tiles: the limit is {MAX_TILES}, choose a larger tile_size")
        return self

    @property
    def rows(self) -> int:
        """Number of rows of tiles."""
        return self._axes[0].count

    @property
    def cols(self) -> int:
        """Number of columns of tiles."""
        return self._axes[1].count

    @cached_property
    def _axes(self) -> tuple[Axis, Axis]:
        sizes = (self.grid.height, self.grid.width)
        down, across = (Axis(extent, self.tile_size, self.overlap) for extent in sizes)
        return down, across

    def __len__(self) -> int:
        return self.rows * self.cols

    @property
    def warps(self) -> bool:
        """Whether pixels are resampled; where not, tiles are plain windows of the source."""
        return not (self.grid == self.source_grid and self.grid.north_up)

    @property
    def cog_blocksize(self) -> int:
        """Side of the TIFF blocks that suit the tiles: 512, or what divides a smaller tile."""
        if self.tile_size >= 512:
            return 512
        return next(size for size in (256, 128, 64, 32, 16) if self.tile_size % size == 0)

    def check_belongs(self, dataset: DatasetReader, location: Location, input_crs: str | None = None) -> None:
        """Refuse a raster that the scheme was not made for.

        Raises
        ------
        InvalidParameter
            Size, bands, transform or CRS are other ones, or `input_crs` is.
        """
        theirs = {
            "size": (self.source_grid.width, self.source_grid.height),
            "number of bands": self.band_count,
            "transform": self.source_grid.transform,
            "CRS": self.file_crs,
        }
        found = {
            "size": (dataset.width, dataset.height),
            "number of bands": dataset.count,
            "transform": tuple(dataset.transform)[:6],
            "CRS": crs_name(dataset.crs) if dataset.crs else None,
        }
        for what, value in found.items():
            if value != theirs[what]:
                raise InvalidParameter(
                    f"the tiling scheme was made for another raster than {location}: its {what} is "
                    f"{value}, the scheme's {theirs[what]}; generate a scheme for this raster"
                )
        if input_crs is not None and crs_name(parse_crs(input_crs, "input_crs")) != self.source_grid.crs:
            raise InvalidParameter(
                f"input_crs {input_crs!r} is not the one the tiling scheme was made with, "
                f"{self.source_grid.crs.split(',')[0]}: generate the scheme anew"
            )

    def window(self, row: int, col: int) -> PixelWindow:
        """The pixels of a tile."""
        down, across = self._axes
        (row_off, height), (col_off, width) = down.span(row), across.span(col)
        return PixelWindow(col_off=col_off, row_off=row_off, width=width, height=height)

    def tile(self, tile_id: str) -> Tile:
        """The tile of that name.

        Raises
        ------
        InvalidParameter
            The scheme has no such tile.
        """
        return self._tile(*self.position(tile_id))

    def position(self, tile_id: str) -> tuple[int, int]:
        """Row and column of the tile of that name.

        Raises
        ------
        InvalidParameter
            The scheme has no such tile.
        """
        match = _TILE_ID.match(tile_id) if isinstance(tile_id, str) else None
        row, col = (int(part) for part in match.groups()) if match else (-1, -1)
        if not (0 <= row < self.rows and 0 <= col < self.cols):
            raise InvalidParameter(
                f"no tile {tile_id!r}: the scheme's are tile_0_0 to tile_{self.rows - 1}_{self.cols - 1}"
            )
        return row, col

    def tile_ids(self) -> Iterator[str]:
        """Names of all tiles, row by row."""
        return (f"tile_{row}_{col}" for row in range(self.rows) for col in range(self.cols))

    def tiles(self) -> Iterator[Tile]:
        """All tiles, row by row, each made when it is reached."""
        return (self._tile(row, col) for row in range(self.rows) for col in range(self.cols))

    def _tile(self, row: int, col: int) -> Tile:
        window = self.window(row, col)
        bounds, geometry = footprint.footprint(
            self.grid, (window.col_off, window.row_off, window.width, window.height)
        )
        return Tile(
            tile_id=f"tile_{row}_{col}",
            row=row,
            col=col,
            window=window,
            transform=self.transform_of(window),
            bounds_4326=bounds,
            geometry=geometry,
        )

    def transform_of(self, window: PixelWindow) -> tuple[float, float, float, float, float, float]:
        """The transform of a window's own pixels."""
        return self.grid.transform_of(window.col_off, window.row_off)

    def facts(self) -> dict[str, Any]:
        """What stage 1's result says of the scheme, with protocol.md §5's keys."""
        return {
            "total_tiles": len(self),
            "grid": {
                "rows": self.rows,
                "cols": self.cols,
                "tile_size_pixels": self.tile_size,
                "overlap_pixels": self.overlap,
                "effective_tile_size": self.tile_size - self.overlap,
                "total_tiles": len(self),
                "overlap_percentage": round(100 * self.overlap / self.tile_size, 2),
                "cog_blocksize": self.cog_blocksize,
            },
            "source_crs": self.source_grid.crs,
            "target_crs": self.grid.crs,
            "target_bounds": list(self.grid.bounds),
            "target_dimensions": [self.grid.width, self.grid.height],
            "target_resolution": list(self.grid.resolution),
            "raster_metadata": {
                "band_count": self.band_count,
                "actual_band_count": self.band_count,
                "data_type": self.data_type,
                "detected_type": self.raster_type,
                "detection_confidence": self.detection_confidence,
                "auto_band_names": self.auto_band_names,
                "used_band_names": self.used_band_names,
            },
        }

    def to_geojson(self) -> dict[str, Any]:
        """The scheme as a GeoJSON FeatureCollection of its tiles, with a ``metadata`` member."""
        from gdaltools import tiling_geojson

        return tiling_geojson.encode(self)

    @staticmethod
    def from_geojson(document: Mapping[str, Any] | str | bytes) -> TilingScheme:
        """The scheme that `to_geojson` wrote.

        Raises
        ------
        InvalidParameter
            It is not such a document, or its tiles are not those of its grid.
        """
        from gdaltools import tiling_geojson

        return tiling_geojson.decode(document)

    def write(self, dst: StrPath | Location, *, overwrite: bool = False) -> Location:
        """Store the scheme as GeoJSON, whole or not at all.

        Raises
        ------
        TargetExists, StorageError
            As `gdaltools.storage.write_bytes` does.
        """
        from gdaltools import tiling_geojson

        return storage.write_bytes(dst, tiling_geojson.dumps(self), overwrite=overwrite)

    @staticmethod
    def read(src: StrPath | Location) -> TilingScheme:
        """The scheme that `write` stored.

        Raises
        ------
        SourceNotFound, StorageError
            It cannot be read.
        InvalidParameter
            It is no tiling scheme.
        """
        return TilingScheme.from_geojson(storage.read_bytes(src))


def generate_tiling_scheme(
    src: StrPath | Location,
    tile_size: int | None = None,
    overlap: int = 512,
    target_crs: str = "EPSG:4326",
    *,
    input_crs: str | None = None,
    resolution: Resolution | None = None,
    band_names: Mapping[str, str] | None = None,
    raster_type: RasterType | Literal["auto"] = "auto",
) -> TilingScheme:
    """The tiles of the raster at `src` in `target_crs`; reads its header and a few small windows.

    Parameters
    ----------
    tile_size : int, optional
        Side of a tile in pixels, a multiple of 16. By default the square of about 450 MB uncompressed,
        a multiple of 512 between 5,120 and 20,480.
    overlap : int
        Pixels that neighbours share, less than `tile_size`.
    input_crs : str, optional
        The source's CRS, where the file has none or a wrong one.
    resolution : float or (float, float), optional
        Pixel size in units of `target_crs`; by default about the source's.
    band_names : mapping, optional
        Names by band number: ``{"1": "Red"}``.
    raster_type : str
        "auto" or one of rgb, rgba, dem, categorical, multispectral, nir.

    Raises
    ------
    SourceNotFound, CorruptRaster, StorageError
        As `inspect` does.
    UnsupportedRaster
        As `inspect` does; the raster has no CRS and none is given, no transform, or no place in the target.
    InvalidParameter
        A parameter is outside what is said above, or there would be more than a million tiles.
    """
    _check_sizes(tile_size, overlap)
    target = parse_crs(target_crs, "target_crs")
    if raster_type != "auto" and raster_type not in RASTER_TYPES:
        raise InvalidParameter(f"raster_type {raster_type!r}: give auto or one of {', '.join(RASTER_TYPES)}")
    location = storage.locate(src)
    with open_dataset(location) as dataset:
        crs = source_crs(dataset, location, input_crs)
        info = describe(dataset, location)
    source = Grid(crs=crs_name(crs), transform=info.transform, width=info.width, height=info.height)
    grid = target_grid(source, target, resolution)
    pixel_bytes = info.uncompressed_bytes // (info.width * info.height)
    size = _auto_tile_size(pixel_bytes) if tile_size is None else int(tile_size)
    if overlap >= size:
        raise InvalidParameter(f"overlap {overlap} is not smaller than the tile size {size}: lower it")
    down, across = (Axis(extent, size, overlap).count for extent in (grid.height, grid.width))
    if down * across > MAX_TILES:
        raise InvalidParameter(
            f"{down} x {across} tiles are more than {MAX_TILES}: choose a larger tile_size, "
            "a smaller overlap or a coarser resolution"
        )
    detected = info.detected
    return TilingScheme(
        source=str(location),
        source_grid=source,
        file_crs=info.crs,
        grid=grid,
        tile_size=size,
        overlap=int(overlap),
        band_count=info.count,
        data_type=np.result_type(*info.dtypes).name,
        raster_type=detected.raster_type if raster_type == "auto" else raster_type,
        detected_type=detected.raster_type,
        detection_confidence=detected.confidence if raster_type == "auto" else 1.0,
        auto_band_names=info.band_names,
        used_band_names=info.band_names | _checked_names(band_names or {}, info.count),
    )


def _check_sizes(tile_size: int | None, overlap: int) -> None:
    if isinstance(overlap, bool) or not isinstance(overlap, int) or overlap < 0:
        raise InvalidParameter(f"overlap {overlap!r}: give a number of pixels, 0 or more")
    if tile_size is None:
        return
    if isinstance(tile_size, bool) or not isinstance(tile_size, int) or tile_size < BLOCK_UNIT:
        raise InvalidParameter(f"tile_size {tile_size!r}: give a positive multiple of {BLOCK_UNIT}")
    if tile_size % BLOCK_UNIT:
        nearest = max(BLOCK_UNIT, round(tile_size / BLOCK_UNIT) * BLOCK_UNIT)
        raise InvalidParameter(
            f"tile_size {tile_size} is not a multiple of {BLOCK_UNIT}, as TIFF tiles need: try {nearest}"
        )
    if tile_size > 1 << 20:
        raise InvalidParameter(f"tile_size {tile_size} is over the limit of {1 << 20} pixels")
    if overlap >= tile_size:
        raise InvalidParameter(
            f"overlap {overlap} is not smaller than tile_size {tile_size}: "
            f"pass an overlap below {tile_size}, such as overlap={tile_size // 8}"
        )


def _auto_tile_size(pixel_bytes: int) -> int:
    side = math.sqrt(AUTO_TILE_BYTES / pixel_bytes)
    return min(AUTO_TILE_MAX, max(AUTO_TILE_MIN, round(side / AUTO_TILE_STEP) * AUTO_TILE_STEP))


def _checked_names(names: Mapping[str, str], count: int) -> dict[str, str]:
    for key, value in names.items():
        if not re.fullmatch(r"[1-9]\d{0,4}", str(key)) or int(key) > count or not isinstance(value, str):
            raise InvalidParameter(f'band_names {key!r}: {value!r}: give names for "1" to "{count}"')
    return {str(key): value for key, value in names.items()}
