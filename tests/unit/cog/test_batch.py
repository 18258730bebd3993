"""COGs of many files: each possible one is written once, and an interruption costs only the current file."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
from rasterio.crs import CRS
from rasterio.errors import RasterioError

from gdaltools.cli import main
from gdaltools.cog.batch import run
from gdaltools.cog.batch.budget import MemoryBudget, free_bytes
from gdaltools.cog.batch.create import create_cogs
from gdaltools.cog.batch.journal import JOURNAL_NAME
from gdaltools.cog.batch.pairs import pairs
from gdaltools.cog.batch.result import CogsResult
from gdaltools.cog.create import create_cog
from gdaltools.cog.validate import validate_cog
from gdaltools.display.progress import Progress
from gdaltools.errors import InvalidLocation, InvalidParameter, SourceNotFound
from gdaltools.runtime import graph
from gdaltools.storage import locate
from tests.support.rasters import UTM, UTM_GRID, pixels, smooth, truncate, write_raster

# Kills its own process, as `kill -9` does, when a named point is reached for the nth time.
KILLED_RUN = """
import os, signal, sys
from gdaltools.runtime import crash_points
from gdaltools.cog.batch.create import create_cogs

pattern, target, place, times = sys.argv[1:]
left = int(times)

def visit(name):
    global left
    left -= name == place
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

crash_points.arm(visit)
create_cogs(pattern, target, files_at_once=1)
"""


def scenes(folder: Path, count: int, *, rows: int = 60, cols: int = 70) -> str:
    """Write `count` rasters in two folders, and return the pattern that matches them."""
    for number in range(count):
        write_raster(folder / f"zone{number % 2}" / f"{number}.tif", smooth(1, rows, cols, seed=number))
    return f"{folder}/**/*.tif"


def seen(folder: Path) -> dict[str, tuple[int, int]]:
    """Return the identity of each COG's file, which changes if it is written again."""
    found = (path for path in folder.rglob("*.tif") if ".gdaltools-" not in str(path))
    return {str(p.relative_to(folder)): (p.stat().st_ino, p.stat().st_mtime_ns) for p in found}


def names(cogs: Any, folder: Path) -> list[str]:
    return [str(Path(cog.location).relative_to(folder)) for cog in cogs]


def no_leftovers(folder: Path) -> bool:
    return not [path for path in folder.rglob("*") if path.name.startswith(".")]


def test_all_that_can_be_made_are_made_and_each_failure_is_told(tmp_path: Path) -> None:
    pattern, out = scenes(tmp_path / "in", 12), tmp_path / "out"
    truncate(tmp_path / "in" / "zone0" / "4.tif")
    (tmp_path / "in" / "zone1" / "text.tif").write_text("no raster")
    result = create_cogs(pattern, out)
    assert names(result.made, out) == sorted(seen(out))
    assert len(result.made) == 11
    assert [(Path(each.source).name, each.error_type) for each in result.failed] == [
        ("4.tif", "CorruptRaster"),
        ("text.tif", "UnsupportedRaster"),
    ]
    assert not result
    assert "11 made, 2 failed" in str(result)
    assert all(each.error in str(result) for each in result.failed)
    for cog in result.made:
        assert validate_cog(cog.location).valid
        np.testing.assert_array_equal(pixels(cog.location), pixels(cog.source))
    assert no_leftovers(out)
    assert CogsResult.model_validate_json(result.model_dump_json()) == result


def test_a_later_run_makes_only_what_is_missing_or_came_of_something_else(tmp_path: Path) -> None:
    pattern, out = scenes(tmp_path / "in", 5), tmp_path / "out"
    first = create_cogs(pattern, out)
    assert not first.failed
    before = seen(out)
    again = create_cogs(pattern, out)
    assert seen(out) == before
    assert names(again.skipped, out) == sorted(before)
    assert again.size_bytes == first.size_bytes
    assert "5 skipped" in str(again)
    (out / "zone0" / "0.tif").unlink()
    write_raster(tmp_path / "in" / "zone1" / "1.tif", smooth(1, 50, 40, seed=9))
    third = create_cogs(pattern, out)
    assert names(third.made, out) == ["zone0/0.tif", "zone1/1.tif"]
    assert len(third.skipped) == 3
    assert pixels(out / "zone1" / "1.tif").shape == (1, 50, 40)
    other = create_cogs(pattern, out, codec="ZSTD")
    assert len(other.made) == 5
    assert validate_cog(out / "zone0" / "2.tif").compression == "ZSTD"


