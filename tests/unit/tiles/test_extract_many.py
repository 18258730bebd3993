"""Whatever the scheme, the threads and the groups: the tiles together are one warp, without seam or hole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio.transform import from_bounds
from rasterio.windows import Window
from shapely.geometry import shape

from gdaltools import storage
from gdaltools.errors import CorruptRaster, InvalidParameter, StorageError
from gdaltools.raster.dataset import open_dataset
from gdaltools.raster.pixels.windows import SourceWindows
from gdaltools.tiles.extract import plan as extraction_plan
from gdaltools.tiles.extract import run, walk
from gdaltools.tiles.extract.create import ExtractionResult, extract_tiles, plan_extraction
from gdaltools.tiles.extract.manifest import TileManifest
from gdaltools.tiles.generate import generate_tiling_scheme
from gdaltools.tiles.scheme import TilingScheme
from gdaltools.warp.strips import cell_side, plan_warp, warped_strips
from tests.support.rasters import UTM, UTM_GRID, damage, smooth, write_raster

ROWS, COLS = 260, 310
GAP = np.ones((ROWS, COLS), bool)
GAP[:, 100:240] = False

# Dies in the middle of a run whose tiles are COGs.
KILLED_RUN = """
import os, signal, sys
from gdaltools.runtime import crash_points
from gdaltools.tiles.extract.create import extract_tiles
from gdaltools.tiles.scheme import TilingScheme

left = int(sys.argv[4])

def visit(name):
    global left
    left -= name == "tile-published"
    if left <= 0 and name == "manifest-written":
        os.kill(os.getpid(), signal.SIGKILL)

crash_points.arm(visit)
extract_tiles(sys.argv[1], TilingScheme.read(sys.argv[2]), sys.argv[3], as_cog=True)
"""


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return write_raster(tmp_path / "scene.tif", smooth(3, ROWS, COLS), crs=UTM, transform=UTM_GRID)


@pytest.fixture
def gaps(tmp_path: Path) -> Path:
    pixels = np.where(GAP, smooth(3, ROWS, COLS), 0).astype("uint8")
    return write_raster(tmp_path / "gaps.tif", pixels, crs=UTM, transform=UTM_GRID, nodata=0)


def mosaic(scheme: TilingScheme, result: ExtractionResult) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return all tiles put together, and where there is one; they agree wherever they overlap."""
    shape = scheme.grid.height, scheme.grid.width
    pixels, seen = np.zeros((result.tiles[0].shape[0], *shape), "uint8"), np.zeros(shape, bool)
    for tile in result.tiles:
        w = scheme.window(*scheme.position(tile.tile_id))
        where = slice(w.row_off, w.row_off + w.height), slice(w.col_off, w.col_off + w.width)
        with rasterio.open(tile.location) as dataset:
            data = np.concatenate([dataset.read(), dataset.dataset_mask()[None]])[: len(pixels)]
        here = seen[where]
        np.testing.assert_array_equal(pixels[:, where[0], where[1]][:, here], data[:, here])
        pixels[:, where[0], where[1]], seen[where] = data, True
    return pixels, seen


