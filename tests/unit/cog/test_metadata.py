"""A COG keeps its source's metadata: field by field, as GDAL's driver does."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyproj
import pytest
import rasterio
import rasterio.shutil
import tifffile
from numpy.typing import NDArray
from PIL import Image
from pyproj.database import query_crs_info
from pyproj.enums import PJType
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.io import MemoryFile
from rasterio.rpc import RPC
from rasterio.transform import Affine

import gdaltools as gt
from gdaltools.cog.create import CogResult, create_cog
from gdaltools.cog.validate import validate_cog
from gdaltools.errors import InvalidParameter, UnsupportedRaster
from tests.support.cogs.gdal import by_gdal, facts_told, levels_of
from tests.support.rasters import UTM, UTM_GRID, WGS84_GRID, smooth, write_raster

SIZE = (100, 90)
XMP = "<?xpacket begin='x'?><x:xmpmeta xmlns:x='adobe:ns:meta/'><a b=\"c=d\">é</a></x:xmpmeta>"

Edit = Callable[[Any], None]


def image(bands: int = 3) -> NDArray[Any]:
    return smooth(bands, *SIZE)


def ours(source: Path, **options: Any) -> tuple[Path, CogResult]:
    target = source.with_name("ours.tif")
    asked: dict[str, Any] = {"blocksize": 64, "raster_type": "multispectral"} | options
    result = create_cog(source, target, progress=False, **asked)
    assert isinstance(result, CogResult)
    assert validate_cog(target)
    return target, result


def edited(path: Path, edit: Edit) -> Path:
    with rasterio.open(path, "r+") as dataset:
        edit(dataset)
    return path


def assert_told(source: Path, *, by_both: bool = True, **options: Any) -> None:
    """Check our COG's metadata against its source's and, if `by_both`, against GDAL's COG."""
    target, result = ours(source, **options)
    text = facts_told(target)
    if by_both:
        others = facts_told(by_gdal(source, source.with_name("gdal.tif"), result.tier_profile))
        assert {name: text[name] for name in text if text[name] != others[name]} == {}
    before = facts_told(source)
    assert {name: text[name] for name in text if text[name] != before[name]} == {}


@pytest.mark.parametrize(
    "crs",
    [
        "EPSG:4326", "EPSG:4979", "EPSG:4326+5773", "EPSG:3857", "EPSG:2193", "ESRI:102001", "EPSG:9518",
        "IAU_2015:49910", "+proj=laea +lat_0=1 +lon_0=2 +ellps=WGS84 +units=km",
        'LOCAL_CS["x",UNIT["metre",1]]',
    ],
)  # fmt: skip
def test_every_kind_of_crs_is_kept(tmp_path: Path, crs: str) -> None:
    source = write_raster(tmp_path / "a.tif", image(1), crs=CRS.from_user_input(crs), transform=WGS84_GRID)
    assert_told(source)


@pytest.mark.parametrize(
    "transform",
    [
        UTM_GRID,
        UTM_GRID * Affine.rotation(20),
        Affine(10, 0, 0, 0, 10, 0),
        Affine(1 / 3, 0, 1e7 + 1 / 7, 0, -1 / 3, 2e-9),
        Affine.identity(),
    ],
)
@pytest.mark.parametrize("area", ["Area", "Point"])
def test_the_transform_is_kept_to_the_bit(tmp_path: Path, transform: Affine, area: str) -> None:
    assert_told(
        write_raster(tmp_path / "a.tif", image(1), crs=UTM, transform=transform, tags={"AREA_OR_POINT": area})
    )


@pytest.mark.parametrize("heights", [False, True])
@pytest.mark.parametrize(
    ("crs", "area"),
    [("EPSG:4326", "Area"), ("EPSG:4326", "Point"), ("EPSG:32637", "Point"), (None, "Area")],
)
def test_ground_control_points_are_kept(tmp_path: Path, area: str, heights: bool, crs: str | None) -> None:
    points = [
        GroundControlPoint(
            row, col, 38 + col / 300, 9 - row / 700, height * heights, id=str(row), info=f"at {col}"
        )
        for row, col, height in [(0, 0, 0.0), (0, 80.5, 1.0), (70.25, 0, 2.5), (70, 80, 0.0)]
    ]

    def place(dataset: Any) -> None:
        dataset.gcps = points, CRS.from_user_input(crs) if crs else CRS()

    tags = {"AREA_OR_POINT": area}
    assert_told(edited(write_raster(tmp_path / "a.tif", image(), crs=None, transform=None, tags=tags), place))


