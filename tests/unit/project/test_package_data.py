"""Every file that is not Python and that a package reads is part of what is installed."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
DATA = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]


@pytest.mark.parametrize("package", ["gdaltools", "worker"])
def test_every_file_beside_the_code_is_packed(package: str) -> None:
    folder = ROOT / package
    packed = {path for pattern in DATA[package] for path in folder.glob(pattern)}
    files = {path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    there = {path for path in files if path.suffix != ".py"}
    assert there == packed
