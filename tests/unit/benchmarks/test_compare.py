"""The comparison's decisions: which sources, which methods, and what the runs add up to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio

from benchmarks.command import USAGE
from benchmarks.compare import command
from benchmarks.compare.checks import check_cog, check_tiles
from benchmarks.compare.comparison import Bench, Grid, Plan, compare
from benchmarks.compare.jobs import Encoding, TilesJob
from benchmarks.compare.limit import measure_codec
from benchmarks.compare.methods import Method, methods
from benchmarks.compare.results import CaseResult, Check, MethodResult, Report, Run
from benchmarks.compare.sources.cases import CASES, cases_named
from benchmarks.compare.sources.rasters import Source, given_source, made_source
from benchmarks.compare.sources.scenes import Frame
from benchmarks.compare.tables import as_markdown, failures, sections
from benchmarks.errors import MissingPackage, UnknownCase, UnknownMethod
from benchmarks.machine import Machine
from benchmarks.pages import Table
from gdaltools import create_cog
from gdaltools.errors import SourceNotFound, UnsupportedRaster
from tests.support.rasters import UTM_GRID, elevation, smooth, write_raster

DEFLATE = Encoding("DEFLATE", 6, 2)
MACHINE = Machine(
    processor="a processor",
    cores=2,
    memory_mb=8000,
    system="a system",
    python="3.11",
    gdal="3.10",
    versions={},
    commit=None,
    load=None,
)


def run(number: int, seconds: float, *, size_bytes: int = 1_000_000, peak_bytes: int = 100_000_000) -> Run:
    return Run(
        round=number,
        seconds=seconds,
        cpu_seconds=2 * seconds,
        flush_seconds=0.1,
        peak_bytes=peak_bytes,
        size_bytes=size_bytes,
        process_seconds=seconds + 1,
        process_cpu_seconds=2 * seconds + 1,
        others_cores=0.0,
    )


def result(name: str, seconds: list[float], *, role: str = "peer", **fields: object) -> MethodResult:
    size = fields.pop("size_bytes", 1_000_000)
    runs = [run(number, each, size_bytes=size) for number, each in enumerate(seconds, 1)]
    values = {"check": Check(valid=True, pixels_identical=True, problems=()), "codec": "DEFLATE", "level": 6}
    return MethodResult(
        name=name, label=name, role=role, size_tolerance=None, runs=tuple(runs), **(values | fields)
    )


def case_of(*results: MethodResult, name: str = "relief") -> CaseResult:
    return CaseResult(
        name=name,
        description="a case",
        file="case.tif",
        width=100,
        height=100,
        bands=3,
        dtype="uint8",
        nodata=None,
        layout="striped",
        compression="none",
        size_bytes=30_000,
        predictor=2,
        methods=results,
    )


def report_of(case: CaseResult) -> Report:
    return Report(created="now", options={}, machine=MACHINE, cases=(case,))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where the pictures are unpacked once."""
    return tmp_path_factory.mktemp("pictures")


