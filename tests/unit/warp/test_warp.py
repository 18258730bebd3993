"""Our kernels' warp of a raster equals GDAL's exact warp, whatever window is requested."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import dask
import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.io import DatasetReader
from rasterio.rpc import RPC
from rasterio.transform import Affine, from_origin
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

import gdaltools as gt
from gdaltools import storage
from gdaltools.errors import InvalidParameter
from gdaltools.geo.crs import crs_name, parse_crs
from gdaltools.geo.grid import Grid
from gdaltools.geo.target import target_grid
from gdaltools.raster.dataset import open_dataset
from gdaltools.raster.pixels.windows import SourceWindows
from gdaltools.warp import by_kernel, nodes
from gdaltools.warp import plan as warp_plan
from gdaltools.warp.nodes import EXACT_TOLERANCE
from gdaltools.warp.plan import WORTHWHILE_PIXELS, Engine
from gdaltools.warp.strips import WarpPlan, plan_warp, warped_strips
from tests.support.rasters import UTM, UTM_GRID, categories, smooth, write_raster

pytest.importorskip("numba")
# `gt.warp` is the function of this name.
gdaltools_warp = sys.modules["gdaltools.warp"]

ROWS, COLS = 307, 421  # both prime
ROTATED = Affine(9.4, -3.4, 470000, -3.4, -9.4, 1000000)
SHEARED = Affine(10, 3, 470000, 1, -9.4, 1000000)
CASES = {
    "utm to degrees": (UTM, UTM_GRID, "EPSG:4326", None),
    "mercator to degrees": ("EPSG:3857", from_origin(1e6, 6e6, 30, 30), "EPSG:4326", None),
    "degrees to mercator": ("EPSG:4326", from_origin(10, 50, 3e-4, 3e-4), "EPSG:3857", None),
    "rotated": (UTM, ROTATED, UTM, None),
    "sheared": (UTM, SHEARED, "EPSG:4326", None),
    "south up": (UTM, Affine(10, 0, 470000, 0, 10, 990000), "EPSG:3857", None),
    "polar to degrees": ("EPSG:3413", from_origin(7e5, -9e5, 1000, 1000), "EPSG:4326", None),
    "a third of the resolution": (UTM, UTM_GRID, "EPSG:4326", 3.1e-4),
    "half the resolution": (UTM, UTM_GRID, UTM, 20),
    "a tenth across": (UTM, UTM_GRID, "EPSG:3857", (100, 12)),
}
GAP = np.ones((ROWS, COLS), bool)
GAP[60:160, 100:280] = False
GAP[200:203] = False
GAP[np.random.default_rng(2).random((ROWS, COLS)) < 0.02] = False


def noise(bands: int, dtype: str, seed: int = 1) -> NDArray[Any]:
    """Return noise: nothing is harder to interpolate, or shows more of a coordinate's error."""
    rng = np.random.default_rng(seed)
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return (rng.normal(0, 1000, (bands, ROWS, COLS))).astype(kind)
    limits = np.iinfo(kind)
    return rng.integers(limits.min + 1, limits.max, (bands, ROWS, COLS), dtype=kind)


def written(path: Path, pixels: NDArray[Any], case: str, **options: Any) -> Path:
    crs, transform, _, _ = CASES[case]
    return write_raster(path, pixels, crs=crs, transform=transform, **options)


def grids(dataset: DatasetReader, case: str) -> tuple[Grid, Grid]:
    _, _, target, resolution = CASES[case]
    source = Grid(
        crs=crs_name(dataset.crs),
        transform=tuple(dataset.transform)[:6],
        width=dataset.width,
        height=dataset.height,
    )
    return source, target_grid(source, parse_crs(target, "target"), resolution=resolution)


@contextmanager
def planned(
    path: Path, case: str, resampling: str = "bilinear", *, engine: Engine = "kernel"
) -> Iterator[tuple[DatasetReader, WarpPlan]]:
    with open_dataset(path) as dataset:
        yield dataset, plan_warp(dataset, *grids(dataset, case), resampling, engine=engine)


