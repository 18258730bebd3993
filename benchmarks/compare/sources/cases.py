"""The catalogue of cases, and the size of each in pixels for a number of megabytes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.compare.sources import scenes
from benchmarks.errors import UnknownCase


@dataclass(frozen=True)
class Case:
    """A kind of source.

    Attributes
    ----------
    scene : callable
        The recipe of its pixels.
    aspect : float
        Ratio of width to height.
    odd : bool
        Whether width and height are odd, where GDAL averages other pixels; otherwise they are even.
    """

    name: str
    description: str
    scene: Callable[[scenes.Frame], scenes.Rows]
    bands: int
    dtype: str
    itemsize: int
    nodata: float | None = None
    aspect: float = 1.0
    odd: bool = False

    def size(self, megabytes: float) -> tuple[int, int]:
        """Return width and height for about `megabytes` (10⁶ bytes) uncompressed.

        >>> CASES["relief"].size(1000), CASES["bluemarble"].size(1000)
        ((18256, 18256), (20413, 16329))
        """
        pixels = megabytes * 1e6 / (self.bands * self.itemsize)
        width = math.sqrt(pixels * self.aspect)
        sides = (max(int(side) // 2 * 2, 2) + self.odd for side in (width, width / self.aspect))
        first, second = sides
        return first, second


CASES: dict[str, Case] = {
    case.name: case
    for case in (
        Case("relief", "Natural Earth's shaded relief", scenes.relief, 3, "uint8", 1),
        Case(
            "bluemarble",
            "Blue Marble and ETOPO, odd sizes",
            scenes.blue_marble,
            3,
            "uint8",
            1,
            aspect=1.25,
            odd=True,
        ),
        Case(
            "landsat", "a satellite scene's look, nodata around it", scenes.landsat, 3, "uint8", 1, nodata=0
        ),
        Case(
            "relief-nodata",
            "the relief with patches of nodata",
            scenes.relief_with_nodata,
            3,
            "uint8",
            1,
            nodata=0,
        ),
        Case("noise-rgb", "sensor-like noise", scenes.noise_rgb, 3, "uint8", 1),
        Case("noise-u16", "sensor-like noise of four bands", scenes.noise_uint16, 4, "uint16", 2),
        Case(
            "dem-f32",
            "a terrain model with nodata, odd sizes",
            scenes.elevation,
            1,
            "float32",
            4,
            nodata=-9999,
            odd=True,
        ),
    )
}


def cases_named(names: Sequence[str]) -> tuple[Case, ...]:
    """Return the cases of these names, in this order; all cases for no names.

    Raises
    ------
    UnknownCase
        A name is not in the catalogue.
    """
    for name in names:
        if name not in CASES:
            raise UnknownCase(f"case {name!r} is unknown: use some of {', '.join(CASES)}")
    return tuple(CASES[name] for name in names) or tuple(CASES.values())
