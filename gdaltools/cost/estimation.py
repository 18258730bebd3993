"""Estimates of an operation's time and memory, from a raster's header and a calibration.

Seconds come with a 90% interval from the calibration's model (`gdaltools.cost.calibration`); memory is the
bound of the operation's own plan. The calibration names the machine that it was measured on, and an estimate
reports where it goes beyond the measurements. (The module is not called estimate because `gdaltools.estimate`
is the function, and one name cannot be both.)

>>> one, two = (estimate_megabytes("create_cog", 8000, cores=cores) for cores in (1, 2))
>>> two.seconds < one.seconds <= one.seconds_high
True
"""

from __future__ import annotations

import math
from dataclasses import replace

from pydantic import BaseModel, ConfigDict

from gdaltools import storage
from gdaltools.cost.calibration import Calibration, load, model_for
from gdaltools.cost.workload import (
    OPERATIONS,
    VARIANTS,
    Layout,
    Operation,
    Workload,
    checked,
    layout_of,
    memory_bound_mb,
    square_layout,
)
from gdaltools.display.shown import Shown
from gdaltools.errors import InvalidParameter, one_of
from gdaltools.geo.crs import WGS84_NAME, parse_crs
from gdaltools.raster.dataset import open_dataset
from gdaltools.raster.info import RasterInfo, describe
from gdaltools.raster.roughness import is_rough
from gdaltools.storage import Location, StrPath

__all__ = [
    "OPERATIONS",
    "Estimate",
    "Layout",
    "Operation",
    "estimate",
    "estimate_layout",
    "estimate_megabytes",
    "estimate_workload",
    "layout_of",
    "layout_of_raster",
]


class Estimate(Shown, BaseModel):
    """The expected time and memory of an operation.

    Attributes
    ----------
    uncompressed_mb : float
        Pixels that the operation reads, in megabytes of 10⁶ bytes.
    seconds : float
        The median: as many runs take less as take more.
    seconds_low, seconds_high : float
        Nine of ten runs lie between these.
    peak_memory_mb : float
        The plan's bound: no run takes more.
    expected_memory_mb : float
        The median peak.
    basis : str
        The calibration that the figures come from.
    beyond : tuple of str
        What in the operation goes beyond the measurements; empty if nothing does.
    """

    model_config = ConfigDict(frozen=True)

    operation: Operation
    variant: str
    uncompressed_mb: float
    cores: int
    seconds: float
    seconds_low: float
    seconds_high: float
    peak_memory_mb: float
    expected_memory_mb: float
    basis: str
    beyond: tuple[str, ...] = ()

    @property
    def minutes(self) -> float:
        """`seconds` in minutes."""
        return self.seconds / 60

    @property
    def extrapolates(self) -> bool:
        """Whether the operation goes beyond the measurements."""
        return bool(self.beyond)

    def _rows(self) -> dict[str, str]:
        low, high = _duration(self.seconds_low), _duration(self.seconds_high)
        rows = {
            "operation": f"{self.operation} ({self.variant})",
            "input": f"{self.uncompressed_mb:,.1f} MB uncompressed",
            "time": f"about {_duration(self.seconds)} on {self.cores} core{'s' * (self.cores > 1)}"
            f" (nine of ten: {low} to {high})",
            "memory": f"about {self.expected_memory_mb:,.0f} MB, at most {self.peak_memory_mb:,.0f} MB",
            "basis": self.basis,
        }
        if self.beyond:
            rows["beyond"] = f"an extrapolation: {', '.join(self.beyond)} were not measured"
        return rows


def estimate(
    src: StrPath | Location | RasterInfo,
    operation: str = "create_cog",
    *,
    profile: str = "analysis",
    target_crs: str | None = None,
    cores: int | None = None,
    calibration: Calibration | None = None,
) -> Estimate:
    """Return the expected time and memory of an operation on a raster.

    Only the raster's header and a few small windows are read.

    Parameters
    ----------
    src : path, URL, Location or RasterInfo
        The source; for a RasterInfo nothing more is read.
    operation : str
        "create_cog" or "extract_tiles".
    profile : str
        The COG's profile.
    target_crs : str, optional
        CRS that pixels are warped to; by default EPSG:4326 for tiles, as in `generate_tiling_scheme`, and no
        warp for a COG.
    cores : int, optional
        Number of cores to work with; by default those of this machine.
    calibration : Calibration, optional
        By default the one that GDALTOOLS_CALIBRATION names, else the one in the package.

    Raises
    ------
    InvalidParameter
        The operation or profile is unknown, `cores` is not positive, or the calibration has another schema.
    SourceNotFound, UnsupportedRaster, CorruptRaster, StorageError
        As in `inspect`.

    Examples
    --------
    >>> found = estimate("scene.tif", "create_cog", profile="archive", cores=2)
    >>> found.uncompressed_mb, found.seconds_low <= found.seconds <= found.seconds_high
    (1.44, True)
    >>> estimate("scene.tif", "extract_tiles").variant  # to EPSG:4326, as a scheme by default
    'warp'
    """
    info, layout = _looked_at(src)
    tiles = operation == "extract_tiles"
    target = target_crs or (WGS84_NAME if tiles else None)
    warps = (
        target is not None
        and info.crs is not None
        and parse_crs(info.crs, "crs") != parse_crs(target, "target_crs")
    )
    variant = ("warp" if warps else "window") if tiles else profile
    return estimate_layout(
        operation, layout, variant=variant, warps=warps, cores=cores, calibration=calibration
    )


