"""The options of a COG: their names, types, defaults and meaning, for every function that takes them.

>>> CogOptions("fast", blocksize=256).quality
85
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, TypeVar

from gdaltools.geo.crs import CrsLike

Overviews = Literal["build", "keep", "none"]

_Function = TypeVar("_Function", bound=Callable[..., Any])


class EncodingKeywords(TypedDict, total=False):
    """The keywords of `CogOptions` that apply to tiles as well; absent ones have their defaults."""

    codec: str | None
    level: int | None
    size_tolerance: float | None
    quality: int
    overview_resampling: str | None


class CogKeywords(EncodingKeywords, total=False):
    """The keywords of `CogOptions`, without `profile`; absent ones have their defaults."""

    raster_type: str
    target_crs: CrsLike | None
    input_crs: CrsLike | None
    predictor: int | str
    max_z_error: float
    blocksize: int
    interleave: str
    overviews: str
    reproject_resampling: str | None
    sparse: bool
    statistics: bool
    tms: str | None
    access_tier: str | None


@dataclass(frozen=True)
class CogOptions:
    """What a COG is to be, before it is checked against a raster.

    Parameters
    ----------
    profile : str
        "analysis" (DEFLATE), "fast" (ZSTD 3), "archive" (ZSTD 12) or "visualization" (JPEG, for three uint8
        bands). Without ZSTD in GDAL, "fast" and "archive" use LZW. Where JPEG cannot hold the bands,
        "visualization" becomes "analysis" and the result says why.
    codec : str, optional
        Override the profile's codec: DEFLATE, ZSTD, LZW, LERC, LERC_DEFLATE, LERC_ZSTD, JPEG, WEBP or NONE.
    level : int, optional
        Compression level: 1 to 12 for DEFLATE, with the same bytes that GDAL writes; 1 to 22 for ZSTD.
    size_tolerance : float, optional
        DEFLATE without `level` uses the fastest encoder for each block that keeps the whole file within this
        share above its size at GDAL's level 6. The default is 0.015; 0 means level 6 itself.
    quality : int
        Quality of JPEG and WEBP, 1 to 100; WEBP at 100 is lossless.
    overview_resampling, reproject_resampling : str, optional
        GDAL's names. The defaults are average and bilinear; for classes, mode and nearest.
    raster_type : str
        rgb, rgba, dem, categorical, multispectral, nir, or "auto" to detect it.
    target_crs : str, int, mapping or CRS, optional
        Warp to this CRS. Nothing is warped if it equals the source's CRS.
    input_crs : str, int, mapping or CRS, optional
        The source's CRS, where the file has none or a wrong one.
    predictor : int or "auto"
        TIFF predictor: 1 none, 2 horizontal, 3 floating point; "auto" chooses by dtype.
    max_z_error : float
        LERC only: the largest allowed error of a sample.
    blocksize : int
        Side of a block in pixels: a multiple of 16, 64 to 4096. For rasters of very many bands it is halved,
        down to 128, while one decoded block exceeds 64 MiB.
    interleave : str
        "pixel" (a block holds all bands) or "band" (a block holds one band).
    overviews : str
        "build", "keep" (copy the source's overviews) or "none".
    sparse : bool
        Leave out blocks that hold only nodata (or only zeros, where there is no nodata value).
    statistics : bool
        Compute each band's exact minimum, maximum, mean and standard deviation in the same pass, and store
        them.
    tms : str, optional
        Warp to the grid of this tile matrix set (morecantile's name, such as "WebMercatorQuad") at the zoom
        level closest to the raster's resolution, so that each block holds whole tiles.
    access_tier : str, optional
        Azure access tier of the blob: "hot", "cool", "cold" or "archive". The default is cool for the
        profile "archive", otherwise hot. A blob in the archive tier cannot be read until it has been moved
        to another tier, which takes hours.
    """

    profile: str = "analysis"
    codec: str | None = None
    level: int | None = None
    size_tolerance: float | None = None
    quality: int = 85
    overview_resampling: str | None = None
    raster_type: str = "auto"
    target_crs: CrsLike | None = None
    input_crs: CrsLike | None = None
    predictor: int | str = "auto"
    max_z_error: float = 0.0
    blocksize: int = 512
    interleave: str = "pixel"
    overviews: str = "build"
    reproject_resampling: str | None = None
    sparse: bool = False
    statistics: bool = False
    tms: str | None = None
    access_tier: str | None = None


def spelled_out(keywords: type[EncodingKeywords]) -> Callable[[_Function], _Function]:
    """Return a decorator that shows the keywords of ``**options`` where a person looks for them.

    Editors read them from the annotation (PEP 692). IPython completes them from the signature, and `help`
    shows their description in place of the docstring's entries ``profile`` and ``**options``.
    """
    names = [name for name in CogOptions.__annotations__ if name in keywords.__annotations__]
    spelled = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=getattr(CogOptions, name),
            annotation=CogOptions.__annotations__[name],
        )
        for name in names
    ]
    described = _described({"profile", *names})

    def decorate(function: _Function) -> _Function:
        signature = inspect.signature(function)
        *own, _ = signature.parameters.values()  # the last is **options
        function.__dict__["__signature__"] = signature.replace(
            parameters=sorted([*own, *spelled], key=lambda parameter: parameter.kind)
        )
        text = inspect.cleandoc(function.__doc__ or "")
        function.__doc__ = re.sub(
            r"^profile : str.*\n(?: +.*\n)+\*\*options : .*\n(?: +.*\n)+",
            lambda _: described,
            text,
            count=1,
            flags=re.MULTILINE,
        )
        return function

    return decorate


def _described(names: set[str]) -> str:
    """Return the entries of the docstring of `CogOptions` that describe `names`."""
    _, _, section = inspect.cleandoc(CogOptions.__doc__ or "").partition("----------\n")
    entries = re.split(r"\n(?=\S)", section)
    return "".join(
        f"{entry}\n" for entry in entries if names.intersection(entry.partition(" : ")[0].split(", "))
    )
