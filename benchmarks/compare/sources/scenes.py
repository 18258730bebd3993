"""The recipes of the sources: a scene returns rows of pixels, always the same ones for the same seed.

Real imagery is Natural Earth's relief and Blue Marble with ETOPO, at their own resolution. The rest imitates
sensor data: detail at all scales, parcels with edges, and noise that grows with the signal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.compare.sources.images import at, picture, texture

#: A function of a first row and a last one, exclusive, that returns their pixels `(rows, cols, bands)`.
Rows = Callable[[int, int], NDArray[Any]]

# Where a picture begins: Europe and Africa, so that a small source is not all sea.
_RELIEF_START = (1000, 5400)
_MARBLE_START = (300, 4000)
# Ratio of the coarse scale to the fine one; no simple number, so that their repeats do not coincide.
_COARSE = 13.37
_ORBIT_DEGREES = 11.0
# A texture exceeds these many standard deviations in a quarter and in a twentieth of its area.
_QUARTER, _TWENTIETH = 0.67, 1.64


@dataclass(frozen=True)
class Frame:
    """The frame that a scene fills: its size in pixels, its seed, and the folder for unpacked pictures."""

    width: int
    height: int
    seed: int
    folder: Path

    def rng(self, first_row: int) -> np.random.Generator:
        """Return the random generator of the rows from `first_row` on, independent of earlier draws."""
        return np.random.default_rng((self.seed, first_row))


def relief(frame: Frame) -> Rows:
    """Return Natural Earth's shaded relief, mirrored beyond its edges; uint8 RGB."""
    image = picture(["shadedrelief.jpg"], frame.folder)
    return lambda first, last: at(image, *_grid(frame, first, last, _RELIEF_START), beyond="mirror")


def blue_marble(frame: Frame) -> Rows:
    """Return Blue Marble and ETOPO side by side, mirrored beyond their edges; uint8 RGB."""
    image = picture(["bmng.jpg", "etopo1.jpg"], frame.folder)
    return lambda first, last: at(image, *_grid(frame, first, last, _MARBLE_START), beyond="mirror")


def relief_with_nodata(frame: Frame) -> Rows:
    """Return the relief with 0 in a quarter of it, in patches of all sizes; uint8 RGB."""
    pixels, patches = relief(frame), texture(frame.seed, slope=1.5)

    def rows(first: int, last: int) -> NDArray[Any]:
        hidden = at(patches, *_grid(frame, first, last, (0, 0)), beyond="repeat") > _QUARTER
        return np.asarray(np.where(hidden[..., np.newaxis], 0, np.maximum(pixels(first, last), 1)), "uint8")

    return rows


def landsat(frame: Frame) -> Rows:
    """Return an imitated satellite scene; uint8 RGB.

    It is the relief enlarged twice, with low contrast, noise, and 0 around a tilted footprint.
    """
    image = picture(["shadedrelief.jpg"], frame.folder)
    stripes = np.random.default_rng(frame.seed).normal(0, 0.3, (1, frame.width, 3)).astype("float32")

    def rows(first: int, last: int) -> NDArray[Any]:
        down, across = _grid(frame, first, last, (0, 0))
        # Pixel centres of an image twice as fine.
        down, across = ((axis + 0.5) / 2 - 0.5 for axis in (down, across))
        fine = at(image, down + _RELIEF_START[0], across + _RELIEF_START[1], beyond="mirror")
        signal = 18 + fine * np.float32(0.4) + stripes
        seen = _noisy(signal, frame.rng(first), floor=0.8, gain=0.02)
        pixels = np.clip(np.rint(seen), 1, 255)
        inside = _footprint(frame, first, last)[..., np.newaxis]
        return np.asarray(np.where(inside, pixels, 0), dtype="uint8")

    return rows


def noise_rgb(frame: Frame) -> Rows:
    """Return 1/f detail, parcels and sensor noise; uint8 RGB."""
    return _sensor(frame, bands=3, dtype="uint8", mean=105, contrast=28, floor=2.0, gain=0.12)


