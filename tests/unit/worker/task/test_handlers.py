"""A task's handler keeps what an earlier run finished, and states beforehand how much memory it takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import gdaltools as gt
from gdaltools.errors import InvalidParameter
from tests.support.rasters import UTM, UTM_GRID, smooth, write_raster
from worker.errors import ConfigurationError, UnknownTaskType
from worker.task import handlers

SOURCE = {"container_name": "bronze-rasters", "blob_name": "scene.tif", "_job_id": "0" * 64}


@pytest.fixture
def blob_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GDALTOOLS_BLOB_ROOT", str(tmp_path))
    scene = smooth(3, 600, 700)
    write_raster(tmp_path / "bronze-rasters" / "scene.tif", scene, crs=UTM, transform=UTM_GRID)
    return tmp_path


def planned(**options: Any) -> dict[str, Any]:
    """Return stage 2's parameters, after stage 1 ran with these options."""
    tiling = handlers.run("generate_tiling_scheme", SOURCE | {"tile_size": 256, "overlap": 64} | options)
    return SOURCE | {"tiling_scheme_blob": tiling["result"]["tiling_scheme_blob"]}


def test_a_second_extraction_writes_only_what_is_missing(blob_root: Path) -> None:
    parameters = planned()
    first = handlers.run("extract_tiles", parameters)["result"]
    tiles = [blob_root / first["tiles_container"] / name for name in first["tile_blobs"]]
    tiles[1].unlink()
    tiles[2].write_bytes(b"cut")
    before = {tile: tile.stat() for tile in tiles if tile.exists()}
    again = handlers.run("extract_tiles", parameters)["result"]
    assert {tile for tile in tiles if before.get(tile) == tile.stat()} == {tiles[0], *tiles[3:]}
    text = {"extraction_time_seconds", "processing_time_seconds"}
    assert {k: v for k, v in first.items() if k not in text} == {
        k: v for k, v in again.items() if k not in text
    }


def memory_mb(task_type: str, parameters: dict[str, Any]) -> float:
    expected = handlers.expectation(task_type, parameters)
    assert expected is not None
    return expected.peak_memory_mb


def test_a_warp_and_a_cut_have_an_expected_memory(blob_root: Path) -> None:
    for target in (UTM, "EPSG:4326"):
        parameters = planned(target_crs=target)
        for name in ("extract_tiles", "Raster-Extract-Tiles"):
            assert 100 < memory_mb(name, parameters) < 1000


def test_more_bands_take_more_memory_in_every_tier(blob_root: Path) -> None:
    many = smooth(30, 300, 400, dtype="float32")
    write_raster(blob_root / "bronze-rasters" / "many.tif", many, crs=UTM, transform=UTM_GRID)
    for tier in ("analysis", "visualization", "archive", "all"):
        few = memory_mb("create_cog", SOURCE | {"output_tier": tier})
        more = memory_mb("create_cog", SOURCE | {"output_tier": tier, "blob_name": "many.tif"})
        assert few + 100 < more


def test_a_cog_that_is_warped_takes_more_memory(blob_root: Path) -> None:
    as_it_is = memory_mb("create_cog", SOURCE | {"target_crs": UTM, "source_crs": "EPSG:3857"})
    assert as_it_is == memory_mb("create_cog", SOURCE)
    assert as_it_is + 100 < memory_mb("create_cog", SOURCE | {"target_crs": "EPSG:4326"})
    assert handlers.expectation("create_cog", SOURCE | {"target_crs": "EPSG:1"}) is None


def test_what_is_expected_says_what_will_be_done_and_by_which_calibration(blob_root: Path) -> None:
    expected = handlers.expectation("create_cog", SOURCE | {"output_tier": "all"})
    assert expected is not None
    text = expected.to_dict()
    assert [each["variant"] for each in text["workloads"]] == ["analysis", "visualization", "archive"]
    assert 0 < text["seconds"] <= text["seconds_high"]
    assert text["basis"]


