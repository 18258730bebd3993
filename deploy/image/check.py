"""Check during the image's build that the installed packages work: libraries load, pixels round-trip.

With ``--with-osgeo`` also check that rasterio and the GDAL bindings share one libgdal, that gdal_array is
installed, and that both give the same warp.
"""

from __future__ import annotations

import ctypes
import sys
import sysconfig
import tempfile
from pathlib import Path

import numpy as np
import rasterio
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT

import gdaltools as gt

_DRIVERS = ("GTiff", "COG", "VRT", "JPEG", "PNG", "WEBP", "JP2OpenJPEG")
# numba's optional threading layers, whose libraries need not be installed.
_OPTIONAL = ("tbbpool", "omppool")
_CODECS = ("DEFLATE", "ZSTD", "LZW", "LERC", "LERC_DEFLATE", "LERC_ZSTD", "NONE")


def main(arguments: list[str]) -> None:
    """Run the checks; fail at the first problem, with its description."""
    _check_libraries(Path(sysconfig.get_path("purelib")))
    with tempfile.TemporaryDirectory() as folder:
        source = _raster(Path(folder) / "source.tif")
        _check_codecs(source)
        if "--with-osgeo" in arguments:
            _check_osgeo(source)
    print(f"rasterio {rasterio.__version__} on GDAL {rasterio.__gdal_version__}: as it should be")


def _check_libraries(packages: Path) -> None:
    """Check that every library loads: the base image may lack what a wheel expects, such as libexpat."""
    failed = {}
    for library in sorted(packages.rglob("*.so")):
        if library.name.split(".")[0] in _OPTIONAL:
            continue
        try:
            ctypes.CDLL(str(library))
        except OSError as error:
            failed[library.name] = str(error)
    assert not failed, f"libraries that do not load: {failed}"


def _raster(path: Path) -> Path:
    rows, cols = np.mgrid[:600, :700]
    pixels = np.stack([(rows * 7 + cols * (3 + band)) % 251 for band in range(3)]).astype("uint8")
    profile = {
        "driver": "GTiff",
        "width": 700,
        "height": 600,
        "count": 3,
        "dtype": "uint8",
        "crs": "EPSG:32633",
        "transform": rasterio.Affine(10, 0, 400_000, 0, -10, 5_600_000),
    }
    with rasterio.open(path, "w", **profile) as target:
        target.write(pixels)
    return path


def _check_codecs(source: Path) -> None:
    with rasterio.Env() as env:
        missing = set(_DRIVERS) - set(env.drivers())
    assert not missing, f"GDAL lacks the drivers {sorted(missing)}"
    with rasterio.open(source) as dataset:
        pixels = dataset.read()
    for codec in _CODECS:
        target = source.with_name(f"{codec}.tif")
        gt.create_cog(source, target, codec=codec, progress=False)
        with rasterio.open(target) as dataset:
            assert np.array_equal(dataset.read(), pixels), f"{codec} gives other pixels back"
        assert gt.validate_cog(target).valid, f"{codec} is no valid COG"


def _check_osgeo(source: Path) -> None:
    from osgeo import gdal, gdal_array

    gdal.UseExceptions()
    assert gdal.__version__ == rasterio.__gdal_version__, (gdal.__version__, rasterio.__gdal_version__)
    maps = Path("/proc/self/maps").read_text().splitlines()
    loaded = {line.split()[-1] for line in maps if "libgdal" in line}
    assert len(loaded) == 1, f"more than one libgdal is loaded: {sorted(loaded)}"
    gdal.FileFromMemBuffer("/vsimem/shared.tif", source.read_bytes())
    with rasterio.open("/vsimem/shared.tif") as dataset:
        assert np.array_equal(gdal_array.LoadFile(str(source)), dataset.read()), "gdal_array reads otherwise"
        with WarpedVRT(dataset, crs="EPSG:3857", resampling=Resampling.bilinear) as warped:
            by_rasterio = warped.read()
            bounds, size = warped.bounds, warped.shape
    _check_vrt(source)
    target = source.with_name("warped.tif")
    gdal.Warp(
        str(target),
        str(source),
        dstSRS="EPSG:3857",
        outputBounds=tuple(bounds),
        height=size[0],
        width=size[1],
        resampleAlg="bilinear",
    )
    with rasterio.open(target) as dataset:
        differ = np.count_nonzero(dataset.read() != by_rasterio)
    assert differ <= by_rasterio.size / 1000, f"{differ} of {by_rasterio.size} warped samples differ"


def _check_vrt(source: Path) -> None:
    """Check that a VRT of a raster's tiles has the raster's pixels, also after its folder has moved."""
    folder = source.with_name("tiles")
    folder.mkdir()
    with rasterio.open(source) as dataset:
        pixels, profile, transform = dataset.read(), dataset.profile, dataset.transform
    tiles = []
    for number, cols in enumerate((slice(0, 300), slice(300, 700))):
        tiles.append(folder / f"{number}.tif")
        place = transform * rasterio.Affine.translation(cols.start, 0)
        shape = {"width": cols.stop - cols.start, "transform": place}
        with rasterio.open(tiles[-1], "w", **{**profile, **shape}) as tile:
            tile.write(pixels[:, :, cols])
    gt.create_vrt(tiles, folder / "all.vrt")
    moved = folder.rename(source.with_name("moved"))
    with rasterio.open(moved / "all.vrt") as dataset:
        assert np.array_equal(dataset.read(), pixels), "a VRT of tiles gives other pixels back"


if __name__ == "__main__":
    main(sys.argv[1:])
