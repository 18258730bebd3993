"""The rules that choose a queue, in their order."""

from __future__ import annotations

import pytest

from gdaltools.errors import InvalidParameter, UnknownTaskType
from gdaltools.routing import RoutingRules, route

RULES = RoutingRules()


@pytest.mark.parametrize(
    ("task_type", "parameters", "queue"),
    [
        ("extract_tiles", {}, "docker-tasks"),
        ("Extract-Tiles", {"file_size_mb": 0.1}, "docker-tasks"),
        ("handler_tile_extraction", {}, "docker-tasks"),
        ("raster_extract_tiles", {}, "docker-tasks"),
        ("create_cog", {}, "raster-tasks"),
        ("create_cog", {"file_size_mb": 1000}, "raster-tasks"),
        ("create_cog", {"file_size_mb": 1000.1}, "docker-tasks"),
        ("create_cog", {"file_size_mb": "1200"}, "docker-tasks"),
        ("create_cog", {"estimated_duration_minutes": 20}, "raster-tasks"),
        ("create_cog", {"file_size_mb": 3, "estimated_duration_minutes": 21}, "docker-tasks"),
        ("create_cog", {"file_size_mb": None, "estimated_duration_minutes": None}, "raster-tasks"),
        ("handler_large_cog_creation", {}, "raster-tasks"),
        ("validate_raster", {}, "raster-tasks"),
        ("vector_upload", {}, "vector-tasks"),
        ("h3_generate_grid", {"file_size_mb": 5000}, "docker-tasks"),
    ],
)
def test_a_task_goes_to_the_queue_that_the_first_matching_rule_names(
    task_type: str, parameters: dict[str, object], queue: str
) -> None:
    assert route(task_type, parameters, rules=RULES).queue == queue


def test_a_type_on_no_list_is_an_error_however_large_it_is() -> None:
    with pytest.raises(UnknownTaskType, match="paint_raster"):
        route("paint_raster", {"file_size_mb": 1e6}, rules=RULES)


@pytest.mark.parametrize("size", ["large", [], float("nan")])
def test_a_size_that_is_no_number_is_an_error(size: object) -> None:
    with pytest.raises(InvalidParameter, match="file_size_mb"):
        route("create_cog", {"file_size_mb": size}, rules=RULES)


def test_the_environment_sets_thresholds_types_and_queue_names() -> None:
    rules = RoutingRules.from_environment(
        {
            "SIZE_THRESHOLD_MB": "10",
            "DURATION_THRESHOLD_MINUTES": "1.5",
            "DOCKER_TASK_TYPES": "create-cog, extract_tiles",
            "DOCKER_TASKS_QUEUE": "slow",
        }
    )
    assert route("create_cog", {}, rules=rules).queue == "slow"
    assert route("validate_raster", {"file_size_mb": 11}, rules=rules).queue == "slow"
    assert route("validate_raster", {"estimated_duration_minutes": 1.6}, rules=rules).queue == "slow"
    assert "1.5" in route("validate_raster", {"estimated_duration_minutes": 1.6}, rules=rules).reason


def test_a_threshold_that_is_no_number_names_its_variable() -> None:
    with pytest.raises(InvalidParameter, match="SIZE_THRESHOLD_MB"):
        RoutingRules.from_environment({"SIZE_THRESHOLD_MB": "big"})
