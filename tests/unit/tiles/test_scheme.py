"""Tiling schemes: nothing left out, nothing larger than requested, exact overlaps, and their GeoJSON."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import morecantile
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS
from rasterio.transform import Affine, from_origin
from rasterio.warp import calculate_default_transform
from shapely.geometry import box, shape

from gdaltools.errors import InvalidParameter, TargetExists, UnsupportedRaster
from gdaltools.geo.crs import transform_points
from gdaltools.geo.grid import Grid
from gdaltools.geo.target import target_grid
from gdaltools.tiles.area import tiles_within
from gdaltools.tiles.axis import TileAxis
from gdaltools.tiles.generate import generate_tiling_scheme
from gdaltools.tiles.scheme import TilingScheme
from tests.support.rasters import UTM, UTM_GRID, WGS84, smooth, write_raster

ROTATED = (9.4, -3.4, 470000.0, -3.4, -9.4, 1000000.0)
SOURCES = {
    "EPSG:32637": (10.0, 0.0, 470000.0, 0.0, -10.0, 1000000.0),
    "EPSG:3857": (30.0, 0.0, 4000000.0, 0.0, -30.0, 1000000.0),
    "EPSG:4326": (1e-4, 0.0, 38.0, 0.0, -1e-4, 9.5),
    "EPSG:3413": (500.0, 0.0, -100000.0, 0.0, -500.0, -1200000.0),
}


def scheme_of(grid: Grid, source: Grid, tile_size: int, overlap: int) -> TilingScheme:
    return TilingScheme(
        source="a.tif", source_grid=source, file_crs=source.crs, grid=grid, tile_size=tile_size,
        overlap=overlap, band_count=3, data_type="uint8", raster_type="rgb", detected_type="rgb",
        detection_confidence=0.9, auto_band_names={"1": "Red"}, used_band_names={"1": "Red"},
    )  # fmt: skip


@st.composite
def axes(draw: st.DrawFn) -> TileAxis:
    size = 16 * draw(st.integers(1, 64))
    return TileAxis(
        extent=draw(st.integers(1, 20_000)), size=size, overlap=draw(st.integers(0, min(size - 1, 600)))
    )


@given(axes())
def test_pieces_cover_the_extent_and_share_exactly_the_overlap(axis: TileAxis) -> None:
    if axis.count > 3000:
        return
    spans = axis.spans
    assert spans[0][0] == 0
    assert spans[-1][0] + spans[-1][1] == axis.extent
    assert all(0 < length <= axis.size for _, length in spans)
    for (start, length), (following, next_length) in pairwise(spans):
        assert start + length - following == axis.overlap
        assert following > start
        assert following + next_length > start + length


@given(axes())
def test_the_fewest_pieces_are_used(axis: TileAxis) -> None:
    fewest = max(1, -(-(axis.extent - axis.overlap) // (axis.size - axis.overlap)))
    assert axis.count == fewest


def test_a_sliver_is_shared_with_the_tile_before() -> None:
    assert TileAxis(extent=1030, size=512, overlap=0).spans == [(0, 512), (512, 272), (784, 246)]
    assert TileAxis(extent=1024, size=512, overlap=0).spans == [(0, 512), (512, 512)]
    assert TileAxis(extent=1100, size=512, overlap=0).spans == [(0, 512), (512, 512), (1024, 76)]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    crs=st.sampled_from(sorted(SOURCES)),
    target=st.sampled_from(["EPSG:4326", "EPSG:3857", "EPSG:32637", "EPSG:3413", "own"]),
    rotated=st.booleans(),
    width=st.integers(1, 3000),
    height=st.integers(1, 3000),
    tile=st.integers(4, 40),
    overlap=st.integers(0, 48),  # more could be over the limit of a million tiles
)
def test_the_grid_holds_the_source_and_survives_geojson(
    crs: str, target: str, rotated: bool, width: int, height: int, tile: int, overlap: int
) -> None:
    transform = ROTATED if rotated and crs == "EPSG:32637" else SOURCES[crs]
    source = Grid(crs=crs, transform=transform, width=width, height=height)
    target = crs if target == "own" else target
    if {crs, target} == {"EPSG:3413", "EPSG:32637"} or (crs, target) == ("EPSG:3413", "EPSG:3857"):
        return
    grid = target_grid(source, CRS.from_user_input(target))
    scheme = scheme_of(grid, source, 16 * tile, overlap)
    assert scheme.warps is not (target == crs and transform is not ROTATED)
    share = np.linspace(0.01, 0.99, 7)
    places = np.meshgrid(share * width, share * height)
    x, y = transform_points(crs, target, *source.world(*(p.ravel() for p in places)))
    cols, rows = grid.pixels(x, y)
    assert cols.min() > -0.01
    assert rows.min() > -0.01
    assert cols.max() < grid.width + 0.01
    assert rows.max() < grid.height + 0.01
    assert np.hypot(grid.width, grid.height) < 3 * np.hypot(width, height) + 3
    if len(scheme) <= 300:
        assert TilingScheme.from_geojson(json.dumps(scheme.to_geojson())) == scheme


@given(
    rows=st.integers(1, 900), cols=st.integers(1, 900), tile=st.integers(4, 20), overlap=st.integers(0, 63)
)
@settings(max_examples=40, deadline=None)
def test_every_pixel_is_in_a_tile(rows: int, cols: int, tile: int, overlap: int) -> None:
    grid = Grid(crs=WGS84, transform=SOURCES[WGS84], width=cols, height=rows)
    scheme = scheme_of(grid, grid, 16 * tile, overlap)
    seen = np.zeros((rows, cols), bool)
    for tile_ in scheme.tiles():
        w = tile_.window
        assert max(w.width, w.height) <= scheme.tile_size
        seen[w.row_off : w.row_off + w.height, w.col_off : w.col_off + w.width] = True
    assert seen.all()


def test_a_raster_in_the_target_crs_keeps_its_own_grid(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", smooth(), crs=UTM, transform=UTM_GRID)
    scheme = generate_tiling_scheme(path, 128, 16, UTM)
    assert scheme.grid.affine == UTM_GRID
    assert (scheme.grid.width, scheme.grid.height, scheme.warps) == (400, 300, False)
    assert generate_tiling_scheme(path, 128, 16, UTM, resolution=10).warps is False
    coarser = generate_tiling_scheme(path, 128, 16, UTM, resolution=20)
    assert (coarser.grid.width, coarser.grid.height, coarser.warps) == (200, 150, True)


def test_the_resolution_is_about_gdals_and_the_origin_a_multiple_of_it(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", smooth(1, 500, 700), crs=UTM, transform=UTM_GRID)
    scheme = generate_tiling_scheme(path)
    gdals, width, height = calculate_default_transform(UTM, WGS84, 700, 500, 470000, 995000, 477000, 1000000)
    size = scheme.grid.resolution[0]
    assert size == pytest.approx(gdals.a, rel=1e-3)
    assert abs(scheme.grid.width - width) <= 3
    assert abs(scheme.grid.height - height) <= 3
    origin = scheme.grid.transform[2] / size, scheme.grid.transform[5] / size
    assert origin == pytest.approx([round(value) for value in origin], abs=1e-6)


def test_around_the_pole_the_grid_goes_around_the_earth(tmp_path: Path) -> None:
    path = write_raster(
        tmp_path / "a.tif", smooth(1, 500, 500), crs="EPSG:3413", transform=from_origin(-1e6, 1e6, 4e3, 4e3)
    )
    grid = generate_tiling_scheme(path).grid
    left, bottom, right, top = grid.bounds
    assert (left, right, top) == pytest.approx((-180, 180, 90))
    assert bottom == pytest.approx(77, abs=0.2)
    assert grid.width * grid.height < 8 * 500 * 500


def test_the_whole_earth_becomes_mercators_square(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", smooth(1, 180, 360), transform=from_origin(-180, 90, 1, 1))
    left, bottom, right, top = generate_tiling_scheme(path, target_crs="EPSG:3857").grid.bounds
    assert (-left, right) == pytest.approx((2.0037e7, 2.0037e7), rel=0.02)
    assert (-bottom, top) == pytest.approx((2.0037e7, 2.0037e7), rel=0.02)


def test_the_automatic_tile_is_450_mb(tmp_path: Path) -> None:
    rgb = generate_tiling_scheme(write_raster(tmp_path / "a.tif", smooth(3)))
    assert (rgb.tile_size, rgb.overlap, rgb.cog_blocksize) == (12288, 512, 512)
    one = generate_tiling_scheme(write_raster(tmp_path / "b.tif", smooth(1)))
    assert one.tile_size == 20480
    many = generate_tiling_scheme(write_raster(tmp_path / "c.tif", smooth(12, 50, 50, dtype="float32")))
    assert many.tile_size == 5120


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"tile_size": 100, "overlap": 0}, "multiple of 16"),
        ({"tile_size": 0}, "positive"),
        ({"tile_size": -512}, "positive"),
        ({"tile_size": 512.5}, "positive"),
        ({"tile_size": 256}, "pass an overlap below 256"),
        ({"tile_size": 256, "overlap": 256}, "not smaller"),
        ({"overlap": -1}, "overlap"),
        ({"overlap": 30000}, "overlap"),
        ({"target_crs": "EPSG:999999"}, "target_crs"),
        ({"target_crs": "nonsense"}, "target_crs"),
        ({"input_crs": "EPSG:1"}, "input_crs"),
        ({"resolution": 0}, "resolution"),
        ({"resolution": float("nan")}, "resolution"),
        ({"resolution": 1e-12}, "limit"),
        ({"resolution": 1e-6, "tile_size": 16, "overlap": 0}, "tiles"),
        ({"raster_type": "photo"}, "raster_type"),
        ({"band_names": {"4": "NIR"}}, "band_names"),
        ({"band_names": {"x": "NIR"}}, "band_names"),
    ],
)
def test_what_cannot_be_a_scheme_is_refused(tmp_path: Path, parameters: dict[str, Any], reason: str) -> None:
    path = write_raster(tmp_path / "a.tif", smooth(3))
    with pytest.raises(InvalidParameter, match=reason):
        generate_tiling_scheme(path, **parameters)


def test_the_geojson_is_the_protocols(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", smooth(3), crs=UTM, transform=UTM_GRID)
    scheme = generate_tiling_scheme(path, 128, 16, UTM)
    document = scheme.to_geojson()
    assert (document["type"], len(document["features"])) == ("FeatureCollection", len(scheme))
    feature = document["features"][5]
    assert set(feature) == {"type", "id", "geometry", "properties"}
    assert set(feature["properties"]) == {
        "tile_id", "row", "col", "pixel_window", "bounds_4326", "target_width_pixels",
        "target_height_pixels", "crs_target",
    }  # fmt: skip
    assert (feature["id"], feature["properties"]["pixel_window"]) == (
        "tile_1_1",
        {"col_off": 112, "row_off": 112, "width": 128, "height": 128},
    )
    polygon = shape(feature["geometry"])
    assert polygon.is_valid
    assert len(polygon.exterior.coords) > 20
    assert polygon.exterior.is_ccw
    assert polygon.bounds == pytest.approx(feature["properties"]["bounds_4326"])


def test_tiles_across_the_antimeridian_are_cut_there(tmp_path: Path) -> None:
    path = write_raster(
        tmp_path / "a.tif", smooth(1, 100, 100), crs="EPSG:3413", transform=from_origin(-4e5, 4e5, 8e3, 8e3)
    )
    for tile in generate_tiling_scheme(path, 32, 0, "EPSG:3413").tiles():
        geometry = shape(tile.geometry)
        assert geometry.is_valid
        assert box(-180, -90, 180, 90).covers(geometry)
        if tile.bounds_4326[0] > tile.bounds_4326[2]:
            assert tile.geometry["type"] == "MultiPolygon"


@pytest.mark.parametrize("crs", ["IAU_2015:49910", "IAU_2015:49900", "+proj=eqc +R=1737400 +units=m"])
def test_a_scheme_on_another_planet_is_written_without_a_place_on_earth(tmp_path: Path, crs: str) -> None:
    planet = CRS.from_user_input(crs)
    degree = 1.0 if planet.is_geographic else 50_000.0
    path = write_raster(
        tmp_path / "a.tif", smooth(1, 300, 300), crs=planet,
        transform=from_origin(-10 * degree, 10 * degree, degree / 20, degree / 20),
    )  # fmt: skip
    scheme = generate_tiling_scheme(path, 128, 16, crs)
    assert {(tile.bounds_4326, tile.geometry) for tile in scheme.tiles()} == {(None, None)}
    scheme.write(tmp_path / "s.geojson")
    assert TilingScheme.read(tmp_path / "s.geojson") == scheme
    assert TilingScheme.from_geojson(scheme.to_geojson()) == scheme
    with pytest.raises(InvalidParameter, match="not on Earth"):
        tiles_within(scheme, {"type": "Point", "coordinates": [0.0, 0.0]})


def test_a_scheme_is_stored_and_read_again(tmp_path: Path) -> None:
    scheme = generate_tiling_scheme(write_raster(tmp_path / "a.tif", smooth(3)), 128, 16, "EPSG:3857")
    scheme.write(tmp_path / "s.geojson")
    assert TilingScheme.read(tmp_path / "s.geojson") == scheme
    with pytest.raises(TargetExists):
        scheme.write(tmp_path / "s.geojson")


def damaged(scheme: TilingScheme) -> dict[str, Any]:
    whole = scheme.to_geojson()
    first = whole["features"][0]
    moved = {**first, "properties": {**first["properties"], "pixel_window": {"col_off": -1}}}
    meta = whole["metadata"]

    grid = meta["scheme"]["grid"]

    def with_scheme(**changes: Any) -> dict[str, Any]:
        return {**whole, "metadata": {**meta, "scheme": {**meta["scheme"], **changes}}}

    return {
        "foreign": {"type": "FeatureCollection", "features": []},
        "no collection": {"type": "Feature"},
        "list": "[1, 2]",
        "no json": "{",
        "deep": "[" * 100_000,
        "bytes": b"\xff\xfe\x00",
        "other format": {**whole, "metadata": {**meta, "format": "x/1"}},
        "no scheme": {**whole, "metadata": {"format": meta["format"]}},
        "cut": {**whole, "features": whole["features"][:-1]},
        "no features": {**whole, "features": None},
        "moved": {**whole, "features": [moved, *whole["features"][1:]]},
        "text feature": {**whole, "features": ["x"] * len(whole["features"])},
        "tile size": with_scheme(tile_size=100),
        "huge overlap": with_scheme(overlap=10**9),
        "negative": with_scheme(overlap=-1),
        "million tiles": with_scheme(grid={**grid, "width": 2**31 - 1, "height": 2**31 - 1}),
        "huge grid": with_scheme(grid={**grid, "width": 10**30}),
        "nan": with_scheme(grid={**grid, "transform": [float("nan")] * 6}),
        "flat": with_scheme(grid={**grid, "transform": [0.0] * 6}),
        "crs": with_scheme(grid={**grid, "crs": "/etc/passwd"}),
    }


def test_geojson_of_another_kind_or_damaged_is_refused(tmp_path: Path) -> None:
    scheme = generate_tiling_scheme(write_raster(tmp_path / "a.tif", smooth(3)), 128, 16)
    for document in damaged(scheme).values():
        with pytest.raises(InvalidParameter):
            TilingScheme.from_geojson(document)


def test_a_huge_scheme_is_planned_without_making_its_tiles(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", smooth(1))
    scheme = generate_tiling_scheme(path, 256, 0, resolution=5e-7)
    assert len(scheme) > 70_000
    assert scheme.tile(f"tile_{scheme.rows - 1}_{scheme.cols - 1}").window.width <= 256
    with pytest.raises(InvalidParameter, match="no tile"):
        scheme.tile(f"tile_{scheme.rows}_0")
    for wrong in ("tile_0", "tile_00_1", "tile_-1_0", "../x", ""):
        with pytest.raises(InvalidParameter, match="no tile"):
            scheme.position(wrong)


def test_longitudes_beyond_180_are_kept_in_their_own_crs(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", smooth(1), transform=from_origin(100, 30, 0.3, 0.2))
    assert not generate_tiling_scheme(path).warps
    with pytest.raises(UnsupportedRaster, match="antimeridian"):
        generate_tiling_scheme(path, target_crs="EPSG:3857")


def test_south_up_and_rotated_rasters_are_warped_in_their_own_crs(tmp_path: Path) -> None:
    for name, transform in (("south", Affine(10, 0, 470000, 0, 10, 990000)), ("rotated", Affine(*ROTATED))):
        path = write_raster(tmp_path / f"{name}.tif", smooth(), crs=UTM, transform=transform)
        scheme = generate_tiling_scheme(path, 128, 16, UTM)
        assert scheme.warps
        assert scheme.grid.north_up


def test_a_scheme_is_written_and_read_by_lines_and_is_geojson_all_the_same(tmp_path: Path) -> None:
    scheme = generate_tiling_scheme(write_raster(tmp_path / "a.tif", smooth(1)), 64, 16)
    content = Path(str(scheme.write(tmp_path / "scheme.geojson"))).read_bytes()
    assert json.loads(content) == scheme.to_geojson()
    assert content.count(b"\n") == len(scheme) + 2
    assert TilingScheme.from_geojson(content) == TilingScheme.from_geojson(json.loads(content)) == scheme
    lines = content.splitlines(keepends=True)
    for damaged_lines in (
        lines[:5] + lines[6:],
        [*lines[:-2], b"]}\n"],
        lines[:-3],
        [lines[0], lines[2], lines[1], *lines[3:]],
        [*lines[:3], b"{\n", *lines[4:]],
        [*lines[:-1], lines[-2], lines[-1]],
    ):
        with pytest.raises(InvalidParameter):
            TilingScheme.from_geojson(b"".join(damaged_lines))


@pytest.mark.parametrize("name", ["WebMercatorQuad", "WorldCRS84Quad", "WGS1984Quad"])
def test_a_grid_snaps_to_the_closest_zoom_level_and_to_its_map_tiles(tmp_path: Path, name: str) -> None:
    path = write_raster(tmp_path / "a.tif", smooth(1, 300, 400), crs=UTM, transform=UTM_GRID)
    scheme = generate_tiling_scheme(path, 512, 0, tms=name)
    matrices = morecantile.tms.get(name)
    zoom = next(
        z for z in range(31) if matrices.matrix(z).cellSize == pytest.approx(scheme.grid.resolution[0])
    )
    free = generate_tiling_scheme(path, 512, 0, scheme.grid.crs).grid.resolution[0]
    assert abs(zoom - matrices.zoom_for_res(free)) <= 1
    left, _, _, top = scheme.grid.bounds
    corner = matrices.xy_bounds(0, 0, zoom)
    for distance in (left - corner.left, corner.top - top):
        tiles = distance / (256 * scheme.grid.resolution[0])
        assert tiles == pytest.approx(round(tiles), abs=1e-6)
    assert scheme.grid.width % 256 == scheme.grid.height % 256 == 0
    inside = generate_tiling_scheme(path, 512, 0, scheme.grid.crs).grid.bounds
    assert (np.array(scheme.grid.bounds[:2]) <= np.array(inside[:2]) + free).all()
    assert (np.array(scheme.grid.bounds[2:]) >= np.array(inside[2:]) - free).all()
    finer = generate_tiling_scheme(path, 512, 0, tms=name, zoom=zoom + 1)
    assert finer.grid.resolution[0] == pytest.approx(scheme.grid.resolution[0] / 2)
    assert finer.warps


def test_a_tile_keeps_to_its_budget(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", smooth(3), crs=UTM, transform=UTM_GRID)
    for tile_mb in (1, 30, 450):
        side = generate_tiling_scheme(path, overlap=0, tile_mb=tile_mb).tile_size
        assert side % 512 == 0
        assert side**2 * 3 <= tile_mb * 1e6 < (side + 512) ** 2 * 3


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"tile_mb": 100, "tile_size": 512}, "both say"),
        ({"tile_mb": -1}, "tile_mb"),
        ({"zoom": 3}, "tms"),
        ({"tms": "NoSuchQuad"}, "unknown"),
        ({"tms": "WebMercatorQuad", "zoom": 77}, "zoom 77"),
        ({"tms": "WebMercatorQuad", "target_crs": "EPSG:4326"}, "of its own"),
        ({"tms": "WebMercatorQuad", "resolution": 10.0}, "of its own"),
    ],
)
def test_what_does_not_go_together_in_a_scheme_is_refused(
    tmp_path: Path, options: dict[str, Any], text: str
) -> None:
    path = write_raster(tmp_path / "a.tif", smooth(3), crs=UTM, transform=UTM_GRID)
    with pytest.raises(InvalidParameter, match=text):
        generate_tiling_scheme(path, overlap=0, **options)