@pytest.mark.parametrize("placed", [False, True])
def test_rational_polynomials_are_kept(tmp_path: Path, placed: bool) -> None:
    def place(dataset: Any) -> None:
        dataset.rpcs = RPC(
            height_off=100.123456789, height_scale=500, lat_off=9.1, lat_scale=0.1, long_off=38,
            long_scale=0.1, line_off=50, line_scale=50, samp_off=45, samp_scale=45,
            line_num_coeff=[0.1 / 3] * 20, line_den_coeff=[1.0] + [1e-5 / 3] * 19,
            samp_num_coeff=[0.2 / 7] * 20, samp_den_coeff=[1.0] + [1e-6 / 7] * 19,
            err_bias=0.5, err_rand=0.25,
        )  # fmt: skip

    where: dict[str, Any] = (
        {"crs": "EPSG:4326", "transform": WGS84_GRID} if placed else {"crs": None, "transform": None}
    )
    assert_told(edited(write_raster(tmp_path / "a.tif", image(), **where), place))


def test_texts_and_numbers_of_bands_are_kept(tmp_path: Path) -> None:
    assert_told(
        write_raster(
            tmp_path / "a.tif", image(),
            scales=[0.1, 1 / 3, 1.0], offsets=[0.0, 1e-17, -5.0], units=["m", None, "K"],
            descriptions=["a", None, "b\n<c> ü"], band_tags={1: {"STATISTICS_MEAN": "12.5"}, 3: {"W": "5"}},
            tags={
                "A": "1", "B": 'ü <&> "q"', "C": "line\nbreak  spaces ", "TIFFTAG_SOFTWARE": "x y",
                "TIFFTAG_IMAGEDESCRIPTION": "hällo", "TIFFTAG_DATETIME": "2020:01:01 00:00:00",
                "TIFFTAG_XRESOLUTION": "72", "TIFFTAG_YRESOLUTION": "72", "TIFFTAG_COPYRIGHT": "c",
                "TIFFTAG_RESOLUTIONUNIT": "2 (pixels/inch)",
            },
        )
    )  # fmt: skip


def test_metadata_of_every_domain_is_kept(tmp_path: Path) -> None:
    def tell(dataset: Any) -> None:
        dataset.update_tags(ns="MINE", X="y=z", EMPTY="")
        dataset.update_tags(ns="IMAGERY", SATELLITEID="s")
        dataset.update_tags(2, ns="OF_BAND", Q="r")

    # GDAL's COG driver drops them.
    assert_told(edited(write_raster(tmp_path / "a.tif", image()), tell), by_both=False)


@pytest.mark.parametrize("codec", ["DEFLATE", "JPEG"])
def test_an_xmp_packet_is_kept_to_the_byte(tmp_path: Path, codec: str) -> None:
    source = tmp_path / "a.tif"
    packet = XMP.encode()
    tifffile.imwrite(
        source,
        np.moveaxis(image(), 0, -1),
        photometric="rgb",
        extratags=[(700, 1, len(packet), packet, True)],
    )
    assert_told(source, codec=codec)
    with tifffile.TiffFile(tmp_path / "ours.tif") as made:
        assert made.pages.first.tags[700].value == packet


def test_a_document_in_a_domain_of_its_own_is_kept(tmp_path: Path) -> None:
    source = write_raster(tmp_path / "a.tif", image(1))
    edited(source, lambda dataset: dataset.update_tags(ns="xml:MINE", **{"xml:MINE": "<a b='c'>d=e</a>"}))
    assert_told(source, by_both=False)
    again = (tmp_path / "ours.tif").rename(tmp_path / "b.tif")
    assert_told(again, by_both=False)


def test_a_json_document_is_left_out_as_by_gdal(tmp_path: Path) -> None:
    source = write_raster(tmp_path / "a.tif", image(1), tags={"A": "1"})
    edited(
        source, lambda dataset: dataset.update_tags(ns="json:MINE", **{"json:MINE": '{"a": {"b": "c:d"}}'})
    )
    target, result = ours(source)
    gdals = by_gdal(source, tmp_path / "gdal.tif", result.tier_profile)
    assert "json:MINE" in facts_told(source)["tags"]
    assert facts_told(target) == facts_told(gdals)