def test_one_crs_is_the_same_by_name_and_as_an_object(tmp_path: Path) -> None:
    write_raster(tmp_path / "in" / "a.tif", smooth(1, 40, 50), crs=UTM, transform=UTM_GRID)
    assert len(create_cogs(f"{tmp_path}/in/*", tmp_path / "out", target_crs="EPSG:3857").made) == 1
    again = create_cogs(f"{tmp_path}/in/*", tmp_path / "out", target_crs=CRS.from_epsg(3857))
    assert len(again.skipped) == 1


def test_force_makes_what_is_whole_as_well(tmp_path: Path) -> None:
    pattern, out = scenes(tmp_path / "in", 3), tmp_path / "out"
    create_cogs(pattern, out)
    before = seen(out)
    assert len(create_cogs(pattern, out, force=True).made) == 3
    assert not set(before.values()) & set(seen(out).values())


def test_what_others_put_in_the_place_of_a_cog_is_replaced_only_when_asked(tmp_path: Path) -> None:
    pattern, out = scenes(tmp_path / "in", 3), tmp_path / "out"
    create_cogs(pattern, out)
    write_raster(out / "zone0" / "0.tif", smooth(1, 20, 20))
    before = seen(out)
    refused = create_cogs(pattern, out)
    assert [each.error_type for each in refused.failed] == ["TargetExists"]
    assert len(refused.skipped) == 2
    assert seen(out) == before
    allowed = create_cogs(pattern, out, overwrite=True)
    assert names(allowed.made, out) == ["zone0/0.tif"]
    assert len(allowed.skipped) == 2


def test_a_source_that_fails_and_is_mended_replaces_the_cog_of_its_earlier_self(tmp_path: Path) -> None:
    pattern, out = scenes(tmp_path / "in", 2), tmp_path / "out"
    create_cogs(pattern, out)
    broken = write_raster(tmp_path / "in" / "zone0" / "0.tif", smooth(1, 90, 90))
    whole = broken.read_bytes()
    with broken.open("r+b") as stream:
        stream.truncate(3000)
    assert len(create_cogs(pattern, out).failed) == 1
    assert pixels(out / "zone0" / "0.tif").shape == (1, 60, 70)
    broken.write_bytes(whole)
    assert names(create_cogs(pattern, out).made, out) == ["zone0/0.tif"]
    assert pixels(out / "zone0" / "0.tif").shape == (1, 90, 90)


def test_two_runs_at_a_time_spoil_nothing(tmp_path: Path) -> None:
    pattern, out = scenes(tmp_path / "in", 4), tmp_path / "out"
    results: list[CogsResult] = []

    def inner(state: Progress) -> None:
        if not results:
            results.append(create_cogs(pattern, out, progress=False))

    late = create_cogs(pattern, out, files_at_once=1, progress=inner)
    assert len(results[0].made) == 4
    assert {each.error_type for each in late.failed} == {"TargetExists"}
    assert len(create_cogs(pattern, out).skipped) == 4


@pytest.mark.parametrize("place", ["cog-begun", "file-published", "cog-listed"])
def test_after_a_kill_at_most_the_file_in_hand_is_made_again(tmp_path: Path, place: str) -> None:
    pattern, out = scenes(tmp_path / "in", 6), tmp_path / "out"
    command = [sys.executable, "-c", KILLED_RUN, pattern, str(out), place, "3"]
    assert subprocess.run(command, check=False, timeout=120).returncode == -9
    before = seen(out)
    assert 2 <= len(before) <= 3
    result = create_cogs(pattern, out)
    assert not result.failed
    after = seen(out)
    assert len(after) == 6
    kept = {name for name in before if after[name] == before[name]}
    assert len(kept) >= 2
    assert set(names(result.skipped, out)) == kept
    assert no_leftovers(out)
    assert len(create_cogs(pattern, out).skipped) == 6


def test_a_journal_that_was_cut_short_or_is_not_understood_counts_where_it_can_be_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pattern, out = scenes(tmp_path / "in", 3), tmp_path / "out"
    create_cogs(pattern, out, files_at_once=1)
    journal = out / JOURNAL_NAME
    journal.write_bytes(b'{"format": "of/another"}\n' + journal.read_bytes()[:-30])
    result = create_cogs(pattern, out)
    assert "2 lines are ignored" in caplog.text
    assert len(result.skipped) == 2
    assert len(result.made) == 1
    caplog.clear()
    assert len(create_cogs(pattern, out).skipped) == 3
    assert all(json.loads(line) for line in journal.read_text().splitlines() if line.endswith("}"))


