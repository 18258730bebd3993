"""The jobs of a child process: the source, the output and the options that every method receives.

This module imports no raster library: a child loads the library that it measures and no other.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.child import timed, usable_cores

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

    def __str__(self) -> str:
        return self.codec if self.level is None else f"{self.codec} {self.level}"


@dataclass(frozen=True)
class Job:
    """Write `source` to `target` as a COG.

    Attributes
    ----------
    size_tolerance : float or None
        For the engine only: how much larger the file may be than at GDAL's level.
    threads : int
        Number of threads that may compress.
    """

    source: str
    target: str
    encoding: Encoding
    threads: int
    size_tolerance: float | None

    @property
    def gdal_threads(self) -> str:
        """The value of GDAL's NUM_THREADS."""
        return "ALL_CPUS" if self.threads == usable_cores() else str(self.threads)


@dataclass(frozen=True)
class Tile:
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
    tiles: tuple[Tile, ...]


@dataclass(frozen=True)
class TilesJob(Job):
    """Write the tiles of `source` to the folder `target` as COGs, ``{name}.tif``."""

    tiles: Tiles


#: Imports what a library's user would import, and returns the call to time.
Writer = Callable[[Any], Callable[[], object]]


def measure(writer: Writer, job: Job) -> dict[str, Any]:
    """Run one call; return what it took, the size of the output, and the seconds until it was on the disk."""
    found = timed(writer(job))
    path = Path(job.target)
    files = sorted(path.rglob("*.tif")) if path.is_dir() else [path]
    return {
        **found,
        "flush_seconds": sum(map(_flush, files)),
        "size_bytes": sum(each.stat().st_size for each in files),
    }


def _flush(path: Path) -> float:
    """Flush the file to disk and return the seconds that took, so that the next run does not wait for it."""
    began = time.perf_counter()
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return time.perf_counter() - began
