"""Source coordinates of target pixels: exact at nodes of a coarse grid, interpolated between them.

Nodes lie at multiples of one step from the target's upper left corner, whichever window is requested, so that
a pixel's coordinates depend on its position alone. The step is chosen once per warp. Cubics through the nodes
err by less than 1e-6 source pixels at usual scales, where lines would err by up to 1e-3.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.io import MemoryFile
from rasterio.transform import Affine
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from gdaltools.geo.crs import parse_crs, transform_points
from gdaltools.geo.grid import Grid
from gdaltools.geo.reach import copies, leads_back, positions

Points = NDArray[np.float64]

#: The largest error of interpolation between nodes, in source pixels; GDAL's warp allows 0.125.
MAX_ERROR = 1e-3
# The step is halved until three in four places err by at most this, so little that samples rarely round to
# another level. The fourth may be near a pole or a tear in the projection; GDAL computes such cells.
_TARGET_ERROR = 2e-5
_MOST = 0.75
_STEPS = (32, 16, 8, 4)

#: The tolerance, in source pixels, with which a WarpedVRT uses GDAL's exact transformer; 0 is refused.
EXACT_TOLERANCE = 1e-9

# The number of places in each direction, in source and target, at which errors are measured.
_PLACES = 17
# The most by which GDAL's coordinates may differ from ours, in source pixels.
_GDAL_APART = 0.01
# The side, in pixels, of the picture of the source that shows GDAL's coordinates.
_RAMP = 64


class Nodes(NamedTuple):
    """Source coordinates, in pixels, at nodes of the target's grid.

    Attributes
    ----------
    step : int
        Target pixels from node to node.
    row, col : int
        Position of the first node, in steps.
    x, y : arrays of float64, shape (rows, cols)
    """

    step: int
    row: int
    col: int
    x: Points
    y: Points


def source_pixels(source: Grid, target: Grid, cols: Points, rows: Points) -> tuple[Points, Points]:
    """Return the source pixel coordinates of target pixel coordinates; infinite or NaN if there are none."""
    return positions(source, *source_places(source, target, cols, rows))


def source_places(source: Grid, target: Grid, cols: Points, rows: Points) -> tuple[Points, Points]:
    """Return coordinates in the source's CRS of target pixel coordinates; NaN if there are none."""
    there = target.world(cols, rows)
    x, y = transform_points(target.crs, source.crs, *there)
    back = transform_points(source.crs, target.crs, x, y)
    found = leads_back(target, parse_crs(target.crs, "target CRS"), there, back)
    return np.where(found, x, np.nan), np.where(found, y, np.nan)


def nodes_around(source: Grid, target: Grid, step: int, window: Window) -> Nodes:
    """Return the nodes around a window of the target and one more on each side, at least five each way."""
    (first_row, last_row), (first_col, last_col) = _node_ranges(step, window)
    cols, rows = np.meshgrid(
        np.arange(first_col, last_col, dtype="float64") * step,
        np.arange(first_row, last_row, dtype="float64") * step,
    )
    x, y = source_pixels(source, target, cols.ravel(), rows.ravel())
    return Nodes(step, first_row, first_col, x.reshape(cols.shape), y.reshape(cols.shape))


def nodes_among(nodes: Nodes, window: Window) -> Nodes:
    """Return the subset of nodes that `nodes_around` a smaller window would return."""
    (first_row, last_row), (first_col, last_col) = _node_ranges(nodes.step, window)
    inside = (
        slice(first_row - nodes.row, last_row - nodes.row),
        slice(first_col - nodes.col, last_col - nodes.col),
    )
    return Nodes(nodes.step, first_row, first_col, nodes.x[inside], nodes.y[inside])


def _node_ranges(step: int, window: Window) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the first row of nodes and the row after the last one; the same for columns."""
    ranges = []
    for begin, size in ((window.row_off, window.height), (window.col_off, window.width)):
        first = int(begin) // step
        ranges.append((first - 1, max(first + 2, math.ceil((begin + size) / step)) + 2))
    return ranges[0], ranges[1]


def interpolation_error(nodes: Nodes) -> float:
    """Return about how far interpolated coordinates are off, in source pixels; infinite if a node has none.

    Midway between four points a cubic errs by 3/128 of the fourth difference. Where the projection is torn,
    nodes on both sides are far apart, and the result is large.
    """
    if not (np.isfinite(nodes.x).all() and np.isfinite(nodes.y).all()):
        return math.inf
    return _difference(nodes, 4) * 3 / 128


def span(nodes: Nodes, window: Window) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return two numbers between which all x of a window lie, and two for y."""
    nodes = nodes_among(nodes, window)
    lines = []
    for first, size, origin in (
        (window.row_off, window.height, nodes.row),
        (window.col_off, window.width, nodes.col),
    ):
        begin, end = (place / nodes.step - origin for place in (first, first + size))
        lines.append(np.array([begin, *range(math.floor(begin) + 1, math.ceil(end)), end]))
    # Crossings of the window's lines with the nodes'; between them coordinates may bulge by an eighth of
    # their second difference.
    bulge = _difference(nodes, 2) / 4
    found = []
    for values in (nodes.x, nodes.y):
        crossings = _between(_between(values, lines[0]).T, lines[1])
        found.append((float(crossings.min()) - bulge, float(crossings.max()) + bulge))
    return found[0], found[1]


def _difference(nodes: Nodes, order: int) -> float:
    """Return the largest difference of the given `order`, with both axes added."""
    return max(
        sum(float(np.abs(np.diff(values, order, axis=axis)).max()) for axis in (0, 1))
        for values in (nodes.x, nodes.y)
    )


