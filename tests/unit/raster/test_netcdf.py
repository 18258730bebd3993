"""netCDF: classic files are read, by variable if several; files that can point elsewhere are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.io import netcdf_file

import gdaltools as gt
from gdaltools import storage
from gdaltools.errors import CorruptRaster, InvalidLocation, InvalidParameter, UnsupportedRaster
from tests.support.rasters import elevation, smooth, write_netcdf, write_raster

HDF5 = b"\x89HDF\r\n\x1a\n"


@pytest.fixture
def several(tmp_path: Path) -> Path:
    return write_netcdf(tmp_path / "weather.nc", smooth(3, 60, 80))


def test_a_file_of_one_raster_is_read_as_any_other(tmp_path: Path) -> None:
    pixels = elevation(60, 80)
    path = write_netcdf(tmp_path / "dem.nc", pixels)
    info = gt.inspect(path)
    assert (info.driver, info.shape) == ("netCDF", (1, 60, 80))
    cog = gt.create_cog(path, tmp_path / "dem.tif", blocksize=64, progress=False)
    assert (gt.open(cog.location).compute().values == pixels).all()


def test_of_several_one_is_named(several: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedRaster, match=r"Band1, Band2, Band3.*variable='Band1'"):
        gt.inspect(several)
    second = storage.locate(several, variable="Band2")
    assert gt.inspect(second).shape == (1, 60, 80)
    cog = gt.create_cog(second, tmp_path / "second.tif", blocksize=64, progress=False)
    assert (gt.open(cog.location).compute().values == smooth(3, 60, 80)[1]).all()
    with pytest.raises(InvalidParameter, match="it has Band1, Band2, Band3"):
        gt.inspect(storage.locate(several, variable="Band4"))


def test_what_is_in_memory_is_brought_to_a_file_for_as_long_as_it_is_open(several: Path) -> None:
    name = "memory://bronze-rasters/weather.nc"
    storage.write_bytes(name, several.read_bytes(), overwrite=True)
    third = gt.open(storage.locate(name, variable="Band3"), chunks=None)
    assert (third.values == smooth(3, 60, 80)[2]).all()
    storage.delete(name)


@pytest.mark.parametrize(
    "variable", ["", "a:b", 'a"b', "a/b", "../x", "1a", "a b", "a\n", "x" * 300, 'x":/etc/passwd', "é"]
)
def test_a_variable_is_a_plain_name(several: Path, variable: str) -> None:
    with pytest.raises(InvalidLocation, match="variable"):
        storage.locate(several, variable=variable)


def test_other_formats_have_no_variables(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", smooth(1, 64, 64))
    with pytest.raises(InvalidParameter, match="not netCDF"):
        gt.inspect(storage.locate(path, variable="x"))


@pytest.mark.parametrize("name", ["a.nc", "a.h5", "a.tif", "a.hdf"])
def test_hdf5_and_netcdf_4_can_point_to_other_files_and_are_refused(tmp_path: Path, name: str) -> None:
    path = write_netcdf(tmp_path / "four.nc", smooth(1, 60, 80), form="NC4").rename(tmp_path / name)
    assert path.read_bytes().startswith(HDF5)
    with pytest.raises(UnsupportedRaster, match="can point to other files"):
        gt.inspect(path)
    # After a user block, where readers look for HDF5 as well.
    path.write_bytes(bytes(512) + path.read_bytes())
    with pytest.raises(UnsupportedRaster):
        gt.inspect(path)


def test_hdf5_is_read_where_it_is_trusted_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_netcdf(tmp_path / "four.nc", smooth(1, 60, 80), form="NC4")
    monkeypatch.setenv("GDALTOOLS_ALLOWED_DRIVERS", "GTiff,netCDF,HDF5")
    assert gt.inspect(path).driver == "netCDF"


def test_dimensions_that_the_file_cannot_hold_are_refused_before_memory_is_taken(tmp_path: Path) -> None:
    path = write_netcdf(tmp_path / "huge.nc", smooth(1, 60, 80))
    content = path.read_bytes()
    place = content.index(b"lat") + 4
    assert int.from_bytes(content[place : place + 4], "big") == 60
    path.write_bytes(content[:place] + b"\x7f\xff\xff\xff" + content[place + 4 :])
    with pytest.raises(CorruptRaster, match="claims a dimension of 2147483647"):
        gt.inspect(path)


def test_a_damaged_file_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / "bad.nc").write_bytes(b"CDF\x01" + bytes(range(200)))
    with pytest.raises(CorruptRaster):
        gt.inspect(tmp_path / "bad.nc")


def by_records(path: Path, version: int, variables: int) -> Path:
    """Write a classic file whose variables of 3 records have bytes, so that records may need padding."""
    with netcdf_file(path, "w", version=version) as file:
        file.createDimension("time", None)
        file.createDimension("y", 21)
        file.createDimension("x", 33)
        for number in range(variables):
            variable = file.createVariable(f"v{number}", "i1", ("time", "y", "x"))
            variable[:] = np.full((3, 21, 33), number + 1)
    return path


@pytest.mark.parametrize("kind", ["NC", "NC2", "long header", "records", "records of two"])
def test_a_file_cut_short_is_corrupt_and_a_whole_one_is_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.nc"
    if kind == "long header":
        with netcdf_file(path, "w") as file:
            file.history = "x" * 300_000
            file.createDimension("y", 90)
            file.createDimension("x", 80)
            file.createVariable("v", "f4", ("y", "x"))[:] = elevation(90, 80)[0]
    elif "records" in kind:
        by_records(path, 2, 2 if "two" in kind else 1)
    else:
        write_netcdf(path, elevation(60, 80), form=kind)
    source = storage.locate(path, variable="v0") if kind == "records of two" else path
    assert gt.inspect(source).count in (1, 3)
    content = path.read_bytes()
    for keep in (len(content) - 8, len(content) * 3 // 4, len(content) // 2, 100, 40, 9):
        path.write_bytes(content[:keep])
        with pytest.raises(CorruptRaster, match="cut short"):
            gt.inspect(source)
