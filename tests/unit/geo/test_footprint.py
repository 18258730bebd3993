"""Where rasters lie on Earth, judged by PROJ's transform of a dense sample, the geometry by RFC 7946."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyproj import Transformer
from rasterio.crs import CRS
from rasterio.transform import Affine, from_bounds
from shapely.geometry import box, shape

from gdaltools.geo.crs import crs_name
from gdaltools.geo.footprint import bounds_4326, footprint, parts
from gdaltools.geo.grid import Grid

GEOS = "+proj=geos +sweep=x +lon_0={} +h=35786023 +ellps=GRS80 +units=m"
DISK = 5434894.885056
# A CRS, the size of its degree, and the extent from which windows are drawn.
CRSS = [
    ("EPSG:4326", (-400, -90, 400, 90)),
    ("EPSG:4269", (-400, -90, 400, 90)),
    ("EPSG:3857", (-3e7, -1.9e7, 3e7, 1.9e7)),
    ("EPSG:3832", (-1.9e7, -1e7, 1.9e7, 1e7)),
    ("EPSG:32660", (1e5, 0, 1e6, 8e6)),
    ("EPSG:32701", (1e5, 2e6, 1e6, 1e7)),
    ("EPSG:3413", (-4e6, -4e6, 4e6, 4e6)),
    ("EPSG:3031", (-4e6, -4e6, 4e6, 4e6)),
    ("EPSG:2193", (1e6, 4.7e6, 3.5e6, 6.2e6)),
    ("ESRI:54009", (-1.8e7, -9e6, 1.8e7, 9e6)),
    (GEOS.format(-75), (-DISK, -DISK, DISK, DISK)),
    (GEOS.format(140.7), (-DISK, -DISK, DISK, DISK)),
]


def sample(crs: str, bounds: tuple[float, ...], points: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Longitudes and latitudes of points all over the box that lie on Earth."""
    left, bottom, right, top = bounds
    x, y = (
        a.ravel() for a in np.meshgrid(np.linspace(left, right, points), np.linspace(bottom, top, points))
    )
    way = Transformer.from_crs(CRS.from_user_input(crs).to_wkt(), "EPSG:4326", always_xy=True)
    lon, lat = way.transform(x, y)
    there = np.isfinite(lon) & np.isfinite(lat)
    return (lon[there] + 180) % 360 - 180, lat[there]


@settings(max_examples=100, deadline=None)
@given(
    place=st.sampled_from(CRSS),
    x=st.tuples(st.floats(0, 0.98), st.floats(0.02, 1)),
    y=st.tuples(st.floats(0, 0.98), st.floats(0.02, 1)),
)
@example(place=("EPSG:3413", (-4e6, -4e6, 4e6, 4e6)), x=(0.0, 0.8203125), y=(0.515625, 1.0))
@example(place=("ESRI:54009", (-1.8e7, -9e6, 1.8e7, 9e6)), x=(0.4375, 0.03125), y=(0.0, 1.0))
@example(place=("ESRI:54009", (-1.8e7, -9e6, 1.8e7, 9e6)), x=(0.4375, 1.0), y=(0.0, 1.0))
@example(place=("EPSG:3413", (-4e6, -4e6, 4e6, 4e6)), x=(0.0, 0.5), y=(0.390625, 0.17959563076707813))
def test_bounds_hold_every_point_of_a_raster_and_little_more(
    place: tuple[str, tuple[float, ...]], x: tuple[float, float], y: tuple[float, float]
) -> None:
    crs, (west, south, east, north) = place
    left, bottom = west + x[0] * (east - west), south + y[0] * (north - south)
    right = left + x[1] * (1 - x[0]) * (east - west)
    top = bottom + y[1] * (1 - y[0]) * (north - south)
    lon, lat = sample(crs, (left, bottom, right, top))
    found = bounds_4326(CRS.from_user_input(crs), from_bounds(left, bottom, right, top, 500, 400), 500, 400)
    if found is None:
        assert not len(lon)
        return
    assert all(-180 <= a <= 180 and -90 <= b <= 90 for a, b in (found[:2], found[2:]))
    inside = np.zeros(len(lon), bool)
    for part in parts(found):
        w, s, e, n = part
        near = [(lon + turn >= w - 0.3) & (lon + turn <= e + 0.3) for turn in (-360, 0, 360)]
        inside |= np.any(near, axis=0) & (lat >= s - 0.3) & (lat <= n + 0.3)
    assert inside.all(), (found, lon[~inside][:5], lat[~inside][:5])
    around = np.sort(lon)
    gap = np.diff(around, append=around[0] + 360).max()
    width = (found[2] - found[0]) % 360 or 360
    holds_pole = np.abs([found[1], found[3]]).max() > 90 - 1e-6
    assert holds_pole or width <= 360 - gap + 20, (found, gap)
    geometry = shape(footprint(_grid(crs, (left, bottom, right, top)), (0, 0, 500, 400))[1])
    assert geometry.is_valid
    assert box(-180, -90, 180, 90).buffer(1e-6).covers(geometry)


