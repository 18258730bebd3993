"""The comparison as a user runs it: real child processes, every peer that is installed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.compare import command
from benchmarks.compare.comparison import Plan, compare
from benchmarks.compare.jobs import Encoding
from benchmarks.compare.methods.cogs import Method
from benchmarks.compare.sources.rasters import given_source
from tests.support.rasters import smooth, write_raster


def test_a_small_case_goes_through_every_peer_that_is_installed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["cog", "--case", "dem-f32", "--megabytes", "2", "--rounds", "1", "--engine", "default"]
    arguments += ["--codec", "zstd", "--level", "3"]
    results = ["--json", str(tmp_path / "report.json"), "--markdown", str(tmp_path / "report.md")]
    assert command.main([*arguments, *results, "--inputs", str(tmp_path / "inputs")]) == command.OK
    report = json.loads((tmp_path / "report.json").read_text())
    (case,) = report["cases"]
    assert (case["width"], case["height"], case["size_bytes"]) == (707, 707, 707 * 707 * 4)
    by_name = {method["name"]: method for method in case["methods"]}
    for name in ("default", "gdal", "rio-cogeo", "rio-cogeo-tuned", "rioxarray"):
        method = by_name[name]
        assert method["check"] == {"valid": True, "pixels_identical": True, "problems": []}, name
        (run,) = method["runs"]
        assert 0 < run["seconds"] < run["process_seconds"]
        assert run["cpu_seconds"] > 0
        assert 20e6 < run["peak_bytes"] < 2e9
        assert run["size_bytes"] > 100_000
    odc = by_name["odc-geo"]
    assert odc["runs"] or odc["skipped"] == "odc-geo is not installed (extra: bench)"
    markdown = (tmp_path / "report.md").read_text()
    assert "| GDAL COG driver |" in markdown
    assert "rio-cogeo" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "inputs").iterdir() if path.is_dir()] == []


def test_a_child_that_fails_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    encoding = Encoding("NONE", None, 1)
    broken = Method("broken", "a broken peer", "peer", "no such writer", encoding)
    whole = Method("gdal", "GDAL", "peer", "gdal", encoding)
    source = given_source(write_raster(tmp_path / "source.tif", smooth(3, 600, 600)))
    plan = Plan((broken, whole), encoding, rounds=2, threads=1, folder=tmp_path, timeout_seconds=60)
    lines: list[str] = []
    case = compare(source, plan, warm_up=None, say=lines.append)
    assert case.methods[0].failed == "round 1: ended with exit code 1: KeyError: 'no such writer'"
    assert [run.round for run in case.methods[1].runs] == [1, 2]
    assert sum("a broken peer FAILED" in line for line in lines) == 1


def test_tiles_are_compared_with_the_loop_that_people_write(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["tiles", "--case", "landsat", "--megabytes", "1", "--rounds", "1", "--tile-size", "512"]
    arguments += ["--engine", "same", "plain", "--peers", "sequential-scale-1"]
    results = ["--json", str(tmp_path / "report.json"), "--markdown", str(tmp_path / "report.md")]
    assert command.main([*arguments, *results, "--inputs", str(tmp_path / "inputs")]) == command.OK
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
