"""Calibrating on known machines: the grid, the store, the model, the thresholds, and the rules' decisions."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks import diff, run
from benchmarks.calibrate.answer import FUNCTION_TASKS, Answer, Target, answer, fits, largest_of
from benchmarks.calibrate.cells import BUDGETS, Cell, grid
from benchmarks.calibrate.fit import fit, fit_operation, fit_prices
from benchmarks.calibrate.history import run_of_task
from benchmarks.calibrate.kinds import KINDS
from benchmarks.calibrate.misrouting import examples, misrouted, simulated_jobs
from benchmarks.calibrate.places import place
from benchmarks.calibrate.store import Store, store_in
from benchmarks.command import OK, USAGE
from benchmarks.compare.sources.cases import CASES
from benchmarks.compare.sources.rasters import Source, given_source
from benchmarks.errors import StoreError, TooFewRuns
from gdaltools import storage
from gdaltools.cost.calibration import Calibration
from gdaltools.errors import InvalidParameter
from tests.support import calibration_runs as made
from tests.support.rasters import smooth, write_raster

APP = Target("function app", minutes=30, cores=2, memory_mb=7000, disk_mb=500)


class TestGrid:
    @pytest.mark.parametrize("scale", list(BUDGETS))
    def test_every_operation_meets_every_kind_it_is_for(self, scale: str) -> None:
        cells = grid(BUDGETS[scale], cores=(1, 2))  # type: ignore[index]
        assert len({cell.key for cell in cells}) == len(cells)
        if scale == "quick":
            return
        for name in {cell.operation_name for cell in cells}:
            mine = [cell for cell in cells if cell.operation_name == name]
            kinds = {(cell.case, cell.layout, cell.compress) for cell in mine}
            assert len(kinds) == (5 if "visualization" in name else 9)
            assert {cell.cores for cell in mine} == {1, 2}
        for cell in cells:
            case = CASES[cell.case]
            assert cell.variant != "visualization" or (case.bands, case.dtype) == (3, "uint8")

    def test_operations_are_chosen_by_name(self) -> None:
        cells = grid(BUDGETS["quick"], operations=["extract_tiles", "create_cog:fast"])
        assert {cell.operation_name for cell in cells} == {
            "extract_tiles:window",
            "extract_tiles:warp",
            "create_cog:fast",
        }
        with pytest.raises(InvalidParameter, match="'create_dog' is unknown"):
            grid(BUDGETS["quick"], operations=["create_dog"])


class TestStore:
    def test_what_is_appended_comes_back(self, tmp_path: Path) -> None:
        runs = made.runs(sizes=(8,), rounds=1)
        found = made.store(tmp_path, runs).contents()
        assert list(found.runs) == runs
        assert found.machine == made.MACHINE
        assert found.problems == ()

    def test_a_line_that_is_none_is_passed_over_and_told(self, tmp_path: Path) -> None:
        store = made.store(tmp_path, made.runs(sizes=(8,), rounds=1))
        with store.path.open("a") as stream:
            stream.write(
                '{"kind": "run"}\nnot JSON\n{"kind": "sitting", "schema_name": "gdaltools-runs-9"}\n'
            )
        contents = store.contents()
        assert len(contents.runs) == 8
        assert len(contents.problems) == 3
        assert all("passed over" in problem for problem in contents.problems)

    def test_a_line_cut_short_by_a_crash_costs_only_itself(self, tmp_path: Path) -> None:
        store = made.store(tmp_path, made.runs(sizes=(8,), rounds=1))
        text = store.path.read_text()
        store.path.write_text(text[:-40])
        store.append(made.runs(sizes=(8,), rounds=1)[0])
        contents = store.contents()
        assert (len(contents.runs), len(contents.problems)) == (8, 1)

    def test_a_file_that_is_no_store_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "runs.jsonl").write_text("hello\nworld\n")
        with pytest.raises(StoreError, match="no store of the schema"):
            store_in(tmp_path).contents()

    def test_a_place_that_cannot_be_written_to_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(StoreError, match="name another folder with --results"):
            Store(tmp_path / "file" / "runs.jsonl").append(made.sitting())


class TestFit:
    def test_larger_sizes_than_any_fitted_are_predicted_within_the_interval(self, tmp_path: Path) -> None:
        fitted = fit(made.store(tmp_path, made.runs()).contents(), note="")
        assert set(fitted.calibration.models) == {"create_cog", "extract_tiles"}
        assert fitted.calibration.machine.processor == "Z80"
        for model in fitted.calibration.models.values():
            assert model.judgement is not None
            assert model.judgement.held_out_from_mb > 2 * model.judgement.fitted_up_to_mb
            assert model.judgement.median_error <= 0.15
            assert model.judgement.coverage >= 0.75
            assert model.largest_mb == pytest.approx(650, rel=0.01)
            assert min(model.prices.values()) >= 0
            assert 0.5 <= model.memory.low < model.memory.high <= 0.9

    def test_runs_that_went_wrong_move_little(self) -> None:
        runs = made.runs(outliers=0.05, operations=[("create_cog", "analysis")])
        model, _ = fit_operation(runs)
        work = made.workload(runs[-1].cell)  # type: ignore[arg-type]
        clean, _ = fit_operation(made.runs(operations=[("create_cog", "analysis")]))
        assert model.predict(work).median == pytest.approx(clean.predict(work).median, rel=0.1)

    def test_prices_are_those_of_a_machine_without_noise(self) -> None:
        prices = fit_prices(made.runs(noise=0, operations=[("create_cog", "analysis")]))
        started = prices["start"] + prices["start:analysis"]
        assert started == pytest.approx(made.TRUTH["start"], rel=0.02)
        assert prices["work:analysis:byte"] == pytest.approx(made.TRUTH["work:analysis:byte"], rel=0.2)

    def test_an_operation_with_too_few_runs_leaves_the_others(self, tmp_path: Path) -> None:
        few = made.runs(sizes=(8,), rounds=1, operations=[("extract_tiles", "window")])
        runs = made.runs(operations=[("create_cog", "analysis")]) + few
        fitted = fit(made.store(tmp_path, runs).contents(), note="")
        assert list(fitted.calibration.models) == ["create_cog"]
        (note,) = fitted.notes
        assert "extract_tiles: 4 runs of 1 sizes are too few" in note

    def test_too_few_runs_of_everything_are_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(TooFewRuns, match="create_cog: 4 runs of 1 sizes"):
            fit(made.store(tmp_path, made.runs(sizes=(8,), rounds=1)).contents(), note="")
        with pytest.raises(TooFewRuns, match="holds no sitting"):
            fit(Store(tmp_path / "absent.jsonl").contents(), note="")

    def test_runs_on_a_busy_machine_are_left_out_where_there_are_enough_others(self, tmp_path: Path) -> None:
        quiet = made.runs(operations=[("create_cog", "analysis")])
        loud = [each.model_copy(update={"others_cores": 1.5, "seconds": 900.0}) for each in quiet[:10]]
        fitted = fit(made.store(tmp_path, quiet + loud).contents(), note="")
        assert fitted.calibration.models["create_cog"].runs == len(quiet)
        assert any("10 of 42 runs were not quiet: left out" in note for note in fitted.notes)

    def test_runs_of_another_machine_are_left_out(self, tmp_path: Path) -> None:
        ours = made.runs(operations=[("create_cog", "analysis")])
        theirs = [each.model_copy(update={"sitting": "other", "seconds": 900.0}) for each in ours]
        machines = made.sitting("other", processor="6502"), made.sitting("one")
        fitted = fit(made.store(tmp_path, theirs + ours, *machines).contents(), note="")
        assert fitted.calibration.models["create_cog"].runs == len(ours)
        assert fitted.calibration.machine.processor == "Z80"
        assert f"{len(ours)} runs of another machine are left out" in fitted.notes

    def test_a_run_that_failed_is_told(self, tmp_path: Path) -> None:
        runs = made.runs(operations=[("create_cog", "analysis")])
        killed = runs[0].model_copy(
            update={"error": "was killed by SIGKILL (out of memory?)", "seconds": None}
        )
        fitted = fit(made.store(tmp_path, [*runs, killed]).contents(), note="")
        assert any("SIGKILL" in note for note in fitted.notes)


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Calibration:
    folder = tmp_path_factory.mktemp("store")
    return fit(made.store(folder, made.runs()).contents(), note="").calibration


@pytest.fixture(scope="module")
def found(calibration: Calibration) -> Answer:
    return answer(APP, calibration)


class TestAnswer:
    def test_the_largest_raster_ends_in_time_and_one_larger_does_not(
        self, calibration: Calibration, found: Answer
    ) -> None:
        for each in found.largest:
            assert each.bound_by == "time"
            for factor, expected in ((0.99, True), (1.02, False)):
                work = each.task.on(APP, each.kind, each.megabytes * factor)
                assert fits(APP, work, calibration)[0] is expected, each

    def test_the_settings_can_be_sourced_and_say_why(self, found: Answer) -> None:
        lines = found.environment_file().splitlines()
        settings = dict(line.split("=") for line in lines if not line.startswith("#"))
        assert float(settings["SIZE_THRESHOLD_MB"]) == found.thresholds.size_threshold_mb
        assert 0 < float(settings["DURATION_THRESHOLD_MINUTES"]) <= 30
        assert settings["FUNCTION_APP_CORES"] == "2"
        text = " ".join(found.reasons)
        for words in (
            "the tightest usual kind",
            "is enough: no kind",
            "Well compressed",
            "an extrapolation",
            "change it most",
        ):
            assert words in text

    def test_half_the_time_is_about_half_the_size(self, calibration: Calibration, found: Answer) -> None:
        half = Target("app", minutes=15, cores=2, memory_mb=7000, disk_mb=500)
        less = max(each.stored_mb for each in largest_of(half, FUNCTION_TASKS[:1], calibration))
        whole = max(each.stored_mb for each in found.largest if each.task == FUNCTION_TASKS[0])
        assert less == pytest.approx(whole / 2, rel=0.05)

    def test_an_app_with_too_little_memory_takes_nothing(self, calibration: Calibration) -> None:
        tiny = Target("app", minutes=30, cores=2, memory_mb=600, disk_mb=500)
        found = answer(tiny, calibration)
        assert {each.bound_by for each in found.largest} == {"memory"}
        assert found.thresholds.size_threshold_mb == 1


class TestMisrouting:
    def test_both_rules_send_fewest_jobs_to_their_end(self, calibration: Calibration, found: Answer) -> None:
        ratios = np.exp(np.random.default_rng(0).normal(0, 0.08, 100)).tolist()
        jobs = simulated_jobs(APP, calibration, ratios)
        assert len(jobs) == 200
        by_rule = {each.rule: each for each in misrouted(jobs, found)}
        before, size, duration, both, backstop = by_rule.values()
        assert duration.wrong < min(size.wrong, before.wrong)
        assert both.killed <= min(size.killed, duration.killed)
        assert backstop.wrong <= duration.wrong
        assert all(each.wrong == each.killed + each.needless for each in by_rule.values())

    def test_a_small_file_may_take_longer_than_a_large_one(self, calibration: Calibration) -> None:
        (_, small, slow), (_, large, quick) = examples(APP, calibration)
        assert small < large
        assert slow.seconds > quick.seconds

    def test_kinds_have_the_size_that_is_asked_for(self) -> None:
        for kind in KINDS:
            layout = kind.layout(900, remote=False)
            assert layout.megabytes == pytest.approx(900, rel=0.01)
            assert layout.stored_mb == pytest.approx(900 * kind.share)


class TestHistory:
    def row(self, **measured: object) -> dict[str, object]:
        from datetime import datetime

        return {"task_id": "t", "measured": measured, "updated_at": datetime(2026, 1, 1)}

    def test_a_task_that_says_what_it_took_is_a_run(self) -> None:
        work = made.runs(sizes=(8,), rounds=1)[0].workload
        found = run_of_task(
            "s",
            self.row(
                actual={"seconds": 3.5, "cpu_seconds": 6.0, "peak_memory_mb": 250.0, "processor": "Z80"},
                estimate={"workloads": [work], "peak_memory_mb": 400.0},
            ),
        )
        assert found is not None
        assert (found.seconds, found.peak_mb, found.bound_mb, found.processor) == (3.5, 250.0, 400.0, "Z80")
        assert found.measured
        assert found.quiet

    @pytest.mark.parametrize(
        "measured",
        [
            {},
            {"actual": {"seconds": 1}, "estimate": None},
            {"actual": {"seconds": "x"}, "estimate": {"workloads": [{}]}},
            {"actual": {"seconds": 1}, "estimate": {"workloads": [{}]}},
            {"actual": {"seconds": 1}, "estimate": {"workloads": [{}, {}]}},
            {"actual": {"seconds": 0}, "estimate": {"workloads": [{}]}},
        ],
    )
    def test_one_that_says_too_little_is_none(self, measured: dict[str, object]) -> None:
        assert run_of_task("s", self.row(**measured)) is None


class TestDiff:
    def test_cells_are_compared_by_their_medians(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = made.store(tmp_path / "a", made.runs(noise=0.01))
        after = made.store(
            tmp_path / "b",
            made.runs(noise=0.01, slower=1.5, seed=1),
            made.sitting(gdal="3.12.0", versions={}),
        )
        found = diff.differences(before.contents(), after.contents())
        assert len(found) == 32
        assert all(each.verdict == "slower" for each in found)
        assert math.isclose(found[0].seconds, 1.5, rel_tol=0.05)
        arguments = [str(before.path.parent), str(after.path)]
        assert diff.main(arguments) == OK
        out = capsys.readouterr().out
        assert "32 cells: 0 faster, 0 same, 32 slower" in out
        assert "gdaltools 0.1.0 → None" in out
        assert diff.main([*arguments, "--fail-over", "1.2"]) == diff.SLOWER

    def test_stores_that_share_nothing_are_refused(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        one = made.store(tmp_path / "a", made.runs(sizes=(8,), rounds=1))
        other = made.store(tmp_path / "b", made.runs(sizes=(9,), rounds=1))
        assert diff.main([str(one.path), str(other.path)]) == USAGE
        assert diff.main([str(one.path), str(tmp_path / "c")]) == USAGE
        assert "share no cell" in (said := capsys.readouterr().err)
        assert "does not exist" in said


class TestCommand:
    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["--operations", "fly"], "'fly' is unknown"),
            (["--cores", "900"], "--cores 900"),
            (["--storage", "tape"], "--storage 'tape'"),
            (["--minutes", "-1"], "not a number above 0"),
            (["--quick", "--full"], "not allowed with"),
        ],
    )
    def test_what_is_wrong_is_said(
        self, arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folders = ["--inputs", str(tmp_path / "inputs"), "--results", str(tmp_path / "results")]
        assert run.main([*folders, *arguments]) == USAGE
        assert said in capsys.readouterr().err

    def test_no_space_is_said_and_nothing_measured(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = ["--quick", "--sizes", "1", "--operations", "create_cog:fast", "--keep-free-mb", "1e12"]
        folders = ["--inputs", str(tmp_path / "inputs"), "--results", str(tmp_path / "results")]
        assert run.main([*arguments, *folders]) == USAGE
        said = capsys.readouterr().err
        assert "MB are free and it may take" in said
        assert "warming up" not in said
        assert "nothing could be measured" in said

    def test_a_folder_that_cannot_be_made_is_said(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "file").touch()
        inside = str(tmp_path / "file" / "deeper")
        assert run.main(["--quick", "--results", str(tmp_path), "--inputs", inside]) == USAGE
        assert "name another folder with --inputs" in capsys.readouterr().err

    def test_too_few_runs_have_an_exit_code_of_their_own(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        made.store(tmp_path, made.runs(sizes=(8,), rounds=1))
        assert run.main(["--refit", "--results", str(tmp_path)]) == run.TOO_FEW
        assert "too few" in capsys.readouterr().err


class TestPlaces:
    def cell(self) -> Cell:
        return grid(BUDGETS["quick"], operations=["create_cog:fast"])[0]

    def source(self, folder: Path) -> Source:
        return given_source(write_raster(folder / "scene.tif", smooth(1, 40, 50)))

    def test_blobs_are_uploaded_once_and_nothing_is_left(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("GDALTOOLS_BLOB_ROOT", str(tmp_path / "blobs"))
        (tmp_path / "inputs").mkdir()
        with place("abfs://bench/here/", tmp_path / "inputs") as where:
            source = self.source(tmp_path)
            assert where.source(source) == where.source(source) == "abfs://bench/here/sources/scene.tif"
            with where.output(self.cell()) as output:
                storage.write_bytes(output.target, b"123456")
                assert (output.size_bytes(), output.local_bytes) == (6, 0)
            assert storage.exists("abfs://bench/here/sources/scene.tif")
        assert [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()] == []
        assert list((tmp_path / "inputs").iterdir()) == []

    def test_local_outputs_are_looked_at_and_gone_afterwards(self, tmp_path: Path) -> None:
        with place("local", tmp_path) as where, where.output(self.cell()) as output:
            assert output.environment["TMPDIR"].startswith(str(output.folder))
            Path(output.target).write_bytes(b"123")
            assert (output.size_bytes(), output.local_bytes) == (3, 3)
        assert list(tmp_path.iterdir()) == []