def test_a_colour_profile_is_kept(tmp_path: Path) -> None:
    profile = base64.b64encode(b"\0\0\1\xf0" + b"profile" * 20).decode()
    source = write_raster(
        tmp_path / "a.tif", image(), options={"source_icc_profile": profile, "photometric": "rgb"}
    )
    assert facts_told(source)["tags"]["COLOR_PROFILE"]["SOURCE_ICC_PROFILE"] == profile
    assert_told(source)


@pytest.mark.parametrize("bands", [3, 4])
@pytest.mark.parametrize("curves", [False, True])
def test_primaries_and_transfer_functions_are_kept(tmp_path: Path, bands: int, curves: bool) -> None:
    stated = {
        "source_primaries_red": "0.64, 0.33, 1.0", "source_primaries_green": "0.3, 0.6, 1.0",
        "source_primaries_blue": "0.15, 0.06, 1.0", "source_whitepoint": "0.3127, 0.329, 1.0",
    }  # fmt: skip
    if curves:
        curve = ", ".join(str(value * value) for value in range(256))
        stated |= {f"tifftag_transferfunction_{colour}": curve for colour in ("red", "green", "blue")}
    options = {"photometric": "rgb", **stated}
    source = write_raster(tmp_path / "a.tif", image(bands), options=options)
    assert {name.upper() for name in stated} <= set(facts_told(source)["tags"]["COLOR_PROFILE"])
    assert_told(source)


@pytest.mark.parametrize(
    ("bands", "options"),
    [
        (3, {"options": {"photometric": "rgb"}}),
        (5, {"options": {"photometric": "rgb"}}),
        (4, {"options": {"photometric": "cmyk"}}),
        (3, {"options": {"photometric": "cielab"}}),
        (4, {"options": {"photometric": "rgb", "alpha": "PREMULTIPLIED"}}),
        (2, {"alpha": True}),
        (3, {"colorinterp": [ColorInterp.blue, ColorInterp.green, ColorInterp.red]}),
        (3, {"colorinterp": [ColorInterp.undefined] * 3}),
        (3, {"colorinterp": [ColorInterp.hue, ColorInterp.saturation, ColorInterp.lightness]}),
        (2, {"colorinterp": [ColorInterp.alpha, ColorInterp.gray]}),
        (2, {"colorinterp": [ColorInterp.gray, ColorInterp.undefined]}),
    ],
)
def test_what_bands_show_is_kept(tmp_path: Path, bands: int, options: dict[str, Any]) -> None:
    assert_told(write_raster(tmp_path / "a.tif", image(bands), **options))


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_a_colour_table_is_kept(tmp_path: Path, dtype: str) -> None:
    colours = {value: (value * 40, 255 - value * 30, value * 17, 255) for value in range(7)}
    assert_told(
        write_raster(
            tmp_path / "a.tif", (image(1) % 7).astype(dtype), colormap=colours,
            options={"photometric": "palette"},
        )
    )  # fmt: skip


@pytest.mark.parametrize(
    ("dtype", "text"),
    [
        ("int64", "-9223372036854775808"), ("uint64", "18446744073709549568"), ("int64", "-1"),
        ("float32", "-3.4028234663852886e+38"), ("float64", "-9999.123456789"), ("float32", "nan"),
        ("float32", "-inf"), ("int16", "-32768"), ("uint8", "3.5"),
    ],
)  # fmt: skip
def test_the_nodata_value_is_kept_exactly(tmp_path: Path, dtype: str, text: str) -> None:
    source = tmp_path / "a.tif"
    tifffile.imwrite(
        source, image(1)[0].astype(dtype), extratags=[(42113, "s", 0, text, True)], photometric="minisblack"
    )
    target, _ = ours(source)
    with rasterio.open(source) as before, rasterio.open(target) as after:
        assert repr(after.nodata) == repr(before.nodata)
        assert float(text) == after.nodata or text == "nan"


