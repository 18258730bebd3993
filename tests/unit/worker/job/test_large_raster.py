from unittest.mock import ANY

import pytest

from gdaltools.cost.workload import Layout
from gdaltools.errors import InvalidParameter
from worker.job.definitions import (
    Context,
    JobSoFar,
    StageError,
    UnknownJobType,
    definition,
    fan_in_task_id,
    job_id,
)
from worker.job.expectations import of_tiles
from worker.job.large_raster import JOB_TYPE, REGISTRY, LargeRaster

JOB = "0" * 63 + "1"
GIVEN = {"container_name": "bronze-rasters", "blob_name": "folder/scene.tif"}


ESTIMATED = {"file_size_mb": ANY, "estimated_duration_minutes": ANY, "estimated_memory_mb": ANY}
CONTEXT = Context(cores=2)
TILING = {
    "success": True,
    "result": {
        "tiling_scheme_blob": "00000000/scene_tiling_scheme.geojson",
        "tiling_scheme_container": "silver-cogs",
        "total_tiles": 2,
        "grid": {"rows": 1, "cols": 2, "tile_size_pixels": 1024},
        "raster_metadata": {"used_band_names": {"1": "Red"}},
    },
}
EXTRACTION = {
    "success": True,
    "result": {
        "tiles_container": "silver-mosaicjson",
        "tile_blobs": ["00000000/tiles/scene_tile_0_0.tif", "00000000/tiles/scene_tile_0_1.tif"],
        "source_crs": "EPSG:32637",
        "total_tiles": 2,
        "processing_time_seconds": 12.5,
        "raster_metadata": {"detected_type": "rgb", "band_count": 3, "data_type": "uint8"},
    },
}
COG = {"success": True, "result": {"cog_blob": "scene_tile_0_0_cog_analysis.tif", "size_mb": 1.5}}
MOSAIC = {
    "success": True,
    "mosaicjson_blob": "m.json",
    "mosaicjson_url": "u",
    "bounds": [0, 0, 1, 1],
    "tile_count": 2,
}
STAC = {"success": True, "collection_id": "c", "stac_id": "s", "items_created": 2, "items_failed": 0}


@pytest.fixture
def job() -> LargeRaster:
    return LargeRaster()


def parameters(**given):
    return LargeRaster().validate(GIVEN | given) | {"_blob_size_mb": 2000.0}


def tasks(stage, results=None, **given):
    return LargeRaster().tasks(stage, JobSoFar(JOB, parameters(**given), results or {}), CONTEXT)


def extracted(*blobs):
    return {1: [TILING], 2: [{"success": True, "result": {"tile_blobs": list(blobs), "source_crs": "x"}}]}


def test_the_job_id_of_the_protocol():
    given = {"blob_name": "scene.tif", "container_name": "bronze-rasters", "tile_size": None}
    assert job_id(JOB_TYPE, given) == "2f7fcef9b0c5e3c41fe5fc1eb8b2dd8bdf78deacdbfd86c2ae8f33c69a6ed31a"


def test_a_parameter_changes_the_job_id():
    assert job_id(JOB_TYPE, GIVEN) != job_id(JOB_TYPE, GIVEN | {"overlap": 512})


@pytest.mark.parametrize("value", [float("nan"), object(), {1: 1, "a": 2}])
def test_parameters_that_are_not_json_have_no_job_id(value):
    with pytest.raises(InvalidParameter):
        job_id(JOB_TYPE, {"x": value})


def test_the_fan_in_ids_of_the_protocol():
    assert fan_in_task_id(JOB, 4) == "38f6117120d02e4a"
    assert fan_in_task_id(JOB, 5) == "abe643358da80a65"


def test_an_unknown_job_type_is_named_with_those_that_exist():
    with pytest.raises(UnknownJobType, match=r"'nope'.*process_large_raster_v2"):
        definition("nope", REGISTRY)


def test_defaults_are_filled_in_and_nulls_dropped(job):
    accepted = job.validate(GIVEN | {"input_crs": None, "jpeg_quality": None, "unknown": 1})
    assert accepted == GIVEN | {
        "raster_type": "auto",
        "output_tier": "analysis",
        "target_crs": "EPSG:4326",
        "jpeg_quality": 85,
        "collection_id": "system-rasters",
        "overlap": 512,
        "create_mosaicjson": True,
        "create_stac_collection": True,
        "unknown": 1,
    }


@pytest.mark.parametrize(
    "blob",
    ["/etc/passwd", "../scene.tif", "a/../../b.tif", "a\\..\\b.tif", "\\\\host\\x.tif", "C:\\x.tif",
     "%2e%2e/x.tif", "https://elsewhere/x.tif", "", " ", "a\x00.tif", "x" * 1025, "./x.tif", "..",
     "%2Fetc/passwd"],
)  # fmt: skip
def test_a_blob_name_that_leaves_its_container_is_refused(job, blob):
    with pytest.raises(InvalidParameter, match="blob_name"):
        job.validate(GIVEN | {"blob_name": blob})


