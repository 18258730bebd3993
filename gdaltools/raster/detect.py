"""Guess a raster's type from its header and a few of its blocks.

The guess only chooses defaults (resampling, codec); a caller who knows better passes ``raster_type``.

Classes and bit flags are not averaged: that would give values that no pixel has. They are recognised by
what the file says of the band (names, flags, a colour table), else by few distinct values without an order
in space: a measured value differs little from its neighbours', a class from any other class.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from rasterio.enums import ColorInterp
from rasterio.io import DatasetReader
from rasterio.windows import Window

from gdaltools.raster.dataset import nodata_of, numpy_dtypes, read_window
from gdaltools.raster.facts import RGB
from gdaltools.raster.pixels.nodata import holding_data
from gdaltools.storage import Location

RasterType = Literal["rgb", "rgba", "dem", "categorical", "multispectral", "nir"]
RASTER_TYPES: tuple[RasterType, ...] = get_args(RasterType)

_SAMPLED_WINDOWS = 3  # in each direction
_WINDOW = 256  # pixels a side
_FEW_CLASSES = 32
_ELEVATION_DTYPES = ("int16", "int32", "int64")
# More distinct values than these are not looked at as classes.
_MOST_CLASSES = 1024
_ELEVATION_WORDS = ("elev", "dem", "dsm", "dtm", "height", "altitude", "bathy", "terrain")
# Bit flags and classes of known products: Landsat, Sentinel-2, VIIRS, NLCD, and what others call theirs.
_PRODUCT = re.compile(
    r"(?<![a-z])(qa_?(pixel|radsat|aerosol|60)|bqa|scl|cldmsk|fmask|state_1km|lulc|lucc|nlcd|cdl|worldcover"
    r"|corine|clc|land[ _-]?(cover|use))(?![a-z])"
)
_CLASS_WORD = re.compile(
    r"(?<![a-z])(class(es|ification|ified)?|categor(y|ies|ical)|masks?|flags?|bit ?mask|bit ?field"
    r"|qa|quality)(?![a-z])"
)
_SHARE_WORDS = ("probab", "fraction", "percent", "confidence", "distance")
_NO_UNITS = (
    "",
    "1",
    "-",
    "none",
    "unitless",
    "dimensionless",
    "code",
    "class",
    "classes",
    "bits",
    "bit field",
    "flags",
)
_NIR_WORDS = ("nir", "near infrared", "near-infrared", "near_infrared", "infrared")


class Detection(BaseModel):
    """A raster's type, the confidence in it (0 to 1), and the reason for it."""

    model_config = ConfigDict(frozen=True)

    raster_type: RasterType
    confidence: float
    reason: str


def detect(dataset: DatasetReader, location: Location) -> Detection:
    """Return the type of an open raster; reads at most nine small windows of a band (of two bands, if it
    has two or more than four), never the whole raster.

    Raises
    ------
    CorruptRaster
        One of the sampled blocks cannot be decoded.
    """
    interp = dataset.colorinterp
    words = _words(dataset)
    if dataset.count == 1:
        return _detect_single(dataset, location, interp[0], words)
    names = [name.lower() if name else "" for name in dataset.descriptions]
    flags = [band for band, name in zip(dataset.indexes, names, strict=True) if _described_as_classes(name)]
    if len(flags) == dataset.count:
        return _found("categorical", 0.9, f"{dataset.count} bands, all described as classes or flags")
    found = _detect_several(dataset, location, interp, words)
    if not flags:
        return found
    listed = ", ".join(f"{band} ({dataset.descriptions[band - 1]})" for band in flags[:4])
    reason = (
        f"{found.reason}; band {listed} is described as classes or flags but is resampled like the others"
    )
    return found.model_copy(update={"reason": reason})


def _detect_several(
    dataset: DatasetReader, location: Location, interp: tuple[ColorInterp, ...], words: str
) -> Detection:
    if dataset.count in (3, 4) and _floating(dataset):
        return _found("multispectral", 0.7, f"{dataset.count} bands of floating-point numbers")
    if dataset.count == 3:
        if interp == RGB:
            return _found("rgb", 0.95, "three bands, marked red, green, blue")
        return _found("rgb", 0.8 if dataset.dtypes[0] == "uint8" else 0.6, f"three {dataset.dtypes[0]} bands")
    if dataset.count == 4:
        return _detect_four(dataset, location, interp, words)
    complex_values = any(np.dtype(name).kind == "c" for name in numpy_dtypes(dataset))
    if interp[-1] != ColorInterp.alpha and not complex_values and not _scaled(dataset):
        ends = [_examine(dataset, location, band) for band in (1, dataset.count)]
        if all(end.classes and end.distinct > 1 for end in ends):
            return _found("categorical", 0.6, f"{dataset.count} bands, the first and last of {ends[0].seen}")
    return _found("multispectral", 0.5 if dataset.count == 2 else 0.9, f"{dataset.count} bands")


