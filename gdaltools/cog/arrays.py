"""An xarray.DataArray as the source of a COG: its pixels, and the facts in its coordinates and attributes.

rioxarray (``.rio``) decides the georeference and nodata. A dask array is cut into the COG's pieces; each
piece is computed once, as part of the same graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from rasterio.enums import ColorInterp
from rasterio.transform import Affine

from gdaltools.errors import InvalidParameter, UnsupportedRaster
from gdaltools.raster.bands import BAND_NAME, own_names
from gdaltools.raster.detect import RasterType
from gdaltools.raster.facts import Facts
from gdaltools.raster.pixels.source import ArraySource

_DTYPES = (
    "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64",
    "float32", "float64", "complex64", "complex128",
)  # fmt: skip
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


def array_type(facts: Facts, asked: str) -> RasterType:
    """Return the raster type `asked`; for "auto", derive it from the number of bands and their dtype."""
    if asked != "auto":
        return asked  # type: ignore[return-value]
    if facts.colours:
        return "rgba" if facts.count == 4 else "rgb"
    return "dem" if facts.count == 1 and facts.dtype.startswith(("float", "int16")) else "multispectral"


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