@pytest.mark.parametrize(
    "blob",
    ["scene.tif", "a/b/c.tif", "2024:01.tif", "a..b.tif", "Übersicht 1.tif", "scene..tif", "S2A:x.tif"],
)
def test_a_blob_name_inside_its_container_is_accepted(job, blob):
    assert job.validate(GIVEN | {"blob_name": blob})["blob_name"] == blob


@pytest.mark.parametrize(
    "name", ["Ab", "a", "ab", "a--b", "-ab", "ab-", "a_b", "A" * 3, "x" * 64, "a/b", "../a"]
)
def test_a_container_name_that_azure_refuses_is_refused(job, name):
    with pytest.raises(InvalidParameter, match="container_name"):
        job.validate(GIVEN | {"container_name": name})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"tile_size": 1000}, "tile_size.*16"),
        ({"tile_size": 0}, "tile_size"),
        ({"tile_size": 512}, "overlap is 512 and tile_size 512"),
        ({"tile_size": 512, "overlap": 600}, "overlap"),
        ({"overlap": -1}, "overlap"),
        ({"jpeg_quality": 101}, "jpeg_quality"),
        ({"maxzoom": 25}, "maxzoom"),
        ({"raster_type": "photo"}, "raster_type"),
        ({"output_tier": "gold"}, "output_tier"),
        ({"band_names": {"0": "Red"}}, "'0' is no band number"),
        ({"output_folder": "a/../../b"}, "output_folder"),
        ({"collection_id": "../x"}, "collection_id"),
        ({"target_crs": ""}, "target_crs"),
        ({"blob_name": None}, "blob_name: Field required"),
    ],
)
def test_a_wrong_parameter_is_named(job, given, said):
    with pytest.raises(InvalidParameter, match=said):
        job.validate(GIVEN | given)


def test_stage_1_is_one_task():
    (task,) = tasks(1, input_crs="EPSG:3857", raster_type="dem", tile_size=5120)
    assert (task.task_id, task.task_type) == ("00000000-s1-tiling", "generate_tiling_scheme")
    assert task.parameters == {
        "container_name": "bronze-rasters",
        "blob_name": "folder/scene.tif",
        "tile_size": 5120,
        "overlap": 512,
        "output_container": "silver-cogs",
        "output_blob_name": "00000000/scene_tiling_scheme.geojson",
        "target_crs": "EPSG:4326",
        "input_crs": "EPSG:3857",
        "raster_type": "dem",
        **ESTIMATED,
        "file_size_mb": 2000.0,
    }


def test_stage_2_is_one_task_with_the_bands_that_stage_1_chose():
    (task,) = tasks(2, {1: [TILING]})
    assert (task.task_id, task.task_type) == ("00000000-s2-extract", "extract_tiles")
    assert task.parameters == {
        "container_name": "bronze-rasters",
        "blob_name": "folder/scene.tif",
        "tiling_scheme_blob": "00000000/scene_tiling_scheme.geojson",
        "tiling_scheme_container": "silver-cogs",
        "output_container": "silver-mosaicjson",
        "job_id": JOB,
        "band_names": {"1": "Red"},
        **ESTIMATED,
        "file_size_mb": 2000.0,
    }


@pytest.mark.parametrize(("stored_mb", "codec"), [(300, "some"), (9000, None)])
def test_an_extraction_is_expected_by_its_pixels_and_not_by_its_file(stored_mb, codec):
    facts = {"target_dimensions": [60_000, 50_000], "source_crs": "EPSG:32637", "target_crs": "EPSG:4326"}
    metadata = {"band_count": 3, "data_type": "uint8"}
    tiling = {"success": True, "result": TILING["result"] | facts | {"raster_metadata": metadata}}
    given = parameters() | {"_blob_size_bytes": stored_mb * 10**6}
    (task,) = LargeRaster().tasks(2, JobSoFar(JOB, given, {1: [tiling]}), CONTEXT)
    layout = Layout(60_000, 50_000, 3, 1, codec=codec, stored_mb=stored_mb, remote=True)
    expected = of_tiles(layout, warps=True, tile_size=1024, cores=2)
    assert task.parameters["estimated_duration_minutes"] == round(expected.seconds / 60, 3)
    assert task.parameters["estimated_memory_mb"] == round(expected.peak_memory_mb, 1)


@pytest.mark.parametrize("metadata", [{"data_type": "bits"}, {}])
def test_what_an_earlier_stage_leaves_out_is_guessed(metadata):
    extraction = {"success": True, "result": EXTRACTION["result"] | {"raster_metadata": metadata}}
    tiling = {"success": True, "result": TILING["result"] | {"grid": {}}}
    for task in tasks(3, {1: [tiling], 2: [extraction]}):
        assert task.parameters["file_size_mb"] > 100
        assert task.parameters["estimated_memory_mb"] > 0


def test_the_submitters_band_names_win_over_the_detected_ones():
    (task,) = tasks(2, {1: [TILING]}, band_names={"3": "Blue"})
    assert task.parameters["band_names"] == {"3": "Blue"}


