"""gdaltools in a real kernel: what a person sees of progress, of mistakes and of an interruption."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import rasterio

from tests.support.eventually import eventually
from tests.support.notebook.kernel import Kernel, kernel
from tests.support.rasters import UTM, UTM_GRID, smooth, write_raster


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("notebook")


@pytest.fixture(scope="module")
def notebook(folder: Path) -> Iterator[Kernel]:
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    # Sparse rasters are processed, which are small files with large claims.
    settings = {"GDALTOOLS_BLOB_ROOT": str(folder / "blobs"), "GDALTOOLS_MAX_RATIO": "1000000"}
    with kernel(folder, environment | settings) as running:
        running.run("import gdaltools as gt")
        yield running


def sparse(path: Path, *, side: int) -> Path:
    """Write a raster that takes no space on disk, and a while to convert to a COG."""
    profile = {"driver": "GTiff", "width": side, "height": side, "count": 3, "dtype": "uint8", "tiled": True}
    with rasterio.open(path, "w", **profile, bigtiff="yes", sparse_ok=True):
        return path


def plain(lines: list[str]) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(lines))


@pytest.mark.parametrize(
    ("code", "name", "said"),
    [
        ("gt.inspect('notes.txt')", "UnsupportedRaster", "convert it to GeoTIFF"),
        ("gt.create_cog('abfs://bronze/none.tif', 'x.tif')", "SourceNotFound", "does not exist"),
        ("gt.plan_cog('scene.tif', codec='ZIP')", "InvalidParameter", "ZIP"),
        ("gt.open('scene.tif', chunks=-1)", "InvalidParameter", "chunks"),
    ],
)
def test_a_mistake_is_the_line_and_what_to_do(
    notebook: Kernel, folder: Path, code: str, name: str, said: str
) -> None:
    (folder / "notes.txt").write_text("no raster")
    write_raster(folder / "scene.tif", smooth(3, 200, 300))
    seen = notebook.run(f"a = 1\nresult = {code}")
    assert seen.error == name
    shown = plain(seen.traceback).splitlines()
    assert len(shown) == 2, shown
    assert shown[0] == f"line 2: result = {code}"
    assert shown[1].startswith(f"{name}: ")
    assert said in shown[1]


def test_the_whole_traceback_can_be_had(notebook: Kernel) -> None:
    notebook.run("%xmode Verbose")
    shown = plain(notebook.run("gt.inspect('nothing.tif')").traceback)
    notebook.run("%xmode Context")
    assert "gdaltools/storage/" in shown
    assert "nothing.tif does not exist" in shown


def test_a_bar_is_one_output_that_stays_with_the_notebook(notebook: Kernel, folder: Path) -> None:
    write_raster(folder / "wide.tif", smooth(3, 900, 1200))
    seen = notebook.run("result = gt.create_cog('wide.tif', 'wide-cog.tif', overwrite=True)")
    assert seen.html, seen
    assert "cog wide-cog.tif" in seen.html[-1]
    assert "100%" in seen.html[-1]
    assert re.search(r"blocks/s, in [\d.]+ s, [\d.,]+ MB", seen.html[-1])
    assert not notebook.run("gt.create_cog('wide.tif', 'wide-cog.tif', overwrite=True, progress=False);").html
    seen = notebook.run(
        "print(gt.create_cog('wide.tif', 'd.tif', progress=True, compute=False).compute().tier)"
    )
    assert "100%" in seen.html[-1]


@pytest.mark.parametrize("options", ["", ", as_cog=True, compute=False"])
def test_a_bar_of_tiles_says_at_once_how_long_it_will_take(
    notebook: Kernel, folder: Path, options: str
) -> None:
    write_raster(folder / "wide.tif", smooth(3, 900, 1200), transform=UTM_GRID, crs=UTM)
    name = f"tiles-{len(options)}"
    seen = notebook.run(f"""
scheme = gt.generate_tiling_scheme('wide.tif', tile_size=512, overlap=64)
work = gt.extract_tiles('wide.tif', scheme, {name!r}{options})
if hasattr(work, 'compute'): work = work.compute()
""")
    assert "0%" in seen.html[0]
    assert re.search(r"[\d.]+ s left", seen.html[0])
    assert re.search(r"100%.*pixels/s, in [\d.]+ s", seen.html[-1])


def test_a_bar_shows_what_processes_of_a_cluster_do_later(notebook: Kernel, folder: Path) -> None:
    write_raster(folder / "wide.tif", smooth(3, 900, 1200), transform=UTM_GRID, crs=UTM)
    seen = notebook.run("""
from distributed import Client, LocalCluster
with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster):
    scheme = gt.generate_tiling_scheme('wide.tif', tile_size=512, overlap=64)
    gt.extract_tiles('wide.tif', scheme, 'tiles-later', compute=False).compute()
""")
    assert not seen.error, seen
    assert "tiles" in seen.html[-1]
    assert "100%" in seen.html[-1]


@pytest.mark.parametrize("cluster", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_an_interruption_ends_the_work_and_leaves_nothing(
    notebook: Kernel, folder: Path, cluster: bool
) -> None:
    huge = sparse(folder / "huge.tif", side=60_000)
    if cluster:
        notebook.run("""
from distributed import Client, LocalCluster
cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None); client = Client(cluster)
""")
    out = folder / f"out-{cluster}"
    out.mkdir()
    begun = folder / f"begun-{cluster}"
    code = f"""
def begun(state):
    if state.done: open({str(begun)!r}, "w").close()
result = gt.create_cog({str(huge)!r}, {str(out / "cog.tif")!r}, progress=begun)
"""
    seen = notebook.run(code, interrupted_when=begun.exists)
    assert seen.error == "KeyboardInterrupt", seen
    # It takes a fraction of a second; a busy machine may take longer.
    shown = plain(seen.traceback).splitlines()
    assert shown[0].startswith("line 3: result = gt.create_cog(")
    assert shown[1:] == ["KeyboardInterrupt: the work was stopped before its end"]
    assert seen.stopped_after is not None
    assert seen.stopped_after < 10
    asyncio.run(eventually(lambda: not list(out.iterdir())))
    print(f"stopped after {seen.stopped_after:.2f} s")
    assert "still here" in notebook.run("print('still here')").text
    if cluster:
        notebook.run("client.close(); cluster.close()")
