"""The packages import what pyproject.toml declares: nothing comes by way of another's dependencies."""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, files, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OURS = {"gdaltools", "worker"}
# Who may import what: "" stands for the core.
EXTRAS = {
    "gdaltools": ("", "notebook", "map", "warp", "gdal", "worker"),
    "worker": ("", "worker", "standalone", "telemetry", "notebook"),
}
# Not imported under a name of ours, but needed by what is: pystac.validation checks schemas by it.
FOR_OTHERS = {"jsonschema"}
# Imported only where its extra is installed.
OF_AN_EXTRA = {"numba": "gdaltools/warp/kernels.py"}
# Not installed where the tests run: it needs a GDAL of the system's.
NOT_INSTALLED = {"osgeo": {"gdal"}}


def declared(*extras: str) -> set[str]:
    lines = [
        line
        for extra in extras
        for line in (PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"])
    ]
    return {canonicalize_name(Requirement(line).name) for line in lines}


def imported(package: str, *, by_importing: bool = False) -> dict[str, Path]:
    """Third-party modules by their dotted names, each with a file that imports it.

    With `by_importing` only those that are imported with their module, not those in functions or for types.
    """
    found: dict[str, Path] = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in tree.body if by_importing else ast.walk(tree):
            for name in _names(node):
                if name.partition(".")[0] not in sys.stdlib_module_names | OURS:
                    found.setdefault(name, path)
    return found


def _names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
        yield node.module


@pytest.fixture(scope="module")
def distributions() -> dict[str, set[str]]:
    """Names of the distributions that bring each top-level module."""
    found = {name: {canonicalize_name(each) for each in by} for name, by in packages_distributions().items()}
    return NOT_INSTALLED | found


@pytest.fixture(scope="module")
def modules() -> dict[str, set[str]]:
    """Names of the declared distributions that bring each module of a namespace that several share."""
    found: dict[str, set[str]] = {}
    for name in declared("", *{extra for extras in EXTRAS.values() for extra in extras if extra}):
        try:
            listed = files(name) or []
        except PackageNotFoundError:
            continue
        for file in listed:
            if file.suffix == ".py":
                parts = file.with_suffix("").parts
                module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
                found.setdefault(module, set()).add(name)
    return found


def bringers(module: str, distributions: dict[str, set[str]], modules: dict[str, set[str]]) -> set[str]:
    """The distributions by which a module comes.

    Of a shared namespace (azure, opentelemetry) the one that has the very module; of a package that is named
    as its distribution (pystac, which is made of several) that distribution.
    """
    top = module.partition(".")[0]
    by = distributions.get(top, set())
    if len(by) < 2 or canonicalize_name(top) in by:
        return by
    return modules.get(module, set())


@pytest.mark.parametrize("package", sorted(OURS))
def test_every_import_is_declared(
    package: str, distributions: dict[str, set[str]], modules: dict[str, set[str]]
) -> None:
    known = declared(*EXTRAS[package])
    undeclared = {
        name: str(path.relative_to(ROOT))
        for name, path in imported(package).items()
        if not bringers(name, distributions, modules) & known
    }
    assert undeclared == {}


@pytest.mark.parametrize(("package", "extras"), [("gdaltools", ("",)), ("worker", ("", "worker"))])
def test_no_module_needs_an_extra_to_be_imported(
    package: str, extras: tuple[str, ...], distributions: dict[str, set[str]], modules: dict[str, set[str]]
) -> None:
    known = declared(*extras)
    beyond = {
        name: str(path.relative_to(ROOT))
        for name, path in imported(package, by_importing=True).items()
        if not bringers(name, distributions, modules) & known
    }
    assert beyond == {name: path for name, path in OF_AN_EXTRA.items() if path.startswith(package)}


def test_the_core_has_no_dependency_that_nothing_imports(
    distributions: dict[str, set[str]], modules: dict[str, set[str]]
) -> None:
    used = set().union(*(bringers(name, distributions, modules) for name in imported("gdaltools")))
    assert declared("") - used == FOR_OTHERS
