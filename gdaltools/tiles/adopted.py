"""Tiling schemes that another program made, above all the platform's own stage 1.

Such a document describes its tiles as windows of a grid, and the grid by little more than a CRS and the
tiles' bounds in EPSG:4326 (protocol.md §5). This module recovers the grid with the help of the raster and
keeps the tiles unchanged: their names, windows and overlaps are the other program's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.transform import from_bounds
from rasterio.warp import calculate_default_transform

from gdaltools import storage
from gdaltools.errors import InvalidParameter
from gdaltools.geo.crs import WGS84_NAME, Bounds, crs_name, parse_crs
from gdaltools.geo.grid import Grid
from gdaltools.geo.window import PixelWindow
from gdaltools.raster.tiff import BLOCK_UNIT
from gdaltools.storage import Location, StrPath
from gdaltools.tiles import geojson
from gdaltools.tiles.axis import Interval
from gdaltools.tiles.generate import generate_tiling_scheme
from gdaltools.tiles.scheme import MAX_TILES, TilingScheme


class _Properties(BaseModel):
    model_config = ConfigDict(frozen=True)

    tile_id: str
    row: int = Field(ge=0)
    col: int = Field(ge=0)
    pixel_window: PixelWindow
    bounds_4326: Bounds
    crs_target: str


def read_tiling_scheme(
    src: StrPath | Location, *, raster: StrPath | Location, input_crs: str | None = None
) -> TilingScheme:
    """Return the tiling scheme at `src` for `raster`, written by `TilingScheme.write` or by another program.

    Parameters
    ----------
    raster : path, URL or Location
        The raster that the scheme is for. It is read only to recover the grid of another program's scheme.
    input_crs : str, optional
        The raster's CRS, if its file has none or a wrong one.

    Raises
    ------
    SourceNotFound, StorageError
        The document cannot be read.
    InvalidParameter
        The document is not a tiling scheme, or another program's that does not fit `raster`.
    UnsupportedRaster, CorruptRaster
        As `generate_tiling_scheme` raises them for `raster`, with another program's scheme.

    Examples
    --------
    >>> gt.read_tiling_scheme(scheme.write("scheme.geojson"), raster="scene.tif") == scheme
    True
    """
    metadata, features = geojson.parsed(storage.read_bytes(src))
    if metadata.get("format") == geojson.FORMAT:
        return TilingScheme.from_features(metadata, features)
    return adopt_tiling_scheme({"features": features}, raster, input_crs=input_crs)


def adopt_tiling_scheme(
    document: Mapping[str, Any], src: StrPath | Location, *, input_crs: str | None = None
) -> TilingScheme:
    """Return the scheme in a GeoJSON FeatureCollection that another program made for the raster at `src`.

    Raises
    ------
    InvalidParameter
        A feature lacks a property that protocol.md §5 requires; the tiles do not form rows and columns that
        cover their grid; or no grid of that size is known for the raster in their CRS.
    SourceNotFound, UnsupportedRaster, CorruptRaster, StorageError
        As in `generate_tiling_scheme`.
    """
    tiles = _tiles(document.get("features"))
    row_spans = _spans([(tile.row, tile.pixel_window.row_off, tile.pixel_window.height) for tile in tiles])
    col_spans = _spans([(tile.col, tile.pixel_window.col_off, tile.pixel_window.width) for tile in tiles])
    if len(tiles) != len(row_spans) * len(col_spans):
        raise InvalidParameter(
            f"a tiling scheme of {len(row_spans)} rows and {len(col_spans)} columns has {len(tiles)} tiles"
        )
    largest = max(length for _, length in (*row_spans, *col_spans))
    crs = parse_crs(tiles[0].crs_target, "crs_target of the tiling scheme")
    own = generate_tiling_scheme(src, overlap=0, target_crs=crs_name(crs), input_crs=input_crs)
    size = (
        max(start + length for start, length in col_spans),
        max(start + length for start, length in row_spans),
    )
    grid = _grid(own, crs, size, [tile.bounds_4326 for tile in tiles])
    overlaps = [before + length - start for (before, length), (start, _) in _neighbours(row_spans, col_spans)]
    try:
        return TilingScheme.model_validate(
            own.model_dump()
            | {
                "grid": grid.model_dump(),
                "tile_size": -(-largest // BLOCK_UNIT) * BLOCK_UNIT,
                "overlap": max(0, min(overlaps, default=0)),
                "row_spans": row_spans,
                "col_spans": col_spans,
            }
        )
    except ValidationError as error:
        reason = error.errors(include_url=False, include_context=False)[0]["msg"]
        raise InvalidParameter(f"a tiling scheme that cannot be used: {reason}") from error


def _tiles(features: object) -> list[_Properties]:
    if not isinstance(features, list) or not 0 < len(features) <= MAX_TILES:
        raise InvalidParameter(f"a tiling scheme needs 1 to {MAX_TILES} features")
    try:
        tiles = TypeAdapter(list[_Properties]).validate_python(
            [feature.get("properties") if isinstance(feature, Mapping) else None for feature in features]
        )
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidParameter(f"a damaged tiling scheme: feature {where}: {first['msg']}") from error
    for tile in tiles:
        if tile.tile_id != f"tile_{tile.row}_{tile.col}" or tile.crs_target != tiles[0].crs_target:
            raise InvalidParameter(
                f"a damaged tiling scheme: {tile.tile_id[:60]!r} does not fit its row, column or CRS"
            )
    return tiles


def _spans(pieces: Sequence[tuple[int, int, int]]) -> tuple[Interval, ...]:
    """Return the start and length of each row or column; all tiles of one must agree."""
    found: dict[int, Interval] = {}
    for index, start, length in pieces:
        if found.setdefault(index, (start, length)) != (start, length):
            raise InvalidParameter(
                "a tiling scheme whose tiles do not stand in rows and columns cannot be used"
            )
    if sorted(found) != list(range(len(found))):
        raise InvalidParameter("a tiling scheme with missing rows or columns cannot be used")
    return tuple(found[index] for index in sorted(found))


def _neighbours(*axes: tuple[Interval, ...]) -> list[tuple[Interval, Interval]]:
    return [pair for spans in axes for pair in pairwise(spans)]


def _grid(own: TilingScheme, crs: CRS, size: tuple[int, int], boxes: Sequence[Bounds]) -> Grid:
    """Return the grid of `size` (width, height) that the tiles are windows of."""
    source = own.source_grid
    same_crs = crs == parse_crs(source.crs, "CRS of the source")
    candidates: list[Grid | None] = [source] if same_crs else []
    if crs_name(crs) == WGS84_NAME:
        left, bottom = min(box[0] for box in boxes), min(box[1] for box in boxes)
        right, top = max(box[2] for box in boxes), max(box[3] for box in boxes)
        if left < right and bottom < top:
            candidates.append(_of(crs, from_bounds(left, bottom, right, top, *size), *size))
    else:
        candidates.append(_default_grid(source, crs))
    candidates.append(own.grid)
    for grid in candidates:
        if grid is not None and (grid.width, grid.height) == size:
            return grid
    raise InvalidParameter(
        f"the tiling scheme's grid, {size[0]} x {size[1]} pixels in {crs_name(crs).split(',')[0]}, is not "
        f"this raster's ({own.grid.width} x {own.grid.height} here): generate the scheme anew"
    )


def _default_grid(source: Grid, crs: CRS) -> Grid | None:
    """Return the grid that GDAL suggests, which most programs use unchanged; None if GDAL has none."""
    try:
        transform, width, height = calculate_default_transform(
            parse_crs(source.crs, "CRS of the source"), crs, source.width, source.height, *source.bounds
        )
    except RasterioError:
        return None
    return _of(crs, transform, width, height) if width and height else None


def _of(crs: CRS, transform: Any, width: int, height: int) -> Grid:
    return Grid(crs=crs_name(crs), transform=tuple(transform)[:6], width=width, height=height)