def one_warp(path: Path, scheme: TilingScheme, resampling: str) -> NDArray[Any]:
    window = Window(0, 0, scheme.grid.width, scheme.grid.height)
    with open_dataset(path) as dataset:
        if not scheme.warps:
            return dataset.read()
        cell = cell_side(scheme.tile_size, scheme.overlap)
        plan = plan_warp(dataset, scheme.source_grid, scheme.grid, resampling, cell=cell)
        strips = warped_strips(SourceWindows(dataset, storage.locate(path)), plan, window)
        return np.concatenate([pixels for pixels, _ in strips], axis=1)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_the_mosaic_of_all_tiles_is_one_warp(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("property")
    rows, cols = data.draw(st.integers(70, 260)), data.draw(st.integers(70, 260))
    path = write_raster(
        folder / "a.tif",
        smooth(1, rows, cols),
        crs=UTM,
        transform=UTM_GRID,
        block=data.draw(st.sampled_from([None, 32])),
    )
    size = 16 * data.draw(st.integers(3, 9))
    overlap = data.draw(st.integers(0, size // 2))
    scheme = generate_tiling_scheme(path, size, overlap, data.draw(st.sampled_from([UTM, "EPSG:4326"])))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            extraction_plan, "STRIP_BYTES", data.draw(st.sampled_from([1 << 12, 1 << 15, 32 << 20]))
        )
        patch.setattr(extraction_plan, "_GROUP_BYTES", data.draw(st.sampled_from([1, 1 << 15, 128 << 20])))
        patch.setattr(walk, "_IN_MEMORY_BYTES", data.draw(st.sampled_from([0, 4 << 20])))
        patch.setattr(extraction_plan, "_LEAST_BUSY", data.draw(st.sampled_from([0.75, 2.0])))
        with dask.config.set(scheduler="threads", num_workers=data.draw(st.integers(1, 3))):
            result = extract_tiles(
                path, scheme, folder / "tiles", as_cog=data.draw(st.booleans()), progress=False
            )
    pixels, seen = mosaic(scheme, result)
    assert seen.all()
    np.testing.assert_array_equal(pixels, one_warp(path, scheme, "bilinear"))
    assert [tile.tile_id for tile in result.tiles] == list(scheme.tile_ids())


def test_a_tiles_bytes_do_not_depend_on_threads_groups_or_other_tiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_raster(tmp_path / "a.tif", smooth(3, 800, 700), crs=UTM, transform=UTM_GRID)
    scheme = generate_tiling_scheme(path, 256, 32)
    monkeypatch.setattr("gdaltools.tiles.extract.trials.FEW_BLOCKS", 4)
    monkeypatch.setattr("gdaltools.tiles.extract.trials.TRIALS_SHARE", 1)

    def content(folder: str, threads: int, **options: Any) -> dict[str, bytes]:
        with dask.config.set(scheduler="threads", num_workers=threads):
            extract_tiles(path, scheme, tmp_path / folder, as_cog=True, size_tolerance=0.1, **options)
        return {p.name: p.read_bytes() for p in (tmp_path / folder).glob("*.tif")}

    whole = content("one", 1)
    assert content("three", 3) == whole
    some = content("some", 2, tiles=["tile_1_1"])
    assert some == {name: whole[name] for name in some}
    monkeypatch.setattr(extraction_plan, "_LEAST_BUSY", 2.0)
    assert content("alone", 2) == whole
    exact = tmp_path / "exact"
    extract_tiles(path, scheme, exact, as_cog=True, size_tolerance=0)
    ours = sum(map(len, whole.values()))
    assert ours != sum(p.stat().st_size for p in exact.glob("*.tif")), "the tolerance is used"


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("as_cog", [False, True])
def test_tiles_without_data_are_listed_and_not_written(
    tmp_path: Path, gaps: Path, as_cog: bool, alone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if alone:
        monkeypatch.setattr(extraction_plan, "_LEAST_BUSY", 2.0)
    scheme, folder = generate_tiling_scheme(gaps, 64, 0, UTM), tmp_path / "tiles"
    full = extract_tiles(gaps, scheme, folder, as_cog=as_cog)
    assert full.skipped == ()
    result = extract_tiles(gaps, scheme, folder, as_cog=as_cog, skip_empty=True, overwrite=True)
    expected = {name for name in scheme.tile_ids() if name.endswith("_2")}
    assert set(result.skipped) == expected
    assert "5 without data left out" in str(result)
    written = {p.name for p in folder.glob("*.tif")}
    assert written == {f"gaps_{tile.tile_id}.tif" for tile in result.tiles}
    assert len(written) == len(scheme) - len(expected)
    manifest = TileManifest.model_validate_json((folder / "gaps_tiles.json").read_bytes())
    assert set(manifest.skipped) == expected
    monkeypatch.setattr(run, "walk", None)
    monkeypatch.setattr(run, "_alone", None)
    again = extract_tiles(gaps, scheme, folder, as_cog=as_cog, skip_empty=True, resume=True)
    assert again.skipped == result.skipped
    assert again.tiles_resumed == len(again.tiles) == len(result.tiles)


def test_what_is_empty_is_told_by_mask_or_alpha_too(tmp_path: Path) -> None:
    rgb = smooth(3, ROWS, COLS)
    alpha = np.concatenate([rgb, np.where(GAP, 255, 0).astype("uint8")[None]])
    floats = np.where(GAP, smooth(1, ROWS, COLS, dtype="float32"), np.nan).astype("float32")
    for name, pixels, options in (
        ("mask", rgb, {"mask": GAP}),
        ("alpha", alpha, {"alpha": True}),
        ("nan", floats, {"nodata": float("nan")}),
        ("warped", rgb, {}),
    ):
        path = write_raster(tmp_path / f"{name}.tif", pixels, crs=UTM, transform=UTM_GRID, **options)
        scheme = generate_tiling_scheme(path, 64, 0, UTM)
        if name == "warped":  # the whole source, and a margin without data
            scheme = generate_tiling_scheme(path, 64, 0)
            wide = scheme.grid.model_copy(update={"width": scheme.grid.width + 200})
            scheme = TilingScheme.model_validate(scheme.model_dump() | {"grid": wide.model_dump()})
        result = extract_tiles(path, scheme, tmp_path / name, skip_empty=True)
        columns = {tile.rpartition("_")[2] for tile in result.skipped}
        assert columns == ({"2"} if name != "warped" else {"5", "6", "7"}), name
    solid = write_raster(tmp_path / "solid.tif", np.zeros((1, 64, 64), "uint8"), crs=UTM, transform=UTM_GRID)
    scheme = generate_tiling_scheme(solid, 64, 0, UTM)
    assert not extract_tiles(solid, scheme, tmp_path / "solid", skip_empty=True).skipped, "0 is a value"


def box(west: float, south: float, east: float, north: float) -> dict[str, Any]:
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {"type": "Polygon", "coordinates": [ring]}


@pytest.mark.parametrize("target", [UTM, "EPSG:4326", "EPSG:3413"])
def test_an_area_limits_the_tiles(tmp_path: Path, scene: Path, target: str) -> None:
    scheme = generate_tiling_scheme(scene, 64, 8, target)
    tiles = list(scheme.tiles())
    middle = tiles[len(tiles) // 2].bounds_4326
    area = box(
        *(
            np.array(middle) * 0.5
            + 0.25 * np.array([*middle[2:], *middle[2:]])
            + 0.25 * np.array([*middle[:2], *middle[:2]])
        )
    )
    result = extract_tiles(scene, scheme, tmp_path / "tiles", area=area)
    found = {tile.tile_id for tile in result.tiles}
    assert tiles[len(tiles) // 2].tile_id in found
    assert len(found) < len(tiles)
    expected = {tile.tile_id for tile in tiles if shape(tile.geometry).intersects(shape(area))}
    near = {tile.tile_id for tile in tiles if shape(tile.geometry).distance(shape(area)) < 1e-6}
    assert expected <= found <= near
    feature = {"type": "Feature", "properties": {}, "geometry": area}
    file = tmp_path / "area.geojson"
    file.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    for given_area in (feature, str(file), {"type": "GeometryCollection", "geometries": [area]}):
        assert plan_extraction(scene, scheme, area=given_area).tiles == len(found)
    everything = plan_extraction(scene, scheme, area=box(-179, -80, 179, 89))
    assert everything.tiles == len(tiles)


@pytest.mark.parametrize(("west", "east"), [(170, 190), (190, 200), (0, 360), (-180, 180), (-190, -170)])
@pytest.mark.parametrize("lon", [-175.3, 175.3, -165.2, 1.5, 359.0])
def test_an_area_finds_its_tiles_in_every_copy_of_the_world(
    tmp_path: Path, west: float, east: float, lon: float
) -> None:
    transform = from_bounds(west, -20, east, 20, 400, 100)
    path = write_raster(tmp_path / "a.tif", smooth(1, 100, 400), crs="EPSG:4326", transform=transform)
    scheme = generate_tiling_scheme(path, 64, 0, "EPSG:4326")
    area = box(lon - 0.1, 5.0, lon + 0.1, 5.2)
    col = (lon - west) % 360 / (east - west) * 400
    row = (20 - 5.1) / 40 * 100
    if col >= 400:
        with pytest.raises(InvalidParameter, match="touches none"):
            plan_extraction(path, scheme, area=area)
        return
    tiles = extract_tiles(path, scheme, tmp_path / "tiles", area=area).tiles
    windows = {tile.tile_id: tile.window for tile in scheme.tiles()}
    places = [windows[tile.tile_id] for tile in tiles]
    assert any(
        0 <= col - place.col_off < place.width and 0 <= row - place.row_off < place.height for place in places
    )
    assert len(tiles) <= 2  # the area may touch the next tile


@pytest.mark.parametrize(
    ("area", "text"),
    [
        (box(10, 10, 11, 11), "touches none"),
        (box(470000, 999000, 471000, 1000000), "longitude and latitude"),
        ({"type": "Polygon", "coordinates": 3}, "no GeoJSON"),
        ({"type": "Nothing"}, "no GeoJSON"),
        ({"type": "FeatureCollection", "features": []}, "hold something"),
        (17, "not a int"),
    ],
)
def test_an_area_that_is_none_is_refused(tmp_path: Path, scene: Path, area: Any, text: str) -> None:
    with pytest.raises(InvalidParameter, match=text):
        extract_tiles(scene, generate_tiling_scheme(scene, 64, 8), tmp_path / "tiles", area=area)
    assert not (tmp_path / "tiles").exists()


def test_after_a_kill_in_the_middle_only_cogs_in_hand_are_made_again(tmp_path: Path, scene: Path) -> None:
    scheme, folder = generate_tiling_scheme(scene, 64, 8), tmp_path / "tiles"
    plan = scheme.write(tmp_path / "scheme.geojson")
    arguments = [str(value) for value in (scene, plan, folder, len(scheme) // 3)]
    ended = subprocess.run([sys.executable, "-c", KILLED_RUN, *arguments], check=False, timeout=120)
    assert ended.returncode == -9
    before = {p.name: p.stat().st_mtime_ns for p in folder.glob("*.tif")}
    assert len(scheme) // 3 <= len(before) < len(scheme)
    result = extract_tiles(scene, scheme, folder, as_cog=True, resume=True, overwrite=True)
    after = {p.name: p.stat().st_mtime_ns for p in folder.glob("*.tif")}
    kept = sum(after[name] == before[name] for name in before)
    assert result.tiles_resumed == kept
    assert kept >= len(before) - 2, "at most one for each thread was not listed yet"
    calm = extract_tiles(scene, scheme, tmp_path / "calm", as_cog=True)
    for ours, theirs in zip(result.tiles, calm.tiles, strict=True):
        assert Path(ours.location).read_bytes() == Path(theirs.location).read_bytes()
    plain = extract_tiles(scene, scheme, folder, resume=True, overwrite=True)
    assert plain.tiles_resumed == 0, "plain tiles are no COGs: nothing of the other kind is kept"


def test_a_block_that_cannot_be_decoded_ends_the_run_and_leaves_whole_tiles_only(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (1, 900, 300), "uint8")
    options = {"compress": "deflate"}
    path = write_raster(tmp_path / "a.tif", noise, crs=UTM, transform=UTM_GRID, options=options)
    damage(path, at=0.8)
    scheme = generate_tiling_scheme(path, 128, 0, UTM)
    with pytest.raises(CorruptRaster, match="cannot be decoded"):
        extract_tiles(path, scheme, tmp_path / "tiles", as_cog=True)
    left = list((tmp_path / "tiles").iterdir())
    assert all(p.suffix in (".tif", ".json") for p in left), "no scratch folder"
    for tile in (p for p in left if p.suffix == ".tif"):
        with rasterio.open(tile) as dataset:
            dataset.read()


def test_a_disk_without_room_is_told_before_the_work(
    tmp_path: Path, scene: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 10_000})()
    monkeypatch.setattr("gdaltools.tiles.extract.create.shutil.disk_usage", lambda _: usage)
    with pytest.raises(StorageError, match=r"MB free, and .* make room"):
        extract_tiles(scene, generate_tiling_scheme(scene, 64, 8), tmp_path / "tiles")
    assert not (tmp_path / "tiles").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("in_memory", [0, 4 << 20])
def test_a_disk_that_fills_up_ends_the_run(
    tmp_path: Path, scene: Path, monkeypatch: pytest.MonkeyPatch, in_memory: int
) -> None:
    monkeypatch.setattr(walk, "_IN_MEMORY_BYTES", in_memory)
    real = Path.open

    def full(path: Path, mode: str = "r", *rest: Any, **options: Any) -> Any:
        if "w" in mode and path.suffix in (".tif", f".{os.getpid()}"):
            path.symlink_to("/dev/full")
        return real(path, mode, *rest, **options)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(StorageError, match="is there space left"):
        extract_tiles(scene, generate_tiling_scheme(scene, 64, 8), tmp_path / "tiles", as_cog=True)
    monkeypatch.setattr(Path, "open", real)
    assert list((tmp_path / "tiles").iterdir()) == []


@pytest.fixture
def cluster() -> Iterator[Any]:
    import distributed

    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def test_processes_of_a_cluster_make_the_same_cogs(tmp_path: Path, scene: Path, cluster: Any) -> None:
    scheme = generate_tiling_scheme(scene, 64, 8)
    seen: list[Any] = []
    options: dict[str, Any] = {"as_cog": True, "skip_empty": True}
    there = extract_tiles(scene, scheme, tmp_path / "cluster", progress=seen.append, **options)
    assert seen[-1].done == seen[-1].total
    with dask.config.set(scheduler="threads"):
        here = extract_tiles(scene, scheme, tmp_path / "threads", **options)
        later = extract_tiles(scene, scheme, tmp_path / "later", compute=False, **options).compute()
    for result in (there, later):
        assert [tile.tile_id for tile in result.tiles] == [tile.tile_id for tile in here.tiles]
        for ours, theirs in zip(result.tiles, here.tiles, strict=True):
            assert Path(ours.location).read_bytes() == Path(theirs.location).read_bytes()
    listed = TileManifest.model_validate_json((tmp_path / "cluster" / "scene_tiles.json").read_bytes())
    assert {tile.tile_id for tile in listed.tiles} == {tile.tile_id for tile in there.tiles}


def test_a_grid_that_misses_the_raster_is_refused(tmp_path: Path, scene: Path) -> None:
    scheme = generate_tiling_scheme(scene, 64, 8)
    a, b, c, d, e, f = scheme.grid.transform
    for moved in ((a, b, c + 20, d, e, f), (a, b, c, d, e, f - 30)):
        away = scheme.grid.model_copy(update={"transform": moved})
        elsewhere = TilingScheme.model_validate(scheme.model_dump() | {"grid": away.model_dump()})
        with pytest.raises(InvalidParameter, match="misses"):
            extract_tiles(scene, elsewhere, tmp_path / "tiles")
    assert not (tmp_path / "tiles").exists()
