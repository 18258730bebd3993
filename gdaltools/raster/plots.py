"""Plots of rasters: how often values occur in each band."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from gdaltools import storage
from gdaltools.display.axes import PICTURE_SIDE, new_axes
from gdaltools.raster.bands import distinct
from gdaltools.raster.dataset import open_dataset, reading
from gdaltools.raster.picture import GLANCE_PIXELS, file_name, fitting_shape, glance_cost

_BINS = 128
_COLOURS = {"Red": "#cf222e", "Green": "#1a7f37", "Blue": "#0969da"}
# Bands in a histogram; with more, the lines cannot be told apart.
_MOST_BANDS = 8


def plot_histogram(src: str, names: Sequence[str], dtypes: Sequence[str], ax: Any = None) -> Any:
    """Draw how often values occur in each band, from a sample of at most 640 x 640 valid pixels.

    Parameters
    ----------
    src : str
        The raster's location.
    names, dtypes : sequence of str
        One for each band.

    Raises
    ------
    MissingExtra
        matplotlib is not installed.
    SourceNotFound, CorruptRaster, StorageError
        The raster can no longer be read.
    """
    ax = new_axes(ax, height=3.2)
    bands, sampled = _sampled(src, names)
    found = np.concatenate([*bands.values()])
    low, high = (float(found.min()), float(found.max())) if found.size else (0.0, 1.0)
    whole = all(np.dtype(name).kind in "iu" for name in dtypes) and high - low < 4 * _BINS
    edges = np.arange(low, high + 2) - 0.5 if whole else np.linspace(low, high + 1e-12, _BINS + 1)
    for name, values in bands.items():
        counts, _ = np.histogram(values, edges)
        ax.stairs(counts / max(1, counts.sum()), edges, label=name, color=_COLOURS.get(name), linewidth=1.3)
    ax.set(xlabel="value", ylabel="share of pixels", yticks=[])
    ax.legend(fontsize=8, frameon=False)
    ax.set_title(f"{file_name(src)}, by {sampled}", fontsize=10)
    return ax


def _sampled(src: str, names: Sequence[str]) -> tuple[dict[str, NDArray[Any]], str]:
    """Return the valid values of each band by its name, and a phrase that describes the sample."""
    location = storage.locate(src)
    with open_dataset(location, verify=False) as dataset:
        rows, cols, count = dataset.height, dataset.width, min(dataset.count, _MOST_BANDS)
        window, sampled = Window(0, 0, cols, rows), "an overview"
        if glance_cost(dataset, PICTURE_SIDE) > GLANCE_PIXELS:
            across, down = min(cols, PICTURE_SIDE), min(rows, PICTURE_SIDE)
            window, sampled = Window((cols - across) // 2, (rows - down) // 2, across, down), "its middle"
        shape = fitting_shape(window.width, window.height, PICTURE_SIDE)
        with reading(location, window):
            data = dataset.read(list(range(1, count + 1)), window=window, out_shape=(count, *shape))
            seen = dataset.dataset_mask(window=window, out_shape=shape) > 0
    values = np.abs(data) if np.iscomplexobj(data) else data
    labels = distinct(names)
    bands = {label: band[seen & np.isfinite(band)] for label, band in zip(labels, values, strict=False)}
    return bands, f"{sampled} of {shape[1]} x {shape[0]} pixels"
