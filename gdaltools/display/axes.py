"""The Axes that plots are drawn in: the caller's, or new ones from matplotlib."""

from __future__ import annotations

from typing import Any

from gdaltools.errors import MissingExtra

#: Longer side, in pixels, of the picture of a raster that a plot shows or samples.
PICTURE_SIDE = 640


def new_axes(ax: Any, *, width: float = 8.0, height: float = 4.5) -> Any:
    """Return `ax` if it is not None, else new Axes of `width` x `height` inches.

    Raises
    ------
    MissingExtra
        matplotlib is not installed.
    """
    if ax is not None:
        return ax
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise MissingExtra("plots need matplotlib: pip install 'gdaltools[notebook]'") from error
    _, made = pyplot.subplots(figsize=(width, height), layout="constrained")
    return made