def read(
    dataset: DatasetReader, plan: WarpPlan, window: Window | None = None
) -> tuple[NDArray[Any], NDArray[np.uint8] | None]:
    window = window or Window(0, 0, plan.target.width, plan.target.height)
    strips = list(warped_strips(SourceWindows(dataset, storage.locate(dataset.name)), plan, window))
    pixels = np.concatenate([part for part, _ in strips], axis=1)
    return pixels, np.concatenate([mask for _, mask in strips]) if plan.adds_mask else None


def exact(dataset: DatasetReader, plan: WarpPlan) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return the whole raster as one warp by GDAL with its exact transformer, and where it wrote."""
    with WarpedVRT(
        dataset,
        src_crs=plan.source.crs,
        crs=plan.target.crs,
        transform=plan.target.affine,
        width=plan.target.width,
        height=plan.target.height,
        resampling=Resampling[plan.resampling],
        src_nodata=plan.nodata,
        nodata=plan.nodata,
        add_alpha=plan.adds_mask,
        src_alpha=plan.alpha,
        dst_alpha=plan.alpha,
        dtype=plan.dtype,
        tolerance=EXACT_TOLERANCE,
        UNIFIED_SRC_NODATA="PARTIAL",  # gdalwarp's default; rasterio's mixes nodata with data
        XSCALE=plan.scale[0],
        YSCALE=plan.scale[1],
    ) as warped:
        pixels = warped.read(list(range(1, plan.count + 1)))
        return pixels, (warped.read(plan.count + 1) if plan.adds_mask else warped.dataset_mask()) > 0


def assert_equal_to_gdals(dataset: DatasetReader, plan: WarpPlan, *, share: float = 1e-4) -> None:
    """Compare with GDAL, except for a share of samples that differ by one level, or by rounding of floats."""
    found, mask = read(dataset, plan)
    expected, exists = exact(dataset, plan)
    assert 0.3 < exists.mean() <= 1
    if mask is not None:
        np.testing.assert_array_equal(mask > 0, exists)
    if plan.alpha:  # colours do not matter where alpha is 0
        for each in (found, expected):
            each[:, each[plan.alpha - 1] == 0] = 0
    if found.dtype.kind == "f":
        # Coordinates differ by about 1e-9 of a pixel, neighbouring samples by thousands.
        np.testing.assert_allclose(found, expected, rtol=2e-7, atol=1e-3 if found.itemsize == 4 else 1e-5)
        assert (np.isnan(found) == np.isnan(expected)).all()
    else:
        apart = np.abs(found.astype("int64") - expected)
        if plan.nodata is not None:
            # GDAL 3.10 moves each band off nodata, 3.13 only pixels that equal it in all bands.
            apart[(found == plan.nodata) & (np.abs(expected - plan.nodata) == 1)] = 0
        assert (apart > 0).mean() <= share
        # Nearest takes another sample altogether where a centre is on the line between two.
        assert plan.resampling == "nearest" or apart.max() <= 1


@pytest.mark.parametrize("resampling", ["nearest", "bilinear", "cubic"])
@pytest.mark.parametrize("case", list(CASES))
def test_pixels_are_those_of_gdals_exact_warp(tmp_path: Path, case: str, resampling: str) -> None:
    path = written(tmp_path / "a.tif", noise(2, "uint8"), case)
    with planned(path, case, resampling) as (dataset, plan):
        assert "own kernel, nodes every 32 px" in str(plan)
        assert_equal_to_gdals(dataset, plan)


@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"]
)
@pytest.mark.parametrize("with_nodata", [False, True])
def test_all_types_are_warped_alike(tmp_path: Path, dtype: str, with_nodata: bool) -> None:
    pixels, options = noise(1, dtype), {}
    if with_nodata:
        nodata = -9999 if dtype.startswith("f") else int(np.iinfo(dtype).min)
        pixels, options = np.where(GAP, pixels, np.dtype(dtype).type(nodata)), {"nodata": nodata}
    path = written(tmp_path / "a.tif", pixels, "utm to degrees", **options)
    # Nearest and the ends of the range are the same for all types; a 32-bit noise shows every error.
    share = 1e-2 if np.dtype(dtype).itemsize == 4 else 1e-4
    # Nearest is compiled for three types only, because compiling takes time.
    for resampling in ("bilinear", "nearest")[: 1 + (dtype in ("uint8", "int8", "int32", "float64"))]:
        with planned(path, "utm to degrees", resampling) as (dataset, plan):
            if np.dtype(dtype).itemsize == 4 and not dtype.startswith("f"):
                found, expected = read(dataset, plan)[0], exact(dataset, plan)[0]
                apart = np.abs(found.astype("float64") - expected)
                assert apart.max() <= 2**32 * 1e-8
            else:
                assert_equal_to_gdals(dataset, plan, share=share)


@pytest.mark.parametrize("engine", ["kernel", "gdal"])
@pytest.mark.parametrize("resampling", ["nearest", "bilinear", "cubic"])
@pytest.mark.parametrize(
    ("crs", "west", "turn", "target"),
    [
        ("EPSG:4326", -169.97, 360.0, "EPSG:3857"),
        ("EPSG:4326", 179.95, -360.0, "EPSG:3832"),
        ("EPSG:4269", 100.0, 360.0, "EPSG:4326"),
        ("EPSG:3857", -19.9e6, 2 * np.pi * 6378137, "EPSG:4326"),
    ],
)
def test_a_raster_is_the_same_in_every_copy_of_the_world(
    tmp_path: Path, crs: str, west: float, turn: float, target: str, resampling: str, engine: Engine
) -> None:
    pixels = np.where(GAP, noise(2, "int16"), -32768).astype("int16")
    size = 3e-4 * abs(turn) / 360
    found = []
    for name, shift in (("here", 0.0), ("there", turn)):
        transform = from_origin(west + shift, 20 * abs(turn) / 360, size, size)
        path = write_raster(tmp_path / f"{name}.tif", pixels, crs=crs, transform=transform, nodata=-32768)
        with open_dataset(path) as dataset:
            own = Grid(crs=crs, transform=tuple(transform)[:6], width=COLS, height=ROWS)
            grid = target_grid(own, parse_crs(target, "target"))
            plan = plan_warp(dataset, own, grid, resampling, engine=engine)
            assert bool(plan.step) == (engine == "kernel")
            found.append((grid, read(dataset, plan)[0]))
    (here, one), (there, other) = found
    assert here.bounds == pytest.approx(there.bounds, abs=1e-4)
    assert one.shape == other.shape
    assert (one != -32768).mean() > 0.5
    # Coordinates differ by rounding, and noise shows it.
    assert (np.abs(one.astype("int32") - other) <= 1).mean() > 0.9999


@pytest.mark.parametrize("case", ["utm to degrees", "a third of the resolution"])
@pytest.mark.parametrize("resampling", ["nearest", "bilinear", "cubic"])
@pytest.mark.parametrize("gap", ["nodata", "mask", "NaN"])
def test_what_is_no_data_follows_gdals_rule(tmp_path: Path, case: str, resampling: str, gap: str) -> None:
    if gap == "NaN":
        pixels, options = noise(2, "float64"), {"nodata": float("nan")}
        pixels[:, ~GAP] = np.nan
        pixels[0, 240:250] = np.nan  # in one band only
    elif gap == "mask":
        pixels, options = noise(2, "uint8"), {"mask": GAP}
    else:
        pixels, options = noise(2, "uint8").clip(40, 210), {"nodata": 5}
        pixels[:, ~GAP] = 5
        pixels[0, 240:250] = 5
    path = written(tmp_path / "a.tif", pixels, case, **options)
    with planned(path, case, resampling) as (dataset, plan):
        assert plan.adds_mask == (gap == "mask")
        assert_equal_to_gdals(dataset, plan)
        if gap == "nodata" and resampling != "cubic":  # nodata is never mixed with data
            found = read(dataset, plan)[0]
            assert ((found == 5) | (found >= 40)).all()


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("scenes")
    corner = noise(1, "float64")
    corner[:, :9, :9] = -9999
    return {
        "utm to degrees": written(folder / "utm.tif", noise(2, "uint8"), "utm to degrees", mask=GAP),
        "polar to degrees": written(folder / "polar.tif", noise(1, "float64"), "polar to degrees", nodata=-1),
        "rotated": written(folder / "rotated.tif", noise(3, "uint8"), "rotated", nodata=0),
        # One gap in a corner: areas with data everywhere must not be computed differently because of it.
        "a third of the resolution": written(
            folder / "third.tif", corner, "a third of the resolution", nodata=-9999
        ),
    }


@pytest.fixture(scope="module")
def wholes() -> dict[tuple[str, str], Any]:
    return {}


@settings(max_examples=25, deadline=None)
@given(data=st.data(), cell=st.sampled_from([64, 128, 512]))
def test_a_window_has_the_same_pixels_whatever_is_asked_for_beside_it(
    scenes: dict[str, Path], wholes: dict[tuple[str, str], Any], data: st.DataObject, cell: int
) -> None:
    case = data.draw(st.sampled_from(sorted(scenes)))
    resampling = data.draw(st.sampled_from(["nearest", "bilinear", "cubic"]))
    with open_dataset(scenes[case]) as dataset:
        source, target = grids(dataset, case)
        if (case, resampling) not in wholes:
            wholes[case, resampling] = read(
                dataset, plan_warp(dataset, source, target, resampling, engine="kernel")
            )
        whole, whole_mask = wholes[case, resampling]
        plan = plan_warp(dataset, source, target, resampling, engine="kernel", cell=cell)
        left = data.draw(st.integers(0, target.width - 1))
        top = data.draw(st.integers(0, target.height - 1))
        width = data.draw(st.integers(1, target.width - left))
        height = data.draw(st.integers(1, target.height - top))
        part, mask = read(dataset, plan, Window(left, top, width, height))
        np.testing.assert_array_equal(part, whole[:, top : top + height, left : left + width])
        if mask is not None and whole_mask is not None:
            np.testing.assert_array_equal(mask, whole_mask[top : top + height, left : left + width])


def test_the_mosaic_of_all_cells_is_one_warp(scenes: dict[str, Path]) -> None:
    for case, path in scenes.items():
        with open_dataset(path) as dataset:
            plan = plan_warp(dataset, *grids(dataset, case), "bilinear", engine="kernel", cell=64)
            source = SourceWindows(dataset, storage.locate(path))
            width, height = plan.target.width, plan.target.height
            rows = []
            for top in range(0, height, 64):
                cells = [
                    Window(left, top, min(64, width - left), min(64, height - top))
                    for left in range(0, width, 64)
                ]
                strips = [next(warped_strips(source, plan, cell))[0] for cell in cells]
                rows.append(np.concatenate(strips, axis=2))
            np.testing.assert_array_equal(np.concatenate(rows, axis=1), read(dataset, plan)[0])


def test_bounded_memory_changes_no_pixel(scenes: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    read_pixels = SourceWindows.pixels

    def noting(source: SourceWindows, window: Window) -> NDArray[Any]:
        pixels = read_pixels(source, window)
        asked.append(pixels.nbytes)
        return pixels

    wholes = {}
    for case in ("rotated", "a third of the resolution"):
        with planned(scenes[case], case) as (dataset, plan):
            wholes[case], _ = read(dataset, plan)
    monkeypatch.setattr(by_kernel, "_WINDOW_BYTES", 20_000)
    monkeypatch.setattr(SourceWindows, "pixels", noting)
    for case, whole in wholes.items():
        with planned(scenes[case], case) as (dataset, plan):
            np.testing.assert_array_equal(read(dataset, plan)[0], whole)
    assert len(asked) > 20
    assert max(asked) <= 20_000


def torn() -> dict[str, tuple[str, Affine, str, Affine]]:
    """Return targets in which the source is torn, or has no place: source CRS and transform, the target's."""
    return {
        "the pole from degrees": (
            "EPSG:4326", from_origin(-60, 90, 0.05, 0.05), "EPSG:3413", from_origin(-8e5, 2e5, 3e3, 4e3)
        ),
        "the antimeridian": (
            "EPSG:4326", from_origin(-180, 20, 0.05, 0.05), "EPSG:3832", from_origin(1e6, 2e6, 1e4, 5e3)
        ),
        "beyond the Earth": (
            "EPSG:4326", from_origin(150, 60, 0.05, 0.05), "ESRI:54009", from_origin(10e6, 66e5, 8e3, 5e3)
        ),
    }  # fmt: skip


