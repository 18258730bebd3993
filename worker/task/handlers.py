"""The task handlers: run the gdaltools function of a task type and wrap its result in the envelope.

Parameters and result keys are those of protocol.md §5. A handler that runs again replaces its own products or
keeps those that are already complete, so two runs of a task leave the same products as one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import PurePosixPath
from typing import Any, Generic, Literal, TypeVar

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError
from rasterio.io import DatasetReader

import gdaltools as gt
from gdaltools import storage
from gdaltools.cost.workload import Layout, layout_of
from gdaltools.display.progress import ProgressOption
from gdaltools.errors import GdalToolsError, InvalidParameter
from gdaltools.geo.crs import parse_crs
from gdaltools.raster.dataset import numpy_dtypes, open_dataset
from gdaltools.raster.detect import RASTER_TYPES, RasterType
from gdaltools.raster.roughness import is_rough
from gdaltools.storage import Location
from worker.errors import ConfigurationError, UnknownTaskType
from worker.job import expectations
from worker.job.expectations import Expected
from worker.protocol.messages import describe_problems
from worker.protocol.routing import (
    COG_TASKS,
    EXTRACTION_TASKS,
    MOSAIC_TASKS,
    STAC_TASKS,
    TILING_TASKS,
    normal_task_type,
)
from worker.protocol.rows import unwrapped

_SILVER_COGS = "silver-cogs"
_SILVER_MOSAICS = "silver-mosaicjson"
# The parts of `CogResult` that a task's result has under the same names (protocol.md §5).
_COG_KEYS = {
    "storage_tier", "reprojection_performed", "source_crs", "target_crs", "bounds_4326", "shape", "size_mb",
    "compression", "overview_levels", "overview_resampling", "reproject_resampling", "raster_type",
    "tier_profile",
}  # fmt: skip

# A larger tiling scheme is not read for the memory estimate: its task is assumed to warp.
_LARGE_SCHEME_BYTES = 16 << 20

Result = dict[str, Any]


class Parameters(BaseModel):
    """The base of all handler parameters; unknown fields are ignored, because the platform sends more."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    job_id: str = Field(default="", validation_alias=AliasChoices("_job_id", "job_id"))


class SourceParameters(Parameters):
    """The parameters of a task that reads one raster."""

    container_name: str
    blob_name: str

    @property
    def source(self) -> Location:
        """The raster."""
        return storage.blob(self.container_name, self.blob_name)

    def named(self) -> Result:
        """Return the raster as the task's result names it."""
        return {"source_blob": self.blob_name, "source_container": self.container_name}


class TilingParameters(SourceParameters):
    """The parameters of stage 1."""

    tile_size: int | None = None
    overlap: int = 512
    target_crs: str = "EPSG:4326"
    input_crs: str | None = None
    raster_type: Literal["auto"] | RasterType = "auto"
    band_names: dict[str, str] | None = None
    output_container: str = _SILVER_COGS
    output_blob_name: str | None = None


class ExtractionParameters(SourceParameters):
    """The parameters of stage 2."""

    tiling_scheme_blob: str
    tiling_scheme_container: str = _SILVER_COGS
    output_container: str = Field(
        default_factory=lambda: os.environ.get("INTERMEDIATE_TILES_CONTAINER") or _SILVER_MOSAICS
    )
    output_prefix: str | None = None
    input_crs: str | None = None


class CogParameters(SourceParameters):
    """The parameters of stage 3."""

    source_crs: str | None = None
    target_crs: str | None = None
    raster_type: dict[str, Any] = Field(default_factory=dict)
    output_tier: Literal["visualization", "analysis", "archive", "all"] = "analysis"
    output_blob_name: str | None = None
    output_container: str = _SILVER_COGS
    jpeg_quality: int = 85
    overview_resampling: str | None = None
    reproject_resampling: str | None = None


class FanInParameters(Parameters):
    """The parameters of stages 4 and 5."""

    previous_results: list[dict[str, Any]]
    job_parameters: dict[str, Any] = Field(default_factory=dict)


def generate_tiling_scheme(parameters: TilingParameters, progress: ProgressOption) -> Result:
    """Plan the tiles of a raster and store the plan as GeoJSON."""
    started = time.monotonic()
    source = parameters.source
    scheme = gt.generate_tiling_scheme(
        source,
        parameters.tile_size,
        parameters.overlap,
        parameters.target_crs,
        input_crs=parameters.input_crs,
        raster_type=parameters.raster_type,
        band_names=parameters.band_names,
    )
    name = parameters.output_blob_name or f"{_scope(parameters)}{source.stem}_tiling_scheme.geojson"
    target = storage.blob(parameters.output_container, name)
    facts = scheme_facts(scheme)
    scheme.write(target, overwrite=True, metadata=facts)
    return {
        "tiling_scheme_blob": name,
        "tiling_scheme_container": parameters.output_container,
        **parameters.named(),
        **facts,
        "processing_time_seconds": _since(started),
    }


