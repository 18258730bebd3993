"""The rules that choose a queue, in their order."""

from __future__ import annotations

from pathlib import Path

import pytest

from gdaltools.cost.calibration import DEFAULT_FILE, Thresholds, load
from gdaltools.cost.estimation import estimate_layout
from gdaltools.cost.workload import square_layout
from gdaltools.errors import InvalidParameter
from worker.errors import UnknownTaskType
from worker.protocol.routing import RoutingRules, route

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


def test_an_explanation_tells_every_rule_up_to_the_one_that_fired() -> None:
    given = {"file_size_mb": 300, "estimated_duration_minutes": 45}
    found = route("create_cog", given, rules=RULES, explain=True)
    assert [(step.rule, step.fired) for step in found.steps] == [
        ("type", False),
        ("size", False),
        ("duration", True),
    ]
    assert "45 is over DURATION_THRESHOLD_MINUTES 20" in str(found)
    by_size = route("create_cog", {"file_size_mb": 2000}, rules=RULES, explain=True)
    assert [step.rule for step in by_size.steps] == ["type", "size"]
    nothing = route("create_cog", {}, rules=RULES, explain=True)
    assert "file_size_mb is not given" in str(nothing)
    assert route("create_cog", given, rules=RULES).steps == ()


def test_an_estimate_fires_where_the_size_would_not() -> None:
    packed = square_layout(90_000)
    slow = estimate_layout("create_cog", packed, variant="archive", cores=1)
    size = {"file_size_mb": 300}
    assert route("create_cog", size, rules=RULES).queue == "raster-tasks"
    assert route("create_cog", size, rules=RULES, estimate=slow).queue == "docker-tasks"
    given = size | {"estimated_duration_minutes": 1}
    assert route("create_cog", given, rules=RULES, estimate=slow).queue == "raster-tasks"


class TestThresholdsOfACalibration:
    def file(self, folder: Path, **thresholds: float) -> Path:
        limits = Thresholds(
            size_threshold_mb=80, duration_threshold_minutes=12, function_app_cores=2, target="an app"
        )
        found = load(DEFAULT_FILE).model_copy(update={"thresholds": limits if thresholds else None})
        path = folder / "calibration.json"
        path.write_text(found.model_dump_json())
        return path

    def test_they_are_used_where_the_environment_says_nothing_else(self, tmp_path: Path) -> None:
        path = self.file(tmp_path, yes=1)
        named = {"GDALTOOLS_CALIBRATION": str(path)}
        rules = RoutingRules.from_environment(named)
        assert (rules.size_threshold_mb, rules.duration_threshold_minutes, rules.function_app_cores) == (
            80,
            12,
            2,
        )
        assert rules == RoutingRules.from_calibration(path)
        other = RoutingRules.from_environment({**named, "SIZE_THRESHOLD_MB": "7", "FUNCTION_APP_CORES": "4"})
        assert (other.size_threshold_mb, other.duration_threshold_minutes, other.function_app_cores) == (
            7,
            12,
            4,
        )

    def test_a_calibration_without_any_leaves_the_defaults_and_says_so_when_asked(
        self, tmp_path: Path
    ) -> None:
        path = self.file(tmp_path)
        assert RoutingRules.from_environment({"GDALTOOLS_CALIBRATION": str(path)}) == RULES
        with pytest.raises(InvalidParameter, match="holds no thresholds"):
            RoutingRules.from_calibration(path)

    def test_one_that_cannot_be_used_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidParameter, match="cannot be read"):
            RoutingRules.from_environment({"GDALTOOLS_CALIBRATION": str(tmp_path / "absent.json")})


@pytest.mark.parametrize("cores", ["0", "1.5", "many"])
def test_cores_of_the_function_app_are_a_whole_number(cores: str) -> None:
    with pytest.raises(InvalidParameter, match="FUNCTION_APP_CORES"):
        RoutingRules.from_environment({"FUNCTION_APP_CORES": cores})


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
