"""The forms in which a user names a CRS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import pytest
import rasterio
from rasterio.crs import CRS

import gdaltools as gt
from gdaltools.errors import InvalidParameter
from gdaltools.geo.crs import parse_crs
from tests.support.rasters import UTM, UTM_GRID, smooth, write_raster

MERCATOR = pyproj.CRS.from_epsg(3857)
COMPOUND = pyproj.CRS.from_user_input("EPSG:25833+7837")


@pytest.mark.parametrize(
    ("form", "right"),
    [
        ("EPSG:25833+7837", COMPOUND),
        ("epsg:25833+EPSG:7837", COMPOUND),
        ("urn:ogc:def:crs,crs:EPSG::25833,crs:EPSG::7837", COMPOUND),
        ("http://www.opengis.net/def/crs/EPSG/0/3857", MERCATOR),
        ("urn:ogc:def:crs:EPSG::3857", MERCATOR),
        ("3857", MERCATOR),
        (" EPSG:3857 ", MERCATOR),
        (3857, MERCATOR),
        (MERCATOR, MERCATOR),
        (COMPOUND, COMPOUND),
        (MERCATOR.to_json(), MERCATOR),
        (MERCATOR.to_json_dict(), MERCATOR),
        (MERCATOR.to_wkt(), MERCATOR),
        (CRS.from_epsg(3857), MERCATOR),
        ("OGC:CRS84", pyproj.CRS.from_user_input("OGC:CRS84")),
        ("+proj=utm +zone=33 +datum=WGS84", pyproj.CRS.from_epsg(32633)),
    ],
)
def test_every_form_that_proj_reads_is_the_same_crs(form: Any, right: pyproj.CRS) -> None:
    found = pyproj.CRS.from_wkt(parse_crs(form, "target_crs").to_wkt())
    assert found.equals(right, ignore_axis_order=True)


@pytest.mark.parametrize("form", [True, 1.5, None, b"EPSG:3857", "/etc/passwd", "https://a.example/crs", "0"])
def test_what_is_no_crs_is_refused(form: Any) -> None:
    with pytest.raises(InvalidParameter, match="target_crs"):
        parse_crs(form, "target_crs")


@pytest.mark.parametrize(
    "form", [26844, "EPSG:32036", "epsg:4819", "urn:ogc:def:crs:EPSG::31268", "EPSG:3314", "EPSG:6871"]
)
def test_a_deprecated_code_is_refused_where_gdal_would_use_other_coordinates(form: Any) -> None:
    name = form if isinstance(form, str) else f"EPSG:{form}"
    own = pyproj.CRS.from_user_input(name)
    with rasterio.Env():
        used = pyproj.CRS.from_wkt(CRS.from_user_input(name).to_wkt())
    points = inside(own)
    assert places(own, *points) != pytest.approx(places(used, *points), abs=1e-3)
    with pytest.raises(InvalidParameter, match="deprecated"):
        parse_crs(form, "target_crs")
    # Its definition says which of the two is meant.
    found = pyproj.CRS.from_wkt(parse_crs(own, "target_crs").to_wkt())
    assert places(found, *points) == pytest.approx(places(own, *points), abs=1e-3)


def inside(crs: pyproj.CRS) -> tuple[np.ndarray, np.ndarray]:
    """Return coordinates in a CRS of places in its area of use."""
    west, south, east, north = crs.area_of_use.bounds
    lon, lat = np.linspace(west, east, 5)[1:-1], np.linspace(south, north, 5)[1:-1]
    return pyproj.Transformer.from_crs(crs.geodetic_crs.to_2d(), crs.to_2d(), always_xy=True).transform(
        lon, lat
    )


def places(crs: pyproj.CRS, x: np.ndarray, y: np.ndarray) -> list[float]:
    """Return where coordinates in a CRS lie, in WGS 84 and in metres."""
    way = pyproj.Transformer.from_crs(crs.to_2d(), 4326, always_xy=True)
    return [float(value) * 111_319 for axis in way.transform(x, y) for value in axis]


@pytest.mark.parametrize("code", [3785, 2036, 4140, 32663])
def test_a_deprecated_code_is_accepted_where_its_replacement_has_the_same_coordinates(code: int) -> None:
    assert pyproj.CRS.from_epsg(code).is_deprecated
    assert parse_crs(code, "target_crs")


def test_a_crs_without_its_grid_of_shifts_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    assert parse_crs("+proj=longlat +ellps=bessel +nadgrids=none_here.gsb", "target_crs").to_wkt()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("form", ["EPSG:25833+7837", 3857, "3857", MERCATOR, MERCATOR.to_json_dict()])
def test_schemes_cogs_and_arrays_accept_the_same_forms(tmp_path: Path, form: Any) -> None:
    source = write_raster(tmp_path / "a.tif", smooth(1, 300, 400), crs=UTM, transform=UTM_GRID)
    right = parse_crs(form, "target_crs")
    assert CRS.from_user_input(gt.generate_tiling_scheme(source, 256, 16, form).grid.crs) == right
    assert CRS.from_user_input(gt.plan_cog(source, target_crs=form).facts.crs_wkt) == right
    assert CRS.from_wkt(gt.warp(source, form).rio.crs.to_wkt()) == right
