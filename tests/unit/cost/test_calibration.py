"""Calibrations: what a model says inside and outside of its knowledge, and files that are no calibrations."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gdaltools.cost.calibration import (
    DEFAULT_FILE,
    Calibration,
    InvalidCalibration,
    MeasuredOn,
    OperationModel,
    Spread,
    load,
    model_for,
    processor_name,
)
from gdaltools.cost.estimation import estimate, estimate_workload
from gdaltools.cost.workload import VARIANTS, Layout, Workload, square_layout
from gdaltools.errors import InvalidParameter
from tests.support.rasters import UTM, UTM_GRID, smooth, write_raster
from worker.job.expectations import of_cogs

EVEN = Spread(low=1.0, median=1.0, high=1.0)
MODEL = OperationModel(
    prices={"start": 1.0, "work:analysis:byte": 0.02, "work:archive:byte": 0.05, "decode:lzw": 0.01},
    spread=Spread(low=0.8, median=1.0, high=1.5),
    memory=Spread(low=0.5, median=0.7, high=0.9),
    runs=20,
    smallest_mb=10,
    largest_mb=500,
    least_share=0.3,
    cores=(1, 2),
)
HERE = MeasuredOn(
    processor=processor_name(),
    cores=os.cpu_count() or 1,
    memory_mb=8000,
    system="Linux",
    python="3",
    gdal="3",
)
CALIBRATION = Calibration(
    created="2026-01-02T00:00:00+00:00", note="", machine=HERE, models={"create_cog": MODEL}
)

layouts = st.builds(
    Layout,
    width=st.integers(1, 100_000),
    height=st.integers(1, 100_000),
    bands=st.integers(1, 30),
    itemsize=st.sampled_from([1, 2, 4, 8]),
    floating=st.booleans(),
    codec=st.sampled_from([None, "deflate", "zstd", "jpeg", "some"]),
    tiled=st.booleans(),
    remote=st.booleans(),
)


@given(
    layout=layouts,
    more=st.integers(0, 1000),
    cores=st.integers(1, 16),
    name=st.sampled_from([(operation, variant) for operation, all_ in VARIANTS.items() for variant in all_]),
    warps=st.booleans(),
)
def test_more_pixels_never_take_less_and_more_cores_never_more(
    layout: Layout, more: int, cores: int, name: tuple[str, str], warps: bool
) -> None:
    model, _ = model_for(name[0], load(DEFAULT_FILE))

    def seconds(rows: int, cores: int) -> float:
        taller = Layout(**{**vars(layout), "height": layout.height + rows})
        return model.predict(Workload(*name, taller, cores, warps=warps)).median  # type: ignore[arg-type]

    assert seconds(0, cores) <= seconds(more, cores)
    assert seconds(more, cores + 1) <= seconds(more, cores)


def test_a_file_that_inflates_takes_longer_than_its_size_says() -> None:
    packed = Layout(60_000, 50_000, 3, 1, codec="lzw", stored_mb=300)
    plain = square_layout(300)
    slow, quick = (
        estimate_workload(Workload("create_cog", "analysis", each, 2), calibration=CALIBRATION)
        for each in (packed, plain)
    )
    assert slow.seconds > 20 * quick.seconds


def test_what_was_not_measured_is_priced_as_the_dearest_and_said() -> None:
    wide = Layout(100, 100, 1, 2, codec="jpeg")
    found = MODEL.predict(Workload("create_cog", "archive", wide, 1))
    assert found.median == pytest.approx(1 + 0.02 * 0.05 + 0.02 * 0.01)
    assert {"source codec jpeg", "variant and dtype archive:wide"} <= set(found.unmeasured)


@pytest.mark.parametrize(
    ("layout", "cores", "said"),
    [
        (square_layout(600), 1, "sizes over 500 MB"),
        (square_layout(100), 8, "8 cores"),
        (Layout(6000, 5000, 3, 1, codec="lzw", stored_mb=3), 1, "files below 30% of their pixels"),
    ],
)
def test_an_extrapolation_says_in_what(layout: Layout, cores: int, said: str) -> None:
    found = estimate_workload(Workload("create_cog", "analysis", layout, cores), calibration=CALIBRATION)
    assert found.extrapolates
    assert said in found.beyond
    assert "an extrapolation" in str(found)


def test_within_what_was_measured_nothing_is_extrapolated() -> None:
    plain = Layout(3000, 3000, 3, 1, tiled=True)
    found = estimate_workload(Workload("create_cog", "analysis", plain, 2), calibration=_all_known())
    assert found.beyond == ()
    assert found.seconds_low < found.seconds < found.seconds_high


def _all_known() -> Calibration:
    prices = {**MODEL.prices, "serial": 0.0}
    return CALIBRATION.model_copy(
        update={"models": {"create_cog": MODEL.model_copy(update={"prices": prices})}}
    )


def test_an_operation_without_a_model_is_the_default_calibrations() -> None:
    found = estimate_workload(
        Workload("extract_tiles", "window", square_layout(10), 1), calibration=CALIBRATION
    )
    assert found.basis.startswith("default calibration")


def test_a_calibration_of_another_machine_is_used_and_said_to_be_a_guess() -> None:
    elsewhere = CALIBRATION.model_copy(update={"machine": HERE.model_copy(update={"processor": "Z80"})})
    work = Workload("create_cog", "analysis", square_layout(10), 1)
    assert "a guess" not in estimate_workload(work, calibration=CALIBRATION).basis
    assert "Z80" in (basis := estimate_workload(work, calibration=elsewhere).basis)
    assert "on this machine a guess" in basis


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "JSON"),
        ('{"schema_name": "gdaltools-calibration-9"}', "gdaltools-calibration-1"),
        (json.dumps({"models": {}}), "created"),
        ("[]", "is not of the schema"),
    ],
)
def test_a_file_of_another_schema_is_refused(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "calibration.json"
    path.write_text(content)
    with pytest.raises(InvalidCalibration, match=said):
        load(path)


def test_the_environment_names_a_file_and_a_new_version_of_it_is_read_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "calibration.json"
    monkeypatch.setenv("GDALTOOLS_CALIBRATION", str(path))
    with pytest.raises(InvalidCalibration, match="leave GDALTOOLS_CALIBRATION out"):
        load(environment=os.environ)
    path.write_text(CALIBRATION.model_dump_json())
    assert load(environment=os.environ) == CALIBRATION
    renamed = CALIBRATION.model_copy(update={"note": "another"})
    path.write_text(renamed.model_dump_json())
    os.utime(path, ns=(1, 1))
    assert load(environment=os.environ).note == "another"


def test_the_default_has_a_model_of_each_operation_and_names_its_machine() -> None:
    default = load(DEFAULT_FILE)
    assert default.default
    assert set(default.models) == set(VARIANTS)
    assert default.machine.processor in default.source


def test_a_header_tells_what_decides(tmp_path: Path) -> None:
    pixels = smooth(3, 600, 800, noise=0)
    plain = write_raster(tmp_path / "plain.tif", pixels, crs=UTM, transform=UTM_GRID)
    packed = write_raster(
        tmp_path / "packed.tif", pixels, crs=UTM, transform=UTM_GRID, options={"compress": "LZW"}
    )
    one, other = (estimate(path, calibration=_all_known(), cores=1).seconds for path in (plain, packed))
    assert other == pytest.approx(one + 600 * 800 * 3 / 1e6 * 0.01)


@pytest.mark.parametrize(
    "values",
    [{}, {"operation": "create_cog"}, {"layout": 3}, {"layout": {"width": 1}}, {"layout": {}, "x": 1}],
)
def test_what_is_no_workload_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(InvalidParameter, match="no workload"):
        Workload.from_dict(values)


def test_a_workload_travels_as_json() -> None:
    work = Workload("extract_tiles", "warp", square_layout(10), 2, tile_size=512)
    assert Workload.from_dict(json.loads(json.dumps(work.to_dict()))) == work


def test_a_task_that_makes_several_products_takes_as_long_as_all_of_them() -> None:
    layout = square_layout(500)
    one, all_three = (of_cogs(layout, tier, cores=1) for tier in ("analysis", "all"))
    assert all_three.seconds > one.seconds
    assert all_three.peak_memory_mb == one.peak_memory_mb
