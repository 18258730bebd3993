"""Measuring as a user runs it: a few real child processes, in addition to invented runs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from benchmarks import predict, run
from benchmarks.calibrate.store import store_in
from benchmarks.command import OK, USAGE
from benchmarks.machine import this_machine
from tests.support import calibration_runs as made


def test_cells_are_measured_and_the_report_is_made_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results, shipped = tmp_path / "results", tmp_path / "shipped.json"
    here = this_machine()
    made.store(results, made.runs(), made.sitting(processor=here.processor, cores=here.cores))
    folders = ["--inputs", str(tmp_path / "inputs"), "--results", str(results), "--ship", str(shipped)]
    what = ["--quick", "--resume", "--sizes", "1", "--operations", "create_cog:fast", "--cores", "1"]
    assert run.main([*what, *folders, "--minutes", "5"]) == OK
    assert "SIZE_THRESHOLD_MB=" in capsys.readouterr().out
    measured = [
        each for each in store_in(results).contents().runs if each.cell and each.cell.variant == "fast"
    ]
    assert [each.error for each in measured] == [None] * 3
    for each in measured:
        assert each.cell is not None
        assert each.seconds is not None
        assert each.process_seconds is not None
        assert 0 < each.seconds < each.process_seconds
        assert each.peak_mb is not None
        assert each.bound_mb is not None
        assert 20 < each.peak_mb <= each.bound_mb
        assert each.read_mb is not None
        assert each.read_mb > 0.1
        assert each.output_mb is not None
        assert each.output_mb > 0.1
        assert each.work.cores == 1
        assert each.reference_seconds is not None
    names = {path.name for path in results.iterdir()}
    assert {"calibration.json", "routing.env", "report.md", "report.html", "times.png"} <= names
    own, default = (json.loads(path.read_text()) for path in (results / "calibration.json", shipped))
    assert own["thresholds"]["size_threshold_mb"] > 0
    assert (default["default"], default["thresholds"]) == (True, None)
    page = (results / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert 'src="http' not in page
    markdown = (results / "report.md").read_text()
    for words in ("| create_cog ", "size only, 1000 MB", "What it was measured on"):
        assert words in markdown
    assert [path for path in (tmp_path / "inputs").iterdir() if path.is_dir()] == []


def test_rasters_that_no_fit_has_seen_are_held_against_their_estimates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict.main(["--largest-mb", "8", "--inputs", str(tmp_path)]) == OK
    by, *lines = capsys.readouterr().out.splitlines()
    assert by.startswith("by: default calibration")
    assert len(lines) == 3
    for line in lines:
        found = re.search(
            r"estimate ([\d.]+) s \(([\d.]+) to ([\d.]+)\), measured ([\d.]+) s, .* times", line
        )
        assert found is not None, line
        middle, low, high, measured = (float(number) for number in found.groups())
        assert low <= middle <= high
        assert measured > 0


def test_predictions_by_a_calibration_that_is_not_there_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "none.json"
    assert predict.main(["--calibration", str(missing), "--inputs", str(tmp_path)]) == USAGE
    assert str(missing) in capsys.readouterr().err


def test_a_child_that_takes_too_much_memory_is_ended_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    what = ["--quick", "--sizes", "1", "--operations", "create_cog:fast", "--cores", "1"]
    what += ["--memory-limit-mb", "40", "--minutes", "5", "--inputs", str(tmp_path / "inputs")]
    assert run.main([*what, "--results", str(results)]) == run.TOO_FEW
    failed = [each for each in store_in(results).contents().runs if each.error is not None]
    assert failed
    assert "over its limit of 40 MB, and was killed" in str(failed[0].error)
    assert "a smaller one was killed for its memory" in (said := capsys.readouterr().err)
    assert "create_cog: 0 runs" in said
