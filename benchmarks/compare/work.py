"""What a comparison measures and how it checks the output: one COG, or a scheme's tiles."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from benchmarks.compare.jobs import (
    CheckJob,
    CheckTilesJob,
    Encoding,
    Job,
    TileOfGrid,
    Tiles,
    TilesJob,
    WriteJob,
)
from benchmarks.compare.methods.cogs import Method
from benchmarks.compare.results import Output
from benchmarks.compare.sources.rasters import Source


class Work(Protocol):
    """Turns a method and a source into jobs."""

    @property
    def output(self) -> Output:
        """The kind of output."""

    @property
    def no_limit(self) -> str:
        """Why the codec alone sets no limit on the speed, for work without one."""

    def target(self, folder: Path) -> Path:
        """Return the output's path in an empty folder."""

    def write(self, method: Method, source: Source, target: Path, threads: int) -> Job:
        """Return the job to time."""

    def check(self, method: Method, source: Source, target: Path) -> Job:
        """Return the job that checks the output afterwards."""

    def has_limit(self, encoding: Encoding) -> bool:
        """Return whether the speed of the codec alone is a limit for this work."""


@dataclass(frozen=True)
class CogWork:
    """Write one COG of a source."""

    output: Output = "cog"
    no_limit: str = "there is no codec"

    def target(self, folder: Path) -> Path:
        """As `Work.target`."""
        return folder / "cog.tif"

    def write(self, method: Method, source: Source, target: Path, threads: int) -> Job:
        """As `Work.write`."""
        return WriteJob(
            writer=method.writer,
            source=str(source.path),
            target=str(target),
            encoding=method.encoding,
            threads=threads,
            size_tolerance=method.size_tolerance,
        )

    def check(self, method: Method, source: Source, target: Path) -> Job:
        """As `Work.check`."""
        return CheckJob(str(source.path), str(target))

    def has_limit(self, encoding: Encoding) -> bool:
        """As `Work.has_limit`."""
        return encoding.codec != "NONE"


@dataclass(frozen=True)
class TilesWork:
    """Write all tiles of a source.

    Attributes
    ----------
    target_crs : str or None
        None for the source's own CRS, where tiles are plain windows.
    folder : Path
        Where tiling schemes are kept.
    """

    tile_size: int
    overlap: int
    target_crs: str | None
    folder: Path
    output: Output = "tiles"
    no_limit: str = "the codec is not all of the work"

    def target(self, folder: Path) -> Path:
        """As `Work.target`."""
        found = folder / "tiles"
        found.mkdir()
        return found

    def write(self, method: Method, source: Source, target: Path, threads: int) -> Job:
        """As `Work.write`."""
        return TilesJob(
            writer=method.writer,
            source=str(source.path),
            target=str(target),
            tiles=self.tiles(source),
            encoding=method.encoding,
            threads=threads,
            size_tolerance=method.size_tolerance,
        )

    def check(self, method: Method, source: Source, target: Path) -> Job:
        """As `Work.check`."""
        return CheckTilesJob(str(source.path), str(target), self.tiles(source), cogs=method.cogs)

    def has_limit(self, encoding: Encoding) -> bool:
        """As `Work.has_limit`; warping takes time outside the codec."""
        return False

    def tiles(self, source: Source) -> Tiles:
        """Return the tiles of a source, which are the same for all methods."""
        from gdaltools import generate_tiling_scheme, inspect

        crs = self.target_crs or inspect(source.path).crs
        scheme = generate_tiling_scheme(source.path, self.tile_size, self.overlap, crs)
        kept = self.folder / f"{source.path.stem}-{self.tile_size}-{self.overlap}.geojson"
        scheme.write(kept, overwrite=True)
        tiles = tuple(
            TileOfGrid(
                tile.tile_id,
                (tile.window.col_off, tile.window.row_off, tile.window.width, tile.window.height),
                tile.transform,
            )
            for tile in scheme.tiles()
        )
        return Tiles(str(kept), scheme.grid.crs, scheme.warps, tiles)
