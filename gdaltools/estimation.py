"""How long an operation takes and how much memory it needs: a model in megabytes, from measured rates.

Seconds are a start-up cost plus uncompressed megabytes over the rate of the cores there are; megabytes of
memory are what a process holds at rest plus what each core holds at work. The rates are `CALIBRATION`,
measured on the machine that it names: on another they are a guess of the right order, and say so.

>>> one, two = (estimate_megabytes("create_cog", 8000, cores=cores) for cores in (1, 2))
>>> two.seconds < one.seconds
True
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict

from gdaltools.crs import parse_crs
from gdaltools.errors import InvalidParameter
from gdaltools.raster import RasterInfo, inspect
from gdaltools.routing import EXTRACTION_TASKS, normal_task_type
from gdaltools.storage import Location, StrPath

Operation = Literal["extract_tiles", "create_cog"]
OPERATIONS: tuple[Operation, ...] = get_args(Operation)
_COG_TASKS = frozenset({"create_cog", "handler_large_cog_creation", "raster_create_cog"})
# Tasks that read headers only: planning a scheme, joining products.
_HEADER_TASK_SECONDS = 5.0


@dataclass(frozen=True)
class Rate:
    """What one operation was measured to do.

    Attributes
    ----------
    start_seconds : float
        Before the first pixel.
    mb_per_second : float
        Uncompressed megabytes a second on one core.
    per_core : float
        What each further core adds, as a share of the first one's rate.
    base_mb, core_mb : float
        Memory of the process at rest, and of each core at work.
    """

    start_seconds: float
    mb_per_second: float
    per_core: float
    base_mb: float
    core_mb: float


@dataclass(frozen=True)
class Calibration:
    """Rates, and the machine and data that they were measured on."""

    source: str
    rates: Mapping[tuple[Operation, str], Rate]


# Measured with create_cog and extract_tiles (tiles of 2560 that share 256, warped to EPSG:3857) on 87, 350
# and 700 MB: medians of three runs on one core and on two, of one run at 700 MB. The model is within 20% of
# each median, of warps within 26%.
CALIBRATION = Calibration(
    source="uncompressed RGB relief in strips, local disk, 2 cores of an AMD EPYC virtual machine; "
    "elsewhere a guess",
    rates={
        ("extract_tiles", "window"): Rate(0.7, 105, 0.65, 110, 90),
        ("extract_tiles", "warp"): Rate(3.0, 24, 0.6, 165, 90),
        ("create_cog", "analysis"): Rate(1.1, 22, 0.8, 385, 0),
        ("create_cog", "archive"): Rate(1.2, 22, 0.45, 385, 0),
        ("create_cog", "visualization"): Rate(0.9, 34, 0.85, 385, 0),
    },
)


class Estimate(BaseModel):
    """What an operation is expected to take.

    Attributes
    ----------
    uncompressed_mb : float
        Pixels that the operation reads, in megabytes of 10⁶ bytes.
    seconds, peak_memory_mb : float
        The model's answer.
    basis : str
        What the model was calibrated on.
    """

    model_config = ConfigDict(frozen=True)

    operation: Operation
    variant: str
    uncompressed_mb: float
    cores: int
    seconds: float
    peak_memory_mb: float
    basis: str

    @property
    def minutes(self) -> float:
        """`seconds` in minutes."""
        return self.seconds / 60

    def __str__(self) -> str:
        lines = {
            "operation": f"{self.operation} ({self.variant})",
            "input": f"{self.uncompressed_mb:,.1f} MB uncompressed",
            "time": f"about {_duration(self.seconds)} on {self.cores} core{'s' * (self.cores > 1)}",
            "memory": f"about {self.peak_memory_mb:,.0f} MB",
            "basis": self.basis,
        }
        return "\n".join(f"{key:<10}{value}" for key, value in lines.items())


def estimate(
    src: StrPath | Location | RasterInfo,
    operation: str = "create_cog",
    *,
    profile: str = "analysis",
    target_crs: str | None = None,
    cores: int | None = None,
) -> Estimate:
    """What an operation on a raster is expected to take; reads its header at most.

    Parameters
    ----------
    src : path, URL, Location or RasterInfo
        The source.
    operation : str
        "create_cog" or "extract_tiles".
    profile : str
        The COG's profile.
    target_crs : str, optional
        Where tiles are warped to; by default EPSG:4326, as `generate_tiling_scheme` has it.
    cores : int, optional
        Cores to work with; by default those of this machine.

    Raises
    ------
    InvalidParameter
        The operation or profile is unknown, or `cores` is not positive.
    SourceNotFound, UnsupportedRaster, CorruptRaster, StorageError
        As `inspect` does.
    """
    info = src if isinstance(src, RasterInfo) else inspect(src)
    variant = profile
    if operation == "extract_tiles":
        target = parse_crs(target_crs or "EPSG:4326", "target_crs")
        warps = info.crs is not None and parse_crs(info.crs, "crs") != target
        variant = "warp" if warps else "window"
    return estimate_megabytes(operation, info.uncompressed_bytes / 1e6, variant=variant, cores=cores)


def estimate_megabytes(
    operation: str, uncompressed_mb: float, *, variant: str | None = None, cores: int | None = None
) -> Estimate:
    """`estimate` for so many megabytes of pixels, without a raster at hand.

    Parameters
    ----------
    variant : str, optional
        The COG's profile; "window" or "warp" for tiles. By default the slower kind.

    Raises
    ------
    InvalidParameter
        There is no such operation or variant, or a number is negative.
    """
    known = {key[1]: rate for key, rate in CALIBRATION.rates.items() if key[0] == operation}
    if not known:
        raise InvalidParameter(f"operation {operation!r} is unknown: use one of {', '.join(OPERATIONS)}")
    variant = variant or min(known, key=lambda name: known[name].mb_per_second)
    if variant not in known:
        raise InvalidParameter(f"{operation} knows no {variant!r}: use one of {', '.join(known)}")
    cores = cores if cores is not None else os.cpu_count() or 1
    if cores < 1 or not uncompressed_mb >= 0:
        raise InvalidParameter(f"{cores} cores and {uncompressed_mb} MB: give at least 1 and 0")
    rate = known[variant]
    speed = rate.mb_per_second * (1 + rate.per_core * (cores - 1))
    return Estimate(
        operation=operation,
        variant=variant,
        uncompressed_mb=uncompressed_mb,
        cores=cores,
        seconds=rate.start_seconds + uncompressed_mb / speed,
        peak_memory_mb=rate.base_mb + rate.core_mb * cores,
        basis=CALIBRATION.source,
    )


def estimate_task_minutes(task_type: str, file_size_mb: float) -> float:
    """What a task on a file of that size is expected to take, for routing; minutes.

    The size on storage stands for the uncompressed one, as nothing has opened the file yet.
    """
    name = normal_task_type(task_type)
    if name in EXTRACTION_TASKS:
        return estimate_megabytes("extract_tiles", file_size_mb).minutes
    if name in _COG_TASKS:
        return estimate_megabytes("create_cog", file_size_mb).minutes
    return _HEADER_TASK_SECONDS / 60


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