def scheme_facts(scheme: gt.TilingScheme) -> dict[str, Any]:
    """Return a scheme's part of the result of stage 1, with the keys of protocol.md §5."""
    grid = scheme.grid
    return {
        "total_tiles": len(scheme),
        "grid": {
            "rows": scheme.rows,
            "cols": scheme.cols,
            "tile_size_pixels": scheme.tile_size,
            "overlap_pixels": scheme.overlap,
            "effective_tile_size": scheme.tile_size - scheme.overlap,
            "total_tiles": len(scheme),
            "overlap_percentage": round(100 * scheme.overlap / scheme.tile_size, 2),
            "cog_blocksize": scheme.cog_blocksize,
        },
        "source_crs": scheme.source_grid.crs,
        "target_crs": grid.crs,
        "target_bounds": list(grid.bounds),
        "target_dimensions": [grid.width, grid.height],
        "target_resolution": list(grid.resolution),
        "raster_metadata": {
            "band_count": scheme.band_count,
            "actual_band_count": scheme.band_count,
            "data_type": scheme.data_type,
            "detected_type": scheme.raster_type,
            "detection_confidence": scheme.detection_confidence,
            "auto_band_names": scheme.auto_band_names,
            "used_band_names": scheme.used_band_names,
        },
    }


def extract_tiles(parameters: ExtractionParameters, progress: ProgressOption) -> Result:
    """Extract the tiles of a tiling scheme from its raster, warped onto the scheme's grid."""
    started = time.monotonic()
    source = parameters.source
    scheme = gt.read_tiling_scheme(
        storage.blob(parameters.tiling_scheme_container, parameters.tiling_scheme_blob),
        raster=source,
        input_crs=parameters.input_crs,
    )
    prefix = (parameters.output_prefix or f"{_scope(parameters)}tiles").rstrip("/") + "/"
    extracted = gt.extract_tiles(
        source,
        scheme,
        storage.blob(parameters.output_container, prefix.rstrip("/")),
        overwrite=True,
        resume=True,
        progress=progress,
    )
    return {
        "tiles_blob_prefix": prefix,
        "tiles_container": parameters.output_container,
        "total_tiles": len(extracted.tiles),
        "tile_blobs": [storage.locate(tile.location).name for tile in extracted.tiles],
        **parameters.named(),
        "tiling_scheme_blob": parameters.tiling_scheme_blob,
        # The tiles are on the target grid, and stage 3 uses this as their CRS.
        "source_crs": scheme.grid.crs,
        "raster_metadata": scheme_facts(scheme)["raster_metadata"],
        "extraction_time_seconds": extracted.seconds,
        "upload_time_seconds": 0.0,
        "processing_time_seconds": _since(started),
    }


def create_cog(parameters: CogParameters, progress: ProgressOption) -> Result:
    """Write one tile as a Cloud Optimized GeoTIFF, or as one for each tier if `output_tier` is "all"."""
    started = time.monotonic()
    source = parameters.source
    raw = parameters.raster_type.get("detected_type")
    raster_type = raw if raw in RASTER_TYPES else "auto"
    # The CRS of the file takes precedence; the parameter is for files without one.
    with open_dataset(source) as dataset:
        input_crs = None if dataset.crs else parameters.source_crs
    is_classes = raster_type == "categorical"
    made: dict[str, tuple[str, gt.CogResult]] = {}
    for tier in expectations.tiers_of(parameters.output_tier):
        profile = gt.cog_profile(source, tier, raster_type=raster_type)
        if profile.tier in made:
            continue
        name = _cog_name(parameters, source, profile.tier)
        usual = parameters.overview_resampling == profile.overview_resampling
        cog = gt.create_cog(
            source,
            storage.blob(parameters.output_container, name),
            tier,
            raster_type=profile.raster_type,
            target_crs=parameters.target_crs,
            input_crs=input_crs,
            quality=parameters.jpeg_quality,
            # The platform sends average and bilinear for every raster; neither is valid for class values.
            overview_resampling=None if is_classes or usual else parameters.overview_resampling,
            reproject_resampling=None if is_classes else parameters.reproject_resampling,
            # Plain tiles are ZSTD at its lowest level, so a ZSTD tier encodes them again.
            reuse=profile.compression != "ZSTD",
            overwrite=True,
            progress=progress,
        )
        made[profile.tier] = name, cog
    (name, cog), *others = made.values()
    result = {
        "cog_blob": name,
        "cog_container": parameters.output_container,
        "cog_tier": cog.tier,
        **parameters.named(),
        **cog.model_dump(include=_COG_KEYS),
        "jpeg_quality": cog.quality,
        "tile_size": cog.blocksize,
        "processing_time_seconds": _since(started),
    }
    if others:
        result["other_tiers"] = [{"cog_blob": name, "cog_tier": cog.tier} for name, cog in others]
    return result


