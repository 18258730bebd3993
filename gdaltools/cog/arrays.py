"""An xarray.DataArray as the source of a COG: its pixels, and the facts in its coordinates and attributes.

rioxarray (``.rio``) decides the georeference and nodata. A dask array is cut into the COG's pieces; each
piece is computed once, as part of the same graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.io import MemoryFile
from rasterio.transform import Affine

from gdaltools.errors import InvalidParameter, UnsupportedRaster
from gdaltools.raster.bands import BAND_NAME, own_names
from gdaltools.raster.detect import Detection, RasterType, detect
from gdaltools.raster.facts import Facts
from gdaltools.raster.pixels.source import ArraySource
from gdaltools.storage import Location

_DTYPES = (
    "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64",
    "float32", "float64", "complex64", "complex128",
)  # fmt: skip
_NORTH_UP = Affine(1, 0, 0, 0, -1, 0)
# Side of the pieces in which an array's values are looked at, in pixels.
_SIDE = 256
# The confidence of a type that the bands' names and attributes alone decide.
_BY_NAMES = 0.9
_COLOURS = (ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha)
# Attributes of rioxarray, xarray and GDAL that have a place of their own in a file.
_OWN_ATTRIBUTES = ("long_name", "units", "scale_factor", "add_offset", "_FillValue", "grid_mapping", "nodata")


def is_array(source: object) -> bool:
    """Return whether `source` is a DataArray, without importing xarray."""
    return type(source).__name__ == "DataArray" and hasattr(source, "dims")


def array_source(array: Any) -> tuple[ArraySource, Facts]:
    """Return the array as a source, and its facts.

    Parameters
    ----------
    array : xarray.DataArray
        Dimensions (y, x) or (band, y, x), under any names that rioxarray recognises.

    Raises
    ------
    UnsupportedRaster
        The array has other dimensions, no pixels, or a dtype that no TIFF holds.
    """
    import rioxarray  # noqa: F401 - gives DataArray its .rio
    from rioxarray.exceptions import RioXarrayError

    name = f"array {array.name!r}" if array.name else "the array"
    try:
        y, x = array.rio.y_dim, array.rio.x_dim
    except RioXarrayError as error:
        raise UnsupportedRaster(f"{name} has no spatial dimensions: name them y and x") from error
    bands = [dim for dim in array.dims if dim not in (y, x)]
    if len(bands) > 1 or not all(array.shape):
        raise UnsupportedRaster(
            f"{name} has the dimensions {dict(array.sizes)}: a COG holds bands, rows and columns"
        )
    if array.dtype.name not in _DTYPES:
        raise UnsupportedRaster(
            f"{name} is of {array.dtype}: convert it with astype to one of {', '.join(_DTYPES)}"
        )
    ordered = array.transpose(*bands, y, x)
    data = ordered.data if bands else ordered.data[None]
    count, height, width = data.shape
    masked = array.rio.encoded_nodata is not None
    nodata = array.rio.nodata
    if array.dtype.kind == "f" and (masked or nodata is None):  # xarray marks missing floats with NaN
        nodata = np.nan
    facts = Facts(
        width=width,
        height=height,
        count=count,
        dtype=array.dtype.name,
        sample_bits=None,
        nodata=None if nodata is None else nodata.item() if isinstance(nodata, np.integer) else float(nodata),
        masked=False,
        transform=_transform(array),
        crs_wkt=array.rio.crs.to_wkt() if array.rio.crs else None,
        colorinterp=_colorinterp(count, array.dtype.name),
        colormap=None,
        descriptions=_descriptions(array, count),
        units=_texts(array.attrs.get("units"), count),
        scales=(float(array.attrs.get("scale_factor", 1.0)),) * count,
        offsets=(float(array.attrs.get("add_offset", 0.0)),) * count,
        domains={"": {k: str(v) for k, v in array.attrs.items() if k not in _OWN_ATTRIBUTES}},
        band_tags=({},) * count,
    )
    return ArraySource(name, data), facts


def array_type(source: ArraySource, facts: Facts, asked: str) -> RasterType:
    """Return the raster type `asked`; for "auto", that of `array_detection`."""
    return asked if asked != "auto" else array_detection(source, facts).raster_type  # type: ignore[return-value]


def array_detection(source: ArraySource, facts: Facts) -> Detection:
    """Return the type of an array as `detect` finds it in a file of its pixels; nothing lazy is computed.

    Of a lazy array only the names, attributes and dtype are looked at, and the reason says so.
    """
    lazy = not isinstance(source.array, np.ndarray)
    pixels = np.zeros((facts.count, 16, 16), facts.numpy_dtype) if lazy else _sample(source.array)
    with rasterio.Env(GDAL_PAM_ENABLED="NO"), MemoryFile() as memory:
        with memory.open(
            driver="GTiff",
            width=pixels.shape[2],
            height=pixels.shape[1],
            count=facts.count,
            dtype=facts.dtype,
            nodata=0 if lazy else facts.nodata,
            transform=_NORTH_UP,
            photometric="minisblack",
        ) as sample:
            sample.write(pixels)
            sample.colorinterp = facts.colorinterp
            sample.descriptions = [text or "" for text in facts.descriptions]
            sample.units = [text or "" for text in facts.units]
            sample.scales, sample.offsets = facts.scales, facts.offsets
            sample.update_tags(1, **facts.domains[""])
        with memory.open() as sample:
            found = detect(sample, Location(None, source.name, None))
    if not lazy:
        return found
    reason = (
        f"{facts.count} x {facts.dtype}, of a lazy array whose values are not looked at: pass raster_type"
    )
    return (
        found
        if found.confidence >= _BY_NAMES
        else found.model_copy(update={"reason": reason, "confidence": min(found.confidence, 0.5)})
    )


def _sample(array: NDArray[Any]) -> NDArray[Any]:
    """Return up to three by three pieces of an array, which are spread over it, side by side."""
    for axis in (1, 2):
        size = array.shape[axis]
        if size > 3 * _SIDE:
            starts = (0, (size - _SIDE) // 2, size - _SIDE)
            array = np.take(array, np.concatenate([np.arange(at, at + _SIDE) for at in starts]), axis)
    return np.asarray(array)


def _transform(array: Any) -> Affine:
    if array.rio.x_dim not in array.coords and array.rio._cached_transform() is None:
        return Affine.identity()
    transform: Affine = array.rio.transform(recalc=array.rio._cached_transform() is None)
    if transform.determinant == 0 or not all(np.isfinite(transform)):
        raise InvalidParameter("the array's coordinates give pixels of no size: set rio.write_transform")
    return transform


def _colorinterp(count: int, dtype: str) -> tuple[ColorInterp, ...]:
    if dtype in ("uint8", "uint16") and count in (3, 4):
        return _COLOURS[:count]
    return (ColorInterp.gray, *(ColorInterp.undefined,) * (count - 1))


def _descriptions(array: Any, count: int) -> tuple[str | None, ...]:
    """Return the band names in ``long_name``.

    The names of the band coordinate are used if ``long_name`` is empty or holds the same names in another
    order.
    """
    said = _texts(array.attrs.get("long_name"), count)
    coordinate = array.coords.get(BAND_NAME)
    if coordinate is None or coordinate.size != count or coordinate.chunks is not None:
        return said
    colours = [colour.name for colour in _colorinterp(count, array.dtype.name)]
    names = own_names([str(name) for name in coordinate.values.ravel()], colours)
    return names if not any(said) or set(names) == set(said) else said


def _texts(value: Any, count: int) -> tuple[str | None, ...]:
    if isinstance(value, str):
        return (value,) * count if count == 1 else (value, *(None,) * (count - 1))
    if isinstance(value, Sequence) and len(value) == count:
        return tuple(str(text) if text else None for text in value)
    return (None,) * count