@pytest.mark.parametrize("options", [{"overviews": "none"}, {"interleave": "band"}, {"codec": "LERC"}])
def test_facts_do_not_depend_on_how_pixels_are_stored(tmp_path: Path, options: dict[str, Any]) -> None:
    source = write_raster(
        tmp_path / "a.tif", image(4), crs=UTM, transform=UTM_GRID, alpha=True, tags={"A": "b"},
        descriptions=["r", "g", "b", "a"],
    )  # fmt: skip
    assert_told(source, by_both=False, **options)


def test_overviews_say_nodata_and_bits_and_colours_themselves(tmp_path: Path) -> None:
    source = write_raster(tmp_path / "a.tif", image() % 16, nodata=3, options={"nbits": 4})
    target, _ = ours(source)
    with rasterio.open(target, overview_level=0) as overview:
        assert overview.nodata == 3
        assert overview.tags(1, ns="IMAGE_STRUCTURE")["NBITS"] == "4"
    assert len(levels_of(target)) == 2


def test_texts_of_another_encoding_are_a_typed_error(tmp_path: Path) -> None:
    text = b'<GDALMetadata><Item name="U" sample="0" role="unittype">\xb0C</Item></GDALMetadata>\0'
    tifffile.imwrite(
        tmp_path / "a.tif", image(1)[0], metadata=None, extratags=[(42112, 2, len(text), text, True)]
    )
    with pytest.raises(UnsupportedRaster, match="UTF-8"):
        ours(tmp_path / "a.tif")


def test_a_picture_whose_zeros_are_white_is_not_inverted(tmp_path: Path) -> None:
    image = smooth(1, 200, 300)
    source = write_raster(tmp_path / "a.tif", image, options={"photometric": "miniswhite"})
    create_cog(source, tmp_path / "b.tif", blocksize=64, raster_type="multispectral", progress=False)
    with tifffile.TiffFile(tmp_path / "b.tif") as made:
        assert {page.photometric for page in made.pages} == {tifffile.PHOTOMETRIC.MINISWHITE}
    with rasterio.open(tmp_path / "b.tif") as dataset:
        np.testing.assert_array_equal(dataset.read(), image)


@pytest.mark.parametrize("pictures", [1, 2, 3, 5])
def test_the_colours_of_a_gif_are_kept_or_refused(tmp_path: Path, pictures: int) -> None:
    source, frames = tmp_path / "a.gif", smooth(pictures, 40, 50) % 7
    palette = [channel for value in range(256) for channel in (value, 255 - value, value * 7 % 256)]
    images = [Image.fromarray(frame) for frame in frames]
    for picture in images:
        picture.putpalette(palette)
    images[0].save(source, save_all=True, append_images=images[1:], disposal=0)
    with rasterio.open(source) as dataset:
        colours, count = dataset.colormap(1), dataset.count
    assert count == pictures
    if count > 2:
        with pytest.raises(UnsupportedRaster, match=rf"colour table .* for {count}:"):
            gt.plan_cog(source)
        return
    target, _ = ours(source, raster_type="categorical")
    with rasterio.open(source) as before, rasterio.open(target) as after:
        assert {value: after.colormap(1)[value] for value in colours} == colours
        assert np.array_equal(after.read(), before.read())


@pytest.mark.parametrize("photometric", [1, 3])
@pytest.mark.parametrize("bands", [1, 2])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_a_palette_without_a_table_is_a_band_of_classes(
    tmp_path: Path, photometric: int, bands: int, dtype: str
) -> None:
    source = write_raster(tmp_path / "a.tif", (image(bands) % 7).astype(dtype))
    edited(
        source,
        lambda dataset: setattr(dataset, "colorinterp", [ColorInterp.palette, ColorInterp.gray][:bands]),
    )
    with tifffile.TiffFile(source, mode="r+b") as file:
        file.pages[0].tags["PhotometricInterpretation"].overwrite(photometric)
    info = gt.inspect(source)
    assert info.color_table is None
    assert gt.generate_tiling_scheme(source, 64, 0).tiles
    target, _ = ours(source)
    gdals = by_gdal(source, tmp_path / "gdal.tif", gt.cog_profile(source))
    with rasterio.open(source) as before, rasterio.open(target) as after, rasterio.open(gdals) as other:
        assert np.array_equal(before.read(), after.read())
        assert after.colorinterp == other.colorinterp


