"""The platform's job definitions, by protocol.md §5: a job's id, its stages' tasks, its result; all pure."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from tests.support.platform.tables import NewTask

LARGE_RASTER = "process_large_raster_v2"
NOOP = "noop_job"
"""Synthetic: parameters {stages, tasks, task_type, task_parameters}; see `_noop_tasks`."""

_LARGE_RASTER_STAGES = 5
_COG_SETTINGS = {"compression": "deflate", "tile_size": 512}

Values = Mapping[str, Any]


def job_id_of(job_type: str, parameters: Values) -> str:
    """Return the job's id, which is the same for the same request."""
    text = json.dumps({"job_type": job_type, **parameters}, sort_keys=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def stage_count(job_type: str, parameters: Values) -> int:
    """Return the number of the job's stages."""
    return int(parameters["stages"]) if job_type == NOOP else _LARGE_RASTER_STAGES


def stage_tasks(job: Values, stage: int, previous: Sequence[Values]) -> list[NewTask]:
    """Return the tasks that a stage begins with.

    Parameters
    ----------
    job
        The job's row.
    previous
        The result_data of every task of the previous stage.
    """
    if job["job_type"] == NOOP:
        return _noop_tasks(job, stage)
    return _LARGE_RASTER[stage](job, previous)


def fan_in_id(job_id: str, stage: int) -> str:
    """Return the id of a stage's single task that takes all results of the previous stage."""
    return hashlib.sha256(f"{job_id}|s{stage}|fan_in_aggregate".encode()).hexdigest()[:16]


def job_result(job: Values, tasks: Sequence[Values]) -> dict[str, Any]:
    """Return the finished job's result_data.

    Parameters
    ----------
    tasks
        The rows of all its tasks.
    """
    common = {
        "job_type": job["job_type"],
        "job_id": job["job_id"],
        "stages_completed": job["total_stages"],
        "total_tasks_executed": len(tasks),
        "tasks_by_status": dict(Counter(task["status"] for task in tasks)),
    }
    if job["job_type"] == NOOP:
        return common
    results = {
        stage: [task["result_data"] for task in tasks if task["stage"] == stage]
        for stage in range(1, _LARGE_RASTER_STAGES + 1)
    }
    scheme, extraction = results[1][0]["result"], results[2][0]["result"]
    cogs = [result["result"] for result in results[3]]
    mosaic, stac = results[4][0], results[5][0]
    return {
        **common,
        "collection_id": stac["collection_id"],
        "cogs": {
            "total_count": len(cogs),
            "successful": len(cogs),
            "failed": 0,
            "total_size_mb": sum(cog["size_mb"] for cog in cogs),
        },
        "mosaicjson": {
            "blob_path": mosaic["mosaicjson_blob"],
            "url": mosaic["mosaicjson_url"],
            "bounds": mosaic["bounds"],
            "tile_count": mosaic["tile_count"],
        },
        "stac": {name: stac[name] for name in ("collection_id", "stac_id", "items_created", "items_failed")},
        "source_blob": scheme["source_blob"],
        "source_container": scheme["source_container"],
        "tiling": {
            "scheme_blob": scheme["tiling_scheme_blob"],
            "tile_count": scheme["total_tiles"],
            "grid_dimensions": f"{scheme['grid']['rows']}x{scheme['grid']['cols']}",
        },
        "extraction": {
            "processing_time_seconds": extraction["processing_time_seconds"],
            "tiles_extracted": extraction["total_tiles"],
        },
        "blob_size_mb": job["parameters"]["_blob_size_mb"],
    }


def _noop_tasks(job: Values, stage: int) -> list[NewTask]:
    """Return `tasks` tasks of one type; in their text parameters, ``{index}`` is replaced by the index."""
    given = job["parameters"]
    return [
        NewTask(
            f"{job['job_id'][:8]}-s{stage}-{index}",
            given["task_type"],
            {
                name: value.replace("{index}", str(index)) if isinstance(value, str) else value
                for name, value in given["task_parameters"].items()
            }
            | {"index": index},
            str(index),
        )
        for index in range(given["tasks"])
    ]


def _tiling(job: Values, previous: Sequence[Values]) -> list[NewTask]:
    given = job["parameters"]
    parameters = {
        "container_name": given["container_name"],
        "blob_name": given["blob_name"],
        "tile_size": given.get("tile_size"),
        "overlap": given.get("overlap", 512),
        "output_container": "silver-cogs",
        "band_names": given.get("band_names"),
        "target_crs": given.get("target_crs", "EPSG:4326"),
    }
    return [NewTask(f"{job['job_id'][:8]}-s1-tiling", "generate_tiling_scheme", parameters)]


def _extraction(job: Values, previous: Sequence[Values]) -> list[NewTask]:
    given, scheme = job["parameters"], previous[0]["result"]
    parameters = {
        "container_name": given["container_name"],
        "blob_name": given["blob_name"],
        "tiling_scheme_blob": scheme["tiling_scheme_blob"],
        "tiling_scheme_container": scheme["tiling_scheme_container"],
        "output_container": "silver-mosaicjson",
        "job_id": job["job_id"],
        "band_names": given.get("band_names"),
    }
    return [NewTask(f"{job['job_id'][:8]}-s2-extract", "extract_tiles", parameters)]


def _cogs(job: Values, previous: Sequence[Values]) -> list[NewTask]:
    given, extraction = job["parameters"], previous[0]["result"]
    facts = extraction["raster_metadata"]
    stem = PurePosixPath(given["blob_name"]).stem
    folder = f"{given['output_folder']}/" if given.get("output_folder") else ""
    raster_type = {
        "detected_type": facts["detected_type"],
        "band_count": facts["band_count"],
        "data_type": facts["data_type"],
        "optimal_cog_settings": _COG_SETTINGS,
    }
    tasks = []
    for index, tile in enumerate(extraction["tile_blobs"]):
        name = PurePosixPath(tile).stem.removeprefix(f"{stem}_")
        parameters = {
            "container_name": extraction["tiles_container"],
            "blob_name": tile,
            "source_crs": extraction["source_crs"],
            "target_crs": given.get("target_crs", "EPSG:4326"),
            "raster_type": raster_type,
            "output_tier": given.get("output_tier", "analysis"),
            "output_blob_name": f"{folder}{stem}_{name}_cog.tif",
            "output_container": "silver-cogs",
            "jpeg_quality": given.get("jpeg_quality", 85),
            "overview_resampling": "average",
            "reproject_resampling": "bilinear",
            "in_memory": True,
        }
        tasks.append(NewTask(f"{job['job_id'][:8]}-s3-cog-{name}", "create_cog", parameters, str(index)))
    return tasks


def _fan_in(stage: int, task_type: str, job: Values, previous: Sequence[Values]) -> list[NewTask]:
    parameters = {
        "previous_results": list(previous),
        "job_parameters": job["parameters"],
        "aggregation_metadata": {
            "stage": stage,
            "previous_stage": stage - 1,
            "result_count": len(previous),
            "pattern": "fan_in",
        },
    }
    return [NewTask(fan_in_id(job["job_id"], stage), task_type, parameters)]


_LARGE_RASTER = {
    1: _tiling,
    2: _extraction,
    3: _cogs,
    4: lambda job, previous: _fan_in(4, "create_mosaicjson", job, previous),
    5: lambda job, previous: _fan_in(5, "create_stac_collection", job, previous),
}
