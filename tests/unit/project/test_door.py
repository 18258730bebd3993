"""Importing the package brings in nothing heavy, and every public name exists."""

from __future__ import annotations

import subprocess
import sys

import gdaltools as gt

HEAVY = (
    "osgeo",
    "numba",
    "azure",
    "adlfs",
    "matplotlib",
    "distributed",
    "rasterio",
    "xarray",
    "dask",
    "numpy",
)


def test_everything_that_is_named_is_there() -> None:
    for name in gt.__all__:
        assert getattr(gt, name).__module__.startswith("gdaltools."), name
    assert set(gt.__all__) <= set(dir(gt))


def test_no_module_hides_a_function_of_its_name() -> None:
    rooms = ("cli", "catalog.mosaic", "catalog.stac", "cost.estimation", "warp.strips", "xr.warp")
    code = f"import sys, gdaltools as gt, {', '.join(f'gdaltools.{room}' for room in rooms)}\n"
    code += "assert not [name for name in gt.__all__ if type(getattr(gt, name)) is type(sys)]"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_import_itself_brings_in_nothing_heavy() -> None:
    code = f"import sys, gdaltools; print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
