"""Cards in VS Code: a webview with the editor's colours as variables, and a class for its theme."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import gdaltools as gt
from tests.support.notebook.chromium import chromium
from tests.support.notebook.contrast import FAINT
from tests.support.rasters import UTM, UTM_GRID, smooth, write_raster

pytestmark = pytest.mark.browser

# From the themes Dark Modern and Light Modern.
VARIABLES = {
    "dark": "--vscode-editor-foreground:#cccccc;--vscode-editor-background:#1f1f1f;"
    "--vscode-descriptionForeground:#9d9d9d;--vscode-panel-border:#2b2b2b;",
    "light": "--vscode-editor-foreground:#3b3b3b;--vscode-editor-background:#ffffff;"
    "--vscode-descriptionForeground:#3b3b3b;--vscode-panel-border:#e5e5e5;",
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.mark.parametrize("named", [True, False], ids=["with colours", "with a class alone"])
@pytest.mark.parametrize("reader", ["light", "dark"])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_card_has_the_colours_of_the_editor_whatever_the_reader_prefers_elsewhere(
    browser: Any, tmp_path: Path, theme: str, reader: str, named: bool
) -> None:
    source = write_raster(tmp_path / "a.tif", smooth(3, 200, 300), crs=UTM, transform=UTM_GRID)
    page = browser.new_page(color_scheme=reader)
    variables = VARIABLES[theme] if named else ""
    card = gt.validate_cog(source)._repr_html_()
    page.set_content(f"<html style='{variables}'><body class='vscode-{theme}'>{card}</body></html>")
    ground, text = page.evaluate(
        "() => { const style = getComputedStyle(document.querySelector('.gdaltools'));"
        " return [style.backgroundColor, style.color].map(each => Number(each.match(/\\d+/)[0])) }"
    )
    faint = page.evaluate(FAINT)
    page.close()
    assert not faint
    assert (ground < 64 and text > 180) if theme == "dark" else (ground > 200 and text < 90)
