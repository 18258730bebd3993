"""Grids of pixels: each a CRS, a transform and a size."""

from __future__ import annotations

import math
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat
from rasterio.transform import Affine

from gdaltools.geo.crs import Bounds

Points = NDArray[np.float64]

#: GDAL's limit on the width and height of a raster.
MAX_SIDE = 2**31 - 1


class Grid(BaseModel):
    """A georeferenced grid of pixels.

    Attributes
    ----------
    crs : str
        ``AUTHORITY:CODE`` or WKT.
    transform : tuple of 6 float
        ``(a, b, c, d, e, f)`` as in `RasterInfo`.
    width, height : int
        In pixels.
    limited_to : tuple of 4 float or None
        The area of use of `crs` (west, south, east, north in degrees; west > east across the antimeridian),
        if the grid of a warp leaves out what lies beyond it, because the CRS is stretched too much there. Not
        part of the JSON.
    """

    model_config = ConfigDict(frozen=True)

    crs: Annotated[str, Field(max_length=20_000)]
    transform: tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat]
    width: Annotated[int, Field(ge=1, le=MAX_SIDE)]
    height: Annotated[int, Field(ge=1, le=MAX_SIDE)]
    limited_to: Bounds | None = Field(None, exclude=True)

    @property
    def affine(self) -> Affine:
        """The transform as rasterio's `Affine`."""
        return Affine(*self.transform)

    @property
    def resolution(self) -> tuple[float, float]:
        """Pixel width and height, in units of `crs`."""
        a, b, _, d, e, _ = self.transform
        return math.hypot(a, d), math.hypot(b, e)

    @property
    def north_up(self) -> bool:
        """Whether rows run from north to south and columns from west to east."""
        a, b, _, d, e, _ = self.transform
        return b == 0 and d == 0 and a > 0 and e < 0

    @property
    def upright(self) -> bool:
        """Whether rows and columns run along the axes of `crs`, in whichever direction."""
        _, b, _, d, _, _ = self.transform
        return b == 0 and d == 0

    @property
    def flipped(self) -> Grid:
        """The same pixels with the rows and columns of an upright grid in the order that is north up."""
        a, b, c, d, e, f = self.transform
        left, top = min(c, c + a * self.width), max(f, f + e * self.height)
        return self.model_copy(update={"transform": (abs(a), b, left, d, -abs(e), top)})

    @property
    def bounds(self) -> Bounds:
        """left, bottom, right, top."""
        return self.bounds_of(0, 0, self.width, self.height)

    def bounds_of(self, col_off: int, row_off: int, width: int, height: int) -> Bounds:
        """Return left, bottom, right, top of a window.

        Examples
        --------
        >>> scheme.grid.bounds_of(0, 0, 100, 50)
        (470000.0, 999500.0, 471000.0, 1000000.0)
        """
        a, b, c, d, e, f = self.transform
        corners = [(col, row) for col in (col_off, col_off + width) for row in (row_off, row_off + height)]
        xs = [a * col + b * row + c for col, row in corners]
        ys = [d * col + e * row + f for col, row in corners]
        return min(xs), min(ys), max(xs), max(ys)

    def part(self, col_off: int, row_off: int, width: int, height: int) -> Grid:
        """Return the pixels of a window as a grid of their own.

        Examples
        --------
        >>> part = scheme.grid.part(100, 50, 10, 20)
        >>> part.transform[2], part.transform[5], part.width, part.height
        (471000.0, 999500.0, 10, 20)
        """
        transform = self.transform_of(col_off, row_off)
        return self.model_copy(update={"transform": transform, "width": width, "height": height})

    def world(self, cols: NDArray[Any], rows: NDArray[Any]) -> tuple[Points, Points]:
        """Return the coordinates, in `crs`, of points in pixels from the upper left corner.

        Examples
        --------
        >>> x, y = scheme.grid.world(np.array([0, 100]), np.array([0, 50]))
        >>> x.tolist(), y.tolist()
        ([470000.0, 471000.0], [1000000.0, 999500.0])
        """
        a, b, c, d, e, f = self.transform
        return a * cols + b * rows + c, d * cols + e * rows + f

    def pixels(self, x: Points, y: Points) -> tuple[Points, Points]:
        """Return positions, in pixels from the upper left corner, of points in `crs`: the inverse of `world`.

        Examples
        --------
        >>> cols, rows = scheme.grid.pixels(np.array([471000.0]), np.array([999500.0]))
        >>> cols.tolist(), rows.tolist()
        ([100.0], [50.0])
        """
        a, b, c, d, e, f = self.transform
        area = a * e - b * d
        x, y = x - c, y - f
        return (e * x - b * y) / area, (a * y - d * x) / area

    def transform_of(self, col_off: int, row_off: int) -> tuple[float, float, float, float, float, float]:
        """Return the transform of a window that begins at `col_off` and `row_off`.

        Examples
        --------
        >>> scheme.grid.transform_of(100, 50)
        (10.0, 0.0, 471000.0, 0.0, -10.0, 999500.0)
        """
        a, b, c, d, e, f = self.transform
        return a, b, a * col_off + b * row_off + c, d, e, d * col_off + e * row_off + f
