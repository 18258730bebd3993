"""GDAL's own COG driver, as the oracle that ours is compared with, and the contents of a COG by level."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray

from gdaltools.cog.encode.profiles import CogProfile

_PREDICTORS = {1: "NO", 2: "STANDARD", 3: "FLOATING_POINT"}
_GDAL_RESAMPLING = {"cubic_spline": "CUBICSPLINE"}


@dataclass(frozen=True)
class Level:
    """Pixels of one level, shape `(bands, rows, cols)`, and its mask, `(rows, cols)`."""

    pixels: NDArray[Any]
    mask: NDArray[np.uint8]


def by_gdal(source: Path, target: Path, profile: CogProfile, **options: Any) -> Path:
    """Write `source` as a COG by GDAL's driver with the same encoding; GDAL's `options` take precedence."""
    asked: dict[str, Any] = {
        "compress": profile.compression,
        "blocksize": profile.blocksize,
        "overviews": "IGNORE_EXISTING",
        "overview_resampling": _GDAL_RESAMPLING.get(
            profile.overview_resampling, profile.overview_resampling.upper()
        ),
    }
    if profile.compression in ("DEFLATE", "ZSTD", "LZW"):
        asked["predictor"] = _PREDICTORS[profile.predictor]
    if profile.level is not None:
        asked["level"] = profile.level
    if profile.quality is not None:
        asked["quality"] = profile.quality
    if profile.max_z_error:
        asked["max_z_error"] = profile.max_z_error
    settings = {"GDAL_TIFF_INTERNAL_MASK": "YES", "GDAL_PAM_ENABLED": "NO", "GDAL_NUM_THREADS": "1"}
    with rasterio.Env(**settings):
        rasterio.shutil.copy(source, target, driver="COG", **asked | options)
    return target


def levels_of(path: Path | str) -> list[Level]:
    """Return every level of a file, the full resolution first."""
    with rasterio.open(path) as dataset:
        count = len(dataset.overviews(1))
        found = [_level(dataset)]
    for level in range(count):
        with rasterio.open(path, overview_level=level) as overview:
            found.append(_level(overview))
    return found


def _level(dataset: Any) -> Level:
    return Level(dataset.read(), dataset.dataset_mask())


def facts_told(path: Path | str) -> Mapping[str, Any]:
    """Return a file's metadata by name, for comparison with another file's."""
    with rasterio.open(path) as dataset:
        points, points_crs = dataset.gcps
        spaces = ["", "RPC", "COLOR_PROFILE", *dataset.tag_namespaces()]
        skipped = ("IMAGE_STRUCTURE", "DERIVED_SUBDATASETS", "TIFF")
        return {
            "shape": dataset.shape,
            "dtypes": dataset.dtypes,
            "crs": dataset.crs.to_wkt() if dataset.crs else None,
            "transform": tuple(dataset.transform),
            "gcps": [(p.row, p.col, p.x, p.y, p.z, p.id, p.info) for p in points],
            "gcps_crs": points_crs.to_wkt() if points_crs else None,
            "rpcs": dataset.rpcs,
            "nodata": repr(dataset.nodata),
            "masks": dataset.mask_flag_enums,
            "colorinterp": dataset.colorinterp,
            "colormap": _colormap(dataset),
            "descriptions": dataset.descriptions,
            "units": dataset.units,
            "scales": dataset.scales,
            "offsets": dataset.offsets,
            "tags": {name: dataset.tags(ns=name) for name in set(spaces) if name not in skipped},
            "band_tags": [
                {name: dataset.tags(band, ns=name) for name in {"", *dataset.tag_namespaces(band)}
                 if name not in skipped}
                for band in dataset.indexes
            ],
            "bits": dataset.tags(1, ns="IMAGE_STRUCTURE").get("NBITS"),
        }  # fmt: skip


def _colormap(dataset: Any) -> Any:
    try:
        return dataset.colormap(1)
    except ValueError:
        return None