def create_mosaicjson(parameters: FanInParameters, progress: ProgressOption) -> Result:
    """Write one MosaicJSON of all COGs of a job."""
    cogs = _cogs_of(parameters)
    name = f"{_scope(parameters)}{_job_stem(parameters)}_mosaic.json"
    target = storage.blob(_SILVER_MOSAICS, name)
    mosaic = gt.create_mosaicjson(
        [cog.gdal_path for cog in cogs],  # any GDAL reader of the mosaic can open these paths
        target,
        maxzoom=parameters.job_parameters.get("maxzoom"),
        name=_job_stem(parameters),
        overwrite=True,
        progress=progress,
    )
    return {
        "mosaicjson_blob": name,
        "mosaicjson_url": storage.url(target),
        **mosaic.model_dump(
            include={"tile_count", "bounds", "minzoom", "maxzoom", "quadkey_count", "center"}
        ),
        "cog_blobs": [cog.name for cog in cogs],
        "cog_container": cogs[0].container,
    }


def create_stac_collection(parameters: FanInParameters, progress: ProgressOption) -> Result:
    """Write a STAC collection of the COGs of a job and of its mosaic."""
    cogs = _cogs_of(parameters)
    job = parameters.job_parameters
    mosaic = _mosaic_of(parameters)
    collection_id = job.get("collection_id") or "system-rasters"
    stac_id = job.get("stac_item_id")
    made = gt.create_stac_collection(
        cogs,
        storage.blob(_SILVER_MOSAICS, f"{_scope(parameters)}stac"),
        collection_id=collection_id,
        item_id_prefix=f"{stac_id}-" if stac_id else "",
        mosaicjson=mosaic,
        overwrite=True,
        progress=progress,
    )
    return {
        "collection_id": collection_id,
        "stac_id": stac_id or collection_id,
        "stac_blob": storage.locate(made.location).name,
        "stac_container": _SILVER_MOSAICS,
        "tile_count": len(cogs),
        **made.model_dump(include={"items_created", "items_failed", "spatial_extent"}),
        "mosaicjson_url": storage.url(mosaic) if mosaic else None,
        **dict.fromkeys(("pgstac_id", "search_id", "viewer_url")),  # the platform's own
    }


def _expect_extraction(parameters: ExtractionParameters) -> Expected:
    source = parameters.source
    plan = storage.blob(parameters.tiling_scheme_container, parameters.tiling_scheme_blob)
    with open_dataset(source, verify=False) as dataset:
        layout = _layout(dataset, source)
    if storage.stat(plan).size > _LARGE_SCHEME_BYTES:
        return expectations.of_tiles(layout, warps=True)
    scheme = gt.read_tiling_scheme(plan, raster=source, input_crs=parameters.input_crs)
    return expectations.of_tiles(layout, warps=scheme.warps, tile_size=scheme.tile_size)


def _expect_cog(parameters: CogParameters) -> Expected:
    source = parameters.source
    with open_dataset(source, verify=False) as dataset:
        layout, crs = _layout(dataset, source), dataset.crs
    if not crs and parameters.source_crs:
        crs = parse_crs(parameters.source_crs, "source_crs")
    target = parameters.target_crs
    warps = bool(target) and parse_crs(target, "target_crs") != crs
    return expectations.of_cogs(layout, parameters.output_tier, warps=warps)


def _layout(dataset: DatasetReader, source: Location) -> Layout:
    compression = dataset.profile.get("compress")
    return layout_of(
        numpy_dtypes(dataset),
        dataset.width,
        dataset.height,
        codec=compression.lower() if compression else None,
        stored_mb=storage.stat(source).size / 1e6,
        tiled=bool(dataset.profile.get("tiled")),
        remote=source.path is None,
        rough=is_rough(dataset, source),
    )


def _cog_name(parameters: CogParameters, source: Location, tier: str) -> str:
    path = PurePosixPath(parameters.output_blob_name or f"{source.stem}_cog.tif")
    if path.stem.endswith(f"_{tier}"):
        return str(path)
    return str(path.with_name(f"{path.stem}_{tier}.tif"))


def _cogs_of(parameters: FanInParameters) -> list[Location]:
    """Return the COGs that `previous_results` name, without duplicates and in a fixed order."""
    cogs = []
    for result in _results(parameters):
        container = result.get("cog_container", _SILVER_COGS)
        names = result.get("cog_blobs") or ([result["cog_blob"]] if "cog_blob" in result else [])
        cogs += [storage.blob(container, name) for name in names]
    if not cogs:
        raise InvalidParameter("previous_results name no COG: the stage before made none that succeeded")
    return sorted(set(cogs), key=str)


