"""Choose how each type of raster is encoded in each tier: codec, predictor, block size and resampling.

A tier names the purpose of a COG: ``visualization`` (small, lossy where that does no harm), ``analysis``
(lossless, read often and by any software), ``fast`` (lossless, written and read in the least time) or
``archive`` (lossless, smallest, read rarely). Source of tiers and codecs: protocol.md §5, "COG tiers";
``fast`` is our addition.

>>> choose_profile(CogOptions("analysis"), "dem", ("float32",)).predictor
3
>>> choose_profile(CogOptions("visualization"), "dem", ("float32",)).tier
'analysis'
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict
from rasterio.enums import ColorInterp

from gdaltools.cog.options import CogOptions
from gdaltools.errors import InvalidParameter, one_of
from gdaltools.raster.detect import RASTER_TYPES, RasterType
from gdaltools.raster.tiff import BLOCK_UNIT

Tier = Literal["visualization", "analysis", "fast", "archive"]

StorageTier = Literal["hot", "cool", "cold", "archive"]
Compression = Literal["DEFLATE", "ZSTD", "LZW", "LERC", "LERC_DEFLATE", "LERC_ZSTD", "JPEG", "WEBP", "NONE"]
Predictor = Literal[1, 2, 3]
Interleave = Literal["pixel", "band"]

TIERS: tuple[Tier, ...] = get_args(Tier)
CODECS: tuple[Compression, ...] = get_args(Compression)

#: The default share by which adaptive DEFLATE may exceed the file's size at GDAL's default level.
SIZE_TOLERANCE = 0.015

# GDAL, "COG driver", OVERVIEW_RESAMPLING, in rasterio's spelling.
OVERVIEW_RESAMPLINGS = (
    "nearest",
    "average",
    "bilinear",
    "cubic",
    "cubic_spline",
    "lanczos",
    "mode",
    "rms",
)
REPROJECT_RESAMPLINGS = (
    "nearest",
    "bilinear",
    "cubic",
    "cubic_spline",
    "lanczos",
    "average",
    "mode",
    "max",
    "min",
    "med",
    "q1",
    "q3",
    "sum",
    "rms",
)
MIN_BLOCKSIZE, MAX_BLOCKSIZE = 64, 4096


class CogProfile(BaseModel):
    """How one COG is encoded.

    Attributes
    ----------
    tier : str
        The tier that is used; it differs from `requested` if that tier cannot hold the raster.
    requested : str
        The requested tier.
    reason : str or None
        Why `tier` differs from `requested`.
    raster_type : str
        The type of raster that the profile was chosen for.
    compression : str
        GDAL's name of the codec.
    level : int or None
        The codec's level as GDAL counts it; None if the codec has no levels or the encoder chooses.
    size_tolerance : float or None
        DEFLATE only: the share by which the file may exceed its size at GDAL's level 6 to save time; None
        for a fixed level.
    predictor : int
        TIFF predictor: 1 none, 2 horizontal, 3 floating point.
    quality : int or None
        The quality of JPEG or WEBP; WEBP at 100 is lossless.
    max_z_error : float
        LERC only: the largest allowed error of a sample; 0 is lossless.
    blocksize : int
        Side of a block in pixels.
    interleave : str
        "pixel" (a block holds all bands) or "band" (a block holds one band).
    overview_resampling, reproject_resampling : str
        GDAL's resampling names, in rasterio's spelling.
    storage_tier : str
        Azure access tier of the file: "hot", "cool", "cold" or "archive".
    """

    model_config = ConfigDict(frozen=True)

    tier: Tier
    requested: Tier
    reason: str | None = None
    raster_type: RasterType
    compression: Compression
    level: int | None
    size_tolerance: float | None = None
    predictor: Predictor
    quality: int | None
    max_z_error: float = 0.0
    blocksize: int
    interleave: Interleave = "pixel"
    overview_resampling: str
    reproject_resampling: str
    storage_tier: StorageTier

    @property
    def lossless(self) -> bool:
        """Whether decoding returns the full-resolution pixels bit for bit."""
        if self.compression == "WEBP":
            return self.quality == 100
        return self.compression != "JPEG" and self.max_z_error == 0


def choose_profile(
    options: CogOptions,
    raster_type: RasterType,
    dtypes: tuple[str, ...],
    *,
    sample_bits: int | None = None,
    colorinterp: Sequence[ColorInterp] = (),
) -> CogProfile:
    """Return the profile with which bands of this type and these dtypes are encoded.

    The JPEG of the visualization tier holds only three uint8 bands of colour. With alpha, a colour table,
    classes or any other dtype the tier becomes analysis, and `CogProfile.reason` says why.

    Parameters
    ----------
    raster_type : str
        What the bands show: one of `RASTER_TYPES`.
    dtypes : tuple of str
        One rasterio dtype name per band.
    sample_bits : int, optional
        Bits of a sample, if fewer than the dtype's (GDAL's NBITS).
    colorinterp : sequence of ColorInterp
        What each band is for; only alpha and palette make a difference.

    Raises
    ------
    InvalidParameter
        An option's value is not one of those that `CogOptions` lists, or the codec cannot hold these bands.
    """
    requested = one_of("profile", options.profile, TIERS)
    _check_number("quality", options.quality, 1, 100)
    _check_blocksize(options.blocksize)
    one_of("raster_type", raster_type, RASTER_TYPES)
    interleave = one_of("interleave", options.interleave, get_args(Interleave))
    classes = ColorInterp.palette in colorinterp or raster_type == "categorical"
    reason = None
    if requested == "visualization" and options.codec is None:
        reason = _why_not_jpeg(dtypes, ColorInterp.alpha in colorinterp, classes)
    effective: Tier = "analysis" if reason else requested
    if options.codec is None:
        compression = _compression(effective)
    else:
        compression = one_of("codec", str(options.codec).upper(), CODECS)
    _check_codec(compression, dtypes, sample_bits, interleave)
    return CogProfile(
        tier=effective,
        requested=requested,
        reason=reason,
        raster_type=raster_type,
        compression=compression,
        level=_level(compression, effective, options.level, options.size_tolerance),
        size_tolerance=_size_tolerance(compression, options.level, options.size_tolerance),
        predictor=_predictor(options.predictor, compression, dtypes, sample_bits),
        quality=options.quality if compression in ("JPEG", "WEBP") else None,
        max_z_error=_max_z_error(compression, options.max_z_error),
        blocksize=options.blocksize,
        interleave=interleave if len(dtypes) > 1 else "pixel",
        overview_resampling=_overview_resampling(options.overview_resampling, dtypes, classes),
        reproject_resampling=_resampling(
            "reproject_resampling",
            options.reproject_resampling or ("nearest" if classes else "bilinear"),
            REPROJECT_RESAMPLINGS,
        ),
        storage_tier=one_of(
            "access_tier",
            options.access_tier or ("cool" if effective == "archive" else "hot"),
            get_args(StorageTier),
        ),
    )


_MAX_LEVELS = {"DEFLATE": 12, "LERC_DEFLATE": 12, "ZSTD": 22, "LERC_ZSTD": 22}


def _compression(tier: Tier) -> Compression:
    if tier == "visualization":
        return "JPEG"
    if tier == "analysis":
        return "DEFLATE"
    return "ZSTD" if zstd_available() else "LZW"


def _level(
    compression: Compression, tier: Tier, level: int | None, size_tolerance: float | None
) -> int | None:
    most = _MAX_LEVELS.get(compression)
    if level is not None:
        if most is None:
            raise InvalidParameter(f"level {level!r} was given, but {compression} has no levels")
        if size_tolerance is not None:
            raise InvalidParameter(
                f"level {level!r} and size_tolerance {size_tolerance!r} exclude each other: give one of them"
            )
        _check_number("level", level, 1, most)
        return level
    if compression == "ZSTD":
        return {"fast": 3, "archive": 12}.get(tier, 9)
    return None


def _size_tolerance(compression: Compression, level: int | None, value: float | None) -> float | None:
    if value is None:
        return SIZE_TOLERANCE if compression == "DEFLATE" and level is None else None
    if compression != "DEFLATE":
        raise InvalidParameter(f"size_tolerance is for DEFLATE, and the codec is {compression}")
    if not (_is_number(value) and 0 <= value <= 1):
        raise InvalidParameter(f"size_tolerance {value!r} is not a share from 0 to 1: try 0.015")
    return float(value)


def _max_z_error(compression: Compression, value: float) -> float:
    if not (_is_number(value) and 0 <= value < float("inf")):
        raise InvalidParameter(f"max_z_error {value!r} is not a number of at least 0")
    if value and not compression.startswith("LERC"):
        raise InvalidParameter(f"max_z_error is for LERC, and the codec is {compression}")
    return float(value)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


# What a codec can hold: dtypes, numbers of bands (none: any), and what to use for the rest.
_LERC_DTYPES = {"uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"}
_HOLDS: dict[str, tuple[set[str], tuple[int, ...], str]] = {
    "JPEG": ({"uint8"}, (1, 3), "WEBP for alpha, DEFLATE or ZSTD for the rest"),
    "WEBP": ({"uint8"}, (3, 4), "DEFLATE or ZSTD"),
    "LERC": (_LERC_DTYPES, (), "DEFLATE or ZSTD"),
}


def _check_codec(
    compression: Compression, dtypes: tuple[str, ...], sample_bits: int | None, interleave: Interleave
) -> None:
    family = compression.partition("_")[0]
    if family not in _HOLDS:
        return
    held, counts, others = _HOLDS[family]
    if sample_bits or not set(dtypes) <= held or (counts and len(dtypes) not in counts):
        bands = f"{' or '.join(map(str, counts))} bands of " if counts else ""
        raise InvalidParameter(
            f"{compression} holds {bands}{', '.join(sorted(held))} and the raster has {len(dtypes)} of "
            f"{', '.join(sorted(set(dtypes)))}{f' with {sample_bits} bits' if sample_bits else ''}: "
            f"use {others}"
        )
    if counts and interleave == "band" and len(dtypes) > 1:
        raise InvalidParameter(f"{compression} encodes colours together: use interleave='pixel'")


@lru_cache(maxsize=1)
def zstd_available() -> bool:
    """Return whether GDAL's libtiff was built with ZSTD."""
    from rasterio._err import CPLE_BaseError
    from rasterio.errors import RasterioError
    from rasterio.io import MemoryFile

    shape = {"width": 16, "height": 16, "count": 1, "dtype": "uint8"}
    try:
        with MemoryFile() as memory, memory.open(driver="GTiff", compress="ZSTD", **shape):
            return True
    except (RasterioError, CPLE_BaseError):
        return False


