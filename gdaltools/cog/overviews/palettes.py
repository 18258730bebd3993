"""Overviews of colour table indices: colours are blended, and the entry nearest to the blend is used.

Source: GDAL 3.10, gcore/overview.cpp, the colour table's part of GDALResampleChunk_AverageOrRMS_T, and
BestColorEntry.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gdaltools.cog.overviews.axis import HalvingAxis
from gdaltools.cog.overviews.windows import Weights

Pixels = NDArray[Any]
Valid = NDArray[np.bool_]
#: A colour table as (index, red, green, blue, alpha) entries.
Palette = tuple[tuple[int, int, int, int, int], ...]

# The distances that are computed at a time: 16 MB.
_DISTANCES = 4 << 20


def blend(
    indices: Pixels,
    valid: Valid | None,
    rows: HalvingAxis,
    cols: HalvingAxis,
    *,
    palette: Palette,
    nodata: float | None,
    squares: bool,
) -> Pixels:
    """Return the index of the entry nearest to the mean colour below each target pixel.

    With `squares` the mean is the root mean square. Entries with alpha 0 and the nodata value do not count.
    On an odd side all source pixels that a target pixel covers count equally.

    Parameters
    ----------
    indices : ndarray of uint8 or uint16, shape (rows, cols, 1)
        The part of the level that ``rows.available`` and ``cols.available`` name.
    valid : ndarray of bool, shape (rows, cols), optional
        The per-dataset mask; the pixels that it hides do not count.
    """
    table = _table(palette, nodata, indices.dtype.name)
    down, across = Weights.of(rows), Weights.of(cols)

    def below(values: NDArray[np.int32]) -> NDArray[np.int32]:
        return across.sum(down.sum(values, axis=0), axis=1)

    plane = indices[:, :, 0]
    opaque = table.opaque[plane]
    if valid is not None:
        opaque = np.where(valid, opaque, 0)
    counts = below(opaque)
    divisors = np.maximum(counts, 1)
    colours = np.zeros(counts.shape, np.int32)
    for channel in table.colours.T:
        sums = below((channel * channel if squares else channel)[plane] * opaque)
        if squares:
            mean = (np.sqrt(sums // divisors) + 0.5).astype(np.int32)
        else:
            mean = (sums + divisors // 2) // divisors
        colours = colours << 8 | mean
    blends, places = np.unique(colours, return_inverse=True)
    entries = np.where(counts > 0, table.nearest(blends)[places.reshape(counts.shape)], table.empty)
    return entries.astype(indices.dtype)[:, :, None]


def is_identity(palette: Palette) -> bool:
    """Return whether each index is its own grey; GDAL ignores such tables (GDALColorTable::IsIdentity)."""
    return all(entry == (index, index, index, index, 255) for index, entry in enumerate(palette))


@dataclass(frozen=True)
class _Table:
    """A colour table with an entry for every index that the dtype can hold.

    Attributes
    ----------
    colours : ndarray of int32, shape (indices, 3)
    opaque : ndarray of int32, shape (indices,)
        1 where an entry counts, otherwise 0.
    empty : int
        The index of target pixels below which nothing counts.
    """

    colours: NDArray[np.int32]
    opaque: NDArray[np.int32]
    empty: int

    def nearest(self, blends: NDArray[np.int32]) -> NDArray[np.intp]:
        """Return the index of the entry nearest to each colour, 0xRRGGBB; the first of equally near ones."""
        indices = np.flatnonzero(self.opaque)
        if not len(indices):
            return np.zeros(len(blends), np.intp)
        entries, first = np.unique(self.colours[indices], axis=0, return_index=True)
        order = np.argsort(first)
        entries, indices = entries[order].astype(np.float32), indices[first[order]]
        chosen = np.stack([blends >> 16, blends >> 8 & 255, blends & 255], axis=1).astype(np.float32)
        # Squared distances without the term that all entries share: whole numbers, exact in single precision.
        lengths = (entries * entries).sum(axis=1)
        found = np.empty(len(blends), np.intp)
        step = max(1, _DISTANCES // len(entries))
        for begin in range(0, len(blends), step):
            part = slice(begin, begin + step)
            found[part] = np.argmin(lengths - 2 * (chosen[part] @ entries.T), axis=1)
        return indices[found]


@lru_cache(maxsize=4)
def _table(palette: Palette, nodata: float | None, dtype: str) -> _Table:
    size = np.iinfo(dtype).max + 1
    colours, opaque = np.zeros((size, 3), np.int32), np.zeros(size, np.int32)
    for index, *colour, alpha in palette:
        colours[index], opaque[index] = colour, alpha != 0
    if nodata is not None:
        empty = int(nodata) if 0 <= nodata < size else 0
        opaque[empty] *= not 0 <= nodata < size
        return _Table(colours, opaque, empty)
    transparent = [index for index, *_, alpha in palette if alpha == 0]
    return _Table(colours, opaque, transparent[0] if transparent else 0)
