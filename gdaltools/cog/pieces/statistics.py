"""Statistics of bands, combined from those of pieces; nodata and masked pixels do not count."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gdaltools.raster.pixels.nodata import holding_data

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Statistics:
    """Each band's number of samples, minimum, maximum, mean, and sum of squared deviations from the mean.

    All arrays have the shape (bands,).
    """

    count: Values
    least: Values
    greatest: Values
    mean: Values
    deviations: Values

    @np.errstate(all="ignore")  # numbers near the limits of float64 overflow
    def joined(self, other: Statistics) -> Statistics:
        """Return the statistics of both parts together (Chan, Golub and LeVeque, 1979)."""
        count = self.count + other.count
        share = np.divide(other.count, count, out=np.zeros_like(count), where=count > 0)
        step = other.mean - self.mean
        return Statistics(
            count,
            np.fmin(self.least, other.least),
            np.fmax(self.greatest, other.greatest),
            self.mean + step * share,
            self.deviations + other.deviations + step**2 * self.count * share,
        )

    def tags(self, band: int) -> dict[str, str]:
        """Return GDAL's metadata items of a band, counted from 0, without those that are not finite."""
        count = self.count[band]
        if not count:
            return {}
        values = {
            "MINIMUM": self.least[band],
            "MAXIMUM": self.greatest[band],
            "MEAN": self.mean[band],
            "STDDEV": np.sqrt(self.deviations[band] / count),
        }
        return {
            f"STATISTICS_{name}": f"{value:.17g}" for name, value in values.items() if math.isfinite(value)
        }


def statistics_of(pixels: NDArray[Any], valid: NDArray[np.bool_] | None, nodata: float | None) -> Statistics:
    """Return the statistics of a piece, shape (planes, rows, cols, samples), of a real dtype."""
    planes, _, _, samples = pixels.shape
    bands = [pixels[plane, :, :, sample] for plane in range(planes) for sample in range(samples)]
    parts = [_of_band(band, valid, nodata) for band in bands]
    return Statistics(*(np.array(column, np.float64) for column in zip(*parts, strict=True)))


def joined(parts: Iterable[Statistics]) -> Statistics:
    """Return the statistics of all parts together."""
    first, *others = parts
    for part in others:
        first = first.joined(part)
    return first


@np.errstate(all="ignore")  # as in `Statistics.joined`
def _of_band(
    band: NDArray[Any], valid: NDArray[np.bool_] | None, nodata: float | None
) -> tuple[float, float, float, float, float]:
    there = holding_data(band, nodata) if valid is None else valid
    data = (band.ravel() if there is None else band[there]).astype(np.float64)
    if band.dtype.kind == "f":
        data = data[~np.isnan(data)]
    if not data.size:
        return 0.0, np.nan, np.nan, 0.0, 0.0
    mean = float(data.mean())
    return float(data.size), float(data.min()), float(data.max()), mean, float(((data - mean) ** 2).sum())
