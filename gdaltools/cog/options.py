"""The options of a COG, before they are checked against a raster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rasterio.crs import CRS

Overviews = Literal["build", "keep", "none"]


@dataclass(frozen=True)
class CogOptions:
    """The arguments of `create_cog` that describe the file, unchecked."""

    profile: str = "analysis"
    raster_type: str = "auto"
    target_crs: str | CRS | None = None
    input_crs: str | CRS | None = None
    codec: str | None = None
    level: int | None = None
    size_tolerance: float | None = None
    predictor: int | str = "auto"
    quality: int = 85
    max_z_error: float = 0.0
    blocksize: int = 512
    interleave: str = "pixel"
    overviews: str = "build"
    overview_resampling: str | None = None
    reproject_resampling: str | None = None
    sparse: bool = False
    statistics: bool = False
    tms: str | None = None
    access_tier: str | None = None
