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
from gdaltools.errors import InvalidParameter
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
    requested = _tier(options.profile)
    _check_number("quality", options.quality, 1, 100)
    _check_blocksize(options.blocksize)
    if raster_type not in RASTER_TYPES:
        raise InvalidParameter(
            f"raster_type {raster_type!r} is unknown: use auto or one of {', '.join(RASTER_TYPES)}"
        )
    if options.interleave not in get_args(Interleave):
        raise InvalidParameter(f"interleave {options.interleave!r} is unknown: use pixel or band")
    classes = ColorInterp.palette in colorinterp or raster_type == "categorical"
    reason = None
    if requested == "visualization" and options.codec is None:
        reason = _why_not_jpeg(dtypes, ColorInterp.alpha in colorinterp, classes)
    effective: Tier = "analysis" if reason else requested
    compression = _compression(effective) if options.codec is None else _codec(options.codec)
    _check_codec(compression, dtypes, sample_bits, options.interleave)
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
        interleave="pixel" if options.interleave == "pixel" or len(dtypes) == 1 else "band",
        overview_resampling=_overview_resampling(options.overview_resampling, dtypes, classes),
        reproject_resampling=_resampling(
            "reproject_resampling",
            options.reproject_resampling or ("nearest" if classes else "bilinear"),
            REPROJECT_RESAMPLINGS,
        ),
        storage_tier=_storage_tier(options.access_tier or ("cool" if effective == "archive" else "hot")),
    )


_MAX_LEVELS = {"DEFLATE": 12, "LERC_DEFLATE": 12, "ZSTD": 22, "LERC_ZSTD": 22}


def _storage_tier(name: str) -> StorageTier:
    if name not in get_args(StorageTier):
        raise InvalidParameter(f"access_tier {name!r} is unknown: use {', '.join(get_args(StorageTier))}")
    found: StorageTier = name  # type: ignore[assignment]
    return found


def _tier(name: str) -> Tier:
    if name not in TIERS:
        raise InvalidParameter(f"profile {name!r} is unknown: use one of {', '.join(TIERS)}")
    return name


def _codec(name: str) -> Compression:
    spelled = name.upper() if isinstance(name, str) else name
    if spelled not in CODECS:
        raise InvalidParameter(f"codec {name!r} is unknown: use one of {', '.join(CODECS)}")
    found: Compression = spelled
    return found


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


def _size_tolerance(compression: Compression, level: int | None, asked: float | None) -> float | None:
    if asked is not None:
        if compression != "DEFLATE":
            raise InvalidParameter(f"size_tolerance is for DEFLATE, and the codec is {compression}")
        if isinstance(asked, bool) or not isinstance(asked, (int, float)) or not 0 <= asked <= 1:
            raise InvalidParameter(f"size_tolerance {asked!r} is not a share from 0 to 1: try 0.015")
        return float(asked)
    return SIZE_TOLERANCE if compression == "DEFLATE" and level is None else None


def _max_z_error(compression: Compression, asked: float) -> float:
    if isinstance(asked, bool) or not isinstance(asked, (int, float)) or not 0 <= asked < float("inf"):
        raise InvalidParameter(f"max_z_error {asked!r} is not a number of at least 0")
    if asked and not compression.startswith("LERC"):
        raise InvalidParameter(f"max_z_error is for LERC, and the codec is {compression}")
    return float(asked)


def _check_codec(
    compression: Compression, dtypes: tuple[str, ...], sample_bits: int | None, interleave: str
) -> None:
    kinds, count = set(dtypes), len(dtypes)
    if compression == "JPEG" and (kinds != {"uint8"} or sample_bits or count not in (1, 3)):
        raise InvalidParameter(
            f"JPEG holds one or three uint8 bands and the raster has {count} of {', '.join(sorted(kinds))}: "
            "use WEBP for alpha, DEFLATE or ZSTD for the rest"
        )
    if compression == "WEBP" and (kinds != {"uint8"} or sample_bits or count not in (3, 4)):
        raise InvalidParameter(
            f"WEBP holds three or four uint8 bands and the raster has {count} of {', '.join(sorted(kinds))}: "
            "use DEFLATE or ZSTD"
        )
    if compression in ("JPEG", "WEBP") and interleave == "band" and count > 1:
        raise InvalidParameter(f"{compression} encodes colours together: use interleave='pixel'")
    if compression.startswith("LERC") and (sample_bits or not kinds <= _LERC_DTYPES):
        raise InvalidParameter(
            f"LERC holds {', '.join(sorted(_LERC_DTYPES))} and the bands are {', '.join(sorted(kinds))}"
        )


_LERC_DTYPES = {"uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"}


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
    asked: int | str, compression: Compression, dtypes: tuple[str, ...], sample_bits: int | None
) -> Predictor:
    floats = all(d in ("float32", "float64") for d in dtypes)
    # libtiff, tif_predict.c: horizontal differencing works on samples of 8, 16, 32 and 64 bits, the floating
    # point predictor on real floats. A complex sample counts with both its parts.
    bits = max(128 if d == "complex128" else 0 for d in dtypes)
    possible = sample_bits in (None, 8, 16, 32, 64) and bits <= 64
    if compression not in ("DEFLATE", "ZSTD", "LZW"):
        if asked not in ("auto", 1):
            raise InvalidParameter(f"predictor {asked!r}: {compression} has none, use 'auto'")
        return 1
    if asked == "auto":
        return (3 if floats else 2) if possible else 1
    if isinstance(asked, bool) or asked not in (1, 2, 3):
        raise InvalidParameter(f"predictor {asked!r} is unknown: use 1, 2, 3 or 'auto'")
    if (asked == 3 and not floats) or (asked == 2 and not possible):
        raise InvalidParameter(
            f"predictor {asked} cannot be used for {', '.join(sorted(set(dtypes)))}"
            + (f" of {sample_bits} bits" if sample_bits else "")
            + ": use 'auto'"
        )
    return 1 if asked == 1 else 2 if asked == 2 else 3


def _overview_resampling(asked: str | None, dtypes: tuple[str, ...], classes: bool) -> str:
    complex_values = any(d.startswith("complex") for d in dtypes)
    if asked is None:
        if classes:
            return "nearest" if complex_values else "mode"
        return "average"
    # GDAL, overview.cpp: complex samples are averaged or selected, never interpolated.
    allowed = ("nearest", "average", "rms") if complex_values else OVERVIEW_RESAMPLINGS
    return _resampling("overview_resampling", asked, allowed)


def _resampling(parameter: str, name: str, allowed: tuple[str, ...]) -> str:
    if not isinstance(name, str):
        raise InvalidParameter(f"{parameter} {name!r} is not a name: use one of {', '.join(allowed)}")
    spelled = {"near": "nearest", "cubicspline": "cubic_spline"}.get(name.lower(), name.lower())
    if spelled not in allowed:
        raise InvalidParameter(f"{parameter} {name!r} is unknown: use one of {', '.join(allowed)}")
    return spelled


def _check_number(parameter: str, value: int, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidParameter(f"{parameter} {value!r} is not a whole number from {low} to {high}")


def _check_blocksize(blocksize: int) -> None:
    _check_number("blocksize", blocksize, MIN_BLOCKSIZE, MAX_BLOCKSIZE)
    if blocksize % BLOCK_UNIT:
        raise InvalidParameter(f"blocksize {blocksize} is not a multiple of {BLOCK_UNIT}: try 256 or 512")
