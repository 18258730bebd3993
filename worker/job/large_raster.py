"""The job ``process_large_raster_v2``: tiles, COGs, a MosaicJSON and a STAC collection of a large raster.

The job has five stages, numbered as in protocol.md §5 even if some are omitted. Without
``create_mosaicjson``, stage 4 has no task and is skipped; stage 5 then aggregates the COGs of stage 3.
Without ``create_stac_collection`` the job ends after stage 4, and without both after stage 3.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from types import ModuleType
from typing import Annotated, Any, Literal
from urllib.parse import unquote

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from gdaltools import storage
from worker.job.definitions import (
    Context,
    InvalidJob,
    JobDefinition,
    JobSoFar,
    PlannedTask,
    StageError,
    fan_in_task_id,
    without_nulls,
)
from worker.protocol.messages import describe_problems
from worker.protocol.rows import Json, unwrapped

JOB_TYPE = "process_large_raster_v2"
TILING, EXTRACTION, COGS, MOSAIC, STAC = 1, 2, 3, 4, 5

TILE_STEP = 16
"""TIFF 6.0, section 15: the sides of a tile are multiples of 16."""


def _container(name: str) -> str:
    storage.check_container_name(name)
    return name


def _blob(name: str) -> str:
    # An encoded '..' is refused as well, because a later reader may decode it.
    for spelling in (name, unquote(name)):
        storage.check_blob_name(spelling)
    return name


def _folder(name: str) -> str:
    return _blob(name.strip("/")) if name.strip("/") else _blob(name)


def _identifier(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,254}", name):
        raise ValueError(
            "an id is 1 to 255 letters, digits, '.', '_', ':' or '-', beginning with a letter or digit"
        )
    return name


def _text_values(value: object) -> object:
    return {str(key): item for key, item in value.items()} if isinstance(value, dict) else value


def _bands(names: dict[str, str]) -> dict[str, str]:
    wrong = [key for key in names if not re.fullmatch(r"[1-9][0-9]{0,4}", key)]
    if wrong:
        raise ValueError(f"bands are numbered from 1: {wrong[0]!r} is no band number")
    return names


Container = Annotated[str, AfterValidator(_container)]
Blob = Annotated[str, AfterValidator(_blob)]
Identifier = Annotated[str, AfterValidator(_identifier)]


class LargeRasterParameters(BaseModel):
    """The job's parameters; unknown ones are kept and ignored, and nulls count as missing."""

    model_config = ConfigDict(frozen=True, extra="allow")

    container_name: Container
    blob_name: Blob
    raster_type: Literal["auto", "rgb", "rgba", "dem", "categorical", "multispectral", "nir"] = "auto"
    output_tier: Literal["visualization", "analysis", "archive", "all"] = "analysis"
    output_folder: Annotated[str, AfterValidator(_folder)] | None = None
    output_container: Container | None = None
    target_crs: Annotated[str, Field(min_length=1)] = "EPSG:4326"
    jpeg_quality: Annotated[int, Field(ge=1, le=100)] = 85
    input_crs: Annotated[str, Field(min_length=1)] | None = None
    collection_id: Identifier = "system-rasters"
    stac_item_id: Identifier | None = None
    tile_size: Annotated[int, Field(ge=TILE_STEP, multiple_of=TILE_STEP)] | None = None
    overlap: Annotated[int, Field(ge=0)] = 512
    band_names: Annotated[dict[str, str], BeforeValidator(_text_values), AfterValidator(_bands)] | None = None
    overview_level: Annotated[int, Field(ge=0)] | None = None
    maxzoom: Annotated[int, Field(ge=0, le=24)] | None = None
    create_mosaicjson: bool = True
    create_stac_collection: bool = True

    @model_validator(mode="after")
    def _overlap_below_tile_size(self) -> LargeRasterParameters:
        if self.tile_size is not None and self.overlap >= self.tile_size:
            raise ValueError(
                f"overlap is {self.overlap} and tile_size {self.tile_size}: the overlap must be smaller than "
                "the tile"
            )
        return self


