"""Which samples hold data, and which are the nodata value.

Source: GDAL 3.10, gcore/overview.cpp, GDALGetNoDataReplacementValue.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[Any]


def holding_data(samples: Pixels, nodata: float | None) -> NDArray[np.bool_] | None:
    """Return where samples are not `nodata`, NaN included; None if all hold data, as none can equal it."""
    value = comparable(nodata, samples.dtype)
    if value is None:
        return None
    there: NDArray[np.bool_] = ~np.isnan(samples) if np.isnan(value) else samples != value
    return there


def comparable(nodata: float | None, dtype: np.dtype[Any]) -> Any:
    """Return `nodata` as a value of `dtype`; None if no pixel can have it."""
    if nodata is None:
        return None
    if dtype.kind in "fc":
        return dtype.type(nodata)
    limits = np.iinfo(dtype)
    if not (np.isfinite(nodata) and limits.min <= nodata <= limits.max and nodata == int(nodata)):
        return None
    return dtype.type(int(nodata))


def keep_apart(out: Pixels, nodata: Any, where: NDArray[np.bool_] | None) -> None:
    """Change averages that happen to equal the nodata value to the neighbouring value, in place."""
    if nodata is None or np.isnan(nodata):
        return
    hit = out == nodata
    if where is not None:
        hit &= where
    if not hit.any():
        return
    dtype = out.dtype
    if dtype.kind == "f":
        beyond = dtype.type(0) if nodata == np.finfo(dtype).max else np.finfo(dtype).max
        out[hit] = np.nextafter(dtype.type(nodata), beyond)
    else:
        value = int(nodata)
        out[hit] = value - 1 if value == np.iinfo(dtype).max else value + 1