@pytest.mark.parametrize(
    "crs",
    [
        "+proj=ob_tran +o_proj=longlat +o_lon_p=0 +o_lat_p=39.25 +lon_0=18 +R=6371229 +no_defs", "+proj=isea",
        "+proj=eqearth", "+proj=tpers +h=5500000 +lat_0=40",
        "+proj=ob_tran +o_proj=moll +o_lat_p=45 +o_lon_p=0 +R=6371000",
    ],
)  # fmt: skip
def test_a_crs_that_a_geotiff_cannot_state_is_refused(tmp_path: Path, crs: str) -> None:
    source = write_raster(tmp_path / "a.tif", image(1), crs=None, transform=WGS84_GRID)
    with pytest.raises(UnsupportedRaster, match=r"cannot state the CRS .*target_crs"):
        gt.create_cog(source, tmp_path / "cog.tif", input_crs=crs, progress=False)
    with pytest.raises(UnsupportedRaster, match="cannot state the CRS"):
        gt.plan_cog(source, input_crs=crs)
    with pytest.raises(UnsupportedRaster, match="cannot state the CRS"):
        gt.create_cog(source, tmp_path / "cog.tif", input_crs="EPSG:4326", target_crs=crs, progress=False)
    assert not (tmp_path / "cog.tif").exists()
    with rasterio.open(tmp_path / "by_gdal.tif", "w", **{**PROFILE, "crs": crs}):  # the judge
        pass
    with rasterio.Env(GDAL_PAM_ENABLED="NO"), rasterio.open(tmp_path / "by_gdal.tif") as judge:
        assert judge.crs is None


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:32637", "EPSG:7912", "EPSG:9518"])
@pytest.mark.parametrize("epoch", [2021.3, 1997.0])
def test_a_coordinate_epoch_is_kept_as_by_gdal(tmp_path: Path, crs: str, epoch: float) -> None:
    (tmp_path / "without").mkdir()
    plain = write_raster(tmp_path / "without" / "a.tif", image(1), crs=crs, transform=WGS84_GRID)
    source = with_epoch(plain, tmp_path / "a.tif", epoch)
    target, result = ours(source)
    gdals = by_gdal(source, tmp_path / "gdal.tif", result.tier_profile)
    assert epoch_of(target) == epoch_of(gdals) == epoch
    assert geo_tags(target) == geo_tags(gdals)
    assert epoch_of(ours(plain)[0]) is None


@pytest.mark.parametrize(
    ("crs", "target", "kept"),
    [
        ("EPSG:4326", "EPSG:3857", True),
        ("EPSG:32637", "EPSG:4326", True),
        ("EPSG:4326", "EPSG:25833", False),
        ("EPSG:7912", "EPSG:4326", False),
    ],
)
def test_a_warp_keeps_a_coordinate_epoch_within_a_datum(
    tmp_path: Path, crs: str, target: str, kept: bool
) -> None:
    (tmp_path / "without").mkdir()
    transform = WGS84_GRID if CRS.from_user_input(crs).is_geographic else UTM_GRID
    plain = write_raster(tmp_path / "without" / "a.tif", image(1), crs=crs, transform=transform)
    source = with_epoch(plain, tmp_path / "a.tif", 2021.3)
    gt.create_cog(source, tmp_path / "cog.tif", target_crs=target, progress=False)
    assert epoch_of(tmp_path / "cog.tif") == (2021.3 if kept else None)


PROFILE = {
    "driver": "GTiff", "width": 16, "height": 16, "count": 1, "dtype": "uint8", "transform": WGS84_GRID
}  # fmt: skip


def with_epoch(source: Path, target: Path, epoch: float) -> Path:
    """Write a copy whose CRS has a coordinate epoch, through GDAL's own VRT."""
    with MemoryFile(ext="vrt") as memory:
        rasterio.shutil.copy(source, memory.name, driver="VRT")
        text = memory.read().decode().replace("<SRS ", f'<SRS coordinateEpoch="{epoch}" ', 1)
    with MemoryFile(text.encode(), ext="vrt") as memory:
        rasterio.shutil.copy(memory.name, target, driver="GTiff")
    return target


def geo_tags(path: Path) -> list[Any]:
    with tifffile.TiffFile(path) as file:
        return [file.pages[0].tags[code].value for code in (34735, 34736) if code in file.pages[0].tags]


