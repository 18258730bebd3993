"""The jobs of a child process, as values that JSON can hold.

This module imports no raster library: a child must load the library that it measures and no other.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

Codec = Literal["DEFLATE", "ZSTD", "LZW", "NONE"]
CODECS: tuple[Codec, ...] = ("DEFLATE", "ZSTD", "LZW", "NONE")


@dataclass(frozen=True)
class Encoding:
    """The options that every method receives.

    Attributes
    ----------
    codec : str
        GDAL's name of the codec; all of them are lossless.
    level : int or None
        Level of DEFLATE or ZSTD on GDAL's scale; None for a codec without levels.
    predictor : int
        TIFF's predictor: 1 none, 2 horizontal, 3 floating point.
    blocksize : int
        Side of a block, in pixels.
    resampling : str
        The resampling of overviews, in rasterio's spelling.
    """

    codec: Codec
    level: int | None
    predictor: Literal[1, 2, 3]
    blocksize: int = 512
    resampling: str = "average"


@dataclass(frozen=True)
class WriteJob:
    """Write `source` to `target` as a COG, timed.

    Attributes
    ----------
    writer : str
        A key of `benchmarks.compare.peers.cogs.WRITERS`.
    size_tolerance : float or None
        For the engine only: how much larger the file may be than at GDAL's level.
    threads : int
        Number of threads that may compress.
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
    """Check `target` as a reader would: layout, pixels, overviews."""

    source: str
    target: str
    kind: Literal["check"] = "check"


@dataclass(frozen=True)
class LimitJob:
    """Measure the codec alone on `blocks` blocks of `source`."""

    source: str
    encoding: Encoding
    threads: int
    blocks: int
    kind: Literal["limit"] = "limit"


@dataclass(frozen=True)
class TileOfGrid:
    """One tile: its name, its window (col_off, row_off, width, height) of the grid, and its transform."""

    name: str
    window: tuple[int, int, int, int]
    transform: tuple[float, float, float, float, float, float]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, in pixels."""
        return self.window[2], self.window[3]


@dataclass(frozen=True)
class Tiles:
    """The tiles that every method creates.

    Attributes
    ----------
    scheme : str
        The file of the tiling scheme, for the engine.
    warps : bool
        Whether the grid differs from the source's.
    """

    scheme: str
    crs: str
    warps: bool
    tiles: tuple[TileOfGrid, ...]


@dataclass(frozen=True)
class TilesJob:
    """Write the tiles of `source` to the folder `target`, as ``{name}.tif``, timed."""

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
    """Check the tiles in the folder `target` as a reader would; `cogs` says whether they must be COGs."""

    source: str
    target: str
    tiles: Tiles
    cogs: bool
    kind: Literal["check-tiles"] = "check-tiles"


MeasuredJob = WriteJob | TilesJob
Job = MeasuredJob | CheckJob | LimitJob | CheckTilesJob


def job_from_dict(values: dict[str, object]) -> Job:
    """Return the job that `dataclasses.asdict` turned into a dict."""
    kinds: dict[object, type[Job]] = {
        "write": WriteJob,
        "check": CheckJob,
        "limit": LimitJob,
        "tiles": TilesJob,
        "check-tiles": CheckTilesJob,
    }
    encoding = values.get("encoding")
    if isinstance(encoding, dict):
        values = values | {"encoding": Encoding(**encoding)}
    tiles = values.get("tiles")
    if isinstance(tiles, dict):
        values = values | {"tiles": _tiles_from_dict(tiles)}
    return kinds[values["kind"]](**values)  # type: ignore[arg-type]


def _tiles_from_dict(values: dict[str, object]) -> Tiles:
    """Return the tiles that `dataclasses.asdict` turned into a dict."""
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
    """Return the number of cores that this process may use, which GDAL's ALL_CPUS counts as well."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