@pytest.mark.parametrize("case", list(torn()))
def test_gdal_takes_the_cells_in_which_a_projection_is_torn(tmp_path: Path, case: str) -> None:
    crs, transform, target_crs, target_transform = torn()[case]
    path = write_raster(tmp_path / "a.tif", smooth(1, 431, 613), crs=crs, transform=transform)
    with open_dataset(path) as dataset:
        source = Grid(crs=crs, transform=tuple(transform)[:6], width=613, height=431)
        target = Grid(crs=target_crs, transform=tuple(target_transform)[:6], width=600, height=500)
        plan = plan_warp(dataset, source, target, "bilinear", engine="kernel", cell=64)
        assert "own kernel" in str(plan)
        found, mask = read(dataset, plan)
        expected, exists = exact(dataset, plan)
        assert 0.2 < exists.mean() < 1
        assert mask is not None
        assert ((mask > 0) != exists).mean() <= 2e-3
        both = (mask > 0) & exists
        assert (np.abs(found[:, both].astype(int) - expected[:, both]) > 1).mean() <= 2e-3
        # The cell's place in the target decides between GDAL and us, so that neighbours agree all the same.
        for left, top in ((0, 0), (131, 77), (300, 250)):
            part, _ = read(dataset, plan, Window(left, top, 257, 193))
            np.testing.assert_array_equal(part, found[:, top : top + 193, left : left + 257])


