"""The expected time and memory of a task: one calculation for the planning of a job and for the run itself.

A planned task is expected from what the earlier stages reported about the raster, a task that begins to run
from the raster's header; `of_tiles` and `of_cogs` are the calculation for both.

The module imports rasterio and numpy, which a worker with a platform does not need, so it is imported only
where jobs are planned and in the tasks' processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from dask.system import CPU_COUNT

from gdaltools import storage
from gdaltools.cost.cog_memory import SHARED_BYTES
from gdaltools.cost.estimation import Estimate, estimate_workload
from gdaltools.cost.tiles_memory import auto_tile_size
from gdaltools.cost.workload import Layout, Workload, guessed_codec, layout_of, square_layout
from worker.job.definitions import Context
from worker.protocol.rows import Json

_ALL_TIERS = ("analysis", "visualization", "archive")
# The codec of plain tiles.
_TILE_CODEC = "zstd"
_SIDES = 2
# Every task has a positive duration.
_LEAST_MINUTES = 0.001

# The duration of tasks that read only headers: planning a scheme, aggregating products.
_HEADER_TASK_SECONDS = 5.0


@dataclass(frozen=True)
class Expected:
    """The workloads of a task, each with its estimate."""

    parts: tuple[tuple[Workload, Estimate], ...]

    @property
    def peak_memory_mb(self) -> float:
        """The highest memory of any part, in megabytes of 10⁶ bytes."""
        return max(estimate.peak_memory_mb for _, estimate in self.parts)

    @property
    def seconds(self) -> float:
        """The total duration of all parts, which run one after the other."""
        return sum(estimate.seconds for _, estimate in self.parts)

    def to_dict(self) -> dict[str, Any]:
        """Return the estimate as the task's metadata store it, for comparison with the measured usage."""
        estimates = [estimate for _, estimate in self.parts]
        return {
            "seconds": round(self.seconds, 3),
            "seconds_high": round(sum(each.seconds_high for each in estimates), 3),
            "peak_memory_mb": round(self.peak_memory_mb, 1),
            "basis": estimates[0].basis,
            "beyond": sorted({what for each in estimates for what in each.beyond}),
            "workloads": [workload.to_dict() for workload, _ in self.parts],
        }


def of_tiles(
    layout: Layout, *, warps: bool, tile_size: int | None = None, cores: int | None = None
) -> Expected:
    """Return what the extraction of a raster's tiles takes; `cores` are by default those of this machine."""
    variant = "warp" if warps else "window"
    return _expected(Workload("extract_tiles", variant, layout, cores or CPU_COUNT, tile_size=tile_size))


def of_cogs(layout: Layout, tier: str, *, warps: bool = False, cores: int | None = None) -> Expected:
    """Return what the COG of a raster takes, or for the tier "all" what all its COGs take."""
    return _expected(
        *(Workload("create_cog", each, layout, cores or CPU_COUNT, warps=warps) for each in tiers_of(tier))
    )


def tiers_of(tier: str) -> tuple[str, ...]:
    """Return the tiers of which a COG is written; a task's result describes the COG of the first.

    >>> tiers_of("archive"), tiers_of("all")
    (('archive',), ('analysis', 'visualization', 'archive'))
    """
    return _ALL_TIERS if tier == "all" else (tier,)


def _expected(*workloads: Workload) -> Expected:
    return Expected(tuple((each, estimate_workload(each)) for each in workloads))


def of_planning(parameters: Json) -> dict[str, float]:
    """Return the estimate of stage 1's task."""
    return _stated(_source_size_mb(parameters))


def of_extraction(context: Context, parameters: Json, tiling: Json) -> dict[str, float]:
    """Return the estimate of stage 2's task, from the result of stage 1."""
    expected = of_tiles(
        _source_layout(parameters, tiling),
        warps=tiling.get("source_crs") != tiling.get("target_crs"),
        tile_size=_tile_size(tiling),
        cores=context.cores,
    )
    return _stated(_source_size_mb(parameters), expected)


def of_tile(context: Context, parameters: Json, extraction: Json, tiling: Json) -> dict[str, float]:
    """Return the estimate of one task of stage 3, the COG of a tile, from its uncompressed size.

    Nothing is warped, because tiles are on the target grid.
    """
    side = _tile_size(tiling)
    dtypes = _dtypes(extraction.get("raster_metadata") or {})
    if side is None:
        side = auto_tile_size(sum(np.dtype(name).itemsize for name in dtypes))
    layout = layout_of(dtypes, side, side, codec=_TILE_CODEC, tiled=True, remote=_is_remote(parameters))
    expected = of_cogs(layout, parameters["output_tier"], cores=context.cores)
    return _stated(layout.megabytes * 1e6 / 2**20, expected)


def of_joining() -> dict[str, float]:
    """Return the estimate of a task of stage 4 or 5; these read only headers, whatever the raster's size."""
    return _stated(0.0)


def _stated(file_size_mb: float, expected: Expected | None = None) -> dict[str, float]:
    """Return the parameters that routing uses (protocol.md §6), and the memory; None reads only headers."""
    seconds, memory_mb = _HEADER_TASK_SECONDS, SHARED_BYTES / 1e6
    if expected is not None:
        seconds, memory_mb = expected.seconds, expected.peak_memory_mb
    return {
        "file_size_mb": round(file_size_mb, 3),
        "estimated_duration_minutes": max(_LEAST_MINUTES, round(seconds / 60, 3)),
        "estimated_memory_mb": round(memory_mb, 1),
    }


def _source_size_mb(parameters: Json) -> float:
    return float(parameters.get("_blob_size_mb") or 0.0)


def _source_layout(parameters: Json, tiling: Json) -> Layout:
    """Return the layout of the extraction's output from stage 1's result, or else from the file's size."""
    size = tiling.get("target_dimensions")
    if not isinstance(size, Sequence) or len(size) != _SIDES:
        return square_layout(_source_size_mb(parameters))
    dtypes = _dtypes(tiling.get("raster_metadata") or {})
    layout = layout_of(dtypes, int(size[0]), int(size[1]), remote=_is_remote(parameters))
    stored_mb = float(parameters.get("_blob_size_bytes") or 0) / 1e6
    if not stored_mb:
        return layout
    return replace(layout, stored_mb=stored_mb, codec=guessed_codec(stored_mb, layout.megabytes))


def _dtypes(metadata: Json) -> tuple[str, ...]:
    """Return the bands' dtypes from the metadata of stage 1 or 2; float64 if they name an unknown dtype."""
    name = str(metadata.get("data_type", "uint8"))
    try:
        np.dtype(name)
    except TypeError:
        name = "float64"
    return (name,) * int(metadata.get("band_count") or 1)


def _tile_size(tiling: Json) -> int | None:
    side = (tiling.get("grid") or {}).get("tile_size_pixels")
    return int(side) if isinstance(side, int | float) else None


def _is_remote(parameters: Json) -> bool:
    return storage.blob(parameters["container_name"], parameters["blob_name"]).path is None