def _mosaic_of(parameters: FanInParameters) -> Location | None:
    """Return the MosaicJSON that `previous_results` name; None if they name none or it does not exist."""
    for result in _results(parameters):
        if "mosaicjson_blob" in result:
            found = storage.blob(_SILVER_MOSAICS, result["mosaicjson_blob"])
            return found if storage.exists(found) else None
    return None


def _results(parameters: FanInParameters) -> list[Mapping[str, Any]]:
    """Return the results of the stage before that succeeded."""
    return [unwrapped(result) for result in parameters.previous_results if result.get("success", True)]


def _job_stem(parameters: FanInParameters) -> str:
    return PurePosixPath(parameters.job_parameters.get("blob_name", "mosaic")).stem


def _scope(parameters: Parameters) -> str:
    """Return the prefix that separates the products of different jobs."""
    return f"{parameters.job_id[:8]}/" if parameters.job_id else ""


def _since(started: float) -> float:
    return round(time.monotonic() - started, 3)


P = TypeVar("P", bound=Parameters)


@dataclass(frozen=True)
class Handler(Generic[P]):
    """A task type: the model of its parameters, its function, and whether its result is flat.

    `expect`, if set, returns what a run takes, from headers alone.
    """

    parameters: type[P]
    function: Callable[[P, ProgressOption], Result]
    flat: bool = False
    expect: Callable[[P], Expected] | None = None

    def run(self, raw: Mapping[str, Any], progress: ProgressOption) -> Result:
        """Run the function on validated parameters and return its result in the envelope.

        Raises
        ------
        InvalidParameter
            A parameter is missing or wrong.
        GdalToolsError
            The function's own error.
        """
        result = self.function(self._validated(raw), progress)
        return {"success": True, **result} if self.flat else {"success": True, "result": result}

    def expectation(self, raw: Mapping[str, Any]) -> Expected | None:
        """Return the estimate of a run; None if there is none or if the run will raise for its parameters."""
        if self.expect is None:
            return None
        try:
            return self.expect(self._validated(raw))
        except GdalToolsError:
            return None

    def _validated(self, raw: Mapping[str, Any]) -> P:
        try:
            return self.parameters.model_validate(raw)
        except ValidationError as error:
            raise InvalidParameter(f"task parameters: {describe_problems(error)}") from error


HANDLERS: Mapping[str, Handler[Any]] = {
    name: handler
    for names, handler in (
        (TILING_TASKS, Handler(TilingParameters, generate_tiling_scheme)),
        (EXTRACTION_TASKS, Handler(ExtractionParameters, extract_tiles, expect=_expect_extraction)),
        (COG_TASKS, Handler(CogParameters, create_cog, expect=_expect_cog)),
        (MOSAIC_TASKS, Handler(FanInParameters, create_mosaicjson, flat=True)),
        (STAC_TASKS, Handler(FanInParameters, create_stac_collection, flat=True)),
    )
    for name in names
}


def run(task_type: str, parameters: Mapping[str, Any], *, progress: ProgressOption = False) -> Result:
    """Run the handler of a task type.

    Raises
    ------
    UnknownTaskType
        This worker has no handler for the type.
    GdalToolsError
        The handler's own error.
    """
    known = _known()
    handler = known.get(normal_task_type(task_type))
    if handler is None:
        raise UnknownTaskType(
            f"no handler runs task type {task_type!r} here: send it to the application that does "
            f"(this worker runs {', '.join(sorted(known))})"
        )
    return handler.run(parameters, progress)


def expectation(task_type: str, parameters: Mapping[str, Any]) -> Expected | None:
    """Return the estimate of a task; reads only headers, a few small windows and the tiling scheme.

    The memory is that of a separate process; a process that shares its imports with the forkserver was
    measured to use 7% to 22% less. Returns None for types that need little or have no handler, and for
    invalid parameters or sources, for which the run itself raises.
    """
    handler = _known().get(normal_task_type(task_type))
    return None if handler is None else handler.expectation(parameters)


def _known() -> Mapping[str, Handler[Any]]:
    """Return `HANDLERS` and the handlers of the modules that WORKER_HANDLERS names.

    Raises
    ------
    ConfigurationError
        A module cannot be imported or has no HANDLERS, a mapping of task types to `Handler`.
    """
    found = dict(HANDLERS)
    for name in filter(None, map(str.strip, os.environ.get("WORKER_HANDLERS", "").split(","))):
        try:
            theirs = import_module(name).HANDLERS
        except (ImportError, AttributeError) as error:
            raise ConfigurationError(
                f"WORKER_HANDLERS names {name!r}, which gives no HANDLERS: {error}"
            ) from error
        found |= {normal_task_type(task_type): handler for task_type, handler in theirs.items()}
    return found
