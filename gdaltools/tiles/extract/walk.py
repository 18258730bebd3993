"""Read a group of tiles from top to bottom; each tile is published when it is complete."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from rasterio.enums import ColorInterp
from rasterio.windows import Window

from gdaltools import storage
from gdaltools.cog.encode.adaptive import Policy
from gdaltools.cog.pieces.sink import FileSink, MemorySink
from gdaltools.cog.plan import CogPlan
from gdaltools.cog.write.assemble import check_written
from gdaltools.cog.write.rows import CogRows
from gdaltools.errors import StorageError
from gdaltools.geo.window import PixelWindow
from gdaltools.raster.dataset import block_cache
from gdaltools.raster.pixels.nodata import holding_data
from gdaltools.raster.pixels.source import Pixels, Valid
from gdaltools.runtime import crash_points
from gdaltools.storage import Location
from gdaltools.tiles.extract.groups import Position, TileGroup
from gdaltools.tiles.extract.plan import ExtractionPlan
from gdaltools.tiles.extract.result import ExtractedTile

# Tiles up to this size, uncompressed, are kept in memory until complete: many small open files cost more.
_IN_MEMORY_BYTES = 4 << 20


@dataclass(frozen=True)
class ExtractionSpec:
    """What every reader needs beside its group.

    Attributes
    ----------
    skip_empty : bool
        Whether tiles without data are left out.
    """

    plan: ExtractionPlan
    folder: Location
    stem: str
    overwrite: bool
    skip_empty: bool
    policy: Policy

    @property
    def manifest(self) -> Location:
        """Where the finished tiles are listed."""
        return self.folder.child(f"{self.stem}_tiles.json")

    def target(self, place: Position) -> Location:
        """Return the target of the tile at `place`."""
        return self.folder.child(f"{self.stem}_{tile_id(place)}.tif")


@dataclass(frozen=True)
class Callbacks:
    """Callbacks of a reader: `pixels` with the number of pixels written, `tile` with each finished tile.

    In another process, as on a cluster, they do nothing: tiles are recorded there with their group.
    """

    pixels: Callable[[int], None] = lambda _: None
    tile: Callable[[ExtractedTile | str], None] = lambda _: None

    def __reduce__(self) -> tuple[type[Callbacks], tuple[()]]:
        return Callbacks, ()


def tile_id(place: Position) -> str:
    """Return the id of the tile at `place`."""
    return f"tile_{place[0]}_{place[1]}"


def walk(spec: ExtractionSpec, callbacks: Callbacks, group: TileGroup) -> list[ExtractedTile | str]:
    """Write the tiles of a group and return them; for a tile left out for lack of data only its id.

    Raises
    ------
    CorruptRaster, StorageError, TargetExists
        The source cannot be read or decoded, or a tile cannot be written; tiles completed before remain.
    """
    plan = spec.plan
    made: list[ExtractedTile | str] = []
    tiles: dict[Position, _Tile] = {}
    with block_cache(plan.cache_bytes), plan.pixels.opened() as source:
        try:
            for (top, bottom, left, right), places in group.strips(plan.scheme, plan.pixels.step):
                for place in places:
                    if place not in tiles:
                        tiles[place] = _Tile.begun(spec, place)
                row, window = top, Window(left, top, right - left, bottom - top)
                for pixels, valid in plan.pixels.strips(source, window):
                    for place in places:
                        callbacks.pixels(tiles[place].add(row, left, pixels, valid))
                    row += pixels.shape[1]
                    del pixels, valid  # before the next strip takes as much
                for place in [place for place in places if tiles[place].bottom <= bottom]:
                    made.append(tiles[place].end())
                    del tiles[place]
                    callbacks.tile(made[-1])
        finally:
            for tile in tiles.values():
                tile.abandon()
    return made


@dataclass
class _Tile:
    """A tile some of whose rows are still missing."""

    spec: ExtractionSpec
    place: Position
    window: PixelWindow
    plan: CogPlan
    rows: CogRows
    sink: FileSink | MemorySink
    resources: ExitStack
    started: float
    empty: bool = field(default=True)

    @classmethod
    def begun(cls, spec: ExtractionSpec, place: Position) -> _Tile:
        """Return a tile without rows; a large one has a scratch folder from here on."""
        window, plan = spec.plan.scheme.window(*place), spec.plan.plan_of(place)
        resources = ExitStack()
        sink: FileSink | MemorySink
        if window.width * window.height * plan.facts.pixel_bytes <= _IN_MEMORY_BYTES:
            sink = MemorySink()
        else:
            sink = FileSink(resources.enter_context(_writing(spec, place, plan)))
        rows = CogRows(plan, sink, spec.policy)
        return cls(spec, place, window, plan, rows, sink, resources, time.time())

    @property
    def bottom(self) -> int:
        """The row of the grid below the tile's last row."""
        return self.window.row_off + self.window.height

    def add(self, top: int, left: int, pixels: Pixels, valid: Valid | None) -> int:
        """Add the tile's part of the strip that begins at (`top`, `left`); return its number of pixels."""
        first = max(0, self.window.row_off - top)
        last = min(pixels.shape[1], self.bottom - top)
        if first >= last:
            return 0
        begin = self.window.col_off - left
        part = slice(first, last), slice(begin, begin + self.window.width)
        own, mask = pixels[:, *part], None if valid is None else valid[part]
        self.empty = self.empty and self.spec.skip_empty and is_empty(self.plan, own, mask)
        self.rows.add(own, mask)
        return int(last - first) * self.window.width

    def end(self) -> ExtractedTile | str:
        """Publish the tile, or leave it out if it is empty."""
        target = self.spec.target(self.place)
        if self.empty:
            self.abandon()
            if self.spec.overwrite:
                storage.delete(target)
            return tile_id(self.place)
        self.rows.finish()
        if isinstance(self.sink, FileSink):
            size = _checked(self.sink.path, self.plan, target)
            self.resources.close()
        else:
            check_written(io.BytesIO(self.sink.content), self.plan, name=str(target))
            size = len(self.sink.content)
            with _writing(self.spec, self.place, self.plan) as path:
                _store(path, self.sink.content)
        return extracted(target, self.place, self.plan, size, self.started)

    def abandon(self) -> None:
        """Discard the tile, unless it is published."""
        self.resources.__exit__(_Abandoned, _Abandoned(), None)