@pytest.mark.parametrize(
    ("task_type", "change"),
    [
        ("create_cog", {"blob_name": "none.tif"}),
        ("create_cog", {"blob_name": "../scene.tif"}),
        ("create_cog", {"blob_name": None}),
        ("create_cog", {"blob_name": "broken.tif"}),
        ("create_cog", {"output_tier": "best"}),
        ("extract_tiles", {}),
        ("extract_tiles", {"tiling_scheme_blob": "none.geojson"}),
        ("extract_tiles", {"tiling_scheme_blob": "broken.tif", "tiling_scheme_container": "bronze-rasters"}),
        ("generate_tiling_scheme", {}),
        ("create_mosaicjson", {"previous_results": []}),
        ("vector_upload", {}),
        ("", {}),
    ],
)
def test_of_what_the_run_itself_will_refuse_nothing_is_expected(
    blob_root: Path, task_type: str, change: dict[str, Any]
) -> None:
    (blob_root / "bronze-rasters" / "broken.tif").write_bytes(b"no raster")
    assert handlers.expectation(task_type, SOURCE | change) is None


@pytest.mark.parametrize("tier", ["analysis", "visualization", "archive"])
def test_a_tile_that_is_the_cog_of_its_tier_is_copied(blob_root: Path, tier: str) -> None:
    scene = blob_root / "bronze-rasters" / "scene.tif"
    scheme = gt.generate_tiling_scheme(scene, 512, 64, UTM)
    folder = blob_root / "silver-mosaicjson"
    extracted = gt.extract_tiles(scene, scheme, folder, as_cog=True, profile=tier, tiles=["tile_0_0"])
    plain = gt.extract_tiles(scene, scheme, folder, stem="plain", tiles=["tile_0_0"])
    results = {}
    for kind, tile in (("cog", extracted.tiles[0]), ("plain", plain.tiles[0])):
        parameters = {
            "container_name": "silver-mosaicjson",
            "blob_name": Path(tile.location).name,
            "target_crs": UTM,
            "output_tier": tier,
            "overview_resampling": "average",
            "reproject_resampling": "bilinear",
        }
        results[kind] = handlers.run("create_cog", parameters)["result"]
    made = (blob_root / results["cog"]["cog_container"] / results["cog"]["cog_blob"]).read_bytes()
    assert (made == Path(extracted.tiles[0].location).read_bytes()) or tier == "archive"
    text = set(results["plain"]) - {"source_blob", "cog_blob", "size_mb", "processing_time_seconds"}
    assert set(results["cog"]) == set(results["plain"])
    if tier != "visualization":
        assert {key: results["cog"][key] for key in text} == {key: results["plain"][key] for key in text}
    assert results["cog"]["size_mb"] == len(made) / 1e6


def test_modules_of_ones_own_bring_further_task_types(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_tasks.py").write_text(
        "from worker.task.handlers import Handler, Parameters\n"
        "class Doubled(Parameters):\n    number: int\n"
        "HANDLERS = {'Double-It': Handler(Doubled, lambda p, progress: {'twice': 2 * p.number})}\n"
    )
    (tmp_path / "no_tasks.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("WORKER_HANDLERS", " own_tasks ,")
    assert handlers.run("double_it", {"number": 4}) == {"success": True, "result": {"twice": 8}}
    with pytest.raises(InvalidParameter, match="number"):
        handlers.run("double_it", {})
    with pytest.raises(UnknownTaskType, match=r"double_it.*extract_tiles"):
        handlers.run("treble_it", {})
    for name in ("no_tasks", "not_there"):
        monkeypatch.setenv("WORKER_HANDLERS", name)
        with pytest.raises(ConfigurationError, match=name):
            handlers.run("double_it", {"number": 4})


def test_the_facts_have_the_protocols_keys(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", smooth(3), crs=UTM, transform=UTM_GRID)
    facts = handlers.scheme_facts(gt.generate_tiling_scheme(path, 128, 16, band_names={"1": "Rot"}))
    assert set(facts) == {
        "total_tiles", "grid", "source_crs", "target_crs", "target_bounds", "target_dimensions",
        "target_resolution", "raster_metadata",
    }  # fmt: skip
    assert facts["grid"] == {
        "rows": 3, "cols": 4, "tile_size_pixels": 128, "overlap_pixels": 16, "effective_tile_size": 112,
        "total_tiles": 12, "overlap_percentage": 12.5, "cog_blocksize": 128,
    }  # fmt: skip
    assert set(facts["raster_metadata"]) == {
        "band_count", "actual_band_count", "data_type", "detected_type", "detection_confidence",
        "auto_band_names", "used_band_names",
    }  # fmt: skip
    assert facts["raster_metadata"]["used_band_names"] == {"1": "Rot", "2": "Green", "3": "Blue"}
    json.dumps(facts, allow_nan=False)
