"""What a job's tasks are expected to take, by what the stages before told of the raster.

It stands on rasterio and numpy, which a worker beside a platform does without: imported where jobs are
planned.
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

# How plain tiles are written.
_TILE_CODEC = "zstd"
# What the tier "all" makes.
_TIERS = 3
_SIDES = 2
# No task takes no time.
_LEAST_MINUTES = 0.001

# Tasks that read headers only: planning a scheme, joining products.
_HEADER_TASK_SECONDS = 5.0


def of_planning(context: Context, parameters: Json) -> dict[str, float]:
    """What stage 1's task takes."""
    return _expected(context, "generate_tiling_scheme", _source_size_mb(parameters))


def of_extraction(context: Context, parameters: Json, tiling: Json) -> dict[str, float]:
    """What stage 2's task takes, by the result of stage 1."""
    return _expected(
        context,
        "extract_tiles",
        _source_size_mb(parameters),
        _source_layout(parameters, tiling),
        variants=("warp" if tiling.get("source_crs") != tiling.get("target_crs") else "window",),
        tile_size=_tile_size(tiling),
    )


def of_joining(context: Context, task_type: str) -> dict[str, float]:
    """What stage 4's and 5's tasks take, which read headers, however large the raster was."""
    return _expected(context, task_type, 0.0)


def _source_size_mb(parameters: Json) -> float:
    return float(parameters.get("_blob_size_mb") or 0.0)


def _source_layout(parameters: Json, tiling: Json) -> Layout:
    """What stage 1 tells of the pixels that an extraction makes; where it does not, the file's size does."""
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
    """What one task of stage 3 takes: the COG of a tile, by its size uncompressed.

    Nothing is warped, as tiles lie on the target grid.
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
    """The bands' dtypes by stage 1's or 2's metadata; the widest where it names none that there is."""
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
    """What routing decides by (protocol.md §6), and the memory that admission will ask for."""
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
    """What a task of a raster is expected to take, for routing and admission.

    Parameters
    ----------
    layout : Layout, optional
        What is known of the raster; a task that reads headers only needs none.
    variants : sequence
        One for each product that the task makes, as `estimate_layout` takes it.
    warps, tile_size, cores
        As `estimate_layout` takes them.

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
