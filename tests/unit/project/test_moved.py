"""Moved names still work in their old place for one more version, and their use raises a warning."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import gdaltools as gt
from tests.support.rasters import UTM, UTM_GRID, smooth, write_raster

MODULES = {
    "gdaltools.accessor": ("gdaltools.xr.accessor", "GdaltoolsAccessor"),
    "gdaltools.calibration": ("gdaltools.cost.calibration", "load"),
    "gdaltools.estimation": ("gdaltools.cost.estimation", "estimate"),
    "gdaltools.preview": ("gdaltools.catalog.preview", "preview_mosaic"),
    "gdaltools.progress": ("gdaltools.display.progress", "Progress"),
    "gdaltools.reads": ("gdaltools.cog.reads", "trace_reads"),
    "gdaltools.routing": ("worker.protocol.routing", "RoutingRules"),
    "gdaltools.samples": ("gdaltools.raster.samples", "relief"),
    "worker.client": ("worker.web.client", "Client"),
    "worker.embedded": ("worker.service.embedded", "Standalone"),
    "worker.handlers": ("worker.task.handlers", "Handler"),
    "worker.runner": ("worker.task.runner", "Runner"),
}


@pytest.mark.parametrize("old", MODULES)
def test_a_module_is_found_under_its_old_name(old: str) -> None:
    new, name = MODULES[old]
    code = f"from {old} import {name} as old; from {new} import {name} as new; assert old is new"
    done = subprocess.run(
        [sys.executable, "-W", "always::DeprecationWarning", "-c", code],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stderr.count(f"DeprecationWarning: {old} is now {new}") == 1


@pytest.mark.parametrize("name", ["Route", "RoutingRules", "route"])
def test_routing_is_found_in_the_public_door(name: str) -> None:
    with pytest.warns(DeprecationWarning, match=f"gdaltools.{name} is now worker.protocol.routing.{name}"):
        assert getattr(gt, name) is getattr(import_module("worker.protocol.routing"), name)


def test_an_unknown_task_type_is_found_among_the_errors() -> None:
    errors = import_module("gdaltools.errors")
    with pytest.warns(DeprecationWarning, match="UnknownTaskType is now worker"):
        assert issubclass(errors.UnknownTaskType, gt.GdalToolsError)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = errors.Nothing


def test_a_scheme_reads_another_programs_document_and_tells_its_facts(tmp_path: Path) -> None:
    raster = write_raster(tmp_path / "a.tif", smooth(3), crs=UTM, transform=UTM_GRID)
    scheme = gt.generate_tiling_scheme(raster, 128, 16, "EPSG:32637")
    stored = scheme.write(tmp_path / "scheme.geojson")
    with pytest.warns(DeprecationWarning, match="read_tiling_scheme"):
        assert gt.TilingScheme.read(stored, raster=raster) == scheme
    with pytest.warns(DeprecationWarning, match="scheme_facts"):
        assert scheme.facts()["total_tiles"] == len(scheme)


def test_a_name_that_never_was_is_still_an_error() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"gdaltools\.nowhere"):
        import_module("gdaltools.nowhere")
