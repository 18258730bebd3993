"""An interrupted extraction continues where it ended, and keeps only what is certain to be right."""

from __future__ import annotations

import itertools
import json
import logging
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st

from gdaltools import storage
from gdaltools.cli import main
from gdaltools.display.progress import Progress
from gdaltools.errors import InvalidParameter, StorageError, TargetExists
from gdaltools.tiles.extract.create import ExtractionResult, extract_tiles
from gdaltools.tiles.extract.manifest import FinishedTile, ManifestWriter, TileManifest, known_tiles
from gdaltools.tiles.generate import generate_tiling_scheme
from gdaltools.tiles.scheme import TilingScheme
from tests.support.rasters import UTM, UTM_GRID, smooth, truncate, write_raster

Scene = tuple[Path, TilingScheme]
Seen = dict[str, tuple[int, int]]

# Kills its own process, as `kill -9` does, when a named point is reached for the nth time.
KILLED_RUN = """
import os, signal, sys, threading
from gdaltools.runtime import crash_points
from gdaltools.tiles.extract.create import extract_tiles
from gdaltools.tiles.scheme import TilingScheme

source, scheme, target, place, times = sys.argv[1:]
left = int(times)
lock = threading.Lock()

def visit(name):
    global left
    with lock:
        left -= name == place
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

crash_points.arm(visit)
extract_tiles(source, TilingScheme.read(scheme), target)
"""
# Exits as a task's process does on SIGTERM, while other threads write.
ABANDONED_RUN = KILLED_RUN.replace(
    "os.kill(os.getpid(), signal.SIGKILL)", "(scratch.abandon(), os._exit(3))"
).replace("import crash_points", "import crash_points, scratch")


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    path = write_raster(tmp_path / "scene.tif", smooth(3, 330, 450), crs=UTM, transform=UTM_GRID)
    return path, generate_tiling_scheme(path, 128, 32)


def seen(folder: Path) -> Seen:
    """Return the identity of each tile's file, which changes if the tile is written again."""
    return {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in folder.glob("*.tif")}


def listed(folder: Path, stem: str = "scene") -> set[str]:
    """Return the names in the manifest, none if it does not exist; fail if it is not valid."""
    path = folder / f"{stem}_tiles.json"
    if not path.exists():
        return set()
    return {tile.name for tile in TileManifest.model_validate_json(path.read_bytes()).tiles}


def pixels(result: ExtractionResult) -> list[tuple[Any, Any]]:
    found = []
    for tile in result.tiles:
        with rasterio.open(tile.location) as dataset:
            found.append((dataset.read(), dataset.dataset_mask()))
    return found


def assert_as_a_calm_run(result: ExtractionResult, scene: Scene, folder: Path) -> None:
    calm = extract_tiles(*scene, folder)
    assert [tile.tile_id for tile in result.tiles] == [tile.tile_id for tile in calm.tiles]
    assert result.total_bytes == calm.total_bytes
    for (ours, mask), (theirs, their_mask) in zip(pixels(result), pixels(calm), strict=True):
        np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_array_equal(mask, their_mask)


def interrupted(scene: Scene, folder: Path, *, place: str, times: int, program: str = KILLED_RUN) -> int:
    path, scheme = scene
    plan = scheme.write(folder.parent / "scheme.geojson", overwrite=True)
    arguments = [str(value) for value in (path, plan, folder, place, times)]
    return subprocess.run([sys.executable, "-c", program, *arguments], check=False, timeout=120).returncode


