"""The command line answers people and programs, and its exit codes mean something."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import rasterio

import gdaltools as gt
from gdaltools.cli import main, printable
from gdaltools.tiles.generate import generate_tiling_scheme
from tests.support.rasters import UTM, UTM_GRID, smooth, truncate, write_raster


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return write_raster(tmp_path / "scene.tif", smooth(3, 600, 700), crs=UTM, transform=UTM_GRID)


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gdaltools", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_info_tells_people_and_programs(scene: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(scene)]) == 0
    assert "EPSG:32637" in capsys.readouterr().out
    assert main(["info", str(scene), "--json"]) == 0
    text = json.loads(capsys.readouterr().out)
    assert (text["width"], text["height"], text["count"]) == (700, 600, 3)


def test_tiles_are_planned_limited_and_made_cogs(
    scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    area = {"type": "Polygon", "coordinates": [[[38.7, 9.04], [38.75, 9.04], [38.75, 9.05], [38.7, 9.04]]]}
    (tmp_path / "area.json").write_text(json.dumps(area))
    asked = ["tiles", str(scene), str(tmp_path / "cogs"), "--tms", "WebMercatorQuad", "--tile-mb", "0.8"]
    asked += ["--overlap", "0", "--as-cog", "--codec", "zstd", "--level", "3", "--quiet"]
    assert main([*asked, "--plan"]) == 0
    assert "COGs, ZSTD level 3" in capsys.readouterr().out
    assert not (tmp_path / "cogs").exists()
    assert main([*asked, "--area", str(tmp_path / "area.json"), "--skip-empty", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    whole = gt.generate_tiling_scheme(scene, tms="WebMercatorQuad", tile_mb=0.8, overlap=0)
    assert 0 < len(made["tiles"]) < len(whole)
    assert (made["tile_size"], made["overlap"]) == (512, 0)
    for tile in made["tiles"]:
        assert main(["validate", tile["location"]]) == 0
    assert main(["tiles", str(scene), str(tmp_path / "x"), "--level", "3", "--target-crs", UTM]) == 2


def test_cog_and_validate_agree(scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "out" / "cog.tif"
    assert main(["cog", str(scene), str(target), "--profile", "visualization", "--json", "--quiet"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["compression"], made["tier"]) == ("JPEG", "visualization")
    assert main(["validate", str(target)]) == 0
    assert "is a valid COG" in capsys.readouterr().out
    assert main(["validate", str(scene), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["valid"] is False


def test_tiles_are_cut_by_size_or_by_a_scheme(
    scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = ["tiles", str(scene), str(tmp_path / "tiles"), "--tile-size", "512", "--overlap", "64", "--quiet"]
    assert main([*cut, "--target-crs", UTM]) == 0
    assert "4 tiles" in capsys.readouterr().out
    assert len(list((tmp_path / "tiles").glob("*.tif"))) == 4
    scheme = generate_tiling_scheme(scene, 512, 64, UTM).write(tmp_path / "scheme.geojson")
    again = ["tiles", str(scene), str(tmp_path / "again"), "--scheme", str(scheme)]
    assert main([*again, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["tiles"]) == 4
    assert main([*again, "--overlap", "3"]) == 2
    assert main(["tiles", str(scene), str(tmp_path / "no"), "--tile-size", "500"]) == 2
    assert not (tmp_path / "no").exists()


def test_estimate_answers_for_each_operation(scene: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for operation in ("create_cog", "extract_tiles"):
        assert main(["estimate", str(scene), "--operation", operation, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["seconds"] > 0
    assert main(["estimate", str(scene), "--profile", "archive", "--cores", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["variant"], found["cores"]) == ("archive", 1)
    assert main(["estimate", str(scene), "--operation", "fly"]) == 2
    assert main(["estimate", str(scene), "--cores", "0"]) == 2


def test_a_whole_process_works_and_keeps_its_streams_apart(scene: Path, tmp_path: Path) -> None:
    done = run("cog", scene, tmp_path / "b.tif", "--json", "--target-crs", "EPSG:4326")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert json.loads(done.stdout)["reprojection_performed"] is True


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        ([], 2, "usage"),
        (["fly"], 2, "usage"),
        (["info"], 2, "usage"),
        (["cog", "{scene}", "{out}", "--jpeg-quality", "many"], 2, "usage"),
        (["cog", "{scene}", "{out}", "--profile", "fastest"], 2, "fastest"),
        (["cog", "{scene}", "{out}", "--blocksize", "100"], 2, "100"),
        (["cog", "{scene}", "{out}", "--target-crs", "EPSG:1"], 2, "EPSG:1"),
        (["cog", "{scene}", "{scene}"], 2, "overwrite"),
        (["cog", "{scene}", "abfs://silver-cogs/../b.tif"], 2, "climbs"),
        (["info", "{folder}/none.tif"], 3, "does not exist"),
        (["info", "{folder}/text.tif"], 3, "not a raster"),
        (["info", "{folder}/empty.tif"], 3, "empty"),
        (["validate", "{folder}/cut.tif"], 3, "cut"),
        (["cog", "{folder}/cut.tif", "{out}"], 3, "cut"),
        (["cog", "{scene}", "/proc/none/b.tif"], 4, "cannot be made"),
    ],
)
def test_each_kind_of_failure_has_its_code_and_one_clear_line(
    scene: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], code: int, text: str
) -> None:
    (tmp_path / "text.tif").write_text("no raster")
    (tmp_path / "empty.tif").touch()
    truncate(write_raster(tmp_path / "cut.tif", smooth(3, 600, 700)))
    places = {"scene": scene, "out": tmp_path / "out.tif", "folder": tmp_path}
    before = sorted(tmp_path.iterdir())
    assert main([argument.format(**places) for argument in arguments]) == code
    streams = capfd.readouterr()
    assert streams.out == ""
    assert text in streams.err
    assert "Traceback" not in streams.err
    if "usage" not in streams.err:
        assert streams.err.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_a_process_without_arguments_explains_itself() -> None:
    done = run()
    assert done.returncode == 2
    assert "usage" in done.stderr
    assert run("--help").returncode == 0


def test_what_a_file_says_cannot_steer_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nasty = "\x1b[2J[bold red]\x07boo[/]"
    source = write_raster(
        tmp_path / "a.tif", smooth(1, 30, 40), descriptions=[nasty], tags={"X": nasty}, units=[nasty]
    )
    assert main(["info", str(source)]) == 0
    assert "\x1b" not in capsys.readouterr().out
    assert printable(nasty) == "\\x1b[2J[bold red]\\x07boo[/]"
    hostile = tmp_path / "\x1b[31mred.tif"
    assert main(["info", str(hostile)]) == 3
    assert "\x1b" not in capsys.readouterr().err


def test_a_reader_that_went_away_is_no_crash(scene: Path) -> None:
    command = f"{sys.executable} -m gdaltools info {scene} --json | true"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False, timeout=120)
    assert "Traceback" not in done.stderr


def test_ctrl_c_ends_at_once_with_130_and_no_target(tmp_path: Path) -> None:
    # A sparse file is written in no time, but takes as long to warp as any other: minutes.
    source = tmp_path / "a.tif"
    grid = {"crs": UTM, "transform": UTM_GRID, "width": 30_000, "height": 30_000}
    rasterio.open(
        source, "w", driver="GTiff", count=3, dtype="uint8", tiled=True, sparse_ok=True, **grid
    ).close()
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-m", "gdaltools", "cog", source, out / "b.tif", "--target-crs", "EPSG:3857"],
        stderr=subprocess.PIPE, text=True, preexec_fn=os.setsid,
        env={**os.environ, "GDALTOOLS_MAX_RATIO": "1000000"},
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not list(out.glob(".gdaltools-*/*")):
        assert time.monotonic() < deadline
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, text = process.communicate(timeout=60)
    assert process.returncode == 130, text
    assert "Traceback" not in text
    assert not (out / "b.tif").exists()
