"""The estimates of an operation: more for more work, and close to what was measured."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gdaltools.cost.estimation import OPERATIONS, Layout, estimate, estimate_layout, estimate_megabytes
from gdaltools.errors import InvalidParameter
from tests.support.rasters import UTM, UTM_GRID, smooth, write_raster

RGB = Layout(10_000, 10_000, 3, 1)
MULTISPECTRAL = Layout(5000, 5000, 8, 2)
HYPERSPECTRAL = Layout(2500, 2500, 30, 4)
COMPLEX = Layout(6000, 6000, 1, 16)
HUNDRED_BANDS = Layout(1600, 1600, 100, 2)


# Peak resident MB of single runs (gdaltools.cost.estimation, CALIBRATION); the estimate is the plan's bound.
@pytest.mark.parametrize(
    ("variant", "layout", "options", "measured"),
    [
        ("window", RGB, {"cores": 1}, 286),
        ("window", MULTISPECTRAL, {"cores": 2}, 394),
        ("window", HYPERSPECTRAL, {"cores": 2}, 590),
        ("window", HUNDRED_BANDS, {"cores": 2}, 667),
        ("window", RGB, {"cores": 2, "tile_size": 1024}, 323),
        ("window", MULTISPECTRAL, {"cores": 2, "tile_size": 1024}, 445),
        ("window", HYPERSPECTRAL, {"cores": 1, "tile_size": 1024}, 613),
        ("window", HYPERSPECTRAL, {"cores": 2, "tile_size": 1024}, 984),
        ("window", COMPLEX, {"cores": 2, "tile_size": 1024}, 537),
        ("warp", RGB, {"cores": 1, "tile_size": 1536}, 292),
        # With our own kernels, compiled by numba.
        ("warp", Layout(4472, 4472, 4, 2), {"cores": 1, "tile_size": 4096}, 517),
        ("warp", Layout(7302, 7302, 3, 1), {"cores": 2, "tile_size": 4096}, 543),
    ],
)
def test_tiles_take_no_more_memory_than_their_bound(
    variant: str, layout: Layout, options: dict[str, Any], measured: float
) -> None:
    bound = estimate_layout("extract_tiles", layout, variant=variant, **options).peak_memory_mb
    assert measured <= bound <= 2 * measured


# Peak resident MB of single runs of the engine; the estimate is the plan's bound.
@pytest.mark.parametrize(
    ("variant", "layout", "cores", "warps", "measured"),
    [
        ("analysis", RGB, 1, False, 173),
        ("analysis", RGB, 2, False, 202),
        ("analysis", Layout(30_000, 6000, 3, 1), 2, False, 333),
        ("analysis", MULTISPECTRAL, 1, False, 238),
        ("analysis", MULTISPECTRAL, 2, False, 308),
        ("analysis", HYPERSPECTRAL, 1, False, 356),
        ("analysis", HYPERSPECTRAL, 2, False, 557),
        ("analysis", COMPLEX, 1, False, 322),
        ("analysis", COMPLEX, 2, False, 461),
        ("analysis", HUNDRED_BANDS, 2, False, 605),
        ("visualization", RGB, 2, False, 196),
        ("archive", HYPERSPECTRAL, 2, False, 558),
        ("analysis", RGB, 2, True, 541),
        ("analysis", MULTISPECTRAL, 2, True, 552),
        ("analysis", HYPERSPECTRAL, 2, True, 718),
        ("analysis", HUNDRED_BANDS, 2, True, 791),
    ],
)
def test_a_cog_takes_no_more_memory_than_its_bound(
    variant: str, layout: Layout, cores: int, warps: bool, measured: float
) -> None:
    bound = estimate_layout("create_cog", layout, variant=variant, cores=cores, warps=warps).peak_memory_mb
    assert measured <= bound <= 2 * measured


def test_more_cores_hold_more_but_never_more_than_there_are_tiles() -> None:
    def peak(cores: int, tile_size: int) -> float:
        found = estimate_layout("extract_tiles", RGB, variant="window", cores=cores, tile_size=tile_size)
        return found.peak_memory_mb

    assert peak(4, 1024) > peak(2, 1024)
    assert peak(8, 5120) == peak(4, 5120), "there are four tiles"


def test_a_raster_and_its_layout_are_estimated_alike(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", smooth(8, dtype="uint16"), crs=UTM, transform=UTM_GRID)
    for target, variant in (("EPSG:4326", "warp"), (UTM, "window")):
        found = estimate(path, "extract_tiles", target_crs=target)
        assert found == estimate_layout("extract_tiles", Layout(400, 300, 8, 2), variant=variant)
        assert found.uncompressed_mb == 400 * 300 * 16 / 1e6
    for target_crs, warps in ((None, False), (UTM, False), ("EPSG:4326", True)):
        expected = estimate_layout("create_cog", Layout(400, 300, 8, 2), variant="analysis", warps=warps)
        assert estimate(path, target_crs=target_crs) == expected


def test_the_cores_are_those_that_the_process_may_use() -> None:
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from gdaltools.cost.estimation import estimate_megabytes\n"
        "print(estimate_megabytes('create_cog', 100).cores)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "1"


@pytest.mark.parametrize("size", [-1, float("nan"), float("inf")])
def test_a_size_that_is_none_is_refused(size: float) -> None:
    with pytest.raises(InvalidParameter, match="MB"):
        estimate_megabytes("create_cog", size)


@pytest.mark.parametrize(
    ("operation", "options", "text"),
    [("fly", {}, "fly"), ("create_cog", {"variant": "warp"}, "warp"), ("create_cog", {"cores": 0}, "cores")],
)
def test_what_is_not_known_is_refused(operation: str, options: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidParameter, match=text):
        estimate_megabytes(operation, 100, **options)


def test_nothing_takes_the_start_up_and_what_a_process_holds_at_rest() -> None:
    found = estimate_megabytes("create_cog", 0, variant="analysis")
    assert found.uncompressed_mb == 0
    assert 0 <= found.seconds < 5
    assert found.peak_memory_mb > 150


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_file_of_next_to_nothing_has_an_estimate(operation: str) -> None:
    for size in (0, 1e-9, 0.001):
        assert estimate_megabytes(operation, size).peak_memory_mb > 0