@pytest.mark.parametrize(
    ("place", "times"),
    [
        *itertools.product(("file-before-publish", "file-published", "tile-published"), (1, 4)),
        ("manifest-written", 1),
        ("manifest-written", 2),
    ],
)
def test_after_a_kill_only_what_is_missing_is_written(
    tmp_path: Path, scene: Scene, place: str, times: int
) -> None:
    tiles = tmp_path / "tiles"
    assert interrupted(scene, tiles, place=place, times=times) == -9
    before, kept = seen(tiles), listed(tiles)
    assert kept <= set(before)
    if place != "manifest-written":  # the manifest comes after the tiles, perhaps after all of them
        assert len(before) < len(scene[1])
    result = extract_tiles(*scene, tiles, resume=True, overwrite=True)
    after = seen(tiles)
    assert {name for name in before if after[name] == before[name]} == kept
    assert {Path(tile.location).name for tile in result.tiles if tile.resumed} == kept
    assert result.tiles_resumed == len(kept)
    assert listed(tiles) == set(after)
    assert [path.name for path in tiles.iterdir() if path.name.startswith(".")] == []
    assert_as_a_calm_run(result, scene, tmp_path / "calm")


def test_after_a_sigterm_of_its_task_only_what_is_missing_is_written(tmp_path: Path, scene: Scene) -> None:
    tiles = tmp_path / "tiles"
    assert interrupted(scene, tiles, place="tile-published", times=5, program=ABANDONED_RUN) == 3
    assert not [path for path in tiles.iterdir() if path.name.startswith(".")]
    before, kept = seen(tiles), listed(tiles)
    assert kept
    result = extract_tiles(*scene, tiles, resume=True, overwrite=True)
    assert {name for name in before if seen(tiles)[name] == before[name]} == kept
    assert_as_a_calm_run(result, scene, tmp_path / "calm")


@pytest.mark.parametrize("error", [KeyboardInterrupt, InterruptedError])
def test_an_error_leaves_a_manifest_of_all_that_ended_before_it(
    tmp_path: Path, scene: Scene, error: type[BaseException]
) -> None:
    tiles = tmp_path / "tiles"
    half = sum(tile.window.width * tile.window.height for tile in scene[1].tiles()) // 2

    def cancel(state: Progress) -> None:
        if state.done > half:
            raise error

    with pytest.raises(error), dask.config.set(scheduler="synchronous"):
        extract_tiles(*scene, tiles, progress=cancel)
    before = seen(tiles)
    assert before
    assert listed(tiles) == set(before)
    result = extract_tiles(*scene, tiles, resume=True)
    assert result.tiles_resumed == len(before)
    assert before.items() <= seen(tiles).items()


def test_a_finished_run_is_resumed_without_writing_anything(tmp_path: Path, scene: Scene) -> None:
    tiles = tmp_path / "tiles"
    first = extract_tiles(*scene, tiles)
    assert first.tiles_resumed == 0
    assert "earlier run" not in str(first)
    before, manifest = seen(tiles), storage.stat(tiles / "scene_tiles.json")
    text: list[Progress] = []
    again = extract_tiles(*scene, tiles, resume=True, progress=text.append)
    assert seen(tiles) == before
    assert storage.stat(tiles / "scene_tiles.json") == manifest
    assert again.tiles_resumed == len(scene[1])
    assert f"{len(scene[1])} of them by an earlier run" in str(again)
    assert again.seconds == 0
    assert [state.done for state in text] == [again.total_pixels]
    said = {"resumed", "started", "finished"}
    for ours, theirs in zip(again.tiles, first.tiles, strict=True):
        assert ours.model_dump(exclude=said) == theirs.model_dump(exclude=said)


def test_tiles_that_are_kept_count_as_done_at_once(tmp_path: Path, scene: Scene) -> None:
    chosen = ["tile_0_0", "tile_1_1"]
    done = extract_tiles(*scene, tmp_path / "tiles", tiles=chosen).total_pixels
    text: list[Progress] = []
    result = extract_tiles(*scene, tmp_path / "tiles", resume=True, progress=text.append)
    assert text[0].done == done
    assert text[-1].done == text[-1].total == result.total_pixels


def _replaced(path: Path) -> None:
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)


