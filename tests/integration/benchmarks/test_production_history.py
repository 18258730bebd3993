"""A calibration is fitted to production's tasks: rows of a real database, as the worker writes them."""

from __future__ import annotations

import json
from pathlib import Path

import psycopg
import pytest

from benchmarks import run
from benchmarks.calibrate.fit import fit
from benchmarks.calibrate.history import runs_of_database
from benchmarks.command import USAGE
from tests.support import calibration_runs as made
from tests.support.services import postgres

JOB = "0" * 63 + "1"


def remember(conninfo: str, count: int) -> None:
    """Insert completed tasks with measurements, one without, and one that covers three workloads."""
    runs = made.runs(operations=[("create_cog", "analysis")])[:count]
    measured: list[object] = [
        {
            "actual": {"seconds": each.seconds, "peak_memory_mb": each.peak_mb, "processor": "Z80"},
            "estimate": {"workloads": [each.workload], "peak_memory_mb": each.bound_mb},
        }
        for each in runs
    ]
    measured.append({"actual": {"seconds": 1.0}, "estimate": None})
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(
            "insert into app.jobs (job_id, job_type, total_stages) values (%s, 'any_job', 5)", [JOB]
        )
        for number, each in enumerate([*measured, None]):
            metadata = {} if each is None else {"measured": each}
            connection.execute(
                "insert into app.tasks (task_id, parent_job_id, job_type, task_type, stage, metadata, status)"
                " values (%s, %s, 'any_job', 'create_cog', 3, %s, 'completed')",
                [f"t{number}", JOB, json.dumps(metadata)],
            )


@pytest.fixture
def environment(conninfo: str, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in postgres.parts(conninfo).items():
        if value:
            monkeypatch.setenv(name.upper(), str(value))
    return conninfo


def test_what_the_worker_recorded_makes_a_calibration(environment: str, tmp_path: Path) -> None:
    remember(environment, 32)
    runs, silent = runs_of_database("one")
    assert (len(runs), silent) == (32, 1)
    fitted = fit(made.store(tmp_path, runs).contents(), note="")
    assert fitted.calibration.machine.processor == "Z80"
    assert fitted.calibration.models["create_cog"].runs == 32
    assert any("extract_tiles: 0 runs of 0 sizes are too few" in note for note in fitted.notes)


def test_too_little_history_is_said(
    environment: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    remember(environment, 3)
    assert run.main(["--from-database", "--results", str(tmp_path)]) == run.TOO_FEW
    assert "create_cog: 3 runs" in (said := capsys.readouterr().err)
    assert "1 tasks say too little" in said
    assert "3 tasks of production" in said


def test_a_database_must_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("POSTGIS_HOST", raising=False)
    assert run.main(["--from-database", "--results", str(tmp_path)]) == USAGE
    assert "set POSTGIS_HOST" in capsys.readouterr().err