def _between(values: Points, places: Points) -> Points:
    """Return rows interpolated linearly at fractional positions."""
    before = np.minimum(places.astype("int64"), len(values) - 2)
    share = (places - before)[:, np.newaxis]
    between: Points = values[before] * (1 - share) + values[before + 1] * share
    return between


def node_step(source: Grid, target: Grid) -> int | None:
    """Return the target pixels from node to node, one number per warp; None if every step errs too much."""
    places = shared_places(source, target)
    error = math.inf
    for step in _STEPS:
        error = _measured_error(source, target, step, places)
        if error <= _TARGET_ERROR:
            return step
    return _STEPS[-1] if error <= MAX_ERROR else None


def _measured_error(source: Grid, target: Grid, step: int, places: tuple[Points, Points]) -> float:
    """Return the error midway between nodes, both axes added, that three in four places do not exceed."""
    cols, rows = (np.floor(part / step) * step for part in places)
    total = np.zeros((2, cols.size))
    for right, down in ((1, 0), (0, 1)):
        before, first, second, after, middle = (
            np.stack(source_pixels(source, target, cols + right * step * n, rows + down * step * n))
            for n in (-1, 0, 1, 2, 0.5)
        )
        with np.errstate(invalid="ignore"):
            total += np.abs((9 * (first + second) - before - after) / 16 - middle)
    if not cols.size:
        return 0.0
    worst = np.nan_to_num(total.max(axis=0), nan=math.inf)
    return float(np.quantile(worst, _MOST, method="higher"))


def shared_places(source: Grid, target: Grid) -> tuple[Points, Points]:
    """Return places of the target (columns, rows) that lie in the source, spread evenly over both grids."""
    of_source = source_pixels(target, source, *_lattice(source))
    of_target = _lattice(target)
    found = []
    for (cols, rows), (x, y), grid in (
        (of_source, of_source, target),
        (of_target, source_pixels(source, target, *of_target), source),
    ):
        with np.errstate(invalid="ignore"):
            shared = (x >= 0) & (x < grid.width) & (y >= 0) & (y < grid.height)
        found.append((cols[shared], rows[shared]))
    return np.concatenate([cols for cols, _ in found]), np.concatenate([rows for _, rows in found])


def _lattice(grid: Grid) -> tuple[Points, Points]:
    share = (np.arange(_PLACES) + 0.5) / _PLACES
    cols, rows = np.meshgrid(share * grid.width, share * grid.height)
    return cols.ravel(), rows.ravel()


def agrees_with_gdal(source: Grid, target: Grid) -> bool:
    """Return whether GDAL's warp transforms between the two CRSs as we do, to a hundredth of a source pixel.

    GDAL may choose another operation for a raster's area, and brings its own PROJ and data. Its choice shows
    in a small warp, with its exact transformer, of a picture whose values are coordinates.
    """
    cols, rows = shared_places(source, target)
    if not cols.size:
        return True
    corner = math.floor(cols.min()), math.floor(rows.min())
    size = max(1.0, cols.max() - corner[0]) / _PLACES, max(1.0, rows.max() - corner[1]) / _PLACES
    middle = np.arange(_PLACES) + 0.5
    cols, rows = np.meshgrid(corner[0] + middle * size[0], corner[1] + middle * size[1])
    x, y = (part.reshape(cols.shape) for part in source_pixels(source, target, cols.ravel(), rows.ravel()))
    per_pixel = source.width / _RAMP, source.height / _RAMP
    try:
        theirs = _gdal_places(source, target, corner, size)
    except RasterioError:
        return False
    ramp_x, ramp_y = x / per_pixel[0], y / per_pixel[1]
    with np.errstate(invalid="ignore"):
        inside = (ramp_x > 1) & (ramp_x < _RAMP - 1) & (ramp_y > 1) & (ramp_y < _RAMP - 1)
        theirs_inside = (theirs > 1).all(axis=0) & (theirs < _RAMP - 1).all(axis=0)
        either = inside | theirs_inside
        apart = np.maximum(
            np.abs(theirs[0] - ramp_x) * per_pixel[0], np.abs(theirs[1] - ramp_y) * per_pixel[1]
        )[either]
    return bool((apart < _GDAL_APART).all())


def _gdal_places(
    source: Grid, target: Grid, corner: tuple[int, int], size: tuple[float, float]
) -> NDArray[np.float64]:
    """Return where in the picture GDAL finds the centres of large target pixels, shape (2, rows, cols)."""
    middle = np.arange(_RAMP) + 0.5
    picture = np.stack(np.meshgrid(middle, middle))
    found = np.zeros((2, _PLACES, _PLACES))
    with MemoryFile() as memory:
        with memory.open(
            driver="GTiff",
            width=_RAMP,
            height=_RAMP,
            count=2,
            dtype="float64",
            crs=parse_crs(source.crs, "source CRS"),
            transform=source.affine,
        ) as made:
            made.write(picture)
        with memory.open() as dataset:
            for copy in copies(source, target):
                with WarpedVRT(
                    dataset,
                    src_transform=_coarser(copy, (0, 0), (source.width / _RAMP, source.height / _RAMP)),
                    crs=parse_crs(target.crs, "target CRS"),
                    transform=_coarser(target, corner, size),
                    width=_PLACES,
                    height=_PLACES,
                    resampling=Resampling.bilinear,
                    tolerance=EXACT_TOLERANCE,
                    XSCALE=1,
                    YSCALE=1,
                ) as warped:
                    found = np.maximum(found, warped.read())
    return found


def _coarser(grid: Grid, corner: tuple[int, int], size: tuple[float, float]) -> Affine:
    """Return the transform of pixels that measure `size` pixels of the grid, starting at `corner`."""
    a, b, c, d, e, f = grid.transform_of(*corner)
    return Affine(a * size[0], b * size[1], c, d * size[0], e * size[1], f)