class TestCases:
    def test_an_unknown_case_is_refused_with_those_that_there_are(self) -> None:
        with pytest.raises(UnknownCase, match=r"'releif' is unknown.*relief"):
            cases_named(["releif"])

    def test_no_name_is_all_of_them(self) -> None:
        assert cases_named([]) == tuple(CASES.values())

    @pytest.mark.parametrize("name", CASES)
    def test_a_size_is_kept_within_a_hundredth(self, name: str) -> None:
        case = CASES[name]
        width, height = case.size(1000)
        assert width * height * case.bands * case.itemsize == pytest.approx(1e9, rel=0.01)
        assert width % 2 == height % 2 == case.odd

    @pytest.mark.parametrize("name", ["noise-u16", "dem-f32", "relief", "landsat"])
    def test_a_source_is_what_its_case_says(self, name: str, pictures: Path) -> None:
        case = CASES[name]
        source = made_source(case, megabytes=0.3, folder=pictures)
        assert (source.width, source.height) == case.size(0.3)
        assert (source.bands, source.dtype, source.nodata) == (case.bands, case.dtype, case.nodata)
        assert (source.layout, source.compression) == ("striped", "none")

    @pytest.mark.parametrize(
        ("name", "share"), [("landsat", 0.71), ("relief-nodata", 0.75), ("dem-f32", 0.95)]
    )
    def test_nodata_covers_the_share_that_it_should(self, name: str, share: float, pictures: Path) -> None:
        case = CASES[name]
        rows = case.scene(Frame(2048, 2048, seed=0, folder=pictures))
        sampled = np.concatenate([rows(first, first + 4) for first in range(0, 2048, 128)])
        assert (sampled != case.nodata).any(axis=-1).mean() == pytest.approx(share, abs=0.06)

    def test_the_same_seed_makes_the_same_pixels(self, tmp_path: Path) -> None:
        first, again, other = (
            CASES["dem-f32"].scene(Frame(64, 64, seed, tmp_path))(0, 64) for seed in (1, 1, 2)
        )
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)

    def test_a_source_that_is_there_is_not_made_again(self, tmp_path: Path) -> None:
        made = made_source(CASES["dem-f32"], megabytes=0.1, folder=tmp_path, layout="tiled", compress="zstd")
        before = made.path.stat()
        again = made_source(CASES["dem-f32"], megabytes=0.1, folder=tmp_path, layout="tiled", compress="zstd")
        assert again == made
        assert (made.layout, made.compression) == ("tiled", "zstd")
        assert made.path.stat().st_ino == before.st_ino

    def test_a_source_of_several_dtypes_or_none_at_all_is_refused(self, tmp_path: Path) -> None:
        text = tmp_path / "text.tif"
        text.write_text("no raster")
        with pytest.raises(UnsupportedRaster, match="cannot be opened"):
            given_source(text)
        with pytest.raises(SourceNotFound):
            given_source(tmp_path / "absent.tif")
        complex_values = write_raster(tmp_path / "complex.tif", smooth(1, 20, 20).astype("complex64"))
        with pytest.raises(UnsupportedRaster, match="complex64"):
            given_source(complex_values)