def extracted(target: Location, place: Position, plan: CogPlan, size: int, started: float) -> ExtractedTile:
    """Return the result for a tile that was just published."""
    crash_points.reach("tile-published")
    facts = plan.facts
    return ExtractedTile(
        tile_id=tile_id(place),
        location=str(target),
        size_bytes=size,
        etag=storage.stat(target).etag,
        shape=(facts.count, facts.height, facts.width),
        resumed=False,
        started=started,
        finished=time.time(),
    )


def is_empty(plan: CogPlan, pixels: Pixels, valid: Valid | None) -> bool:
    """Return whether no pixel is data, by the alpha band if there is one, else by mask or nodata."""
    facts = plan.facts
    if ColorInterp.alpha in facts.colorinterp:
        return not pixels[facts.colorinterp.index(ColorInterp.alpha)].any()
    there = holding_data(pixels, facts.nodata) if valid is None else valid
    return there is not None and not bool(there.any())


class _Abandoned(Exception):
    """A tile must not be published."""


@contextmanager
def _writing(spec: ExtractionSpec, place: Position, plan: CogPlan) -> Iterator[Path]:
    """`storage.writing` for a tile; nothing is written if the block ends with `_Abandoned`."""
    target, traits = spec.target(place), plan.traits if spec.plan.layout.cogs else None
    with suppress(_Abandoned), storage.writing(target, overwrite=spec.overwrite, traits=traits) as path:
        yield path


def _checked(path: Path, plan: CogPlan, target: Location) -> int:
    stream: BinaryIO
    with path.open("rb") as stream:
        check_written(stream, plan, name=str(target))
    return path.stat().st_size


def _store(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise StorageError(
            f"{path.parent} cannot be written to: {error.strerror}; is there space left?"
        ) from error