@pytest.mark.parametrize("error", [KeyboardInterrupt, InterruptedError])
def test_an_error_of_the_callback_ends_the_run_and_the_next_goes_on(
    tmp_path: Path, error: type[BaseException]
) -> None:
    pattern, out = scenes(tmp_path / "in", 8), tmp_path / "out"

    def cancel(state: Progress) -> None:
        if state.done > state.total // 2:
            raise error

    with pytest.raises(error):
        create_cogs(pattern, out, progress=cancel)
    assert no_leftovers(out)
    assert 1 <= len(seen(out)) < 8
    result = create_cogs(pattern, out)
    assert not result.failed
    assert len(result.skipped) >= 1
    assert len(seen(out)) == 8


def test_progress_counts_the_bytes_of_sources_that_are_made(tmp_path: Path) -> None:
    pattern, out = scenes(tmp_path / "in", 4), tmp_path / "out"
    truncate(tmp_path / "in" / "zone1" / "3.tif")
    text: list[Progress] = []
    create_cogs(pattern, out, progress=text.append)
    size = sum(path.stat().st_size for path in (tmp_path / "in").rglob("*.tif"))
    assert {(state.total, state.unit) for state in text} == {(size, "bytes")}
    done = [state.done for state in text]
    assert done == sorted(done)
    assert done[-1] == size
    assert text[0].label == "cogs 0/4"
    assert text[-1].label == "cogs 4/4, 1 failed"
    text.clear()
    create_cogs(pattern, out, progress=text.append)
    assert text[-1].total == (tmp_path / "in" / "zone1" / "3.tif").stat().st_size


def test_small_files_are_made_side_by_side_and_a_large_one_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pattern, out = scenes(tmp_path / "in", 4), tmp_path / "out"
    write_raster(tmp_path / "in" / "a_large.tif", smooth(1, 1100, 1000))
    monkeypatch.setattr(run, "_ONE_THREAD_BYTES", 1 << 20)
    made: list[tuple[str, int]] = []
    together = threading.Barrier(2)

    def recorded(plan: Any, target: Any, **options: Any) -> Any:
        if "large" not in target.filename:
            together.wait(30)
        made.append((target.filename, graph.thread_count()))
        return build_cog(plan, target, **options)

    build_cog = run.build_cog
    monkeypatch.setattr(run, "build_cog", recorded)
    with dask.config.set(num_workers=3):
        result = create_cogs(pattern, out, files_at_once=2)
    assert [name for name, _ in made][-1] == "a_large.tif"
    assert [threads for _, threads in made] == [1, 1, 1, 1, 3]
    assert names(result.made, out)[0] == "a_large.tif"
    np.testing.assert_array_equal(pixels(out / "a_large.tif"), pixels(tmp_path / "in" / "a_large.tif"))


def test_work_waits_until_there_is_memory_for_it_and_the_first_never_does() -> None:
    budget = MemoryBudget(100)
    taken, most, lock = 0, 0, threading.Lock()

    def work() -> None:
        nonlocal taken, most
        with budget.taking(40):
            with lock:
                taken += 40
                most = max(most, taken)
            threading.Event().wait(0.01)
            with lock:
                taken -= 40

    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert (taken, most) == (0, 80)
    with budget.taking(1000):
        pass
    assert free_bytes() > 1 << 20


def test_little_memory_makes_them_one_by_one(tmp_path: Path) -> None:
    result = create_cogs(scenes(tmp_path / "in", 3), tmp_path / "out", memory_mb=1)
    assert len(result.made) == 3


def test_every_option_of_create_cog_is_one_of_create_cogs_and_reaches_the_encoder(tmp_path: Path) -> None:
    ours, its = inspect.signature(create_cogs).parameters, inspect.signature(create_cog).parameters
    for name, parameter in its.items():
        if name not in (
            "src",
            "dst",
            "compute",
            "reuse",
        ):  # for a batch `reuse` is the rule, and also copies blocks
            assert ours[name] == parameter, name
    source = write_raster(tmp_path / "a.tif", smooth(3, 300, 200), crs=UTM, transform=UTM_GRID)
    options: dict[str, Any] = {
        "codec": "ZSTD",
        "level": 5,
        "predictor": 1,
        "blocksize": 128,
        "interleave": "band",
        "target_crs": "EPSG:3857",
        "overview_resampling": "nearest",
        "reproject_resampling": "nearest",
    }
    (cog,) = create_cogs([source], tmp_path / "out", "archive", **options).made
    alone = create_cog(source, tmp_path / "alone.tif", "archive", **options)
    assert Path(cog.location).read_bytes() == Path(alone.location).read_bytes()


