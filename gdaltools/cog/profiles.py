"""How each kind of raster is encoded in each tier: codec, predictor, block size and resampling.

A tier says what a COG is for: ``visualization`` (small, lossy where that cannot hurt), ``analysis``
(lossless, read often) or ``archive`` (lossless, smallest, read rarely). Tiers and codecs: protocol.md §5,
"COG tiers".

>>> choose_profile("analysis", raster_type="dem", dtypes=("float32",)).predictor
3
>>> choose_profile("visualization", raster_type="dem", dtypes=("float32",)).tier
'analysis'
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict

from gdaltools.detect import RASTER_TYPES, RasterType
from gdaltools.errors import InvalidParameter

Tier = Literal["visualization", "analysis", "archive"]

StorageTier = Literal["hot", "cool"]
Compression = Literal["JPEG", "DEFLATE", "ZSTD", "LZW"]
Predictor = Literal[1, 2, 3]

TIERS: tuple[Tier, ...] = get_args(Tier)

# GDAL, "COG driver", OVERVIEW_RESAMPLING; in rasterio's spelling.
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
# TIFF 6.0 §15: tile sides are multiples of 16.
BLOCK_STEP = 16
MIN_BLOCKSIZE, MAX_BLOCKSIZE = 64, 4096


class CogProfile(BaseModel):
    """How one COG is encoded.

    Attributes
    ----------
    tier : str
        What was chosen; it differs from `requested` where that tier cannot hold the raster.
    requested : str
        What was asked for.
    reason : str or None
        Why `tier` is not `requested`.
    raster_type : str
        The kind of raster it was chosen for.
    compression : str
        GDAL's name of the codec.
    level : int or None
        The codec's level, None for those without.
    predictor : int
        TIFF's predictor: 1 none, 2 horizontal, 3 floating point.
    quality : int or None
        JPEG's quality.
    blocksize : int
        Side of a block, pixels.
    overview_resampling, reproject_resampling : str
        GDAL's resampling names, in rasterio's spelling.
    storage_tier : str
        Where such files belong: "hot" or "cool".
    """

    model_config = ConfigDict(frozen=True)

    tier: Tier
    requested: Tier
    reason: str | None = None
    raster_type: RasterType
    compression: Compression
    level: int | None
    predictor: Predictor
    quality: int | None
    blocksize: int
    overview_resampling: str
    reproject_resampling: str
    storage_tier: StorageTier

    @property
    def lossless(self) -> bool:
        """Whether full-resolution pixels come back bit for bit."""
        return self.compression != "JPEG"


def choose_profile(
    tier: str,
    *,
    raster_type: RasterType,
    dtypes: tuple[str, ...],
    sample_bits: int | None = None,
    alpha: bool = False,
    colour_table: bool = False,
    jpeg_quality: int = 85,
    blocksize: int = 512,
    overview_resampling: str | None = None,
    reproject_resampling: str | None = None,
) -> CogProfile:
    """The profile of a raster of this type, these bands' dtypes and this tier.

    JPEG holds three uint8 bands of colours and nothing else here: with alpha, a colour table, classes or any
    other dtype the visualization tier becomes analysis, and `CogProfile.reason` says so.

    Parameters
    ----------
    tier : str
        "visualization", "analysis" or "archive".
    raster_type : str
        What the bands show.
    dtypes : tuple of str
        One rasterio dtype name a band.
    sample_bits : int, optional
        Bits of a sample where that is less than the dtype's (GDAL's NBITS).
    alpha, colour_table : bool
        Whether a band is alpha, or indexes a colour table.
    jpeg_quality : int
        1 to 100.
    blocksize : int
        Side of a block: a multiple of 16, 64 to 4096.
    overview_resampling, reproject_resampling : str, optional
        GDAL's names; by default averages and bilinear for quantities, mode and nearest for classes.

    Raises
    ------
    InvalidParameter
        A value is not among those above.
    """
    requested = _tier(tier)
    _check_number("jpeg_quality", jpeg_quality, 1, 100)
    _check_blocksize(blocksize)
    if raster_type not in RASTER_TYPES:
        raise InvalidParameter(
            f"raster_type {raster_type!r} is unknown: use one of {', '.join(RASTER_TYPES)}"
        )
    classes = colour_table or raster_type == "categorical"
    reason = _why_not_jpeg(dtypes, alpha, classes) if requested == "visualization" else None
    effective: Tier = "analysis" if reason else requested
    compression = _compression(effective)
    return CogProfile(
        tier=effective,
        requested=requested,
        reason=reason,
        raster_type=raster_type,
        compression=compression,
        level=_LEVELS[compression],
        predictor=_predictor(dtypes, sample_bits) if compression != "JPEG" else 1,
        quality=jpeg_quality if compression == "JPEG" else None,
        blocksize=blocksize,
        overview_resampling=_overview_resampling(overview_resampling, dtypes, classes),
        reproject_resampling=_resampling(
            "reproject_resampling",
            reproject_resampling or ("nearest" if classes else "bilinear"),
            REPROJECT_RESAMPLINGS,
        ),
        storage_tier="cool" if effective == "archive" else "hot",
    )


# GDAL's own defaults (DEFLATE 6, ZSTD 9), written out so that a change there changes nothing here.
_LEVELS: dict[Compression, int | None] = {"DEFLATE": 6, "ZSTD": 9, "LZW": None, "JPEG": None}


def _tier(name: str) -> Tier:
    if name not in TIERS:
        raise InvalidParameter(f"profile {name!r} is unknown: use one of {', '.join(TIERS)}")
    return name


def _compression(tier: Tier) -> Compression:
    if tier == "visualization":
        return "JPEG"
    if tier == "analysis":
        return "DEFLATE"
    return "ZSTD" if zstd_available() else "LZW"


@lru_cache(maxsize=1)
def zstd_available() -> bool:
    """Whether this GDAL's libtiff was built with ZSTD."""
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


def _predictor(dtypes: tuple[str, ...], sample_bits: int | None) -> Predictor:
    # libtiff, tif_predict.c: horizontal differencing of 8, 16, 32 and 64-bit samples, floating point of
    # real floats; a complex sample counts with both its halves.
    bits = {"complex128": 128}
    if sample_bits not in (None, 8, 16, 32, 64) or any(bits.get(d, 0) > 64 for d in dtypes):
        return 1
    if all(d in ("float32", "float64") for d in dtypes):
        return 3
    return 2


def _overview_resampling(asked: str | None, dtypes: tuple[str, ...], classes: bool) -> str:
    complex_values = any(d.startswith("complex") for d in dtypes)
    if asked is None:
        if classes:
            return "nearest" if complex_values else "mode"
        return "average"
    # GDAL, overview.cpp: complex samples are averaged or picked, never interpolated.
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
    if blocksize % BLOCK_STEP:
        raise InvalidParameter(f"blocksize {blocksize} is not a multiple of {BLOCK_STEP}: try 256 or 512")
