"""Which samples hold data, and which are the nodata value, as GDAL's mask of a band says.

Source: GDAL 3.10, gcore/gdalnodatamaskband.cpp, gcore/gdal_priv.h (ARE_REAL_EQUAL), and gcore/overview.cpp
(GDALGetNoDataReplacementValue).
"""

from __future__ import annotations

from bisect import bisect_left
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[Any]

# That of float32, whatever the dtype (ARE_REAL_EQUAL).
_EPSILON = np.finfo(np.float32).eps


def holding_data(samples: Pixels, nodata: float | None) -> NDArray[np.bool_] | None:
    """Return where samples are not `nodata`, NaN included; None if all hold data, as none can equal it.

    Floating-point samples equal a nodata value within 2 units in the last place of a float32; of complex
    samples, the real part decides.
    """
    samples = samples.real
    value = comparable(nodata, samples.dtype)
    if value is None:
        return None
    there: NDArray[np.bool_]
    if np.isnan(value):
        there = ~np.isnan(samples)
    elif samples.dtype.kind == "f" and np.isfinite(value):
        least, greatest = _equal_range(value)
        there = ~((samples >= least) & (samples <= greatest))
    else:
        there = samples != value
    return there


def comparable(nodata: float | None, dtype: np.dtype[Any]) -> Any:
    """Return `nodata` as a value of `dtype`, without a fraction in integers; None if no pixel can have it."""
    if nodata is None:
        return None
    if dtype.kind in "fc":
        if np.isfinite(nodata) and abs(nodata) > np.finfo(dtype).max:
            return None
        return dtype.type(nodata)
    limits = np.iinfo(dtype)
    if not (np.isfinite(nodata) and limits.min <= nodata <= limits.max):
        return None
    return dtype.type(int(nodata))


@lru_cache(maxsize=64)
def _equal_range(value: np.floating[Any]) -> tuple[Any, Any]:
    """Return the least and the greatest number that GDAL takes for `value`, which is finite."""
    kind = value.dtype.type
    bits = np.dtype(f"u{value.dtype.itemsize}")
    size, top = (int(number.view(bits)) for number in (abs(value), np.finfo(kind).max))

    def equal(number: int) -> bool:
        other = bits.type(number).view(kind)
        with np.errstate(all="ignore"):  # the sum may overflow, as it does in GDAL
            near = abs(other - abs(value)) < kind(_EPSILON) * abs(other + abs(value)) * kind(2)
        return number == size or bool(near)

    # The bits of positive numbers are in the order of the numbers.
    first = bisect_left(range(size), True, key=equal)
    last = size + bisect_left(range(size + 1, top + 1), True, key=lambda number: not equal(number))
    ends = [bits.type(number).view(kind) for number in (first, last)]
    return (ends[0], ends[1]) if value > 0 else (-ends[1], -ends[0])


def keep_apart(out: Pixels, nodata: Any, where: NDArray[np.bool_] | None) -> None:
    """Change averages that happen to equal the nodata value to the neighbouring value, in place.

    GDAL compares averages of most integers before it rounds them, so that some that count become nodata; here
    none does.
    """
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