@pytest.mark.parametrize(
    "options",
    [
        {"profile": "fastest"},
        {"blocksize": 100},
        {"codec": "PKZIP"},
        {"codec": "JPEG", "quality": 200},
        {"overviews": "some"},
        {"raster_type": "photo"},
        {"target_crs": "EPSG:1"},
        {"tms": "MarsQuad"},
        {"level": 3, "size_tolerance": 0.1},
        {"files_at_once": 0},
        {"memory_mb": 0},
    ],
)
def test_parameters_that_fit_no_raster_are_refused_before_any_work(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    with pytest.raises(InvalidParameter):
        create_cogs(scenes(tmp_path / "in", 2), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_parameters_that_fit_some_rasters_fail_for_the_others_alone(tmp_path: Path) -> None:
    write_raster(tmp_path / "in" / "rgb.tif", smooth(3, 40, 40))
    write_raster(tmp_path / "in" / "float.tif", smooth(1, 40, 40, dtype="float32"))
    result = create_cogs(f"{tmp_path}/in/*.tif", tmp_path / "out", codec="JPEG")
    assert names(result.made, tmp_path / "out") == ["rgb.tif"]
    assert [each.error_type for each in result.failed] == ["InvalidParameter"]


FILES = ("a.tif", "b.TIF", "c.jp2", "x/a.tif", "x/y/a.tif", "x/y/[1].tif", "z/notes.txt")


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.tif", {"a.tif"}),
        ("*", {"a.tif", "b.TIF", "c.tif"}),
        ("?.*", {"a.tif", "b.TIF", "c.tif"}),
        ("**/a.tif", {"a.tif", "x/a.tif", "x/y/a.tif"}),
        ("*/*.tif", {"x/a.tif"}),
        ("x/**/*.tif", {"a.tif", "y/a.tif", "y/[1].tif"}),
        ("x/y/[1].t?f", {"[1].tif"}),
        ("x/**", {"a.tif", "y/a.tif", "y/[1].tif"}),
    ],
)
@pytest.mark.parametrize("kind", ["local", "blob"])
def test_names_below_the_fixed_part_of_a_pattern_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, pattern: str, expected: set[str]
) -> None:
    monkeypatch.setenv("GDALTOOLS_BLOB_ROOT", str(tmp_path))
    for name in FILES:
        (tmp_path / "bronze-in" / "deep" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "bronze-in" / "deep" / name).touch()
    root = "abfs://bronze-in/deep" if kind == "blob" else f"{tmp_path}/bronze-in/deep"
    target = locate("abfs://silver-out" if kind == "blob" else tmp_path / "out")
    found = pairs(f"{root}/{pattern}", target)
    assert {pair.name for pair in found} == expected
    for pair in found:
        assert pair.source.path is not None
        assert pair.source.path.is_file()
        assert pair.target == target.child(pair.name)


def test_a_target_below_the_patterns_folder_is_not_a_source_of_the_next_run(tmp_path: Path) -> None:
    pattern = scenes(tmp_path, 2)
    first = create_cogs(pattern, f"{tmp_path}/cogs/")
    again = create_cogs(pattern, f"{tmp_path}/cogs/")
    assert names(again.skipped, tmp_path / "cogs") == names(first.made, tmp_path / "cogs")
    assert len(again.skipped) == 2