def _detect_four(
    dataset: DatasetReader, location: Location, interp: tuple[ColorInterp, ...], words: str
) -> Detection:
    # GDAL's writers mark a fourth band as alpha by themselves, so a description takes precedence.
    if any(word in words for word in _NIR_WORDS):
        return _found("nir", 0.95, "four bands, one described as near infrared")
    if interp[3] == ColorInterp.alpha:
        return _found("rgba", 0.95, "four bands, the last marked alpha")
    if getattr(interp[3], "name", "") in ("nir", "NIR"):
        return _found("nir", 0.95, "four bands, the last marked near infrared")
    if _alpha_like(np.concatenate([w.ravel() for w in _windows(dataset, location, 4)]), dataset.dtypes[3]):
        return _found("rgba", 0.8, "four bands, the last only fully opaque or transparent")
    return _found("nir", 0.7, "four bands, the last a continuous one")


def _detect_single(dataset: DatasetReader, location: Location, interp: ColorInterp, words: str) -> Detection:
    dtype = np.dtype(numpy_dtypes(dataset)[0])
    if interp == ColorInterp.palette:
        return _found("categorical", 0.95, "one band with a colour table")
    flags = any(key.lower().startswith("flag_") for key in dataset.tags(1))
    described = flags or _described_as_classes(words) or bool(_PRODUCT.search(location.stem.lower()))
    if described and dtype.kind in "iuf":
        examined = _examine(dataset, location, 1)
        if examined.coded:
            return _found(
                "categorical", 0.9, f"one band, named or described as classes or flags, of {examined.seen}"
            )
    if any(word in words for word in _ELEVATION_WORDS):
        return _found("dem", 0.95, "one band, described as elevation")
    measured: RasterType = "dem" if dtype.kind in "fc" or dtype.name in _ELEVATION_DTYPES else "multispectral"
    if dtype.kind == "c":
        return _found(measured, 0.8, "one band of complex numbers")
    if _scaled(dataset):
        return _found(measured, 0.8, f"one {dtype.name} band with a unit or a scale")
    examined = _examine(dataset, location, 1)
    if examined.classes:
        return _found("categorical", 0.7, f"one {dtype.name} band of {examined.seen}")
    if dtype.kind == "f":
        return _found(measured, 0.8, f"one band of floating-point numbers, {examined.seen}")
    if measured == "dem":
        return _found(measured, 0.75, f"one {dtype.name} band of {examined.seen}")
    return _found(measured, 0.5, f"one {dtype.name} band of {examined.seen}: imagery")


def _described_as_classes(words: str) -> bool:
    if any(word in words for word in _SHARE_WORDS):
        return False
    return bool(_PRODUCT.search(words) or _CLASS_WORD.search(words))


def _scaled(dataset: DatasetReader) -> bool:
    """Return whether the first band has a physical unit, a scale or an offset: its values are measured."""
    unit = (dataset.units[0] or "").strip().lower()
    return unit not in _NO_UNITS or (dataset.scales[0], dataset.offsets[0]) != (1.0, 0.0)


@dataclass(frozen=True)
class _Examined:
    """What a sample of a band shows.

    `coded` is whether its values could be codes at all, `classes` whether they seem to be.
    """

    distinct: int
    coded: bool
    classes: bool
    seen: str


def _examine(dataset: DatasetReader, location: Location, band: int) -> _Examined:
    """Return what up to nine windows of `band` show; fewer are read if the first say that it is measured."""
    nodata = nodata_of(dataset, band)
    windows: list[tuple[NDArray[Any], NDArray[np.bool_]]] = []
    distinct = np.empty(0, numpy_dtypes(dataset)[band - 1])
    for window in _windows(dataset, location, band):
        valid = np.isfinite(window)
        if (there := holding_data(window, nodata)) is not None:
            valid &= there
        windows.append((window, valid))
        distinct = np.union1d(distinct, window[valid])
        if distinct.size > _MOST_CLASSES:
            return _Examined(distinct.size, coded=False, classes=False, seen="many values")
        if distinct.dtype.kind == "f" and (distinct != np.rint(distinct)).any():
            return _Examined(distinct.size, coded=False, classes=False, seen="some of them not whole")
    if not distinct.size:
        return _Examined(
            0, coded=distinct.dtype.kind in "iu", classes=False, seen="no valid values in a sample"
        )
    classes, why = _seem_classes(distinct, windows)
    seen = f"{distinct.size} distinct value{'s' * (distinct.size > 1)} in a sample, {why}"
    return _Examined(distinct.size, coded=True, classes=classes, seen=seen)