@pytest.mark.parametrize("harm", [Path.unlink, truncate, _replaced], ids=["deleted", "cut", "replaced"])
def test_a_tile_that_was_touched_is_made_anew_and_the_others_are_kept(
    tmp_path: Path, scene: Scene, harm: Callable[[Path], object]
) -> None:
    tiles = tmp_path / "tiles"
    extract_tiles(*scene, tiles)
    before = seen(tiles)
    harm(tiles / "scene_tile_1_1.tif")
    result = extract_tiles(*scene, tiles, resume=True, overwrite=True)
    after = seen(tiles)
    assert {name for name in after if after[name] != before[name]} == {"scene_tile_1_1.tif"}
    assert result.tiles_resumed == len(before) - 1
    assert_as_a_calm_run(result, scene, tmp_path / "calm")


def test_a_source_that_changed_makes_every_tile_anew(tmp_path: Path, scene: Scene) -> None:
    path, scheme = scene
    tiles = tmp_path / "tiles"
    extract_tiles(path, scheme, tiles)
    before = seen(tiles)
    write_raster(path, smooth(3, 330, 450, seed=7), crs=UTM, transform=UTM_GRID)
    result = extract_tiles(path, scheme, tiles, resume=True, overwrite=True)
    assert result.tiles_resumed == 0
    assert not set(seen(tiles).items()) & set(before.items())
    assert_as_a_calm_run(result, scene, tmp_path / "calm")