def epoch_of(path: Path) -> float | None:
    keys, *numbers = geo_tags(path)
    found = [keys[at + 3] for at in range(4, len(keys), 4) if keys[at] == 5120]
    return float(numbers[0][found[0]]) if found else None


@pytest.mark.parametrize(
    ("crs", "read"),
    [
        ("+proj=utm +zone=33 +datum=WGS84 +geoidgrids=egm96_15.gtx +vunits=m", "another CRS"),
        ("+proj=longlat +ellps=bessel +nadgrids=BETA2007.gsb", "another CRS"),
    ],
)
def test_a_crs_that_would_be_read_as_another_is_refused(tmp_path: Path, crs: str, read: str) -> None:
    source = write_raster(tmp_path / "a.tif", image(1), crs=None, transform=WGS84_GRID)
    with pytest.raises(UnsupportedRaster, match=f"cannot state the CRS .*{read}.*target_crs"):
        gt.create_cog(source, tmp_path / "cog.tif", input_crs=crs, progress=False)


_KINDS = [
    PJType.PROJECTED_CRS,
    PJType.GEOGRAPHIC_2D_CRS,
    PJType.GEOGRAPHIC_3D_CRS,
    PJType.COMPOUND_CRS,
]
_NAMED = [
    "EPSG:5513", "EPSG:5514", "EPSG:2065", "EPSG:5221", "EPSG:4979", "EPSG:9518", "EPSG:25833+7837",
    "EPSG:4326+5773",
    "EPSG:3832", "EPSG:2193", "EPSG:3031", "EPSG:2056", "EPSG:27700", "EPSG:4807", "EPSG:2155", "EPSG:26811",
    "ESRI:4812", "ESRI:54030", "IAU_2015:49910", "OGC:CRS84", "+proj=longlat +datum=WGS84 +lon_wrap=180",
    "+proj=longlat +ellps=GRS80 +towgs84=100,50,20,1,2,3,4", "+proj=utm +zone=33 +pm=paris +ellps=clrk80",
    "+proj=krovak +lat_0=49.5 +lon_0=24.8333333333333 +k=0.9999 +ellps=bessel +units=m +axis=swu",
]  # fmt: skip


def test_a_crs_keeps_its_coordinates_in_a_cog_or_is_refused(tmp_path: Path) -> None:
    source = write_raster(tmp_path / "a.tif", image(1), crs=None, transform=WGS84_GRID)
    known = [f"EPSG:{info.code}" for info in query_crs_info("EPSG", _KINDS, allow_deprecated=True)]
    kept = 0
    for name in [*_NAMED, *Random(1).sample(known, 30)]:
        try:
            gt.create_cog(
                source, tmp_path / "cog.tif", input_crs=name, blocksize=128, overwrite=True, progress=False
            )
        except (InvalidParameter, UnsupportedRaster):
            continue
        with rasterio.open(tmp_path / "cog.tif") as dataset:
            found = pyproj.CRS.from_wkt(dataset.crs.to_wkt())
        own = pyproj.CRS.from_user_input(name)
        assert own.equals(found, ignore_axis_order=True) or _apart(own, found) < 1e-3, name
        kept += 1
    assert kept > 40


def _apart(own: pyproj.CRS, found: pyproj.CRS) -> float:
    """Return by how many metres, or millionths of a degree, two CRSs differ in WGS 84 or on their planet."""
    area = own.area_of_use.bounds if own.area_of_use else (-20, -20, 20, 20)
    lon, lat = np.linspace(area[0], area[2], 7)[1:-1], np.linspace(area[1], area[3], 7)[1:-1]
    flat = own.to_2d() if len(own.axis_info) > 2 else own
    forth = pyproj.Transformer.from_crs(own.geodetic_crs.to_2d(), flat, always_xy=True)
    x, y = forth.transform(lon, lat)
    earth = abs(own.ellipsoid.semi_major_metre / 6378137 - 1) < 0.01
    places = [
        pyproj.Transformer.from_crs(crs, 4979 if earth else own.geodetic_crs, always_xy=True).transform(
            x, y, np.full_like(x, 50.0)
        )
        for crs in (own, found)
    ]
    return float(np.abs(np.subtract(*places) * [[111_319.0], [111_319.0], [1.0]]).max())
