"""environment.yml is pyproject.toml in conda's words: the same packages and bounds, from one channel."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from rattler import MatchSpec

ROOT = Path(__file__).parents[3]
EXTRAS = ("notebook", "map", "warp", "gdal")

# Packages with other names on conda-forge than on PyPI.
CONDA_NAMES = {"isal": "python-isal", "zlib-ng": "python-zlib-ng", "GDAL": "gdal"}
# Packages that only conda has as separate ones.
CONDA_ONLY = {"python", "pip", "libgdal-jp2openjpeg"}


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    content: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return content


@pytest.fixture(scope="module")
def environment() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / "environment.yml").read_text())
    return content


def _bounds(environment: dict[str, Any]) -> dict[str, SpecifierSet]:
    """Return names and bounds; conda's specs in this file are PEP 508's but for a space."""
    parsed = [Requirement(line) for line in environment["dependencies"]]
    return {each.name: each.specifier for each in parsed}


def test_names_and_bounds_are_those_of_pyproject(
    project: dict[str, Any], environment: dict[str, Any]
) -> None:
    lines = project["dependencies"] + [
        line for extra in EXTRAS for line in project["optional-dependencies"][extra]
    ]
    expected = {CONDA_NAMES.get(each.name, each.name): each.specifier for each in map(Requirement, lines)}
    found = _bounds(environment)
    assert {name: bounds for name, bounds in found.items() if name not in CONDA_ONLY} == expected
    assert found.keys() - expected.keys() == CONDA_ONLY


def test_the_python_is_the_projects(project: dict[str, Any], environment: dict[str, Any]) -> None:
    assert _bounds(environment)["python"] == SpecifierSet(project["requires-python"])


def test_all_comes_from_one_channel(environment: dict[str, Any]) -> None:
    assert environment["channels"] == ["conda-forge", "nodefaults"]
    assert all(isinstance(line, str) for line in environment["dependencies"]), "nothing comes by pip"


def test_conda_reads_every_line(environment: dict[str, Any]) -> None:
    for line in environment["dependencies"]:
        spec = MatchSpec(line, strict=True)
        assert spec.name.normalized == line.split()[0]
