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
        A key of `benchmarks.compare.writers.WRITERS`.
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


Job = WriteJob | CheckJob | LimitJob


def job_from_dict(values: dict[str, object]) -> Job:
    """The job that `dataclasses.asdict` made a dict of."""
    kinds: dict[object, type[Job]] = {"write": WriteJob, "check": CheckJob, "limit": LimitJob}
    encoding = values.get("encoding")
    if isinstance(encoding, dict):
        values = values | {"encoding": Encoding(**encoding)}
    return kinds[values["kind"]](**values)  # type: ignore[arg-type]


def usable_cores() -> int:
    """The cores that this process may use, which is what GDAL's ALL_CPUS counts."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