def _seem_classes(
    distinct: NDArray[Any], windows: Sequence[tuple[NDArray[Any], NDArray[np.bool_]]]
) -> tuple[bool, str]:
    """Return whether values seem to be classes, and why.

    Parameters
    ----------
    distinct : array
        The sorted distinct values of all windows; whole numbers.
    windows : sequence of (array, array)
        Pixels, shape (rows, cols), and whether each is valid.
    """
    kind, count = distinct.dtype, distinct.size
    counts = np.zeros(count, np.int64)
    jumps = np.zeros(count, np.int64)  # pairs of neighbours, by the difference of their ranks
    for window, valid in windows:
        ranks = np.searchsorted(distinct, np.where(valid, window, distinct[0]))
        counts += np.bincount(ranks[valid], minlength=count)
        for here, there in ((np.s_[:, 1:], np.s_[:, :-1]), (np.s_[1:], np.s_[:-1])):
            both = valid[here] & valid[there]
            jumps += np.bincount(np.abs(ranks[here] - ranks[there])[both], minlength=count)
    samples, pairs, differing = int(counts.sum()), int(jumps.sum()), int(jumps[1:].sum())
    may_be_elevation = kind.kind == "f" or kind.name in _ELEVATION_DTYPES
    steps = np.diff(distinct.astype("float64"))
    low = float(distinct[0])
    if count == 1:
        return not may_be_elevation, "the same everywhere"
    if count == 2:
        return low <= 1 or steps[0] != 1, "two"
    if samples < 4 * count:
        return False, "few of them repeated"
    if not differing:
        return count <= _FEW_CLASSES, "never side by side"
    unit = float(np.gcd.reduce(steps.astype(np.int64))) if steps.max() < 2**62 else 1.0
    # The rare values of a long tail have gaps between them.
    frequent = np.flatnonzero(counts >= samples / 1000)
    core = slice(frequent[0], frequent[-1] + 1)
    width = core.stop - core.start
    dense = width >= 0.8 * (steps[core.start : core.stop - 1].sum() / unit + 1)
    equal = float(jumps[0] / pairs)
    shares = counts / samples
    by_chance = float((shares**2).sum())
    patches = equal > by_chance + 0.2 * (1 - by_chance)
    # How far neighbours' ranks differ beyond the next rank, against pairs drawn by chance: 0 to about 1.
    ranks = np.arange(count)
    chances = np.outer(shares, shares)
    apart = np.abs(ranks[:, None] - ranks[None, :])
    expected = float((chances * apart).sum() / (1 - by_chance)) - 1
    found = float((jumps * ranks).sum() / differing) - 1
    disorder = found / expected if expected > 0 else 1.0
    if dense and _one_peak(counts[core]) and (width >= 8 or (not patches and (width >= 5 or low > 1))):
        return False, "without gaps and around one peak, like counts or noise"
    if not may_be_elevation and count <= 4 and low <= 1 and patches:
        return True, "few and in patches"
    if disorder < (0.2 if equal > 0.8 else 0.5):
        return False, "neighbours close to each other"
    if count <= _FEW_CLASSES:
        return True, "neighbours as far apart as any others"
    narrow = kind.itemsize == 1
    return (
        patches and equal > 0.6 and disorder >= 0.5 and not (dense and narrow),
        "neighbours far apart" + (", in patches" if patches else ""),
    )


def _one_peak(counts: NDArray[np.int64]) -> bool:
    """Return whether counts rise to one clear peak and fall after it, but for chance."""
    peak = int(counts.argmax())
    slack = 3 * np.sqrt(counts) + 1
    up, down = np.diff(counts[: peak + 1]), np.diff(counts[peak:])
    rises = bool((up >= -slack[:peak]).all()) and bool((down <= slack[peak:][:-1]).all())
    edge = max(counts[0] if peak else 0, counts[-1] if peak < counts.size - 1 else 0)
    return rises and edge < 0.5 * counts[peak] and counts.min() < 0.2 * counts[peak]


def _words(dataset: DatasetReader) -> str:
    texts = [text for text in (*dataset.descriptions, *dataset.units) if text]
    texts += [v for band in dataset.indexes for v in dataset.tags(band).values()][:64]
    return " ".join(texts).lower()


def _floating(dataset: DatasetReader) -> bool:
    return any(np.dtype(name).kind in "fc" for name in numpy_dtypes(dataset))


def _alpha_like(values: NDArray[Any], dtype: str) -> bool:
    distinct = set(np.unique(values).tolist())
    return bool(distinct) and distinct <= {0, 1, 255, np.iinfo(dtype).max} and bool(distinct - {0})


def _windows(dataset: DatasetReader, location: Location, band: int) -> Iterator[NDArray[Any]]:
    """Yield up to nine windows of `band` that are spread over the raster, the middle one first.

    Each window begins at the edge of a block.
    """
    rows, cols = dataset.block_shapes[band - 1]
    height = min(_WINDOW, max(rows, 16), dataset.height)
    width = min(_WINDOW, dataset.width)
    shares = [i / (_SAMPLED_WINDOWS - 1) for i in range(_SAMPLED_WINDOWS)]
    row_offs = sorted({int(share * (dataset.height - height)) // rows * rows for share in shares})
    col_offs = sorted({int(share * (dataset.width - width)) // cols * cols for share in shares})
    places = [(row, col) for row in row_offs for col in col_offs]
    middle = places.pop(len(places) // 2)
    for row, col in (middle, *places):
        # A window of nodata says nothing, but costs as little as any other.
        window = Window(col, row, min(width, dataset.width - col), min(height, dataset.height - row))
        yield read_window(dataset, location, window, indexes=[band])[0]


def _found(raster_type: RasterType, confidence: float, reason: str) -> Detection:
    return Detection(raster_type=raster_type, confidence=confidence, reason=reason)