def _why_not_jpeg(dtypes: tuple[str, ...], alpha: bool, classes: bool) -> str | None:
    if classes:
        return "JPEG would blend classes into others that do not exist"
    if alpha:
        return "JPEG cannot hold an alpha band"
    if set(dtypes) != {"uint8"}:
        return f"JPEG holds uint8 and the bands are {', '.join(sorted(set(dtypes)))}"
    if len(dtypes) != 3:
        return f"JPEG holds three bands of colour and the raster has {len(dtypes)}"
    return None


def _predictor(
    requested: int | str, compression: Compression, dtypes: tuple[str, ...], sample_bits: int | None
) -> Predictor:
    possible = _possible_predictors(compression, dtypes, sample_bits)
    if one_of("predictor", requested, ("auto", *get_args(Predictor))) == "auto":
        return possible[-1]
    if isinstance(requested, bool) or requested not in possible:
        raise InvalidParameter(
            f"predictor {requested!r} cannot be used by {compression} for {', '.join(sorted(set(dtypes)))}"
            + (f" of {sample_bits} bits" if sample_bits else "")
            + ": use 'auto'"
        )
    return possible[possible.index(requested)]


def _possible_predictors(
    compression: Compression, dtypes: tuple[str, ...], sample_bits: int | None
) -> tuple[Predictor, ...]:
    """Return the predictors that the codec has for these samples, the best last.

    libtiff, tif_predict.c: horizontal differencing works on samples of 8, 16, 32 and 64 bits, the floating
    point predictor on real floats. A complex sample counts with both its parts.
    """
    if compression not in ("DEFLATE", "ZSTD", "LZW"):
        return (1,)
    if sample_bits not in (None, 8, 16, 32, 64) or "complex128" in dtypes:
        return (1,)
    return (1, 2, 3) if set(dtypes) <= {"float32", "float64"} else (1, 2)


def _overview_resampling(requested: str | None, dtypes: tuple[str, ...], classes: bool) -> str:
    complex_values = any(d.startswith("complex") for d in dtypes)
    if requested is None:
        if classes:
            return "nearest" if complex_values else "mode"
        return "average"
    # GDAL, overview.cpp: complex samples are averaged or selected, never interpolated.
    allowed = ("nearest", "average", "rms") if complex_values else OVERVIEW_RESAMPLINGS
    return _resampling("overview_resampling", requested, allowed)


def _resampling(parameter: str, name: str, allowed: tuple[str, ...]) -> str:
    spelled = {"near": "nearest", "cubicspline": "cubic_spline"}.get(str(name).lower(), str(name).lower())
    return one_of(parameter, spelled, allowed)


def _check_number(parameter: str, value: int, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidParameter(f"{parameter} {value!r} is not a whole number from {low} to {high}")


def _check_blocksize(blocksize: int) -> None:
    _check_number("blocksize", blocksize, MIN_BLOCKSIZE, MAX_BLOCKSIZE)
    if blocksize % BLOCK_UNIT:
        raise InvalidParameter(f"blocksize {blocksize} is not a multiple of {BLOCK_UNIT}: try 256 or 512")