class TestMethods:
    def test_the_usual_ones_are_the_engine_first_and_all_peers(self) -> None:
        names = [each.name for each in methods("cog", DEFLATE, size_tolerances=(0.015, 0.03))]
        assert names == [
            "same",
            "adaptive-1.5",
            "adaptive-3",
            "zstd-3",
            "gdal",
            "gdal-zstd-3",
            "rio-cogeo",
            "rio-cogeo-tuned",
            "rioxarray",
            "odc-geo",
        ]

    def test_nothing_adapts_but_deflate(self) -> None:
        found = methods("cog", Encoding("ZSTD", 3, 2), size_tolerances=(0.015,), peers=("gdal",))
        assert [each.name for each in found] == ["same", "gdal"]

    def test_an_unknown_name_is_refused(self) -> None:
        with pytest.raises(UnknownMethod, match="peer 'gdla' is unknown"):
            methods("cog", DEFLATE, size_tolerances=(), peers=("gdla",))
        with pytest.raises(UnknownMethod, match="engine variant 'adaptive-9' is unknown"):
            methods("cog", DEFLATE, size_tolerances=(0.03,), engine=("adaptive-9",))

    def test_a_missing_peer_that_was_named_is_refused_with_the_extra(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("benchmarks.compare.methods.version_of", {"rasterio": "1"}.get)
        with pytest.raises(MissingPackage, match=r"peer odc-geo needs.*\.\[bench\]"):
            methods("cog", DEFLATE, size_tolerances=(), peers=("odc-geo",))

    def test_a_missing_peer_that_was_not_named_is_skipped_with_a_line(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr("benchmarks.compare.methods.version_of", {}.get)
        usual = methods("cog", Encoding("NONE", None, 1), size_tolerances=(), engine=())
        case = compare(a_source(tmp_path), a_plan(tmp_path, *usual), warm_up=None, say=lambda _: None)
        assert [each.name for each in case.methods if not each.skipped] == ["gdal"]
        assert "odc-geo with dask: skipped, odc-geo is not installed (extra: bench)" in as_markdown(
            report_of(case)
        )


class TestResults:
    def test_figures_are_medians_and_ratios_of_medians(self) -> None:
        case = case_of(result("same", [2.0, 1.0, 9.0], role="engine"), result("gdal", [4.0, 5.0, 3.0]))
        assert case.methods[0].seconds is not None
        assert case.methods[0].seconds.model_dump() == {"median": 2.0, "low": 1.0, "high": 9.0}
        assert case.ratio("seconds", "gdal", "same") == 2.0
        assert case.ratio("cpu_seconds", "gdal", "same") == 2.0
        assert case.ratio("size_mb", "same", "gdal") == 1.0

    def test_what_failed_is_in_the_table_and_among_the_failures(self) -> None:
        wrong = Check(valid=False, pixels_identical=True, problems=("no ghost",))
        case = case_of(
            result("same", [1.0], role="engine", check=wrong),
            result("zstd-3", [], role="engine", check=None, failed="round 1: killed"),
            result("gdal", [2.0]),
        )
        report = report_of(case)
        assert list(failures(report)) == [
            "relief: same made a wrong file, no ghost",
            "relief: zstd-3 failed, round 1: killed",
        ]
        runs, *others = sections(report)[0].parts
        assert isinstance(runs, Table)
        outputs = [row[-1] for row in runs.rows]
        assert outputs == ["NOT VALID, identical, see below", "FAILED", "valid, identical"]
        assert "zstd-3: FAILED, round 1: killed" in others

    def test_json_holds_every_run_and_what_follows_from_them(self) -> None:
        report = report_of(case_of(result("same", [2.0, 1.0], role="engine")))
        read = Report.model_validate_json(report.model_dump_json())
        assert read.cases[0].methods[0].runs == report.cases[0].methods[0].runs
        values = report.model_dump()
        assert values["schema_name"] == "gdaltools-compare-1"
        assert values["cases"][0]["methods"][0]["seconds"] == {"median": 1.5, "low": 1.0, "high": 2.0}
        assert set(values["machine"]) >= {"processor", "cores", "memory_mb", "gdal", "versions", "commit"}


class TestCheck:
    def test_a_right_file_has_no_problem(self, tmp_path: Path) -> None:
        source = write_raster(tmp_path / "source.tif", smooth(3, 700, 901), nodata=0)
        create_cog(source, tmp_path / "cog.tif", "analysis")
        assert check_cog(source, tmp_path / "cog.tif") == {
            "valid": True,
            "pixels_identical": True,
            "problems": [],
        }

    def test_one_other_pixel_is_seen(self, tmp_path: Path) -> None:
        pixels = smooth(3, 700, 901)
        source = write_raster(tmp_path / "source.tif", pixels)
        pixels[1, 600, 5] += 1
        create_cog(write_raster(tmp_path / "other.tif", pixels), tmp_path / "cog.tif", "analysis")
        found = check_cog(source, tmp_path / "cog.tif")
        assert not found["pixels_identical"]
        assert found["problems"] == ["pixels differ from the source's, first in rows 512 to 1024"]

    def test_zeros_of_either_sign_and_nan_are_compared_as_bits(self, tmp_path: Path) -> None:
        pixels = elevation(600, 600)
        pixels[0, :9, :9] = np.nan
        source = write_raster(tmp_path / "source.tif", pixels, nodata=float("nan"))
        create_cog(source, tmp_path / "cog.tif", "analysis")
        assert check_cog(source, tmp_path / "cog.tif")["problems"] == []

    def test_strips_overviews_of_zeros_and_padding_are_told(self, tmp_path: Path) -> None:
        pixels = smooth(1, 1100, 1100)
        source = write_raster(tmp_path / "source.tif", pixels)
        strips = write_raster(tmp_path / "strips.tif", np.pad(pixels, ((0, 0), (0, 4), (0, 0))))
        found = check_cog(source, strips)
        assert not found["valid"]
        assert found["pixels_identical"]
        assert "padded: 1100 x 1104 x 1 uint8 instead of 1100 x 1100 x 1 uint8" in found["problems"]
        empty = write_raster(tmp_path / "empty.tif", np.zeros_like(pixels), block=512, overviews=(2, 4))
        assert any("smallest overview is off" in problem for problem in check_cog(source, empty)["problems"])


class TestCommand:
    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["--case", "releif"], "case 'releif' is unknown"),
            (["--peers", "gdla"], "peer 'gdla' is unknown"),
            (["--codec", "lzw", "--level", "3"], "LZW has no levels"),
            (["--level", "40"], "--level 40 is not from 1 to 12"),
            (["--rounds", "0"], "--rounds 0 is less than 1"),
            (["--source", "absent.tif"], "absent.tif does not exist"),
            (["--megabytes", "-1"], "not a number above 0"),
        ],
    )
    def test_what_is_wrong_is_said_before_anything_is_made(
        self, arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        inputs = tmp_path / "inputs"
        assert command.main(["cog", "--inputs", str(inputs), *arguments]) == USAGE
        assert said in capsys.readouterr().err
        assert not inputs.exists() or not list(inputs.iterdir())


@pytest.mark.parametrize("encoding", [DEFLATE, Encoding("ZSTD", 3, 2), Encoding("LZW", None, 2)])
def test_the_codec_alone_has_a_rate(encoding: Encoding, tmp_path: Path) -> None:
    source = write_raster(tmp_path / "source.tif", smooth(3, 600, 1100))
    assert all(rate > 0 for rate in measure_codec(source, encoding, threads=2).values())


def a_source(folder: Path) -> Source:
    return given_source(write_raster(folder / "source.tif", smooth(1, 40, 50)))


def a_plan(folder: Path, *chosen: Method) -> Plan:
    return Plan(
        methods=chosen,
        encoding=Encoding("NONE", None, 1),
        rounds=2,
        threads=2,
        folder=folder,
        timeout_seconds=60,
    )


class TestTiles:
    def made(self, folder: Path, *, windows: bool = False) -> TilesJob:
        """Write tiles by the loop, and return what it received."""
        source = given_source(
            write_raster(folder / "scene.tif", smooth(3, 400, 500), crs="EPSG:32637", transform=UTM_GRID)
        )
        (method,) = methods("tiles", DEFLATE, size_tolerances=(), engine=[], peers=["sequential-scale-1"])
        plan = replace(a_plan(folder, method), grid=Grid(256, 0, None if windows else "EPSG:4326"))
        target = folder / "tiles"
        target.mkdir()
        job = Bench(plan, source, folder).job(method, target)
        assert isinstance(job, TilesJob)
        method.writer(job)()
        return job

    @pytest.mark.parametrize("windows", [False, True])
    def test_the_loop_makes_what_is_asked_for(self, tmp_path: Path, windows: bool) -> None:
        job = self.made(tmp_path, windows=windows)
        assert len(job.tiles.tiles) == len(list(Path(job.target).iterdir())) == 4
        assert job.tiles.warps is not windows
        found = check_tiles(Path(job.source), Path(job.target), job.tiles)
        assert found == {"valid": True, "pixels_identical": True, "problems": []}

    def test_what_is_wrong_with_tiles_is_told(self, tmp_path: Path) -> None:
        job = self.made(tmp_path)
        first, second, third, last = (Path(job.target) / f"{tile.name}.tif" for tile in job.tiles.tiles)
        first.unlink()
        with rasterio.open(second, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as dataset:
            dataset.write(dataset.read() // 2 + 60)
        with rasterio.open(third, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as dataset:
            dataset.transform = dataset.transform * dataset.transform.translation(3, 0)
        last.write_bytes(second.read_bytes())
        found = check_tiles(Path(job.source), Path(job.target), job.tiles)
        assert not found["pixels_identical"]
        text = " ".join(found["problems"])
        for expected in ("is missing", "and 2 more like it", "standard deviations"):
            assert expected in text
