"""The layout: small folders that say what they promise, and no import cycles."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[3]
PACKAGES = ("gdaltools", "worker", "benchmarks", "deploy")
# Python's package markers, and files that belong to no module.
MARKS = {"__init__.py", "py.typed", "__pycache__", "README.md", "results"}
FOLDERS = [
    folder
    for top in (*PACKAGES, "tests")
    for folder in sorted({path.parent for path in (ROOT / top).rglob("*.py")})
]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(ROOT)))
def test_a_folder_has_at_most_16_entries(folder: Path) -> None:
    assert len({path.name for path in folder.iterdir()} - MARKS) <= 16


@pytest.mark.parametrize(
    "folder",
    [
        folder
        for folder in FOLDERS
        if (folder / "__init__.py").exists() and folder.relative_to(ROOT).parts[0] != "tests"
    ],
    ids=lambda folder: str(folder.relative_to(ROOT)),
)
def test_a_folder_opens_with_what_it_promises(folder: Path) -> None:
    said = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))
    assert said is not None
    assert said.partition("\n")[0].endswith(".")


def test_no_module_is_named_as_its_folder() -> None:
    assert [path for folder in FOLDERS for path in folder.glob("*.py") if path.stem == folder.name] == []


def test_no_import_comes_back_to_where_it_began(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packages count as modules here; whole folders are covered by the contracts of `make lint`."""
    monkeypatch.syspath_prepend(str(ROOT))
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    assert len(imports) > 300
    TopologicalSorter(imports).prepare()