class LargeRaster:
    """The definition of ``process_large_raster_v2``."""

    job_type = JOB_TYPE

    def validate(self, parameters: Json) -> dict[str, Any]:
        """Return the parameters with their defaults, without nulls; raises `InvalidJob`."""
        try:
            model = LargeRasterParameters.model_validate(without_nulls(parameters))
        except ValidationError as error:
            raise InvalidJob(f"{JOB_TYPE}: {describe_problems(error)}") from error
        return model.model_dump(exclude_none=True)

    def source(self, parameters: Json) -> tuple[str, str] | None:
        """Return the raster's container and blob."""
        return parameters["container_name"], parameters["blob_name"]

    def stages(self, parameters: Json) -> tuple[int, ...]:
        """Return the stages that have tasks."""
        mosaic = (MOSAIC,) if parameters.get("create_mosaicjson", True) else ()
        stac = (STAC,) if parameters.get("create_stac_collection", True) else ()
        return (TILING, EXTRACTION, COGS, *mosaic, *stac)

    def reads(self, stage: int) -> tuple[int, ...]:
        """Return the stages to read besides the previous one: the COGs' sizes come from the tiling."""
        return (TILING,) if stage == COGS else ()

    def tasks(self, stage: int, job: JobSoFar, context: Context) -> list[PlannedTask]:
        """Return a stage's tasks, with the parameters of protocol.md §5."""
        if stage == TILING:
            return [_tiling(job, context)]
        if stage == EXTRACTION:
            return [_extraction(job, context)]
        if stage == COGS:
            return _cogs(job, context)
        if stage in self.stages(job.parameters):
            before = max(number for number in self.stages(job.parameters) if number < stage)
            return [_fan_in(job, stage, before)]
        raise StageError(f"{JOB_TYPE} has no stage {stage} with these parameters")

    def result(self, job: JobSoFar, tasks_by_status: Mapping[str, int]) -> dict[str, Any]:
        """Return the finished job's result_data, with every key of protocol.md §5."""
        parameters, results = job.parameters, job.results
        tiling, extraction = _only_result(results, TILING), _only_result(results, EXTRACTION)
        cogs = [unwrapped(result) for result in results.get(COGS, ())]
        successful = sum(bool(result.get("success")) for result in results.get(COGS, ()))
        grid = tiling.get("grid") or {}
        return {
            "job_type": JOB_TYPE,
            "job_id": job.job_id,
            "collection_id": parameters.get("collection_id"),
            "cogs": {
                "total_count": len(cogs),
                "successful": successful,
                "failed": len(cogs) - successful,
                "total_size_mb": round(sum(float(cog.get("size_mb") or 0) for cog in cogs), 3),
            },
            "mosaicjson": _mosaic_summary(results.get(MOSAIC, ())),
            "stac": _stac_summary(results.get(STAC, ())),
            "stages_completed": len(results),
            "total_tasks_executed": sum(tasks_by_status.values()),
            "tasks_by_status": dict(tasks_by_status),
            "source_blob": parameters["blob_name"],
            "source_container": parameters["container_name"],
            "tiling": {
                "scheme_blob": tiling.get("tiling_scheme_blob"),
                "tile_count": tiling.get("total_tiles"),
                "grid_dimensions": {"rows": grid.get("rows"), "cols": grid.get("cols")},
            },
            "extraction": {
                "processing_time_seconds": extraction.get("processing_time_seconds"),
                "tiles_extracted": extraction.get("total_tiles", len(extraction.get("tile_blobs") or ())),
            },
            "blob_size_mb": parameters.get("_blob_size_mb"),
        }


REGISTRY: dict[str, JobDefinition] = {JOB_TYPE: LargeRaster()}
"""The job types of this project; new ones are added here."""


def _tiling(job: JobSoFar, context: Context) -> PlannedTask:
    parameters = job.parameters
    stem = PurePosixPath(parameters["blob_name"]).stem
    return PlannedTask(
        f"{job.job_id[:8]}-s1-tiling",
        "generate_tiling_scheme",
        without_nulls(
            {
                "container_name": parameters["container_name"],
                "blob_name": parameters["blob_name"],
                "tile_size": parameters.get("tile_size"),
                "overlap": parameters["overlap"],
                "output_container": _products(parameters, context),
                "output_blob_name": f"{job.job_id[:8]}/{stem}_tiling_scheme.geojson",
                "band_names": parameters.get("band_names"),
                "target_crs": parameters["target_crs"],
                "input_crs": parameters.get("input_crs"),
                "raster_type": None if parameters["raster_type"] == "auto" else parameters["raster_type"],
            }
        )
        | _expectations().of_planning(parameters),
    )


def _extraction(job: JobSoFar, context: Context) -> PlannedTask:
    parameters, tiling = job.parameters, _only_result(job.results, TILING)
    band_names = parameters.get("band_names") or (tiling.get("raster_metadata") or {}).get("used_band_names")
    return PlannedTask(
        f"{job.job_id[:8]}-s2-extract",
        "extract_tiles",
        without_nulls(
            {
                "container_name": parameters["container_name"],
                "blob_name": parameters["blob_name"],
                "tiling_scheme_blob": _needed(tiling, "tiling_scheme_blob", TILING),
                "tiling_scheme_container": tiling.get("tiling_scheme_container")
                or _products(parameters, context),
                "output_container": context.intermediate_container,
                "job_id": job.job_id,
                "band_names": band_names or None,
                "input_crs": parameters.get("input_crs"),
            }
        )
        | _expectations().of_extraction(context, parameters, tiling),
    )


