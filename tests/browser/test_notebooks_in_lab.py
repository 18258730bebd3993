"""Notebooks in JupyterLab as a person runs them, by clicks, in both themes; screenshots are kept.

Screenshots go to ``.cache/screenshots``, or to the folder in GDALTOOLS_SCREENSHOTS.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
import rasterio

from notebooks.execute import notebooks
from tests.support.notebook.chromium import chromium
from tests.support.notebook.contrast import FAINT
from tests.support.notebook.lab import Lab, LabPage, Theme, lab
from tests.support.rasters import UTM, UTM_GRID, smooth, write_raster

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

SCREENSHOTS = Path(os.environ.get("GDALTOOLS_SCREENSHOTS", ".cache/screenshots"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The notebooks without their outputs."""
    place = tmp_path_factory.mktemp("notebooks")
    for path in notebooks():
        document = nbformat.read(path, as_version=4)
        for cell in document.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        nbformat.write(document, place / path.name)
    return place


@pytest.fixture(scope="module")
def running(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    environment["GDALTOOLS_BLOB_ROOT"] = str(folder / "blobs")
    with lab(folder, tmp_path_factory.mktemp("home"), environment) as found:
        yield found


def kept(page: LabPage, name: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(SCREENSHOTS / f"{name}.png")


@pytest.mark.parametrize("theme", ["Light", "Dark"])
@pytest.mark.parametrize("number", ["01", "02"])
def test_a_notebook_runs_by_clicks_and_can_be_read(
    running: Lab, browser: Any, folder: Path, number: str, theme: Theme
) -> None:
    shutil.rmtree(folder / "data", ignore_errors=True)
    (path,) = notebooks([number])
    cells = nbformat.read(path, as_version=4).cells
    name = f"{path.stem}-{theme.lower()}"
    shutil.copy(folder / path.name, folder / f"{name}.ipynb")
    with running.opened(browser, f"{name}.ipynb", theme) as page:
        page.run_all(seconds=600)
        kept(page, name)
        assert page.prompts() == [
            f"[{count}]:" for count in range(1, 1 + sum(each.cell_type == "code" for each in cells))
        ]
        assert not page.outputs("stderr")
        assert not page.evaluate(FAINT)


@pytest.mark.parametrize("theme", ["Light", "Dark"])
def test_a_mistake_is_a_few_lines(running: Lab, browser: Any, folder: Path, theme: Theme) -> None:
    (folder / "notes.txt").write_text("no raster")
    write_raster(folder / "scene.tif", smooth(3, 200, 300))
    mistakes = {
        "gt.inspect('notes.txt')": "UnsupportedRaster",
        "gt.create_cog('abfs://bronze/none.tif', 'x.tif')": "SourceNotFound",
        "gt.create_cog('scene.tif', 'x.tif', codec='ZIP')": "InvalidParameter",
    }
    for count, (code, error) in enumerate(mistakes.items()):
        name = f"mistake-{theme}-{count}.ipynb"
        running.write(name, [f"import gdaltools as gt\n{code}"])
        with running.opened(browser, name, theme) as page:
            page.run_all(seconds=60)
            kept(page, f"mistake-{count}-{theme.lower()}")
            (shown,) = page.outputs("stderr")
            lines = shown.strip().splitlines()
            assert len(lines) == 2, shown
            assert lines[1].startswith(f"{error}: ")


# It takes no space on disk, and minutes to process.
HUGE = {
    "driver": "GTiff",
    "width": 60_000,
    "height": 60_000,
    "count": 3,
    "dtype": "uint8",
    "crs": UTM,
    "transform": UTM_GRID,
    "tiled": True,
    "bigtiff": "yes",
    "sparse_ok": True,
}
WORK = {
    "create_cog": "gt.create_cog('huge.tif', 'out/huge-cog.tif')",
    "extract_tiles": (
        "gt.extract_tiles('huge.tif', gt.generate_tiling_scheme('huge.tif', 2048, 64), 'out', as_cog=True)"
    ),
}


@pytest.mark.parametrize("name", WORK)
def test_an_interruption_is_quick_and_says_so_in_a_few_lines(
    running: Lab, browser: Any, folder: Path, name: str
) -> None:
    with rasterio.open(folder / "huge.tif", "w", **HUGE):
        pass
    shutil.rmtree(folder / "out", ignore_errors=True)
    notebook = f"interrupted-{name}.ipynb"
    allowed = "import os\nos.environ['GDALTOOLS_MAX_RATIO'] = '1000000'"
    running.write(notebook, [f"{allowed}\nimport gdaltools as gt\nresult = {WORK[name]}"])
    with running.opened(browser, notebook, "Light") as page:
        page.run_until(r"[1-9]\d?%")
        kept(page, f"under-way-{name}")
        seconds = page.interrupt()
        print(f"{name} stopped after {seconds:.2f} s")
        kept(page, f"interrupted-{name}")
        assert seconds < 5
        shown = "\n".join(page.outputs("stderr"))
        assert "KeyboardInterrupt: the work was stopped before its end" in shown
        assert len(shown.strip().splitlines()) == 2, shown
        assert "stopped" in "\n".join(page.outputs("html"))
    # Tiles that were complete before stay, and are in the manifest: resume=True continues from them.
    left = {path.name for path in (folder / "out").rglob("*")}
    manifest = folder / "out" / "huge_tiles.json"
    whole = (
        {tile["name"] for tile in json.loads(manifest.read_text())["tiles"]} if manifest.exists() else set()
    )
    assert left - {manifest.name} == whole