def _grid(crs: str, bounds: tuple[float, ...]) -> Grid:
    transform = tuple(from_bounds(*bounds, 500, 400))[:6]
    return Grid(crs=crs_name(CRS.from_user_input(crs)), transform=transform, width=500, height=400)


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:4269", "EPSG:4258", "OGC:CRS84"])
@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        (190, 200, (-170, -160)),
        (0, 360, (-180, 180)),
        (-0.25, 359.75, (-180, 180)),
        (-180.125, 179.875, (-180, 180)),
        (-360, 0, (-180, 180)),
        (170, 190, (170, -170)),
        (-190, -170, (170, -170)),
        (170, 180, (170, 180)),
        (180, 190, (-180, -170)),
        (-180, -170, (-180, -170)),
        (-190, -180, (170, 180)),
        (350, 370, (-10, 10)),
        (0, 359, (0, -1)),
    ],
)
def test_longitudes_wrap_and_are_never_clipped(
    crs: str, left: float, right: float, expected: tuple[float, float]
) -> None:
    found = bounds_4326(CRS.from_user_input(crs), from_bounds(left, -20, right, -10, 360, 10), 360, 10)
    assert found == pytest.approx((expected[0], -20, expected[1], -10), abs=1e-4)


def test_a_full_disk_has_the_bounds_of_its_limb() -> None:
    for longitude in (-75, 0, 140.7, 180):
        crs, size = CRS.from_string(GEOS.format(longitude)), 600
        found = bounds_4326(crs, from_bounds(-DISK, -DISK, DISK, DISK, size, size), size, size)
        assert found is not None
        # The limb is acos(radius / (radius + height)) from the point below the satellite.
        limb = np.degrees(np.arccos(6378137 / (6378137 + 35786023)))
        ends = [(longitude + side * limb + 180) % 360 - 180 for side in (-1, 1)]
        assert [found[0], found[2]] == pytest.approx(ends, abs=0.3)
        assert found[1] == pytest.approx(-limb, abs=0.5)


@pytest.mark.parametrize(
    "crs",
    [
        "IAU_2015:49910",
        "+proj=eqc +R=3396190 +units=m +no_defs",
        "+proj=longlat +R=1737400 +no_defs",
        'LOCAL_CS["site",UNIT["metre",1]]',
        'ENGCRS["mine",EDATUM["mine"],CS[Cartesian,2],AXIS["x",east],AXIS["y",north],LENGTHUNIT["metre",1]]',
    ],
)
def test_what_is_not_on_earth_has_no_bounds(crs: str) -> None:
    assert bounds_4326(CRS.from_user_input(crs), Affine(10, 0, 5, 0, -10, 5), 10, 10) is None