def noise_uint16(frame: Frame) -> Rows:
    """Return the scene of `noise_rgb` as a 12-bit sensor of four bands would see it; uint16."""
    return _sensor(frame, bands=4, dtype="uint16", mean=1400, contrast=350, floor=20.0, gain=1.5)


def elevation(frame: Frame) -> Rows:
    """Return heights in metres with centimetres of noise, and -9999 in a twentieth of the area; float32."""
    heights = texture(frame.seed, slope=2.0)
    patches = texture(frame.seed + 1, slope=1.5)

    def rows(first: int, last: int) -> NDArray[Any]:
        terrain = 900 + 450 * _fine_and_coarse(heights, frame, first, last)
        terrain += frame.rng(first).standard_normal(terrain.shape, dtype="float32") * np.float32(0.05)
        hidden = at(patches, *_grid(frame, first, last, (0, 0)), beyond="repeat") > _TWENTIETH
        return np.where(hidden, np.float32(-9999), terrain)[..., np.newaxis].astype("float32")

    return rows


def _sensor(
    frame: Frame, *, bands: int, dtype: str, mean: float, contrast: float, floor: float, gain: float
) -> Rows:
    """Return bands that share most of their detail, as bands of one scene do."""
    shared = texture(frame.seed, slope=1.0)
    own = [texture(frame.seed + 1 + band, slope=1.0) for band in range(bands)]
    parcels = np.random.default_rng(frame.seed).normal(0, 0.5, (64, 64, bands)).astype("float32")
    top = np.iinfo(dtype).max

    def rows(first: int, last: int) -> NDArray[Any]:
        detail = _fine_and_coarse(shared, frame, first, last)
        down, across = _grid(frame, first, last, (0, 0))
        # Parcel edges follow the detail.
        parcel_row = ((down[:, np.newaxis] + 20 * detail) // 61).astype("int64") % 64
        parcel_col = ((across[np.newaxis, :] + 20 * detail) // 97).astype("int64") % 64
        signal = parcels[parcel_row, parcel_col]
        for band in range(bands):
            signal[..., band] += 0.8 * detail + 0.4 * at(own[band], down, across, beyond="repeat")
        seen = _noisy(mean + contrast * signal, frame.rng(first), floor=floor, gain=gain)
        return np.asarray(np.clip(np.rint(seen), 0, top), dtype=dtype)

    return rows


def _noisy(signal: NDArray[Any], rng: np.random.Generator, *, floor: float, gain: float) -> NDArray[Any]:
    """Add read-out noise of `floor`, and shot noise whose variance is the signal times `gain`."""
    sigma = np.sqrt(floor**2 + gain * np.maximum(signal, 0))
    return np.asarray(signal + sigma * rng.standard_normal(signal.shape, dtype="float32"))


def _fine_and_coarse(image: NDArray[Any], frame: Frame, first: int, last: int) -> NDArray[Any]:
    """Return a texture at its own scale plus a much coarser one, with standard deviation 1 in total."""
    down, across = _grid(frame, first, last, (0, 0))
    fine = at(image, down, across, beyond="repeat")
    coarse = at(image, down / _COARSE, across / _COARSE, beyond="repeat")
    return np.asarray((fine + 2 * coarse) / np.sqrt(5), dtype="float32")


def _footprint(frame: Frame, first: int, last: int) -> NDArray[np.bool_]:
    """Return the mask of a swath that is tilted against north and touches all four edges."""
    angle = np.radians(_ORBIT_DEGREES)
    down = (2 * np.arange(first, last) / frame.height - 1)[:, np.newaxis]
    across = (2 * np.arange(frame.width) / frame.width - 1)[np.newaxis, :]
    half = 1 / (np.cos(angle) + np.sin(angle))
    along = across * np.cos(angle) + down * np.sin(angle)
    aside = down * np.cos(angle) - across * np.sin(angle)
    return np.asarray((abs(along) < half) & (abs(aside) < half))


def _grid(frame: Frame, first: int, last: int, start: tuple[int, int]) -> tuple[NDArray[Any], NDArray[Any]]:
    return np.arange(first, last) + start[0], np.arange(frame.width) + start[1]