@pytest.mark.parametrize("resampling", ["nearest", "bilinear", "cubic"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_what_is_transparent_leaves_its_weight_to_the_others(
    tmp_path: Path, dtype: str, resampling: str
) -> None:
    pixels = noise(4, dtype)
    opaque = np.iinfo(dtype).max
    rng = np.random.default_rng(3)
    pixels[3] = np.where(GAP, np.where(rng.random(GAP.shape) < 0.6, opaque, pixels[3]), 0)
    path = written(tmp_path / "a.tif", pixels, "utm to degrees", alpha=True)
    for engine in ("kernel", "gdal"):
        with planned(path, "utm to degrees", resampling, engine=engine) as (dataset, plan):
            assert plan.alpha == 4
            found, mask = read(dataset, plan)
            assert mask is None
            assert 0.1 < (found[3] == 0).mean() < 0.9
            if engine == "kernel":
                assert_equal_to_gdals(dataset, plan)
            else:
                apart = np.abs(found.astype(int) - exact(dataset, plan)[0])
                assert (apart > (0 if resampling == "nearest" else opaque / 50)).mean() < 0.02


RPCS = RPC(
    height_off=0, height_scale=1, lat_off=9, lat_scale=1, long_off=39, long_scale=1,
    line_off=0, line_scale=1, samp_off=0, samp_scale=1,
    line_num_coeff=[0.0] * 20, line_den_coeff=[1.0] + [0.0] * 19,
    samp_num_coeff=[0.0] * 20, samp_den_coeff=[1.0] + [0.0] * 19,
    err_bias=0, err_rand=0,
)  # fmt: skip


def gdals_cases() -> dict[str, tuple[str, dict[str, Any]]]:
    """Return what only GDAL can do: words of the reason, and how the raster and the warp are set up."""
    rgba = np.concatenate([smooth(3), np.full((1, 300, 400), 255, "uint8")])
    return {
        "lanczos": ("no own kernel for lanczos", {"resampling": "lanczos"}),
        "average": ("no own kernel for average", {"resampling": "average"}),
        "mode": ("no own kernel for mode", {"resampling": "mode"}),
        "complex": ("no own kernel for complex64", {"pixels": smooth(1, dtype="complex64")}),
        "64-bit integers": ("no own kernel for int64", {"pixels": smooth(1, dtype="int64")}),
        "alpha, much coarser": (
            "an alpha band in a kernel that is widened",
            {"pixels": rgba, "alpha": True, "resolution": 40},
        ),
        "nodata of another type": ("nodata 0.5 is no uint8", {"change": {"nodata": 0.5}}),
        "RPCs": ("RPCs", {"change": {"rpcs": RPCS}}),
        "thumbnail": ("coarser than 1/64", {"resolution": (700, 20)}),
        "source of one row": ("smaller than a kernel", {"pixels": smooth(1, 1, 400)}),
        "cubic of three columns": (
            "smaller than a kernel",
            {"pixels": smooth(1, 300, 3), "resampling": "cubic"},
        ),
        "small": (f"fewer than {WORTHWHILE_PIXELS / 1e6:.0f} million pixels", {}),
        "asked for": ("it was asked for", {"engine": "gdal"}),
    }


@pytest.mark.parametrize("case", list(gdals_cases()))
def test_the_plan_says_why_a_warp_is_gdals(tmp_path: Path, case: str) -> None:
    words, made = gdals_cases()[case]
    resampling, engine = made.pop("resampling", "bilinear"), made.pop("engine", "auto")
    pixels, resolution = made.pop("pixels", smooth(2)), made.pop("resolution", None)
    changes = made.pop("change", {})
    path = write_raster(tmp_path / "a.tif", pixels, crs=UTM, transform=UTM_GRID, **made)
    with rasterio.open(path, "r+") as dataset:
        for name, value in changes.items():
            setattr(dataset, name, value)
    with open_dataset(path) as dataset:
        source, _ = grids(dataset, "utm to degrees")
        target = target_grid(source, parse_crs("EPSG:3857", "target"), resolution=resolution)
        plan = plan_warp(dataset, source, target, resampling, engine=engine)
        assert str(plan).startswith(f"{resampling} by GDAL: ")
        assert words in str(plan)
        assert not plan.step
        if case not in ("small", "asked for"):
            with pytest.raises(InvalidParameter, match="the kernel cannot"):
                plan_warp(dataset, source, target, resampling, engine="kernel")
        found, mask = read(dataset, plan)
        assert found.shape == (dataset.count, target.height, target.width)
        assert found.any()
        assert mask is None or mask.any()


def test_bands_of_different_types_are_gdals(tmp_path: Path) -> None:
    bands = "".join(
        f'<VRTRasterBand dataType="{kind}" band="{band}"/>'
        for band, kind in enumerate(("Byte", "Float32"), start=1)
    )
    path = tmp_path / "a.vrt"
    path.write_text(
        '<VRTDataset rasterXSize="90" rasterYSize="80"><SRS>EPSG:32637</SRS>'
        f"<GeoTransform>470000, 10, 0, 1000000, 0, -10</GeoTransform>{bands}</VRTDataset>"
    )
    with rasterio.open(path) as dataset:
        plan = plan_warp(dataset, *grids(dataset, "utm to degrees"), "bilinear")
        assert str(plan) == "bilinear by GDAL: bands of different types (float32, uint8)"


def test_what_bends_too_much_is_gdals(tmp_path: Path) -> None:
    earth = from_origin(-180, 90, 1, 1)
    path = write_raster(tmp_path / "a.tif", smooth(1, 30, 360), crs="EPSG:4326", transform=earth)
    with open_dataset(path) as dataset:
        source = Grid(crs="EPSG:4326", transform=tuple(earth)[:6], width=360, height=30)
        transform = tuple(from_origin(-5e6, 5e6, 5e4, 5e4))[:6]
        target = Grid(crs="EPSG:3413", transform=transform, width=200, height=200)
        with pytest.raises(InvalidParameter, match="bends too much"):
            plan_warp(dataset, source, target, "bilinear", engine="kernel")


def test_a_small_source_in_a_large_target_has_its_own_scale(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tif", noise(1, "uint8"), "rotated")
    with open_dataset(path) as dataset:
        source, _ = grids(dataset, "rotated")
        transform = tuple(from_origin(0, 2e6, 50, 50))[:6]
        target = Grid(crs=UTM, transform=transform, width=40_000, height=40_000)
        plan = plan_warp(dataset, source, target, "bilinear")
        assert str(plan).startswith("bilinear by own kernel, nodes every 32 px, widened to scale 0.2 x 0.2")


def test_a_large_job_is_the_kernels(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tif", noise(1, "uint8"), "utm to degrees")
    with open_dataset(path) as dataset:
        source, target = grids(dataset, "utm to degrees")
        large = target.model_copy(update={"width": WORTHWHILE_PIXELS // target.height + 1})
        plan = plan_warp(dataset, source, large, "bilinear")
        assert str(plan) == "bilinear by own kernel, nodes every 32 px"


@pytest.mark.parametrize("side", [None, 20])
def test_gdal_warps_where_proj_would_go_another_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: int | None
) -> None:
    path = written(tmp_path / "a.tif", noise(1, "uint8"), "utm to degrees")
    transform_points = nodes.transform_points

    def shifted(source: str, target: str, x: Any, y: Any) -> Any:
        """Shift as another datum would: by a metre, a tenth of a pixel."""
        tx, ty = transform_points(source, target, x, y)
        return (tx + 1, ty) if target == UTM else (tx, ty)

    with open_dataset(path) as dataset:
        source, target = grids(dataset, "utm to degrees")
        if side is not None:  # a small part of the source
            corner = target.transform_of(300, 200)
            target = target.model_copy(update={"transform": corner, "width": side, "height": side})
        assert plan_warp(dataset, source, target, "bilinear", engine="kernel").step == 32
        monkeypatch.setattr(nodes, "transform_points", shifted)
        with pytest.raises(InvalidParameter, match="GDAL takes another way between the two CRSs"):
            plan_warp(dataset, source, target, "bilinear", engine="kernel")


def test_without_numba_gdal_warps_and_other_machines_plans_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "a.tif", noise(1, "uint8"), "utm to degrees")
    with planned(path, "utm to degrees") as (dataset, plan):
        monkeypatch.setitem(sys.modules, "numba", None)
        monkeypatch.delitem(sys.modules, "gdaltools.warp.kernels", raising=False)
        monkeypatch.delattr(gdaltools_warp, "kernels", raising=False)
        with pytest.raises(InvalidParameter, match=r"numba is missing here: install gdaltools\[warp\]"):
            read(dataset, plan)
        monkeypatch.setattr(warp_plan, "WORTHWHILE_PIXELS", 0)
        without = plan_warp(dataset, plan.source, plan.target, "bilinear")
        assert "numba cannot be had" in str(without)
        whole, _ = read(dataset, without)
        part, _ = read(dataset, without, Window(101, 53, 211, 199))
        np.testing.assert_array_equal(part, whole[:, 53:252, 101:312])


def test_a_warp_opens_as_a_lazy_array_whose_slices_agree(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tif", noise(3, "uint8"), "utm to degrees", mask=GAP)
    array = gt.warp(path, "EPSG:4326")
    with open_dataset(path) as dataset:
        source, target = grids(dataset, "utm to degrees")
        expected, mask = read(dataset, plan_warp(dataset, source, target, "bilinear"))
    assert array.dims == ("band", "y", "x")
    assert (str(array.rio.crs), array.rio.transform()) == ("EPSG:4326", target.affine)
    assert dask.is_dask_collection(array)
    np.testing.assert_array_equal(array.values, expected)
    np.testing.assert_array_equal(array[1, 100:140, ::-7].values, expected[1, 100:140, ::-7])
    masked = gt.warp(path, target, masked=True)
    assert masked.dtype == "float32"
    assert mask is not None
    np.testing.assert_array_equal(np.isnan(masked.values), np.broadcast_to(mask == 0, expected.shape))
    np.testing.assert_array_equal(masked.values[:, mask > 0], expected[:, mask > 0])
    with pytest.raises(InvalidParameter, match="resolution 10 beside a grid"):
        gt.warp(path, target, resolution=10)
    with pytest.raises(InvalidParameter, match="target 'nowhere'"):
        gt.warp(path, "nowhere")


@pytest.mark.parametrize("worthwhile", [0, WORTHWHILE_PIXELS])
def test_a_warped_array_of_tiles_is_the_tiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, worthwhile: int
) -> None:
    monkeypatch.setattr(warp_plan, "WORTHWHILE_PIXELS", worthwhile)
    pixels = np.where(GAP, noise(1, "int16"), -32768).astype("int16")
    path = written(tmp_path / "a.tif", pixels, "rotated", nodata=-32768)
    scheme = gt.generate_tiling_scheme(path, 256, 64, UTM)
    result = gt.extract_tiles(path, scheme, tmp_path / "tiles")
    array = gt.warp(path, scheme.grid)
    assert array.rio.nodata == -32768
    for tile in result.tiles:
        window = scheme.window(*scheme.position(tile.tile_id))
        with rasterio.open(tile.location) as made:
            rows = slice(window.row_off, window.row_off + window.height)
            cols = slice(window.col_off, window.col_off + window.width)
            np.testing.assert_array_equal(array[:, rows, cols].values, made.read())
    assert np.isnan(gt.warp(path, scheme.grid, masked=True).values).mean() == pytest.approx(
        (array.values == -32768).mean()
    )


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    size=st.integers(5, 16), overlap=st.integers(0, 60), case=st.sampled_from(["sheared", "polar to degrees"])
)
def test_the_mosaic_of_all_tiles_is_one_exact_warp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, overlap: int, case: str
) -> None:
    monkeypatch.setattr(warp_plan, "WORTHWHILE_PIXELS", 0)
    path = written(tmp_path / "a.tif", noise(1, "uint8"), case)
    scheme = gt.generate_tiling_scheme(path, size * 16, overlap, CASES[case][2])
    folder = tmp_path / uuid4().hex
    result = gt.extract_tiles(path, scheme, folder, resampling="bilinear")
    mosaic = np.zeros((scheme.grid.height, scheme.grid.width), "uint8")
    times = np.zeros(mosaic.shape, int)
    for tile in result.tiles:
        window = scheme.window(*scheme.position(tile.tile_id))
        where = (
            slice(window.row_off, window.row_off + window.height),
            slice(window.col_off, window.col_off + window.width),
        )
        with rasterio.open(tile.location) as made:
            pixels = made.read(1)
            assert (mosaic[where] == pixels)[times[where] > 0].all()
            mosaic[where] = pixels
            times[where] += 1
    assert times.min() == 1
    assert times.max() <= 9  # three in each direction, where the last tile is moved inwards
    with open_dataset(path) as dataset:
        plan = plan_warp(dataset, scheme.source_grid, scheme.grid, "bilinear")
        assert "own kernel" in str(plan)
        expected, exists = exact(dataset, plan)
    assert (mosaic != np.where(exists, expected[0], 0)).mean() <= 1e-4


def test_classes_are_never_mixed_by_a_lazy_warp(tmp_path: Path) -> None:
    palette = {i: (i, 255 - i, 7, 255) for i in range(256)}
    path = write_raster(tmp_path / "a.tif", categories(), crs=UTM, transform=UTM_GRID, colormap=palette)
    assert set(np.unique(gt.warp(path, "EPSG:4326").values)) <= set(range(7))
    with pytest.raises(InvalidParameter, match="colour table"):
        gt.warp(path, "EPSG:4326", resampling="cubic")


def test_threads_warp_the_same_pixels(scenes: dict[str, Path]) -> None:
    case = "utm to degrees"
    with planned(scenes[case], case) as (dataset, plan):
        whole, _ = read(dataset, plan)

    def part(left: int) -> NDArray[Any]:
        with open_dataset(scenes[case]) as own:
            return read(own, plan, Window(left, 0, 97, plan.target.height))[0]

    lefts = range(0, plan.target.width - 97, 31)
    with ThreadPoolExecutor(4) as pool:
        for left, found in zip(lefts, pool.map(part, lefts), strict=True):
            np.testing.assert_array_equal(found, whole[:, :, left : left + 97])


def test_kernels_work_where_nothing_can_be_kept_on_disk(
    scenes: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    numba = pytest.importorskip("numba")
    njit, refused = numba.njit, []

    def without_folder(function: Any, **options: Any) -> Any:
        if options.pop("cache", False):
            refused.append(function.__name__)
            raise RuntimeError("cannot cache function: no locator available")  # numba's words
        return njit(function, **options)

    case = "utm to degrees"
    with planned(scenes[case], case, "nearest") as (dataset, plan):
        kept, _ = read(dataset, plan)
        monkeypatch.setattr(numba, "njit", without_folder)
        monkeypatch.delitem(sys.modules, "gdaltools.warp.kernels")
        monkeypatch.delattr(gdaltools_warp, "kernels")
        found, _ = read(dataset, plan)
    assert "nearest" in refused
    np.testing.assert_array_equal(found, kept)
