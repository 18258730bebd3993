"""How long an operation takes and how much memory it needs: a model in megabytes, from measured rates.

Seconds are a start-up cost plus uncompressed megabytes over the rate of the cores there are; megabytes of
memory are what a process holds at rest, GDAL's block cache, and copies of what each core works on at a time.
The rates are `CALIBRATION`, measured on the machine that it names: on another they are a guess of the right
order, and say so.

>>> one, two = (estimate_megabytes("create_cog", 8000, cores=cores) for cores in (1, 2))
>>> two.seconds < one.seconds
True
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict

from gdaltools.cog.sizing import memory_bound
from gdaltools.crs import parse_crs
from gdaltools.display.shown import Shown
from gdaltools.errors import InvalidParameter
from gdaltools.extraction_memory import tiles_memory_bound
from gdaltools.raster import RasterInfo, inspect
from gdaltools.routing import EXTRACTION_TASKS, normal_task_type
from gdaltools.storage import Location, StrPath
from gdaltools.tiling_plan import auto_tile_size

Operation = Literal["extract_tiles", "create_cog"]
OPERATIONS: tuple[Operation, ...] = get_args(Operation)
_COG_TASKS = frozenset({"create_cog", "handler_large_cog_creation", "raster_create_cog"})
# Tasks that read headers only: planning a scheme, joining products.
_HEADER_TASK_SECONDS = 5.0
# Side of a block, of tiles and of COGs, unless another is asked for.
_BLOCKSIZE = 512


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
    """

    start_seconds: float
    mb_per_second: float
    per_core: float


@dataclass(frozen=True)
class Calibration:
    """Rates, and the machine and data that they were measured on."""

    source: str
    rates: Mapping[tuple[Operation, str], Rate]


# Seconds: extract_tiles (tiles of 2560 that share 256, warped to EPSG:3857) on 87, 350 and 700 MB of
# uncompressed RGB relief in strips: medians of three runs on one core and on two, of one run at 700 MB. The
# model is within 20% of each median, of warps within 26%. create_cog: single runs at 700 MB on one core and
# on two, of archive on two alone.
# Memory is the plans' own bound, of tiles and of COGs.
CALIBRATION = Calibration(
    source="uncompressed RGB relief in strips, local disk, 2 cores of an AMD EPYC virtual machine; "
    "elsewhere a guess",
    rates={
        ("extract_tiles", "window"): Rate(0.7, 105, 0.65),
        ("extract_tiles", "warp"): Rate(3.0, 24, 0.6),
        ("create_cog", "analysis"): Rate(0.6, 49, 0.96),
        ("create_cog", "archive"): Rate(0.6, 30, 0.92),
        ("create_cog", "visualization"): Rate(0.6, 85, 0.84),
        ("create_cog", "fast"): Rate(0.4, 158, 0.87),
    },
)


# What GDAL's warp holds in each thread beside the rest of a COG.
_COG_WARP_MB = 100


@dataclass(frozen=True)
class Layout:
    """What of a raster decides how much memory an operation on it takes."""

    width: int
    height: int
    bands: int
    itemsize: int

    @property
    def pixel_bytes(self) -> int:
        """Bytes of one pixel, all bands together."""
        return self.bands * self.itemsize

    @property
    def megabytes(self) -> float:
        """All pixels, uncompressed, in megabytes of 10⁶ bytes."""
        return self.width * self.height * self.pixel_bytes / 1e6


def layout_of(dtypes: tuple[str, ...], width: int, height: int) -> Layout:
    """The layout of a raster whose bands are of these dtypes: all become the widest.

    >>> layout_of(("uint8", "uint16"), 100, 10)
    Layout(width=100, height=10, bands=2, itemsize=2)
    """
    return Layout(width, height, len(dtypes), np.result_type(*dtypes).itemsize)


