"""What is done and how it is looked at: one COG, the tiles of a scheme, a reading, or tasks of the worker."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from benchmarks.compare.jobs import (
    CheckJob,
    CheckReadJob,
    CheckTilesJob,
    Encoding,
    Job,
    ReadJob,
    TileOfGrid,
    Tiles,
    TilesJob,
    WorkerJob,
    WriteJob,
)
from benchmarks.compare.methods.cogs import Method
from benchmarks.compare.peers.worker import first_output
from benchmarks.compare.results import Output
from benchmarks.compare.sources.rasters import Source


class Work(Protocol):
    """How a method and a source become jobs."""

    @property
    def output(self) -> Output:
        """What is made."""

    @property
    def no_limit(self) -> str:
        """Why the codec alone does not tell how fast it could be, where it does not."""

    def target(self, folder: Path) -> Path:
        """Where in an empty folder the output goes."""

    def write(self, method: Method, source: Source, target: Path, threads: int) -> Job:
        """To be timed."""

    def check(self, method: Method, source: Source, target: Path) -> Job:
        """To be looked at afterwards."""

    def has_limit(self, encoding: Encoding) -> bool:
        """Whether the codec alone tells how fast it could be."""


@dataclass(frozen=True)
class CogWork:
    """One COG of a source."""

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
    """All tiles of a source.

    Attributes
    ----------
    target_crs : str or None
        None for the source's own: plain windows.
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
        """As `Work.has_limit`: the warp is not the codec's."""
        return False

    def tiles(self, source: Source) -> Tiles:
        """The tiles of a source: what they are is decided here, for all methods alike."""
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


@dataclass(frozen=True)
class ReadWork:
    """A reading of all pixels; what is left of it are the sums of the bands."""

    output: Output = "read"
    no_limit: str = "nothing is encoded"

    def target(self, folder: Path) -> Path:
        """As `Work.target`."""
        return folder / "sums.json"

    def write(self, method: Method, source: Source, target: Path, threads: int) -> Job:
        """As `Work.write`."""
        return ReadJob(method.writer, str(source.path), str(target), threads)

    def check(self, method: Method, source: Source, target: Path) -> Job:
        """As `Work.check`."""
        return CheckReadJob(str(source.path), str(target))

    def has_limit(self, encoding: Encoding) -> bool:
        """As `Work.has_limit`."""
        return False


@dataclass(frozen=True)
class WorkerWork:
    """So many tasks, one after the other, each of which makes a COG of the source."""

    tasks: int
    output: Output = "worker"
    no_limit: str = "the codec is not all of the work"

    def target(self, folder: Path) -> Path:
        """As `Work.target`."""
        found = folder / "containers"
        found.mkdir()
        return found

    def write(self, method: Method, source: Source, target: Path, threads: int) -> Job:
        """As `Work.write`."""
        return WorkerJob(method.writer, str(source.path), str(target), self.tasks)

    def check(self, method: Method, source: Source, target: Path) -> Job:
        """As `Work.check`: one COG is like another."""
        return CheckJob(str(source.path), str(first_output(target)))

    def has_limit(self, encoding: Encoding) -> bool:
        """As `Work.has_limit`."""
        return False
