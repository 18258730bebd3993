"""Estimates for the tasks of a job, from what the earlier stages reported about the raster.

The module imports rasterio and numpy, which a worker with a platform does not need, so it is imported only
where jobs are planned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gdaltools import storage
from gdaltools.cost.cog_memory import SHARED_BYTES
from gdaltools.cost.estimation import estimate_layout
from gdaltools.cost.tiles_memory import auto_tile_size
from gdaltools.cost.workload import VARIANTS, Layout, guessed_codec, layout_of, square_layout
from worker.job.definitions import Context, Expectation
from worker.protocol.routing import COG_TASKS, EXTRACTION_TASKS, normal_task_type
from worker.protocol.rows import Json

# The codec of plain tiles.
_TILE_CODEC = "zstd"
# The number of tiers that the tier "all" writes.
_TIERS = 3
_SIDES = 2
# Every task has a positive duration.
_LEAST_MINUTES = 0.001

# The duration of tasks that read only headers: planning a scheme, aggregating products.
_HEADER_TASK_SECONDS = 5.0


def of_planning(context: Context, parameters: Json) -> dict[str, float]:
    """Return the estimate of stage 1's task."""
    return _expected(context, "generate_tiling_scheme", _source_size_mb(parameters))


def of_extraction(context: Context, parameters: Json, tiling: Json) -> dict[str, float]:
    """Return the estimate of stage 2's task, from the result of stage 1."""
    return _expected(
        context,
        "extract_tiles",
        _source_size_mb(parameters),
        _source_layout(parameters, tiling),
        variants=("warp" if tiling.get("source_crs") != tiling.get("target_crs") else "window",),
        tile_size=_tile_size(tiling),
    )


def of_joining(context: Context, task_type: str) -> dict[str, float]:
    """Return the estimate of a task of stage 4 or 5; these read only headers, whatever the raster's size."""
    return _expected(context, task_type, 0.0)


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


def of_tile(context: Context, parameters: Json, extraction: Json, tiling: Json) -> dict[str, float]:
    """Return the estimate of one task of stage 3, the COG of a tile, from its uncompressed size.

    Nothing is warped, because tiles are on the target grid.
    """
    side = _tile_size(tiling)
    dtypes = _dtypes(extraction.get("raster_metadata") or {})
    if side is None:
        side = auto_tile_size(sum(np.dtype(name).itemsize for name in dtypes))
    layout = layout_of(dtypes, side, side, codec=_TILE_CODEC, tiled=True, remote=_is_remote(parameters))
    tier = parameters["output_tier"]
    return _expected(
        context,
        "create_cog",
        layout.megabytes * 1e6 / 2**20,
        layout,
        variants=VARIANTS["create_cog"][:_TIERS] if tier == "all" else (tier,),
    )


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


def _expected(
    context: Context, task_type: str, file_size_mb: float, layout: Layout | None = None, **options: Any
) -> dict[str, float]:
    """Return the parameters that routing uses (protocol.md §6), and the memory that admission requires."""
    expected = context.expect(task_type, layout, **options)
    return {
        "file_size_mb": round(file_size_mb, 3),
        "estimated_duration_minutes": max(_LEAST_MINUTES, round(expected.minutes, 3)),
        "estimated_memory_mb": round(expected.memory_mb, 1),
    }


def expect_task(
    task_type: str,
    layout: Layout | None = None,
    *,
    variants: Sequence[str | None] = (None,),
    warps: bool = False,
    tile_size: int | None = None,
    cores: int | None = None,
) -> Expectation:
    """Return the estimate of a raster task, for routing and admission.

    Parameters
    ----------
    layout : Layout, optional
        The layout of the raster; a task that reads only headers needs none.
    variants : sequence
        One variant for each product of the task, as in `estimate_layout`.
    warps, tile_size, cores
        As in `estimate_layout`.

    Raises
    ------
    InvalidParameter
        A variant is unknown, or `cores` is not positive.
    """
    name = normal_task_type(task_type)
    operation = "extract_tiles" if name in EXTRACTION_TASKS else "create_cog" if name in COG_TASKS else None
    if operation is None or layout is None:
        return Expectation(_HEADER_TASK_SECONDS / 60, SHARED_BYTES / 1e6)
    found = [
        estimate_layout(operation, layout, variant=variant, warps=warps, tile_size=tile_size, cores=cores)
        for variant in variants
    ]
    return Expectation(sum(each.minutes for each in found), max(each.peak_memory_mb for each in found))