class Estimate(Shown, BaseModel):
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

    def _rows(self) -> dict[str, str]:
        return {
            "operation": f"{self.operation} ({self.variant})",
            "input": f"{self.uncompressed_mb:,.1f} MB uncompressed",
            "time": f"about {_duration(self.seconds)} on {self.cores} core{'s' * (self.cores > 1)}",
            "memory": f"about {self.peak_memory_mb:,.0f} MB",
            "basis": self.basis,
        }


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
        Where pixels are warped to; by default EPSG:4326 for tiles, as `generate_tiling_scheme` has it, and
        nowhere for a COG. The time that the warp of a COG takes is not in `seconds`.
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
    layout = layout_of(info.dtypes, info.width, info.height)
    tiles = operation == "extract_tiles"
    target = target_crs or ("EPSG:4326" if tiles else None)
    warps = (
        target is not None
        and info.crs is not None
        and parse_crs(info.crs, "crs") != parse_crs(target, "target_crs")
    )
    variant = ("warp" if warps else "window") if tiles else profile
    return estimate_layout(operation, layout, variant=variant, warps=warps, cores=cores)


def estimate_megabytes(
    operation: str, uncompressed_mb: float, *, variant: str | None = None, cores: int | None = None
) -> Estimate:
    """`estimate` for so many megabytes of pixels, without a raster at hand: for a square one of RGB.

    Parameters
    ----------
    variant, cores
        As `estimate_layout` takes them.

    Raises
    ------
    InvalidParameter
        There is no such operation or variant, or a number is negative.
    """
    if not 0 <= uncompressed_mb < math.inf:
        raise InvalidParameter(f"{uncompressed_mb} MB: give a size of at least 0")
    side = max(1, math.ceil(math.sqrt(uncompressed_mb * 1e6 / 3)))
    found = estimate_layout(operation, Layout(side, side, 3, 1), variant=variant, cores=cores)
    return found.model_copy(update={"uncompressed_mb": uncompressed_mb})


def estimate_layout(
    operation: str,
    layout: Layout,
    *,
    variant: str | None = None,
    warps: bool = False,
    tile_size: int | None = None,
    cores: int | None = None,
) -> Estimate:
    """`estimate` for a raster of which no more than its layout is known.

    Parameters
    ----------
    variant : str, optional
        The COG's profile; "window" or "warp" for tiles. By default the slower kind.
    warps : bool
        Whether the COG's pixels are warped; of tiles the variant says it.
    tile_size : int, optional
        Side of the tiles; by default the automatic one.
    cores : int, optional
        As `estimate` takes it.

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
    cores = cores if cores is not None else _cores()
    if cores < 1:
        raise InvalidParameter(f"{cores} cores: give at least 1")
    rate = known[variant]
    speed = rate.mb_per_second * (1 + rate.per_core * (cores - 1))
    return Estimate(
        operation=operation,
        variant=variant,
        uncompressed_mb=layout.megabytes,
        cores=cores,
        seconds=rate.start_seconds + layout.megabytes / speed,
        peak_memory_mb=(
            _tiles_memory_mb(layout, tile_size, variant == "warp", cores)
            if operation == "extract_tiles"
            else _cog_memory_mb(layout, warps, cores)
        ),
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


def _cores() -> int:
    """Cores that the work would use: a container's CPU quota and the process's affinity count."""
    from dask.system import CPU_COUNT

    return int(CPU_COUNT)


def _tiles_memory_mb(layout: Layout, tile_size: int | None, warps: bool, cores: int) -> float:
    bound = tiles_memory_bound(
        layout.width,
        layout.height,
        layout.bands,
        layout.itemsize,
        tile_size=tile_size or auto_tile_size(layout.pixel_bytes),
        threads=cores,
        warps=warps,
    )
    return bound / 1e6


def _cog_memory_mb(layout: Layout, warps: bool, cores: int) -> float:
    bound = memory_bound(layout.width, layout.height, layout.bands, layout.itemsize, threads=cores)
    return bound / 1e6 + (_COG_WARP_MB * cores if warps else 0)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
