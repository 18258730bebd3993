"""What `inspect` says of a raster, and what `open` returns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from PIL import Image
from rasterio.enums import ColorInterp
from rasterio.transform import Affine, from_origin

import gdaltools as gt
from gdaltools.errors import InvalidParameter
from gdaltools.geo.crs import crs_name, parse_crs
from gdaltools.raster.info import RasterInfo, inspect
from tests.support.rasters import UTM, UTM_GRID, categories, elevation, smooth, write_raster

ROTATED = Affine(9.4, -3.4, 470000, -3.4, -9.4, 1000000)


def test_everything_in_the_header_is_told(tmp_path: Path) -> None:
    path = write_raster(
        tmp_path / "scene.tif",
        smooth(3, 600, 800, dtype="uint16"),
        crs=UTM,
        transform=UTM_GRID,
        nodata=0,
        block=256,
        descriptions=["b4", None, "b2"],
        units=["mW", None, None],
        scales=[0.1, 0.2, 0.3],
        offsets=[1, 2, 3],
        tags={"SENSOR": "x"},
        overviews=[2, 4],
        options={"compress": "deflate"},
    )
    info = inspect(path)
    assert (info.driver, info.shape, info.dtypes) == ("GTiff", (3, 600, 800), ("uint16",) * 3)
    assert (info.crs, info.has_crs, info.affine) == (UTM, True, UTM_GRID)
    assert info.bounds == (470000, 994000, 478000, 1000000)
    assert info.resolution == (10, 10)
    assert info.bounds_4326 == pytest.approx((38.727, 8.992, 38.8, 9.0465), abs=1e-3)
    assert (info.nodata, info.mask) == ((0, 0, 0), "nodata")
    assert (info.descriptions, info.units) == (("b4", None, "b2"), ("mW", None, None))
    assert (info.scales, info.offsets) == ((0.1, 0.2, 0.3), (1, 2, 3))
    assert (info.tiled, info.block_shapes[0], info.overviews) == (True, (256, 256), (2, 4))
    assert (info.compression, info.interleave, info.tags["SENSOR"]) == ("deflate", "pixel", "x")
    assert info.uncompressed_bytes == 3 * 600 * 800 * 2
    assert info.size_bytes == path.stat().st_size
    assert "EPSG:32637" in str(info)
    assert RasterInfo.model_validate_json(info.model_dump_json()) == info


def test_a_mask_and_an_alpha_band_are_told_apart(tmp_path: Path) -> None:
    mask = np.ones((300, 400), bool)
    assert inspect(write_raster(tmp_path / "mask.tif", smooth(), mask=mask)).mask == "mask"
    assert inspect(write_raster(tmp_path / "alpha.tif", smooth(4), alpha=True)).mask == "alpha"
    assert inspect(write_raster(tmp_path / "none.tif", smooth())).mask == "none"


@pytest.mark.parametrize(
    ("array", "options", "expected"),
    [
        (smooth(3), {}, "rgb"),
        (smooth(3, dtype="uint16"), {}, "rgb"),
        (smooth(4), {"alpha": True}, "rgba"),
        (smooth(4), {"colorinterp": [ColorInterp.gray] + [ColorInterp.undefined] * 3}, "nir"),
        (smooth(4, dtype="uint16"), {"descriptions": ["Red", "Green", "Blue", "NIR"]}, "nir"),
        (elevation(), {}, "dem"),
        (smooth(1, dtype="int16"), {"nodata": -32768}, "dem"),
        (categories(), {}, "categorical"),
        (smooth(1), {"colormap": {i: (i, i, i, 255) for i in range(256)}}, "categorical"),
        (smooth(1), {}, "multispectral"),
        (smooth(8, dtype="uint16"), {}, "multispectral"),
        (np.zeros((1, 50, 50), "uint8"), {"nodata": 0}, "multispectral"),
    ],
)  # fmt: skip
def test_the_type_is_detected(tmp_path: Path, array: np.ndarray, options: dict, expected: str) -> None:
    detected = inspect(write_raster(tmp_path / "a.tif", array, **options)).detected
    assert detected.raster_type == expected, detected.reason
    assert 0 < detected.confidence <= 1


def test_bounds_on_earth_hold_the_pole_and_cross_the_antimeridian(tmp_path: Path) -> None:
    pole = write_raster(
        tmp_path / "pole.tif", smooth(1, 50, 50), crs="EPSG:3413", transform=from_origin(-5e5, 5e5, 2e4, 2e4)
    )
    assert inspect(pole).bounds_4326 == pytest.approx((-180, 83.47, 180, 90), abs=0.1)
    east = write_raster(
        tmp_path / "east.tif", smooth(1, 50, 50), crs="EPSG:32660", transform=from_origin(8e5, 1e6, 1e3, 1e3)
    )
    left, _, right, _ = inspect(east).bounds_4326
    assert left > right


def test_pixels_are_opened_lazily_in_chunks_of_whole_blocks(tmp_path: Path) -> None:
    pixels = smooth(3, 700, 900)
    path = write_raster(tmp_path / "a.tif", pixels, crs=UTM, transform=UTM_GRID, nodata=0, block=128)
    array = gt.open(path, chunks=256)
    assert array.dims == ("band", "y", "x")
    assert array.data.chunksize == (3, 256, 256)
    assert (str(array.rio.crs), array.rio.transform(), array.rio.nodata) == (UTM, UTM_GRID, 0)
    np.testing.assert_array_equal(array.values, pixels)
    np.testing.assert_array_equal(array[:, ::7, 5].values, pixels[:, ::7, 5])
    np.testing.assert_array_equal(array[1, 10:20, ::-3].values, pixels[1, 10:20, ::-3])
    auto = gt.open(path).data.chunksize
    assert auto[1] % 128 in (0, 700 % 128)
    assert gt.open(path, chunks=None).equals(array.compute())


def test_masked_pixels_become_nan(tmp_path: Path) -> None:
    pixels = smooth(3)
    gap = np.zeros((300, 400), bool)
    gap[50:80, 60:90] = True
    by_mask = write_raster(tmp_path / "mask.tif", pixels, mask=~gap)
    by_value = write_raster(tmp_path / "nodata.tif", np.where(gap, 0, pixels).astype("uint8"), nodata=0)
    for path in (by_mask, by_value):
        array = gt.open(path, masked=True)
        assert array.dtype == "float32"
        np.testing.assert_array_equal(np.isnan(array.values), np.broadcast_to(gap, (3, 300, 400)))


def test_a_blob_of_the_local_blob_folder_opens_like_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GDALTOOLS_BLOB_ROOT", str(tmp_path))
    write_raster(tmp_path / "bronze-rasters" / "a.tif", smooth())
    assert inspect("abfs://bronze-rasters/a.tif").location == "abfs://bronze-rasters/a.tif"
    assert gt.open("abfs://bronze-rasters/a.tif").shape == (3, 300, 400)


def test_odd_file_names_open(tmp_path: Path) -> None:
    for name in ("a b.tif", "a?b#c.tif", "a!b.tif", "é.tif", "zip+x.tif"):
        assert inspect(write_raster(tmp_path / "x.tif", smooth(1)).rename(tmp_path / name)).count == 1


def test_a_side_car_file_is_not_believed(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", smooth(1), crs=None, transform=None)
    (tmp_path / "a.tfw").write_text("1\n0\n0\n-1\n0\n0\n")
    (tmp_path / "a.tif.aux.xml").write_text("<PAMDataset><SRS>EPSG:4326</SRS></PAMDataset>")
    assert inspect(path).crs is None
    assert not inspect(path).georeferenced


@pytest.mark.parametrize(
    "text", ["EPSG:999999", "nonsense", "", "http://example.com/x", "/etc/passwd", "EPSG:4978"]
)
def test_a_crs_that_is_none_is_refused(text: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InvalidParameter, match="target_crs"):
        parse_crs(text, "target_crs")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("text", ["EPSG:3413", "epsg:4326", "ESRI:54009", "+proj=utm +zone=37 +datum=WGS84"])
def test_a_crs_survives_its_own_name(text: str) -> None:
    crs = parse_crs(text, "x")
    assert parse_crs(crs_name(crs), "x") == crs


def test_wrong_chunks_are_refused(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", smooth())
    for chunks in (0, -5, "big", (1, 2, 3), (1.5, 2)):
        with pytest.raises(InvalidParameter, match="chunks"):
            gt.open(path, chunks=chunks)


def test_a_rotated_raster_opens_without_coordinates(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", smooth(), crs=UTM, transform=ROTATED)
    array = gt.open(path)
    assert "x" not in array.coords
    assert array.rio.transform().almost_equals(ROTATED)


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("driver", ["GTiff", "COG", "JPEG", "PNG", "JP2OpenJPEG", "WEBP", "BMP", "GIF"])
def test_no_format_has_a_georeference_that_its_file_does_not_state(
    tmp_path: Path, driver: str, beside: bool
) -> None:
    plain = write_raster(tmp_path / "plain.tif", smooth(1), crs=None, transform=None)
    path = tmp_path / "a.img"
    with rasterio.Env(GDAL_PAM_ENABLED="NO"):
        if driver in ("BMP", "GIF", "WEBP"):
            image = Image.fromarray(smooth(3).transpose(1, 2, 0))
            image.save(path, format=driver)
        else:
            rasterio.shutil.copy(plain, path, driver=driver)
    if beside and driver != "BMP":  # GDAL's BMP driver reads a world file whatever the options are
        for suffix in ("wld", "j2w", "imw"):
            path.with_suffix(f".{suffix}").write_text("10\n0\n0\n-10\n5\n5\n")
        Path(f"{path}.aux.xml").write_text(
            "<PAMDataset><SRS>EPSG:4326</SRS><GeoTransform>0,1,0,0,0,-1</GeoTransform></PAMDataset>"
        )
    info = inspect(path)
    assert (info.georeferenced, info.crs, info.affine) == (False, None, Affine.identity())
    gt.create_cog(path, tmp_path / "cog.tif", progress=False)
    with rasterio.open(tmp_path / "cog.tif") as dataset:
        assert dataset.transform.is_identity
