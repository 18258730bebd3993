"""Decisions before the first pixel: which group reads what, how often, and within which memory."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st

from gdaltools.errors import InvalidParameter
from gdaltools.raster.dataset import block_cache, get_gdal_config
from gdaltools.tiles.extract import plan as extraction_plan
from gdaltools.tiles.extract.create import extract_tiles, plan_extraction
from gdaltools.tiles.extract.groups import TileGroup, hilbert
from gdaltools.tiles.generate import generate_tiling_scheme
from gdaltools.tiles.scheme import TilingScheme
from gdaltools.warp import plan as warp_plan
from tests.support.rasters import UTM, UTM_GRID, write_raster


def scene(folder: Path, rows: int = 1100, cols: int = 900, **options: Any) -> Path:
    noise = np.random.default_rng(1).integers(0, 256, (3, rows, cols), "uint8")
    lzw = {"compress": "lzw"} | options.pop("options", {})
    return write_raster(folder / "scene.tif", noise, crs=UTM, transform=UTM_GRID, options=lzw, **options)


def bytes_read() -> int:
    """Return what this process has read so far, as the kernel counts it."""
    line = next(line for line in Path("/proc/self/io").read_text().splitlines() if line.startswith("rchar"))
    return int(line.split()[1])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="the kernel does not count what is read")
@pytest.mark.parametrize("target", [UTM, "EPSG:4326"])
@pytest.mark.parametrize("block", [None, 128], ids=["strips", "blocks"])
def test_blocks_are_decoded_as_often_as_the_plan_says(tmp_path: Path, block: int | None, target: str) -> None:
    path = scene(tmp_path, block=block)
    scheme = generate_tiling_scheme(path, 256, 0, target)
    plans = {threads: plan_extraction(path, scheme, threads=threads) for threads in (1, 2)}
    assert plans[1].rereads < 1.5
    for threads, plan in plans.items():
        with dask.config.set(scheduler="threads", num_workers=threads):
            before = bytes_read()
            extract_tiles(path, scheme, tmp_path / f"{threads}", progress=False)
            found = (bytes_read() - before) / path.stat().st_size
        assert found == pytest.approx(plan.rereads, rel=0.2)


def test_tiles_beside_each_other_share_what_is_decoded(tmp_path: Path) -> None:
    path = scene(tmp_path)
    scheme = generate_tiling_scheme(path, 256, 0, UTM)
    plan = plan_extraction(path, scheme, threads=1)
    assert plan.side_by_side
    assert plan.rereads < 1.02, "groups may begin within a strip"
    assert "each stored block once" in str(plan)
    alone = plan_extraction(path, scheme, tiles=["tile_0_0"], threads=8)
    assert not alone.side_by_side
    assert "one tile after the other" in str(alone)
    two = plan_extraction(path, scheme, threads=2)
    assert 1 < two.rereads < 2
    assert f"{two.rereads:.2f} times, as strips are as wide as the raster" in str(two)


@pytest.mark.parametrize("target", [UTM, "EPSG:4326"])
def test_what_would_be_decoded_often_is_decoded_once_into_a_scratch_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.setattr(warp_plan, "WORTHWHILE_PIXELS", 0)
    path = scene(tmp_path)
    scheme = generate_tiling_scheme(path, 256, 0, target)
    with dask.config.set(scheduler="threads", num_workers=8):
        plan = plan_extraction(path, scheme)
        assert plan.decode_first
        assert "each stored block once, into a scratch file of 3 MB" in str(plan)
        decode_first = extract_tiles(path, scheme, tmp_path / "staged", as_cog=True, progress=False)
        assert not list(scratch.iterdir())
        usage = type("Usage", (), {"free": 5_000_000})()
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
        plan = plan_extraction(path, scheme)
        assert not plan.decode_first, "where there is no room for it"
        assert plan.rereads > 2
        read = extract_tiles(path, scheme, tmp_path / "read", as_cog=True, progress=False)
    for ours, theirs in zip(decode_first.tiles, read.tiles, strict=True):
        assert Path(ours.location).read_bytes() == Path(theirs.location).read_bytes()


def test_of_what_is_not_compressed_only_what_is_needed_is_read(tmp_path: Path) -> None:
    path = scene(tmp_path, options={"compress": "none"})
    scheme = generate_tiling_scheme(path, 256, 0, UTM)
    plan = plan_extraction(path, scheme, tiles=["tile_0_0", "tile_2_2"], threads=2)
    assert "nothing is compressed" in str(plan)
    with dask.config.set(scheduler="threads", num_workers=2):
        before = bytes_read()
        result = extract_tiles(
            path, scheme, tmp_path / "tiles", tiles=["tile_0_0", "tile_2_2"], progress=False
        )
        assert bytes_read() - before < 0.5 * path.stat().st_size
    with rasterio.open(path) as dataset, rasterio.open(result.tiles[1].location) as tile:
        window = scheme.tile("tile_2_2").window.rasterio
        np.testing.assert_array_equal(tile.read(), dataset.read(window=window))


def test_a_cache_that_would_not_hold_a_row_of_cells_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = scene(tmp_path)
    scheme = generate_tiling_scheme(path, 256, 0)
    before = plan_extraction(path, scheme, threads=1)
    monkeypatch.setattr(extraction_plan, "CACHE_BYTES", 1 << 19)
    monkeypatch.setattr(extraction_plan, "_MODEST_CACHE_BYTES", 1 << 19)
    plan = plan_extraction(path, scheme, threads=1)
    assert plan.rereads > 2 * before.rereads
    assert "MB of decoded blocks for each thread, and 0.5 MB is the limit" in str(plan)
    tiled = scene(tmp_path / "tiled", block=128)
    narrow = plan_extraction(tiled, scheme, threads=1)
    assert max(len(group.cols) for group in narrow.groups) < scheme.cols, "so that a row fits the cache"


def test_the_cache_is_raised_for_a_while_and_no_lower_for_two() -> None:
    with block_cache(1 << 20):
        usual = int(get_gdal_config("GDAL_CACHEMAX"))
        with block_cache(usual + 1), block_cache(usual // 2):
            assert int(get_gdal_config("GDAL_CACHEMAX")) == usual + 1
        assert int(get_gdal_config("GDAL_CACHEMAX")) == usual


def test_more_threads_take_more_memory_and_few_tiles_are_made_by_all(tmp_path: Path) -> None:
    path = scene(tmp_path)
    scheme = generate_tiling_scheme(path, 128, 16)
    bounds = [plan_extraction(path, scheme, threads=threads).memory_bytes() for threads in (1, 2, 16)]
    assert bounds == sorted(set(bounds))
    assert bounds[-1] < 3e9


@pytest.mark.parametrize("threads", [1, 3, 16])
@pytest.mark.parametrize("strip_bytes", [1 << 16, 1 << 19, 32 << 20])
def test_groups_hold_each_chosen_tile_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int, strip_bytes: int
) -> None:
    monkeypatch.setattr(extraction_plan, "STRIP_BYTES", strip_bytes)
    path = scene(tmp_path, 600, 500, block=64)
    scheme = generate_tiling_scheme(path, 96, 16)
    everything = list(scheme.tile_ids())
    for chosen in (everything, everything[::3], everything[-1:]):
        plan = plan_extraction(path, scheme, tiles=chosen, threads=threads)
        places = Counter(plan.positions())
        assert set(places.values()) == {1}
        assert {f"tile_{row}_{col}" for row, col in places} == set(chosen)
        assert plan.tiles == len(chosen)
        assert plan.total_pixels == sum(
            window.width * window.height for window in (scheme.tile(name).window for name in chosen)
        )


@given(st.data())
def test_strips_cover_each_tile_once_from_top_to_bottom(data: st.DataObject) -> None:
    scheme = a_scheme(data.draw(st.integers(60, 700)), data.draw(st.integers(60, 700)))
    places = [(row, col) for row in range(scheme.rows) for col in range(scheme.cols)]
    only = data.draw(st.none() | st.frozensets(st.sampled_from(places), min_size=1))
    group = TileGroup(range(scheme.rows), range(scheme.cols), only)
    reached = {place: scheme.window(*place).row_off for place in group}
    for (top, bottom, left, right), inside in group.strips(scheme, data.draw(st.sampled_from([16, 50, 128]))):
        for place in inside:
            window = scheme.window(*place)
            assert left <= window.col_off
            assert window.col_off + window.width <= right
            end = min(bottom, window.row_off + window.height)
            if end > window.row_off:
                assert max(top, window.row_off) == reached[place], "no row is left out or comes twice"
                reached[place] = end
    assert all(
        reached[place] == scheme.window(*place).row_off + scheme.window(*place).height for place in group
    )


def a_scheme(rows: int, cols: int, *, tile_size: int = 96, overlap: int = 16) -> TilingScheme:
    grid = {"crs": UTM, "transform": tuple(UTM_GRID)[:6], "width": cols, "height": rows}
    return TilingScheme.model_validate(
        {
            "source": "x.tif", "source_grid": grid, "file_crs": UTM, "grid": grid,
            "tile_size": tile_size, "overlap": overlap, "band_count": 1, "data_type": "uint8",
            "raster_type": "dem", "detected_type": "dem", "detection_confidence": 1,
            "auto_band_names": {}, "used_band_names": {},
        }
    )  # fmt: skip


@given(st.integers(1, 20))
def test_hilberts_curve_goes_from_neighbour_to_neighbour(side: int) -> None:
    size = 1 << (side - 1).bit_length()
    places = sorted(
        ((row, col) for row in range(size) for col in range(size)), key=lambda place: hilbert(*place, side)
    )
    assert [hilbert(*place, side) for place in places] == list(range(size * size))
    steps = [abs(a[0] - b[0]) + abs(a[1] - b[1]) for a, b in pairwise(places)]
    assert set(steps) <= {1}


def test_a_hundred_thousand_tiles_are_planned_in_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GDALTOOLS_MAX_RATIO", "1000000")  # it is sparse
    side = 80_000
    scheme = a_scheme(side, side, tile_size=256, overlap=0)
    sparse = write_sparse(tmp_path / "sparse.tif", side)
    began = time.process_time()
    plan = plan_extraction(sparse, scheme, threads=4)
    assert len(scheme) == plan.tiles == 97_969
    assert len(plan.groups) < 1000
    assert plan.memory_bytes() < 1e9
    assert time.process_time() - began < 20


def write_sparse(path: Path, side: int) -> Path:
    options = {"tiled": True, "blockxsize": 512, "blockysize": 512, "sparse_ok": True, "compress": "lzw"}
    with rasterio.open(
        path, "w", driver="GTiff", width=side, height=side, count=1, dtype="uint8", crs=UTM,
        transform=UTM_GRID, **options,
    ):  # fmt: skip
        pass
    return path


def test_threads_are_a_number(tmp_path: Path) -> None:
    path = scene(tmp_path, 100, 100)
    with pytest.raises(InvalidParameter, match="threads"):
        plan_extraction(path, generate_tiling_scheme(path, 64, 0), threads=0)


def test_the_size_is_estimated_from_all_over_the_grid(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (1, 1024, 1024), dtype="uint8")
    image[:, 300:724] = 7  # the tiles in the middle say nothing of the others
    path = write_raster(tmp_path / "a.tif", image)
    scheme = generate_tiling_scheme(path, 128, 0, UTM)
    plan = plan_extraction(path, scheme, as_cog=True)
    written = extract_tiles(path, scheme, tmp_path / "tiles", as_cog=True, progress=False).total_bytes
    assert 0.5 < plan.estimated_bytes / written < 2