def _cogs(job: JobSoFar, context: Context) -> list[PlannedTask]:
    parameters, tiling = job.parameters, _only_result(job.results, TILING)
    extraction = _only_result(job.results, EXTRACTION)
    blobs = _needed(extraction, "tile_blobs", EXTRACTION)
    if not isinstance(blobs, list) or not blobs:
        raise StageError(f"stage {EXTRACTION} extracted no tiles")
    metadata = extraction.get("raster_metadata") or {}
    detected = parameters.get("raster_type", "auto")
    raster_type = {
        "detected_type": metadata.get("detected_type", "unknown") if detected == "auto" else detected,
        "band_count": metadata.get("band_count", 3),
        "data_type": metadata.get("data_type", "uint8"),
        "optimal_cog_settings": {},
    }
    common = {
        "container_name": extraction.get("tiles_container") or context.intermediate_container,
        "source_crs": _needed(extraction, "source_crs", EXTRACTION),
        "target_crs": parameters["target_crs"],
        "raster_type": raster_type,
        "output_tier": parameters["output_tier"],
        "output_container": _products(parameters, context),
        "jpeg_quality": parameters["jpeg_quality"],
        "overview_resampling": "average",
        "reproject_resampling": "bilinear",
        "in_memory": False,
    } | _expectations().of_tile(context, parameters, extraction, tiling)
    folder = parameters.get("output_folder")
    tasks: dict[str, PlannedTask] = {}
    for index, blob in enumerate(blobs):
        name = PurePosixPath(str(blob)).stem
        output = f"{folder}/{name}_cog.tif" if folder else f"{name}_cog.tif"
        task_id = f"{job.job_id[:8]}-s3-cog-{_tile_id(name)}"
        parameters_of_task = {"blob_name": blob, "output_blob_name": output, **common}
        tasks[task_id] = PlannedTask(task_id, "create_cog", parameters_of_task, str(index))
    if len(tasks) != len(blobs):
        raise StageError(f"stage {EXTRACTION} lists two tiles of the same tile id")
    return list(tasks.values())


def _fan_in(job: JobSoFar, stage: int, before: int) -> PlannedTask:
    results = job.results.get(before, ())
    if not results:
        raise StageError(f"stage {before} has no results to aggregate")
    task_type = "create_mosaicjson" if stage == MOSAIC else "create_stac_collection"
    return PlannedTask(
        fan_in_task_id(job.job_id, stage),
        task_type,
        {
            "previous_results": list(results),
            "job_parameters": dict(job.parameters),
            "aggregation_metadata": {
                "stage": stage,
                "previous_stage": before,
                "result_count": len(results),
                "pattern": "fan_in",
            },
        }
        | _expectations().of_joining(),
    )


def _mosaic_summary(results: Sequence[Json]) -> dict[str, Any] | None:
    if not results:
        return None
    mosaic = unwrapped(results[0])
    return {
        "blob_path": mosaic.get("mosaicjson_blob"),
        "url": mosaic.get("mosaicjson_url"),
        "bounds": mosaic.get("bounds"),
        "tile_count": mosaic.get("tile_count"),
    }


def _stac_summary(results: Sequence[Json]) -> dict[str, Any] | None:
    if not results:
        return None
    keys = ("collection_id", "stac_id", "tile_count", "items_created", "items_failed", "spatial_extent",
            "mosaicjson_url", "pgstac_id", "search_id", "viewer_url")  # fmt: skip
    return {key: unwrapped(results[0]).get(key) for key in keys}


def _only_result(results: Mapping[int, Sequence[Json]], stage: int) -> Json:
    found = results.get(stage, ())
    if len(found) != 1:
        raise StageError(f"stage {stage} has {len(found)} results where there must be one")
    if not found[0].get("success") or not isinstance(found[0].get("result"), Mapping):
        raise StageError(f"stage {stage} left no result: {str(found[0])[:200]}")
    return unwrapped(found[0])


def _needed(result: Json, key: str, stage: int) -> Any:
    value = result.get(key)
    if value is None:
        raise StageError(f"stage {stage}'s result lacks {key!r}")
    return value


def _tile_id(stem: str) -> str:
    found = re.search(r"tile_\d+_\d+$", stem)
    if found is None:
        raise StageError(f"{stem!r} does not end with a tile id (tile_ROW_COL)")
    return found.group()


def _products(parameters: Json, context: Context) -> str:
    return str(parameters.get("output_container") or context.products_container)


def _expectations() -> ModuleType:
    """Return `worker.job.expectations`; it imports rasterio and numpy, so it is loaded only to plan jobs."""
    from worker.job import expectations

    return expectations
