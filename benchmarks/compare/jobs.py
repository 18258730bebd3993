"""What a child process is told to do, as values that travel as JSON.

Nothing here imports a raster library: a child must hold the library that it measures and no other.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

Codec = Literal["DEFLATE", "ZSTD", "LZW", "NONE"]
CODECS: tuple[Codec, ...] = ("DEFLATE", "ZSTD", "LZW", "NONE")


@dataclass(frozen=True)
class Encoding:
    """The options that every method is given.

    Attributes
    ----------
    codec : str
        GDAL's name; all of them are lossless.
    level : int or None
        DEFLATE's or ZSTD's level by GDAL's count; None where the codec has none.
    predictor : int
        TIFF's predictor: 1 none, 2 horizontal, 3 floating point.
    blocksize : int
        Side of a block, pixels.
    resampling : str
        How overviews are made, in rasterio's spelling.
    """

    codec: Codec
    level: int | None
    predictor: Literal[1, 2, 3]
    blocksize: int = 512
    resampling: str = "average"


@dataclass(frozen=True)
class WriteJob:
    """Make a COG of `source` at `target`, timed.

    Attributes
    ----------
    writer : str
        A key of `benchmarks.compare.peers.cogs.WRITERS`.
    size_tolerance : float or None
        For the engine alone: how much larger than at GDAL's level the file may be.
    threads : int
        How many may compress.
    """

    writer: str
    source: str
    target: str
    encoding: Encoding
    threads: int
    size_tolerance: float | None = None
    kind: Literal["write"] = "write"


@dataclass(frozen=True)
class CheckJob:
    """Look at `target` as a reader would: layout, pixels, overviews."""

    source: str
    target: str
    kind: Literal["check"] = "check"


@dataclass(frozen=True)
class LimitJob:
    """Measure the codec alone on blocks of `source`."""

    source: str
    encoding: Encoding
    threads: int
    blocks: int
    kind: Literal["limit"] = "limit"


@dataclass(frozen=True)
class TileOfGrid:
    """One tile: its name, its window (col_off, row_off, width, height) of the grid, its own transform."""

    name: str
    window: tuple[int, int, int, int]
    transform: tuple[float, float, float, float, float, float]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.window[2], self.window[3]


@dataclass(frozen=True)
class Tiles:
    """The tiles that all methods make.

    Attributes
    ----------
    scheme : str
        The file of the tiling scheme, for the engine.
    warps : bool
        Whether the grid is another one than the source's.
    """

    scheme: str
    crs: str
    warps: bool
    tiles: tuple[TileOfGrid, ...]


@dataclass(frozen=True)
class TilesJob:
    """Make the tiles of `source` in the folder `target`, as ``{name}.tif``, timed."""

    writer: str
    source: str
    target: str
    tiles: Tiles
    encoding: Encoding
    threads: int
    size_tolerance: float | None = None
    kind: Literal["tiles"] = "tiles"


@dataclass(frozen=True)
class CheckTilesJob:
    """Look at the tiles in the folder `target` as a reader would; `cogs` is whether they are to be COGs."""

    source: str
    target: str
    tiles: Tiles
    cogs: bool
    kind: Literal["check-tiles"] = "check-tiles"


@dataclass(frozen=True)
class ReadJob:
    """Read all of `source`, timed, and leave the sums of its bands at `target`."""

    writer: str
    source: str
    target: str
    threads: int
    kind: Literal["read"] = "read"


@dataclass(frozen=True)
class CheckReadJob:
    """Look at the sums at `target`."""

    source: str
    target: str
    kind: Literal["check-read"] = "check-read"


@dataclass(frozen=True)
class WorkerJob:
    """Run so many tasks on `source`, timed; `target` is the folder of their containers."""

    writer: str
    source: str
    target: str
    tasks: int
    kind: Literal["worker"] = "worker"


MeasuredJob = WriteJob | TilesJob | ReadJob | WorkerJob
Job = MeasuredJob | CheckJob | LimitJob | CheckTilesJob | CheckReadJob


def job_from_dict(values: dict[str, object]) -> Job:
    """The job that `dataclasses.asdict` made a dict of."""
    kinds: dict[object, type[Job]] = {
        "write": WriteJob,
        "check": CheckJob,
        "limit": LimitJob,
        "tiles": TilesJob,
        "check-tiles": CheckTilesJob,
        "read": ReadJob,
        "check-read": CheckReadJob,
        "worker": WorkerJob,
    }
    encoding = values.get("encoding")
    if isinstance(encoding, dict):
        values = values | {"encoding": Encoding(**encoding)}
    tiles = values.get("tiles")
    if isinstance(tiles, dict):
        values = values | {"tiles": _tiles_from_dict(tiles)}
    return kinds[values["kind"]](**values)  # type: ignore[arg-type]


def _tiles_from_dict(values: dict[str, object]) -> Tiles:
    """The tiles that `dataclasses.asdict` made a dict of."""
    given = [TileOfGrid(**tile) for tile in values["tiles"]]  # type: ignore[attr-defined]
    tiles = tuple(TileOfGrid(t.name, _four(t.window), _six(t.transform)) for t in given)
    return Tiles(str(values["scheme"]), str(values["crs"]), bool(values["warps"]), tiles)


def _four(values: tuple[int, ...]) -> tuple[int, int, int, int]:
    a, b, c, d = values
    return a, b, c, d


def _six(values: tuple[float, ...]) -> tuple[float, float, float, float, float, float]:
    a, b, c, d, e, f = values
    return a, b, c, d, e, f


def usable_cores() -> int:
    """The cores that this process may use, which is what GDAL's ALL_CPUS counts."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
