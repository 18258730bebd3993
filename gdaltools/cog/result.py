"""What `create_cog` tells about the COG that it made."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from gdaltools.cog.profiles import CogProfile, StorageTier, Tier
from gdaltools.crs import Bounds
from gdaltools.detect import RasterType


class CogResult(BaseModel):
    """What was made.

    Attributes
    ----------
    location : str
        Where the COG is.
    profile : str
        The tier that was asked for; `tier` is what it became (`tier_profile.reason` says why).
    storage_tier : str
        The access tier of its blob, where it is one: "hot", "cool", "cold" or "archive".
    overview_levels : tuple of int
        The overviews' factors.
    source_crs, target_crs : str or None
        Before and after; `reprojection_performed` is True only if pixels were warped.
    bounds_4326 : tuple of 4 float or None
        left, bottom, right, top in degrees; left > right across the antimeridian.
    shape : tuple of 2 int
        (rows, cols) of the full resolution.
    quality : int or None
        None for a lossless COG.
    seconds : float
        What making it took.
    """

    model_config = ConfigDict(frozen=True)

    location: str
    profile: Tier
    tier: Tier
    storage_tier: StorageTier
    compression: str
    predictor: int
    blocksize: int
    overview_levels: tuple[int, ...]
    overview_resampling: str
    reproject_resampling: str
    reprojection_performed: bool
    source_crs: str | None
    target_crs: str | None
    bounds_4326: Bounds | None
    shape: tuple[int, int]
    band_count: int
    dtype: str
    size_bytes: int
    size_mb: float
    raster_type: RasterType
    quality: int | None
    seconds: float
    tier_profile: CogProfile

    def __str__(self) -> str:
        rows, cols = self.shape
        lines = {
            "location": self.location,
            "size": f"{cols} x {rows} pixels, {self.band_count} x {self.dtype}, {self.size_mb:,.2f} MB",
            "tier": self.tier + (f" ({self.tier_profile.reason})" if self.tier_profile.reason else ""),
            "encoding": f"{self.compression}, predictor {self.predictor}, blocks of {self.blocksize}",
            "overviews": (", ".join(map(str, self.overview_levels)) or "none")
            + f" ({self.overview_resampling})",
            "crs": (self.target_crs or "none").split(",")[0]
            + (
                f", warped from {(self.source_crs or '').split(',')[0]}"
                if self.reprojection_performed
                else ""
            ),
        }
        return "\n".join(f"{key:<10}{value}" for key, value in lines.items())