def test_names_that_cannot_be_are_refused_before_any_work(tmp_path: Path) -> None:
    for name in ("a.png", "a.jp2", "x/a.tif", "y/a.tif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    out = tmp_path / "out"
    with pytest.raises(InvalidParameter, match="both become"):
        create_cogs(f"{tmp_path}/*", out)
    with pytest.raises(InvalidParameter, match="keeps their folders"):
        create_cogs([tmp_path / "x" / "a.tif", tmp_path / "y" / "a.tif"], out)
    with pytest.raises(InvalidParameter, match="replaced by its own COG"):
        create_cogs(f"{tmp_path}/x/*.tif", tmp_path / "y" / ".." / "x", overwrite=True)
    with pytest.raises(InvalidParameter, match=r"is a folder: use a pattern"):
        create_cogs(tmp_path / "x", out)
    with pytest.raises(InvalidParameter, match="is a file"):
        create_cogs(tmp_path / "a.png", tmp_path / "x" / "a.tif")
    with pytest.raises(InvalidLocation, match="climbs"):
        create_cogs(f"{tmp_path}/x/*.tif", "abfs://silver-cogs/../other")
    with pytest.raises(SourceNotFound, match="no file matches"):
        create_cogs(f"{tmp_path}/*.gif", out)
    with pytest.raises(SourceNotFound, match="no source"):
        create_cogs([], out)
    assert not out.exists()


def test_the_same_source_given_twice_is_one(tmp_path: Path) -> None:
    pattern = scenes(tmp_path / "in", 1)
    source = tmp_path / "in" / "zone0" / "0.tif"
    assert len(create_cogs([source, source, str(source)], tmp_path / "out").made) == 1
    assert len(create_cogs([pattern, pattern], tmp_path / "out2").made) == 1


def test_blobs_become_blobs_below_a_prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GDALTOOLS_BLOB_ROOT", str(tmp_path))
    scenes(tmp_path / "bronze-rasters" / "2025", 3)
    result = create_cogs("abfs://bronze-rasters/2025/**/*.tif", "abfs://silver-cogs/all/")
    assert [cog.location for cog in result.made] == [
        f"abfs://silver-cogs/all/{name}.tif" for name in ("zone0/0", "zone0/2", "zone1/1")
    ]
    assert (tmp_path / "silver-cogs" / "all" / JOURNAL_NAME).is_file()
    assert len(create_cogs("abfs://bronze-rasters/2025/**/*.tif", "abfs://silver-cogs/all").skipped) == 3


def test_an_error_that_nobody_foresaw_is_told_and_the_others_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_cog = run.build_cog

    def failing(plan: Any, target: Any, **options: Any) -> Any:
        if target.filename == "1.tif":
            raise RasterioError("what GDAL said")
        return build_cog(plan, target, **options)

    monkeypatch.setattr(run, "build_cog", failing)
    result = create_cogs(scenes(tmp_path / "in", 3), tmp_path / "out")
    assert [(each.error_type, each.error, each.retryable) for each in result.failed] == [
        ("RasterioError", "what GDAL said", True)
    ]
    assert len(result.made) == 2


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command_line_makes_many(quiet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenes(quiet / "in", 3)
    command = ["cog", "in/**/*.tif", "out/", "--quiet"]
    assert main([*command, "--json", "--codec", "zstd"]) == 0
    text = json.loads(capsys.readouterr().out)
    assert [len(text[how]) for how in ("made", "copied", "skipped", "failed")] == [3, 0, 0, 0]
    assert validate_cog(quiet / "out" / "zone0" / "0.tif").compression == "ZSTD"
    assert main([*command, "--codec", "zstd"]) == 0
    assert "3 skipped" in capsys.readouterr().out
    assert main([*command, "--codec", "zstd", "--force"]) == 0
    assert "3 made" in capsys.readouterr().out
    truncate(quiet / "in" / "zone0" / "2.tif")
    assert main([*command, "--codec", "zstd"]) == 1
    out = capsys.readouterr().out
    assert "1 failed" in out
    assert "cut short" in out
    several = ["cog", "in/zone0/0.tif", "in/zone1/1.tif", "flat/", "--quiet"]
    assert main(several) == 0
    assert sorted(os.listdir("flat")) == ["0.tif", "1.tif", JOURNAL_NAME]


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["in/*.png", "out/"], 3, "no file matches 'in/*.png'"),
        (["in/**/*.tif", "out"], 2, "end it with a slash, 'out/'"),
        (["in/zone0/0.tif", "in/zone1/1.tif", "out.tif"], 2, "end it with a slash"),
        (["in/zone0/0.tif", "out.tif", "--force"], 2, "--force is for many files"),
        (["in/**/*.tif", "out/", "--blocksize", "100"], 2, "100"),
        (["in/**/*.tif", "out/", "--profile", "fastest"], 2, "fastest"),
        (["in/**/*.tif", "abfs://silver-cogs/../a/"], 2, "climbs"),
    ],
)
def test_a_wrong_command_is_one_clear_line(
    quiet: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, text: str
) -> None:
    scenes(quiet / "in", 2)
    assert main(["cog", *arguments]) == code
    streams = capsys.readouterr()
    assert text in streams.err
    assert streams.err.count("\n") == 1
    assert streams.out == ""
    assert os.listdir() == ["in"]