def test_stage_3_is_one_task_a_tile():
    planned = tasks(3, {1: [TILING], 2: [EXTRACTION]}, output_folder="out", output_tier="all")
    assert [task.task_id for task in planned] == ["00000000-s3-cog-tile_0_0", "00000000-s3-cog-tile_0_1"]
    assert [task.task_index for task in planned] == ["0", "1"]
    assert planned[1].parameters == {
        "container_name": "silver-mosaicjson",
        "blob_name": "00000000/tiles/scene_tile_0_1.tif",
        "source_crs": "EPSG:32637",
        "target_crs": "EPSG:4326",
        "raster_type": {
            "detected_type": "rgb",
            "band_count": 3,
            "data_type": "uint8",
            "optimal_cog_settings": {},
        },
        "output_tier": "all",
        "output_blob_name": "out/scene_tile_0_1_cog.tif",
        "output_container": "silver-cogs",
        "jpeg_quality": 85,
        "overview_resampling": "average",
        "reproject_resampling": "bilinear",
        "in_memory": False,
        **ESTIMATED,
        "file_size_mb": 3.0,
    }


def test_the_submitters_raster_type_wins_over_the_detected_one():
    planned = tasks(3, {1: [TILING], 2: [EXTRACTION]}, raster_type="dem")
    assert planned[0].parameters["raster_type"]["detected_type"] == "dem"


def test_stage_4_aggregates_every_cog():
    (task,) = tasks(4, {3: [COG, COG]})
    assert (task.task_id, task.task_type) == ("38f6117120d02e4a", "create_mosaicjson")
    assert task.parameters["previous_results"] == [COG, COG]
    assert task.parameters["job_parameters"]["collection_id"] == "system-rasters"
    assert task.parameters["aggregation_metadata"] == {
        "stage": 4,
        "previous_stage": 3,
        "result_count": 2,
        "pattern": "fan_in",
    }


def test_stage_5_aggregates_the_mosaic():
    (task,) = tasks(5, {4: [MOSAIC]})
    assert (task.task_id, task.task_type) == ("abe643358da80a65", "create_stac_collection")
    assert task.parameters["previous_results"] == [MOSAIC]


def test_stage_5_aggregates_the_cogs_when_there_is_no_mosaic():
    (task,) = tasks(5, {3: [COG]}, create_mosaicjson=False)
    assert task.task_id == "abe643358da80a65"
    assert task.parameters["previous_results"] == [COG]
    assert task.parameters["aggregation_metadata"]["previous_stage"] == 3


@pytest.mark.parametrize(
    ("mosaic", "stac", "stages"),
    [
        (True, True, (1, 2, 3, 4, 5)),
        (False, True, (1, 2, 3, 5)),
        (True, False, (1, 2, 3, 4)),
        (False, False, (1, 2, 3)),
    ],
)
def test_stages_that_are_not_wanted_are_left_out(job, mosaic, stac, stages):
    assert job.stages(parameters(create_mosaicjson=mosaic, create_stac_collection=stac)) == stages


@pytest.mark.parametrize(
    ("stage", "results", "said"),
    [
        (2, {}, "stage 1 has 0 results"),
        (2, {1: [{"success": False, "error": "x"}]}, "stage 1 left no result"),
        (2, {1: [{"success": True, "result": {}}]}, "tiling_scheme_blob"),
        (3, extracted("tile_0_0.tif", "tile_0_0.tif"), "same tile id"),
        (4, {3: []}, "no results"),
        (6, {}, "no stage 6"),
    ],
)
def test_a_stage_without_what_it_needs_says_so(stage, results, said):
    with pytest.raises(StageError, match=said):
        tasks(stage, results)


def test_the_finished_jobs_result_has_every_key_filled(job):
    results = {1: [TILING], 2: [EXTRACTION], 3: [COG, COG], 4: [MOSAIC], 5: [STAC]}
    result = job.result(JobSoFar(JOB, parameters(), results), {"completed": 6})
    assert result == {
        "job_type": JOB_TYPE,
        "job_id": JOB,
        "collection_id": "system-rasters",
        "cogs": {"total_count": 2, "successful": 2, "failed": 0, "total_size_mb": 3.0},
        "mosaicjson": {"blob_path": "m.json", "url": "u", "bounds": [0, 0, 1, 1], "tile_count": 2},
        "stac": {
            "collection_id": "c",
            "stac_id": "s",
            "tile_count": None,
            "items_created": 2,
            "items_failed": 0,
            "spatial_extent": None,
            "mosaicjson_url": None,
            "pgstac_id": None,
            "search_id": None,
            "viewer_url": None,
        },
        "stages_completed": 5,
        "total_tasks_executed": 6,
        "tasks_by_status": {"completed": 6},
        "source_blob": "folder/scene.tif",
        "source_container": "bronze-rasters",
        "tiling": {
            "scheme_blob": "00000000/scene_tiling_scheme.geojson",
            "tile_count": 2,
            "grid_dimensions": {"rows": 1, "cols": 2},
        },
        "extraction": {"processing_time_seconds": 12.5, "tiles_extracted": 2},
        "blob_size_mb": 2000.0,
    }
