"""Convert bands to the variables of an xarray.Dataset, each under its name, and variables back to bands."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from rasterio.crs import CRS

from gdaltools.errors import InvalidParameter, UnsupportedRaster

if TYPE_CHECKING:
    import xarray

#: The coordinate of a DataArray that holds the bands' names.
BAND_NAME = "band_name"

_COLOURS = ("red", "green", "blue", "alpha", "cyan", "magenta", "yellow", "black")
_NUMBERED = re.compile(r"Band \d+\Z")


def bands_apart(array: xarray.DataArray) -> xarray.Dataset:
    """Return a Dataset with one variable for each band.

    Raises
    ------
    UnsupportedRaster
        The array has no dimension ``band``.
    """
    import xarray

    if "band" not in array.dims:
        raise UnsupportedRaster("the array has no dimension 'band': it is one band already")
    count = array.sizes["band"]
    known = array.coords[BAND_NAME].values if BAND_NAME in array.coords else array.coords["band"].values
    names = distinct(str(name) for name in known)
    variables = {}
    for index in range(count):
        variable = array.isel(band=index, drop=True).drop_vars(BAND_NAME, errors="ignore")
        variable.attrs = {key: value for key, value in array.attrs.items() if key != "long_name"}
        variables[names[index]] = variable.rename(names[index])
    return xarray.Dataset(variables)


def bands_together(dataset: xarray.Dataset) -> xarray.DataArray:
    """Return the variables that have rows and columns as the bands of one array, with the same names.

    Values are preserved: the array gets a dtype that holds all of them.

    Raises
    ------
    UnsupportedRaster
        The dataset has no spatial dimensions or no variable with them, or one has further dimensions.
    InvalidParameter
        The variables' nodata values differ.
    """
    import rioxarray  # noqa: F401 - gives Dataset its .rio
    import xarray
    from rioxarray.exceptions import RioXarrayError

    try:
        y, x = dataset.rio.y_dim, dataset.rio.x_dim
    except RioXarrayError as error:
        raise UnsupportedRaster("the dataset has no spatial dimensions: name them y and x") from error
    names = [str(name) for name, variable in dataset.data_vars.items() if {y, x} <= set(variable.dims)]
    if not names:
        raise UnsupportedRaster(f"the dataset has no variable of ({y}, {x})")
    variables = [dataset[name].transpose(..., y, x) for name in names]
    for variable in variables:
        if variable.ndim != 2:
            raise UnsupportedRaster(
                f"variable {variable.name!r} has the dimensions {dict(variable.sizes)}: a band holds rows "
                "and columns; select one of the others"
            )
    nodata = _common_nodata(variables)
    bands = [variable.reset_coords(drop=True).drop_attrs() for variable in variables]
    array = xarray.concat(bands, dim="band", coords="minimal", compat="override", join="exact")
    coords: dict[str, Any] = {
        "band": np.arange(1, len(names) + 1),
        BAND_NAME: ("band", names),
        **{name: dataset.coords[name] for name in (y, x) if name in dataset.coords},
    }
    array = array.assign_coords(coords).assign_attrs(dataset.attrs, long_name=tuple(names))
    array = array.rio.write_transform(variables[0].rio.transform())
    if variables[0].rio.crs:
        array = with_crs(array, variables[0].rio.crs)
    if nodata is not None:
        array = array.rio.write_nodata(nodata)
    joined: xarray.DataArray = array.rename(None)
    return joined


def with_crs(array: xarray.DataArray, crs: CRS) -> xarray.DataArray:
    """Return the array with a CRS; no warning that CF has no name for a parameter, as the WKT holds it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*lost in conversion to CF", UserWarning)
        located: xarray.DataArray = array.rio.write_crs(crs)
    return located


def _common_nodata(variables: list[Any]) -> float | None:
    found = {
        np.asarray(v.rio.nodata).item()
        for v in variables
        if v.rio.nodata is not None and v.rio.nodata == v.rio.nodata
    }
    if len(found) > 1:
        raise InvalidParameter(
            f"the variables' nodata values differ ({', '.join(f'{value:g}' for value in sorted(found))}): "
            "a COG has one; mask them, or fill one of them with the other"
        )
    return found.pop() if found else None


def named(
    descriptions: Sequence[str | None], colours: Sequence[str], guessed: Sequence[str | None] = ()
) -> list[str]:
    """Return a name for each band: its description, else its colour, else `guessed`, else its number.

    >>> named([None, "haze", None], ["red", "gray", "gray"])
    ['Red', 'haze', 'Band 3']
    """
    names = []
    for index, (text, colour) in enumerate(zip(descriptions, colours, strict=True), start=1):
        guess = guessed[index - 1] if index <= len(guessed) else None
        fallback = colour.capitalize() if colour in _COLOURS else guess or f"Band {index}"
        names.append(text or fallback)
    return names


def own_names(names: Sequence[str], colours: Sequence[str]) -> tuple[str | None, ...]:
    """Return the names that say more than the bands' colours and numbers; None for the others.

    >>> own_names(["Red", "Green", "Blue"], ["red", "green", "blue"])
    (None, None, None)
    >>> own_names(["Red", "haze", "Band 3"], ["gray", "undefined", "undefined"])
    ('Red', 'haze', None)
    """
    numbered = [None if _NUMBERED.match(name) else name for name in names]
    said = all(name is None or name.lower() == colour for name, colour in zip(numbered, colours, strict=True))
    return (None,) * len(names) if said else tuple(numbered)


def distinct(names: Iterable[str]) -> list[str]:
    """Return the names, a repeated one with a number after it.

    >>> distinct(["a", "b", "a"])
    ['a', 'b', 'a_2']
    """
    seen: dict[str, int] = {}
    found: list[str] = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return found
