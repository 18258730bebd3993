"""The operations that are measured, called in the process that measures them.

This module imports no raster library: the process restricts itself to the job's cores before any library
counts them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.child import timed

TARGET_CRS = "EPSG:4326"
TILE_SIZE, OVERLAP = 4096, 256


@dataclass(frozen=True)
class CellJob:
    """Run `operation` on `source`; `target` is a COG or a folder of tiles."""

    operation: str
    variant: str
    warps: bool
    source: str
    target: str
    cores: int


def run_cell(job: CellJob) -> dict[str, Any]:
    """Run the job on its number of cores; return what `benchmarks.child.timed` does."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: job.cores])
    return timed(_call(job))


def _call(job: CellJob) -> Callable[[], object]:
    # Imported before the clock runs.
    from gdaltools import create_cog, extract_tiles, generate_tiling_scheme, inspect

    source, target = job.source, job.target
    if job.operation == "create_cog":
        crs = TARGET_CRS if job.warps else None
        return lambda: create_cog(source, target, job.variant, target_crs=crs, reuse=False, progress=False)
    grid_crs = TARGET_CRS if job.variant == "warp" else inspect(source).crs
    scheme = generate_tiling_scheme(source, TILE_SIZE, OVERLAP, grid_crs)
    return lambda: extract_tiles(source, scheme, target, progress=False)
