"""The comparison as a user runs it: real child processes, every peer that is installed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.command import OK
from benchmarks.compare import command
from benchmarks.compare.comparison import Plan, compare
from benchmarks.compare.jobs import Encoding, Job
from benchmarks.compare.methods import Method
from benchmarks.compare.peers.cogs import gdal
from benchmarks.compare.sources.rasters import given_source
from tests.support.rasters import smooth, write_raster


def test_a_small_case_goes_through_every_peer_that_is_installed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["cog", "--case", "dem-f32", "--megabytes", "2", "--rounds", "1", "--engine", "same"]
    arguments += ["--codec", "zstd", "--level", "3"]
    results = ["--json", str(tmp_path / "report.json"), "--markdown", str(tmp_path / "report.md")]
    assert command.main([*arguments, *results, "--inputs", str(tmp_path / "inputs")]) == OK
    report = json.loads((tmp_path / "report.json").read_text())
    (case,) = report["cases"]
    assert (case["width"], case["height"], case["size_bytes"]) == (707, 707, 707 * 707 * 4)
    by_name = {method["name"]: method for method in case["methods"]}
    for name in ("same", "gdal", "rio-cogeo", "rio-cogeo-tuned", "rioxarray"):
        method = by_name[name]
        assert method["check"] == {"valid": True, "pixels_identical": True, "problems": []}, name
        (run,) = method["runs"]
        assert 0 < run["seconds"] < run["process_seconds"]
        assert run["cpu_seconds"] > 0
        assert 20e6 < run["peak_bytes"] < 2e9
        assert run["size_bytes"] > 100_000
    odc = by_name["odc-geo"]
    assert odc["runs"] or odc["skipped"] == "odc-geo is not installed (extra: bench)"
    assert case["limit"]["seconds"] > 0
    markdown = (tmp_path / "report.md").read_text()
    assert "| GDAL COG driver " in markdown
    assert "ZSTD 3 alone: " in markdown
    assert "rio-cogeo" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "inputs").iterdir() if path.is_dir()] == []


def broken(job: Job) -> Callable[[], object]:
    raise ValueError(f"no {job.source} here")


def test_a_child_that_fails_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    encoding = Encoding("NONE", None, 1)
    wrong = Method("broken", "a broken peer", "peer", broken, encoding)
    whole = Method("gdal", "GDAL", "peer", gdal, encoding)
    source = given_source(write_raster(tmp_path / "source.tif", smooth(3, 600, 600)))
    plan = Plan((wrong, whole), encoding, rounds=2, threads=1, folder=tmp_path, timeout_seconds=60)
    lines: list[str] = []
    case = compare(source, plan, warm_up=None, say=lines.append)
    assert case.methods[0].failed == f"round 1: ended with exit code 1: ValueError: no {source.path} here"
    assert [run.round for run in case.methods[1].runs] == [1, 2]
    assert sum("a broken peer FAILED" in line for line in lines) == 1


def test_tiles_are_compared_with_the_loop_that_people_write(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["tiles", "--case", "landsat", "--megabytes", "1", "--rounds", "1", "--tile-size", "512"]
    arguments += ["--engine", "same", "--peers", "sequential-scale-1"]
    results = ["--json", str(tmp_path / "report.json"), "--markdown", str(tmp_path / "report.md")]
    assert command.main([*arguments, *results, "--inputs", str(tmp_path / "inputs")]) == OK
    (case,) = json.loads((tmp_path / "report.json").read_text())["cases"]
    assert case["output"] == "tiles"
    for method in case["methods"]:
        assert method["check"]["pixels_identical"], method
        (run,) = method["runs"]
        assert run["size_bytes"] > 100_000
    assert case["methods"][0]["check"] == {"valid": True, "pixels_identical": True, "problems": []}
    assert "# Tiles, side by side" in (tmp_path / "report.md").read_text()
    assert "the loop, XSCALE=YSCALE=1" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "inputs").iterdir() if path.is_dir()] == []
