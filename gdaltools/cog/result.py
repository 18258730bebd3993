"""The result of `create_cog`: where the COG is, and how it was encoded."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from gdaltools.cog.encode.profiles import CogProfile, StorageTier, Tier
from gdaltools.display import html
from gdaltools.geo.crs import Bounds
from gdaltools.raster.detect import RasterType
from gdaltools.raster.info import left_out_rows, side_car_rows
from gdaltools.raster.maps import StoredRaster
from gdaltools.runtime.text import megabytes


class CogResult(StoredRaster, BaseModel):
    """A COG that was written, and how it was encoded.

    Attributes
    ----------
    location : str
        The path or URL of the COG.
    profile : str
        The requested tier; `tier` is the one that was used (`tier_profile.reason` says why they differ).
    storage_tier : str
        The access tier of the COG's blob, if it is a blob: "hot", "cool", "cold" or "archive".
    overview_levels : tuple of int
        The decimation factors of the overviews.
    source_crs, target_crs : str or None
        The CRS of the source and of the COG; `reprojection_performed` is True only if pixels were warped.
    bounds_4326 : tuple of 4 float or None
        left, bottom, right, top in degrees; left > right across the antimeridian.
    shape : tuple of 2 int
        (rows, cols) of the full resolution.
    quality : int or None
        The quality of JPEG or WEBP; None for other codecs.
    seconds : float
        The time from the start of the work to the published COG.
    reused : "file", "blocks" or None
        What was copied from the source unchanged: the whole file, the stored blocks of the full resolution,
        or nothing.
    source_bytes : int or None
        The size of the source in storage; None if the source is not a file.
    side_cars : tuple of str
        Files beside a local source that were not read: a mask, overviews, metadata or a world file.
    limited_to : tuple of 4 float or None
        The area of use of the target CRS (west, south, east, north in degrees), if the warp left out what is
        outside it.
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
    reused: Literal["file", "blocks"] | None = None
    source_bytes: int | None = None
    side_cars: tuple[str, ...] = ()
    limited_to: Bounds | None = None

    @property
    def uncompressed_bytes(self) -> int:
        """The size in memory of all pixels of the full resolution."""
        return self.shape[0] * self.shape[1] * self.band_count * np.dtype(self.dtype).itemsize

    def _rows(self) -> dict[str, str]:
        rows, cols = self.shape
        warped = (
            f", warped from {(self.source_crs or '').split(',')[0]}" if self.reprojection_performed else ""
        )
        return (
            {
                "location": self.location,
                "size": f"{cols} x {rows} pixels, {self.band_count} x {self.dtype}, {self._share()}",
                "tier": self.tier + (f" ({self.tier_profile.reason})" if self.tier_profile.reason else ""),
                "encoding": {"file": "copied; ", "blocks": "stored blocks copied; ", None: ""}[self.reused]
                + f"{self.compression}, predictor {self.predictor}, blocks of {self.blocksize}",
                "overviews": (", ".join(map(str, self.overview_levels)) or "none")
                + f" ({self.overview_resampling})",
                "type": self.tier_profile.type_text,
                "crs": (self.target_crs or "none").split(",")[0] + warped,
                "time": f"{self.seconds:.1f} s",
            }
            | side_car_rows(self.side_cars)
            | left_out_rows(self.limited_to)
        )

    def _share(self) -> str:
        parts = [megabytes(self.size_bytes)]
        if self.source_bytes:
            parts.append(f"{self.size_bytes / self.source_bytes:.0%} of the source")
        if self.uncompressed_bytes:
            parts.append(f"{self.size_bytes / self.uncompressed_bytes:.0%} of its pixels uncompressed")
        return ", ".join(parts)

    @property
    def levels(self) -> tuple[tuple[int, int], ...]:
        """(width, height) of every level, the full resolution first."""
        rows, cols = self.shape
        factors = (1, *self.overview_levels)
        return tuple((max(1, cols // factor), max(1, rows // factor)) for factor in factors)

    def plot(self, ax: Any = None) -> Any:
        """Draw the levels and return the matplotlib Axes; MissingExtra if matplotlib is not installed.

        Examples
        --------
        >>> gt.create_cog("scene.tif", "cog.tif", progress=False).plot().get_title()
        'cog.tif'
        """
        from gdaltools.cog.plots import plot_pyramid

        return plot_pyramid(self.levels, ax, blocksize=self.blocksize, title=self._about())

    def _parts(self) -> Iterable[html.Html]:
        rows = (
            (
                f"1/{factor}" if factor > 1 else "full",
                f"{across:,} x {down:,}",
                html.bar(across / self.shape[1]),
            )
            for factor, (across, down) in zip((1, *self.overview_levels), self.levels, strict=True)
        )
        yield html.table(("level", "pixels", "width"), rows)
        name = self.location.replace("\\", "\\\\").replace('"', '\\"')
        opening = f'import gdaltools as gt\n\narray = gt.open("{name}")'
        yield html.details("how to open it", html.code(opening))
