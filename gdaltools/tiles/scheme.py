"""The tiles of a large raster: which pixels of the target grid each of them holds.

Tiles form rows and columns. Neighbours share exactly `overlap` pixels, every pixel of the grid is in a tile,
no tile is larger than `tile_size`, and no tile lies entirely inside its neighbour. Tiles are computed on
request: a scheme of 100,000 tiles is as small as one of two.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Annotated, Any, Self, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from rasterio.io import DatasetReader

from gdaltools import storage
from gdaltools.display import html
from gdaltools.errors import InvalidParameter
from gdaltools.geo import footprint
from gdaltools.geo.crs import Bounds, crs_name, parse_crs
from gdaltools.geo.grid import Grid
from gdaltools.geo.window import PixelWindow
from gdaltools.raster.detect import RasterType
from gdaltools.raster.info import left_out_rows, side_car_rows
from gdaltools.raster.maps import OnMap
from gdaltools.raster.picture import file_name
from gdaltools.raster.tiff import BLOCK_UNIT
from gdaltools.runtime.moved import moved
from gdaltools.storage import Location, StrPath
from gdaltools.tiles import geojson
from gdaltools.tiles.axis import Interval, ListedAxis, TileAxis

MAX_TILES = 1_000_000

_TILE_ID = re.compile(r"tile_(0|[1-9]\d{0,9})_(0|[1-9]\d{0,9})\Z")


class Tile(BaseModel):
    """One tile: its place in the scheme, in the grid and on Earth.

    Attributes
    ----------
    transform : tuple of 6 float
        Transform of the tile's own pixels, in the scheme's CRS.
    bounds_4326 : tuple of 4 float or None
        left, bottom, right, top in EPSG:4326; left > right across the antimeridian. None if the tile does not
        lie on Earth: on another planet, or outside the projection's domain.
    geometry : dict or None
        GeoJSON Polygon (or MultiPolygon, cut at the antimeridian) in EPSG:4326; None as for `bounds_4326`.
    """

    model_config = ConfigDict(frozen=True)

    tile_id: str
    row: int
    col: int
    window: PixelWindow
    transform: tuple[float, float, float, float, float, float]
    bounds_4326: Bounds | None
    geometry: dict[str, Any] | None


class TilingScheme(OnMap, BaseModel):
    """A raster's tiles on a target grid, and the properties detected of the raster.

    `generate_tiling_scheme` makes a scheme; `to_geojson`, `write` and `read` exchange it as GeoJSON.

    Attributes
    ----------
    source_grid : Grid
        The raster's own grid, in the CRS that the scheme assumes; `file_crs` is the CRS in its file.
    grid : Grid
        The target grid.
    raster_type : str
        The requested type, else `detected_type`.
    row_spans, col_spans : tuple of (start, length), optional
        Position of the tiles' rows and columns, if another program cut them.
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
    row_spans: tuple[Interval, ...] | None = None
    col_spans: tuple[Interval, ...] | None = None
    # Only of a scheme that was just generated; the exchanged document has no place for them.
    side_cars: tuple[str, ...] = Field((), exclude=True)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for spans, extent in ((self.row_spans, self.grid.height), (self.col_spans, self.grid.width)):
            if spans is not None and not _covers(spans, extent):
                raise ValueError("the tiles leave the grid, or leave some of it out")
        if self.overlap >= self.tile_size:
            raise ValueError(f"overlap {self.overlap} is not smaller than tile_size {self.tile_size}")
        if len(self) > MAX_TILES:
            raise ValueError(f"{len(self)} tiles: the limit is {MAX_TILES}, choose a larger tile_size")
        return self

    @property
    def rows(self) -> int:
        """The number of rows of tiles."""
        return self._axes[0].count

    @property
    def cols(self) -> int:
        """The number of columns of tiles."""
        return self._axes[1].count

    @cached_property
    def _axes(self) -> tuple[TileAxis | ListedAxis, TileAxis | ListedAxis]:
        down = TileAxis(self.grid.height, self.tile_size, self.overlap)
        across = TileAxis(self.grid.width, self.tile_size, self.overlap)
        return (
            down if self.row_spans is None else ListedAxis(self.row_spans),
            across if self.col_spans is None else ListedAxis(self.col_spans),
        )

    def __len__(self) -> int:
        return self.rows * self.cols

    @property
    def warps(self) -> bool:
        """Whether pixels are resampled; if not, tiles are plain windows of the source."""
        return not (self.grid == self.source_grid and self.grid.north_up)

    @property
    def cog_blocksize(self) -> int:
        """The side of the TIFF blocks that suit the tiles: 512, or a divisor of a smaller tile."""
        if self.tile_size >= 512:
            return 512
        return next(size for size in (256, 128, 64, 32, 16) if self.tile_size % size == 0)

    def check_belongs(self, dataset: DatasetReader, location: Location, input_crs: str | None = None) -> None:
        """Refuse a raster that the scheme was not made for.

        Raises
        ------
        InvalidParameter
            The size, number of bands, transform or CRS of `dataset` differs from the scheme's source, or
            `input_crs` does.

        Examples
        --------
        >>> from gdaltools.raster.dataset import open_dataset
        >>> from gdaltools.storage import locate
        >>> with open_dataset(locate("scene.tif")) as dataset:
        ...     scheme.check_belongs(dataset, locate("scene.tif"))
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
        """Return the tile's window, in pixels of the grid.

        Examples
        --------
        >>> scheme.window(2, 3)
        PixelWindow(col_off=672, row_off=448, width=128, height=152)
        """
        down, across = self._axes
        (row_off, height), (col_off, width) = down.span(row), across.span(col)
        return PixelWindow(col_off=col_off, row_off=row_off, width=width, height=height)

    def tile(self, tile_id: str) -> Tile:
        """Return the tile named `tile_id`.

        Raises
        ------
        InvalidParameter
            The scheme has no such tile.

        Examples
        --------
        >>> tile = scheme.tile("tile_0_1")
        >>> tile.window.col_off, tile.transform[2]
        (224, 472240.0)
        """
        return self._tile(*self.position(tile_id))

    def position(self, tile_id: str) -> tuple[int, int]:
        """Return the row and column of the tile named `tile_id`.

        Raises
        ------
        InvalidParameter
            The scheme has no such tile.

        Examples
        --------
        >>> scheme.position("tile_2_3")
        (2, 3)
        """
        match = _TILE_ID.match(tile_id) if isinstance(tile_id, str) else None
        row, col = (int(part) for part in match.groups()) if match else (-1, -1)
        if not (0 <= row < self.rows and 0 <= col < self.cols):
            raise InvalidParameter(
                f"no tile {tile_id!r}: the scheme's are tile_0_0 to tile_{self.rows - 1}_{self.cols - 1}"
            )
        return row, col

    def place_of(self, y: int, x: int) -> tuple[int, int]:
        """Return the row and column of the tile that contains a pixel of the grid; of several tiles the last.

        Examples
        --------
        >>> scheme.place_of(100, 230)  # in tile_0_0 as well
        (0, 1)
        """
        down, across = self._axes
        return down.holding(y), across.holding(x)

    def tile_ids(self) -> Iterator[str]:
        """Yield the names of all tiles, row by row.

        Examples
        --------
        >>> list(scheme.tile_ids())[:2]
        ['tile_0_0', 'tile_0_1']
        """
        return (f"tile_{row}_{col}" for row in range(self.rows) for col in range(self.cols))

    def tiles(self) -> Iterator[Tile]:
        """Yield all tiles, row by row, each built when it is reached.

        Examples
        --------
        >>> [tile.tile_id for tile in scheme.tiles() if tile.col == 3]
        ['tile_0_3', 'tile_1_3', 'tile_2_3']
        """
        return (self._tile(row, col) for row in range(self.rows) for col in range(self.cols))

    def _tile(self, row: int, col: int) -> Tile:
        window = self.window(row, col)
        found = footprint.footprint(self.grid, (window.col_off, window.row_off, window.width, window.height))
        bounds, geometry = found or (None, None)
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
        """Return the transform of the window's own pixels.

        Examples
        --------
        >>> scheme.transform_of(scheme.window(0, 1))
        (10.0, 0.0, 472240.0, 0.0, -10.0, 1000000.0)
        """
        return self.grid.transform_of(window.col_off, window.row_off)

    def _rows(self) -> dict[str, str]:
        grid, source = self.grid, self.source_grid
        kept = "the source's own" if not self.warps else f"warped from {source.crs.split(',')[0]}"
        names = list(self.used_band_names.values())
        return (
            {
                "source": self.source,
                "grid": f"{grid.width} x {grid.height} pixels, {grid.crs.split(',')[0]}, {kept}",
                "resolution": f"{grid.resolution[0]:.10g} x {grid.resolution[1]:.10g}",
                "tiles": f"{len(self)}: {self.rows} rows of {self.cols}, of up to {self.tile_size} pixels "
                f"that share {self.overlap}",
                "bands": f"{self.band_count} x {self.data_type}: {', '.join(names[:8])}"
                + (f" and {len(names) - 8} more" if len(names) > 8 else ""),
                "type": f"{self.raster_type} ({self.detection_confidence:.0%}), so pixels are "
                + ("not averaged" if self.raster_type == "categorical" else "interpolated if they are warped")
                + "; raster_type= decides otherwise",
            }
            | side_car_rows(self.side_cars)
            | left_out_rows(grid.limited_to)
        )

    def plot(self, ax: Any = None, *, names: bool = True) -> Any:
        """Draw the tiles over a picture of the raster and return the matplotlib Axes.

        Parameters
        ----------
        names : bool
            Label tiles with their row and column, unless there are too many.

        Raises
        ------
        MissingExtra
            matplotlib is not installed.
        InvalidParameter
            There are more than 5,000 tiles.

        Examples
        --------
        >>> scheme.plot().get_title()
        '12 tiles of up to 256 pixels that share 32, EPSG:32637'
        """
        from gdaltools.tiles.plots import plot_tiles

        crs = self.grid.crs.split(",")[0][:40]
        return plot_tiles(
            self.grid,
            len(self),
            self._windows(),
            ax,
            title=f"{len(self)} tiles of up to {self.tile_size} pixels that share {self.overlap}, {crs}",
            source=self.source,
            source_grid=self.source_grid,
            names=names,
        )

    def _windows(self) -> Iterator[tuple[int, int, PixelWindow]]:
        return ((row, col, self.window(row, col)) for row in range(self.rows) for col in range(self.cols))

    def _on_map(self) -> dict[str, Any]:
        return {"sources": [self.source], "outlines": self.to_geojson()}

    def _about(self) -> str:
        return file_name(self.source)

    def _parts(self) -> Iterable[html.Html]:
        from gdaltools.tiles.plots import tile_map

        yield tile_map(self.grid, len(self), self._windows())

    def to_geojson(self) -> dict[str, Any]:
        """Return the scheme as a GeoJSON FeatureCollection of its tiles, with a ``metadata`` member.

        Examples
        --------
        >>> len(scheme.to_geojson()["features"])
        12
        """
        return geojson.collection(self._metadata(), self._features())

    @staticmethod
    def from_geojson(document: Mapping[str, Any] | str | bytes) -> TilingScheme:
        """Return the scheme that `to_geojson` wrote.

        Raises
        ------
        InvalidParameter
            `document` is not such a document, or its features are not the tiles of its grid.

        Examples
        --------
        >>> TilingScheme.from_geojson(scheme.to_geojson()) == scheme
        True
        """
        metadata, features = geojson.parsed(document)
        return TilingScheme.from_features(metadata, features)

    @staticmethod
    def from_features(metadata: Mapping[str, Any], features: Iterable[object]) -> TilingScheme:
        """Return the scheme in `metadata`, checked against `features`: its tiles, in their order.

        Raises
        ------
        InvalidParameter
            `metadata` holds no scheme, or the features are not its tiles.

        Examples
        --------
        >>> document = scheme.to_geojson()
        >>> TilingScheme.from_features(document["metadata"], document["features"]) == scheme
        True
        """
        if metadata.get("format") != geojson.FORMAT:
            raise InvalidParameter(
                f"a tiling scheme that another program made (format {str(metadata.get('format'))[:60]!r}): "
                "name the raster that it was made for, or generate it anew"
            )
        scheme = _validated(metadata.get("scheme"))
        scheme._check_features(features)
        return scheme

    def _metadata(self) -> dict[str, Any]:
        return {"format": geojson.FORMAT, "scheme": self.model_dump(mode="json")}

    def _features(self) -> Iterator[dict[str, Any]]:
        return (
            {
                "type": "Feature",
                "id": tile.tile_id,
                "geometry": tile.geometry,
                "properties": {
                    "tile_id": tile.tile_id,
                    "row": tile.row,
                    "col": tile.col,
                    "pixel_window": tile.window.model_dump(),
                    "bounds_4326": tile.bounds_4326 and list(tile.bounds_4326),
                    "target_width_pixels": tile.window.width,
                    "target_height_pixels": tile.window.height,
                    "crs_target": self.grid.crs,
                },
            }
            for tile in self.tiles()
        )

    def _check_features(self, features: Iterable[object]) -> None:
        """Refuse features that are not the tiles of the scheme, in order."""
        across = [self.window(0, col) for col in range(self.cols)]
        down = [self.window(row, 0) for row in range(self.rows)]
        count = 0
        for feature in features:
            row, col = divmod(count, self.cols)
            count += 1
            if count > len(self):
                continue
            properties = feature.get("properties") if isinstance(feature, Mapping) else None
            window = {
                "col_off": across[col].col_off,
                "row_off": down[row].row_off,
                "width": across[col].width,
                "height": down[row].height,
            }
            if (
                not isinstance(properties, Mapping)
                or properties.get("tile_id") != f"tile_{row}_{col}"
                or properties.get("pixel_window") != window
            ):
                raise InvalidParameter(
                    f"a damaged tiling scheme: feature {count - 1} is not tile_{row}_{col} of its grid"
                )
        if count != len(self):
            raise InvalidParameter(f"a damaged tiling scheme: {count} features for {len(self)} tiles")

    def write(
        self,
        dst: StrPath | Location,
        *,
        overwrite: bool = False,
        metadata: Mapping[str, Any] | None = None,
    ) -> Location:
        """Store the scheme as GeoJSON; the file is complete or absent.

        Parameters
        ----------
        metadata : mapping, optional
            Further members of the document's ``metadata``; `read` ignores them.

        Raises
        ------
        TargetExists, StorageError
            As in `gdaltools.storage.write_bytes`.

        Examples
        --------
        >>> scheme.write("scheme.geojson").filename
        'scheme.geojson'
        """
        document = {**(metadata or {}), **self._metadata()}
        with storage.writing(dst, overwrite=overwrite) as path, path.open("wb") as stream:
            stream.writelines(geojson.lines(document, self._features()))
        return storage.locate(dst)

    @staticmethod
    def read(
        src: StrPath | Location,
        *,
        raster: StrPath | Location | None = None,
        input_crs: str | None = None,
    ) -> TilingScheme:
        """Return the scheme that `write` stored; `gdaltools.read_tiling_scheme` also reads another program's.

        Parameters
        ----------
        raster, input_crs
            Deprecated: use `gdaltools.read_tiling_scheme`.

        Raises
        ------
        SourceNotFound, StorageError
            `src` cannot be read.
        InvalidParameter
            `src` is not a tiling scheme, or is one that another program made.

        Examples
        --------
        >>> TilingScheme.read(scheme.write("scheme.geojson")) == scheme
        True
        """
        if raster is not None:
            read = moved("TilingScheme.read(raster=...)", "gdaltools.tiles.adopted.read_tiling_scheme")
            return cast("TilingScheme", read(src, raster=raster, input_crs=input_crs))
        return TilingScheme.from_geojson(storage.read_bytes(src))

    def facts(self) -> dict[str, Any]:
        """Deprecated: return the facts for a task's result; use `worker.task.handlers.scheme_facts`.

        Examples
        --------
        >>> import warnings
        >>> with warnings.catch_warnings(action="ignore"):
        ...     scheme.facts()["total_tiles"]
        12
        """
        return cast("dict[str, Any]", moved("TilingScheme.facts", "worker.task.handlers.scheme_facts")(self))


def _validated(content: object) -> TilingScheme:
    try:
        scheme = TilingScheme.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidParameter(f"a damaged tiling scheme: {where}: {first['msg']}") from error
    for grid in (scheme.grid, scheme.source_grid):
        parse_crs(grid.crs, "CRS of the tiling scheme")
        if grid.affine.determinant == 0:
            raise InvalidParameter("a damaged tiling scheme: its transform has no inverse")
    return scheme


def _covers(spans: tuple[Interval, ...], extent: int) -> bool:
    """Return whether pieces, each starting after the previous one, cover the extent without leaving it."""
    reached = 0
    for number, (start, length) in enumerate(spans):
        follows = number == 0 or start > spans[number - 1][0]
        if not (0 <= start <= reached and length > 0 and follows and start + length <= extent):
            return False
        reached = max(reached, start + length)
    return reached == extent