def _looked_at(src: StrPath | Location | RasterInfo) -> tuple[RasterInfo, Layout]:
    if isinstance(src, RasterInfo):
        return src, layout_of_raster(src)
    location = storage.locate(src)
    with open_dataset(location) as dataset:
        info = describe(dataset, location)
        return info, replace(layout_of_raster(info), rough=is_rough(dataset, location))


def layout_of_raster(info: RasterInfo) -> Layout:
    """Return the layout of an inspected raster: the parts of its header that decide time and memory."""
    return layout_of(
        info.dtypes,
        info.width,
        info.height,
        codec=info.compression.lower() if info.compression else None,
        stored_mb=info.size_bytes / 1e6,
        tiled=info.tiled,
        remote=storage.locate(info.location).path is None,
    )


def estimate_megabytes(
    operation: str,
    uncompressed_mb: float,
    *,
    variant: str | None = None,
    cores: int | None = None,
    calibration: Calibration | None = None,
) -> Estimate:
    """Return `estimate` for `uncompressed_mb` of pixels without a raster: for a square one of RGB.

    Parameters
    ----------
    variant, cores, calibration
        As in `estimate_layout`.

    Raises
    ------
    InvalidParameter
        There is no such operation or variant, `uncompressed_mb` is negative or not finite, `cores` is not
        positive, or the calibration has another schema.
    """
    if not 0 <= uncompressed_mb < math.inf:
        raise InvalidParameter(f"{uncompressed_mb} MB: give a size of at least 0")
    layout = square_layout(uncompressed_mb)
    found = estimate_layout(operation, layout, variant=variant, cores=cores, calibration=calibration)
    return found.model_copy(update={"uncompressed_mb": uncompressed_mb})


def estimate_layout(
    operation: str,
    layout: Layout,
    *,
    variant: str | None = None,
    warps: bool = False,
    tile_size: int | None = None,
    cores: int | None = None,
    calibration: Calibration | None = None,
) -> Estimate:
    """Return `estimate` for a raster of which only the layout is known.

    Parameters
    ----------
    variant : str, optional
        The COG's profile; "window" or "warp" for tiles. By default the slowest variant.
    warps : bool
        Whether the COG's pixels are warped; for tiles the variant decides that.
    tile_size : int, optional
        Side of the tiles; by default the automatic one.
    cores, calibration
        As in `estimate`.

    Raises
    ------
    InvalidParameter
        There is no such operation or variant, `cores` is not positive, or the calibration has another schema.
    """
    known = one_of("operation", operation, OPERATIONS)
    names = VARIANTS[known] if variant is None else (variant,)
    cores = cores if cores is not None else _cores()
    workloads = [Workload(known, name, layout, cores, warps=warps, tile_size=tile_size) for name in names]
    found = [estimate_workload(workload, calibration=calibration) for workload in workloads]
    return max(found, key=lambda each: each.seconds)


def estimate_workload(workload: Workload, *, calibration: Calibration | None = None) -> Estimate:
    """Return `estimate` for a workload.

    Raises
    ------
    InvalidParameter
        The workload has an unknown operation or variant, or no core; or the calibration has another schema.
    """
    checked(workload)
    model, owner = model_for(workload.operation, calibration or load())
    predicted, bound = model.predict(workload), memory_bound_mb(workload)
    return Estimate(
        operation=workload.operation,
        variant=workload.variant,
        uncompressed_mb=workload.layout.megabytes,
        cores=workload.cores,
        seconds=predicted.median,
        seconds_low=predicted.low,
        seconds_high=predicted.high,
        peak_memory_mb=bound,
        expected_memory_mb=bound * min(model.memory.median, 1.0),
        basis=owner.source,
        beyond=predicted.unmeasured,
    )


def _cores() -> int:
    """Return the cores that the work would use; a container's CPU quota and the process's affinity count."""
    from dask.system import CPU_COUNT

    return int(CPU_COUNT)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