def test_other_parameters_make_every_tile_anew(
    tmp_path: Path, scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    path, scheme = scene
    tiles = tmp_path / "tiles"
    extract_tiles(path, scheme, tiles)
    finer = generate_tiling_scheme(path, 128, 16)
    caplog.set_level(logging.INFO, "gdaltools.tiles.extract.manifest")
    for other, options in ((scheme, {"resampling": "cubic"}), (finer, {})):
        result = extract_tiles(path, other, tiles, resume=True, overwrite=True, **options)
        assert result.tiles_resumed == 0
        assert "is of another parameters_hash" in caplog.text
        caplog.clear()
    named = extract_tiles(path, finer, tiles, resume=True, stem="other")
    assert named.tiles_resumed == 0
    assert listed(tiles, "other") == {f"other_{tile_id}.tif" for tile_id in finer.tile_ids()}


def test_the_crs_that_the_scheme_was_made_with_changes_nothing_when_it_is_named(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "bare.tif", smooth(3, 330, 450), crs=None, transform=UTM_GRID)
    scheme = generate_tiling_scheme(path, 192, 32, input_crs=UTM)
    extract_tiles(path, scheme, tmp_path / "tiles")
    again = extract_tiles(path, scheme, tmp_path / "tiles", input_crs=UTM, resume=True)
    assert again.tiles_resumed == len(scheme)


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe", b"{", b"[]", b"null", b'{"format": "gdaltools-tile-manifest/2"}', b"[" * 100_000],
    ids=["empty", "not text", "cut", "a list", "null", "another version", "deep"],
)
def test_a_manifest_that_cannot_be_read_is_ignored_and_replaced(
    tmp_path: Path, scene: Scene, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    tiles = tmp_path / "tiles"
    extract_tiles(*scene, tiles)
    (tiles / "scene_tiles.json").write_bytes(content)
    assert extract_tiles(*scene, tiles, resume=True, overwrite=True).tiles_resumed == 0
    assert "is ignored" in caplog.text
    assert extract_tiles(*scene, tiles, resume=True).tiles_resumed == len(scene[1])


def test_a_manifest_that_names_another_file_keeps_nothing(tmp_path: Path, scene: Scene) -> None:
    tiles = tmp_path / "tiles"
    extract_tiles(*scene, tiles)
    document = json.loads((tiles / "scene_tiles.json").read_bytes())
    for tile in document["tiles"]:
        tile["name"] = "../" + tile["name"]
    (tiles / "scene_tiles.json").write_text(json.dumps(document))
    assert extract_tiles(*scene, tiles, resume=True, overwrite=True).tiles_resumed == 0


def test_only_tiles_from_the_manifest_may_exist_without_overwrite(tmp_path: Path, scene: Scene) -> None:
    tiles = tmp_path / "tiles"
    extract_tiles(*scene, tiles, tiles=["tile_0_0", "tile_0_1"])
    with pytest.raises(TargetExists):
        extract_tiles(*scene, tiles)
    foreign = tiles / "scene_tile_1_0.tif"
    foreign.write_bytes(b"somebody else's")
    before = seen(tiles)
    with pytest.raises(TargetExists, match="tile_1_0"):
        extract_tiles(*scene, tiles, resume=True)
    assert seen(tiles) == before, "found before any tile is written"
    foreign.unlink()
    assert extract_tiles(*scene, tiles, resume=True).tiles_resumed == 2


def test_without_resume_every_tile_is_written_and_later_runs_can_go_on(tmp_path: Path, scene: Scene) -> None:
    tiles = tmp_path / "tiles"
    extract_tiles(*scene, tiles)
    before = seen(tiles)
    assert extract_tiles(*scene, tiles, overwrite=True).tiles_resumed == 0
    assert not set(seen(tiles).items()) & set(before.items())
    assert extract_tiles(*scene, tiles, resume=True).tiles_resumed == len(scene[1])


def test_a_delayed_result_keeps_what_is_there_and_lists_nothing(tmp_path: Path, scene: Scene) -> None:
    tiles = tmp_path / "tiles"
    extract_tiles(*scene, tiles, tiles=["tile_0_0", "tile_2_1"])
    before, manifest = seen(tiles), storage.stat(tiles / "scene_tiles.json")
    result = extract_tiles(*scene, tiles, resume=True, compute=False).compute(scheduler="threads")
    assert result.tiles_resumed == 2
    assert before.items() <= seen(tiles).items()
    assert storage.stat(tiles / "scene_tiles.json") == manifest
    assert_as_a_calm_run(result, scene, tmp_path / "calm")


def test_a_cluster_lists_what_its_workers_finished(tmp_path: Path, scene: Scene) -> None:
    import distributed

    tiles = tmp_path / "tiles"
    with (
        dask.config.set({"distributed.worker.daemon": False}),
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster),
    ):
        extract_tiles(*scene, tiles, tiles=["tile_0_0", "tile_2_1", "tile_1_1"])
        before = seen(tiles)
        assert listed(tiles) == set(before)
        result = extract_tiles(*scene, tiles, resume=True)
    assert result.tiles_resumed == 3
    assert before.items() <= seen(tiles).items()
    assert listed(tiles) == set(seen(tiles))
    assert_as_a_calm_run(result, scene, tmp_path / "calm")


def test_blobs_are_resumed_as_files_are(
    tmp_path: Path, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GDALTOOLS_BLOB_ROOT", str(tmp_path / "blobs"))
    extract_tiles(*scene, "abfs://silver-tiles/job/tiles", tiles=["tile_0_0"])
    assert storage.exists("abfs://silver-tiles/job/tiles/scene_tiles.json")
    assert extract_tiles(*scene, "abfs://silver-tiles/job/tiles", resume=True).tiles_resumed == 1


def test_the_command_resumes(tmp_path: Path, scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    path, scheme = scene
    plan = scheme.write(tmp_path / "scheme.geojson")
    tiles = tmp_path / "tiles"
    command = ["tiles", str(path), str(tiles), "--scheme", str(plan), "--json", "--quiet"]
    assert main(command) == 0
    (tiles / "scene_tile_0_0.tif").unlink()
    assert main(command) == 2
    capsys.readouterr()
    assert main([*command, "--resume"]) == 0
    assert json.loads(capsys.readouterr().out)["tiles_resumed"] == len(scheme) - 1


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Scene, list[tuple[Any, Any]]]:
    folder = tmp_path_factory.mktemp("small")
    path = write_raster(folder / "a.tif", smooth(1, 100, 130), crs=UTM, transform=UTM_GRID)
    scheme = generate_tiling_scheme(path, 48, 16)
    return (path, scheme), pixels(extract_tiles(path, scheme, folder / "calm"))


@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_whatever_runs_came_before_a_resumed_one_completes_the_same_tiles(
    small: tuple[Scene, list[tuple[Any, Any]]], data: st.DataObject
) -> None:
    (path, scheme), expected = small
    some = st.lists(st.sampled_from(list(scheme.tile_ids())), unique=True, max_size=6)
    earlier = data.draw(st.lists(some, max_size=3), label="tiles of earlier runs")
    lost = set(data.draw(some, label="tiles that were deleted"))
    with tempfile.TemporaryDirectory() as folder, dask.config.set(scheduler="synchronous"):
        for chosen in earlier:
            extract_tiles(path, scheme, folder, tiles=chosen, resume=data.draw(st.booleans()), overwrite=True)
        for tile_id in lost:
            Path(folder, f"a_{tile_id}.tif").unlink(missing_ok=True)
        result = extract_tiles(path, scheme, folder, resume=True)
        assert {t.tile_id for t in result.tiles if t.resumed} == {t for run in earlier for t in run} - lost
        for (ours, mask), (theirs, their_mask) in zip(pixels(result), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
            np.testing.assert_array_equal(mask, their_mask)


RUN = TileManifest(source="/a.tif", source_size_bytes=1, source_etag="1", parameters_hash="x")


def _tile(number: int) -> FinishedTile:
    return FinishedTile(tile_id=f"tile_0_{number}", name="a.tif", size_bytes=1, etag="1", shape=(1, 1, 1))


def test_the_manifest_is_written_no_more_often_than_a_tenth_of_the_time_allows(tmp_path: Path) -> None:
    target = storage.locate(tmp_path / "m.json")
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 0.5  # the time between two readings of the clock, a write included
        return now

    counts = []
    with ManifestWriter(target, RUN, {}, clock=clock) as writer:
        for number in range(40):
            writer.enter(_tile(number))
            counts.append(len(known_tiles(target, RUN).tiles))
    writes = [number for number, count in enumerate(counts) if count == number + 1]
    assert writes[0] == 0, "the first tile is listed at once"
    assert all(later - earlier >= 10 for earlier, later in itertools.pairwise(writes))
    assert len(writes) > 2
    assert len(known_tiles(target, RUN).tiles) == 40


def test_a_manifest_that_cannot_be_written_is_an_error_but_never_hides_another(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    nowhere = storage.locate(tmp_path / "file" / "m.json")
    with pytest.raises(StorageError), ManifestWriter(nowhere, RUN, {}) as writer:
        writer.enter(_tile(0))
    with pytest.raises(InvalidParameter, match="the first"), ManifestWriter(nowhere, RUN, {}) as writer:
        with pytest.raises(StorageError):
            writer.enter(_tile(0))
        raise InvalidParameter("the first")


def test_a_folder_in_the_manifests_place_is_refused_before_any_tile_is_written(
    tmp_path: Path, scene: Scene
) -> None:
    (tmp_path / "tiles" / "scene_tiles.json").mkdir(parents=True)
    with pytest.raises(InvalidParameter, match="folder"):
        extract_tiles(*scene, tmp_path / "tiles")
    assert seen(tmp_path / "tiles") == {}


def test_what_was_added_in_a_pause_is_written_when_that_is_over(tmp_path: Path) -> None:
    now = 0.0
    target = storage.locate(tmp_path / "tiles.json")

    def clock() -> float:
        nonlocal now
        now += 1
        return now

    with ManifestWriter(target, RUN, {}, clock=clock) as writer:
        for number in range(3):
            writer.enter(
                FinishedTile(tile_id=f"t{number}", name="x", size_bytes=1, etag="e", shape=(1, 1, 1))
            )
        assert len(known_tiles(target, RUN).tiles) == 1
        now += 100
        writer.catch_up()
        assert len(known_tiles(target, RUN).tiles) == 3
