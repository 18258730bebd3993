"""Features of a task that decide its duration: the raster's layout, the operation, the warp and the cores.

A `Workload` holds what a header tells; `features` turns it into the numbers that a calibration has prices
for. Each feature grows with the raster and shrinks, or stays, with more cores, and no price is negative. So a
larger raster never gets a smaller estimate.

A worker reads a calibration at its start, without importing rasterio, numpy or dask. This module does not
import them either, except in the two functions that need them.

>>> one = Workload("create_cog", "analysis", Layout(1000, 1000, 3, 1), cores=1)
>>> features(one)
{'start': 1.0, 'start:analysis': 1.0, 'serial': 3.0, 'work:analysis:byte': 3.0, 'strips': 3.0}
>>> packed = Layout(1000, 1000, 3, 1, codec="deflate", stored_mb=0.5)
>>> features(Workload("create_cog", "analysis", packed, cores=2))["decode:deflate"]
1.5
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from gdaltools.errors import InvalidParameter, one_of

Operation = Literal["extract_tiles", "create_cog"]
OPERATIONS: tuple[Operation, ...] = get_args(Operation)
VARIANTS: dict[Operation, tuple[str, ...]] = {
    "create_cog": ("analysis", "archive", "visualization", "fast"),
    "extract_tiles": ("window", "warp"),
}
#: An unknown codec, for files that are known to be compressed.
SOME_CODEC = "some"

# A file smaller than this share of its pixels is compressed.
_PLAIN_SHARE = 0.9


@dataclass(frozen=True)
class Layout:
    """The properties of a raster that decide the time and memory of an operation on it.

    Attributes
    ----------
    floating : bool
        Whether samples are floating-point numbers.
    codec : str or None
        The file's compression, by GDAL's name in lower case; None for uncompressed pixels.
    stored_mb : float or None
        Size on storage, in megabytes of 10⁶ bytes; None if unknown.
    tiled : bool
        Whether the raster is stored in tiles; else in strips.
    remote : bool
        Whether the raster lies in Azure, and the result goes there.
    rough : bool
        Whether bytes look like noise to a codec (`gdaltools.raster.roughness`); also False if not checked.
    """

    width: int
    height: int
    bands: int
    itemsize: int
    floating: bool = False
    codec: str | None = None
    stored_mb: float | None = None
    tiled: bool = False
    remote: bool = False
    rough: bool = False

    @property
    def pixel_bytes(self) -> int:
        """The bytes of one pixel, all bands together."""
        return self.bands * self.itemsize

    @property
    def megabytes(self) -> float:
        """The size of all pixels, uncompressed, in megabytes of 10⁶ bytes."""
        return self.width * self.height * self.pixel_bytes / 1e6

    @property
    def on_storage_mb(self) -> float:
        """`stored_mb`, or `megabytes` if that is unknown."""
        return self.megabytes if self.stored_mb is None else self.stored_mb

    @property
    def sample_kind(self) -> str:
        """The kind of samples, each with its codec speed: byte, rough (bytes), wide (more bits) or float."""
        if self.floating:
            return "float"
        if self.itemsize > 1:
            return "wide"
        return "rough" if self.rough else "byte"


def layout_of(dtypes: tuple[str, ...], width: int, height: int, **facts: Any) -> Layout:
    """Return the layout of a raster whose bands have these dtypes; all bands become the widest.

    `facts` are further fields of `Layout`.

    >>> layout_of(("uint8", "uint16"), 100, 10).itemsize, layout_of(("float32",), 100, 10).floating
    (2, True)
    """
    import numpy as np

    dtype = np.result_type(*dtypes)
    return Layout(width, height, len(dtypes), dtype.itemsize, floating=dtype.kind in "fc", **facts)


def square_layout(megabytes: float) -> Layout:
    """Return the layout of a square RGB raster with `megabytes` of pixels, for when nothing else is known.

    >>> square_layout(300).width
    10000
    """
    side = max(1, math.ceil(math.sqrt(megabytes * 1e6 / 3)))
    return Layout(side, side, 3, 1)


def guessed_codec(stored_mb: float, megabytes: float) -> str | None:
    """Return `SOME_CODEC` if a file is smaller than its pixels, else None; for when the header was not read.

    >>> guessed_codec(300, 9000), guessed_codec(1000, 1000)
    ('some', None)
    """
    return SOME_CODEC if stored_mb < _PLAIN_SHARE * megabytes else None


@dataclass(frozen=True)
class Workload:
    """One operation on one raster.

    Attributes
    ----------
    variant : str
        A COG's profile; "window" or "warp" for tiles.
    warps : bool
        Whether a COG's pixels are warped; for tiles the variant decides that.
    tile_size : int or None
        Side of the tiles; None for the automatic one.
    """

    operation: Operation
    variant: str
    layout: Layout
    cores: int
    warps: bool = False
    tile_size: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the workload as a dict for JSON."""
        return asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Workload:
        """Return the workload from the dict that `to_dict` returned.

        Raises
        ------
        InvalidParameter
            A field is missing or unknown, or `checked` refuses the workload.
        """
        try:
            found = Workload(**{**values, "layout": Layout(**values["layout"])})
        except (TypeError, KeyError) as error:
            raise InvalidParameter(f"this is no workload: {error}") from error
        return checked(found)


def checked(workload: Workload) -> Workload:
    """Return the workload if its operation and variant exist and it has at least one core.

    Raises
    ------
    InvalidParameter
        The operation or variant does not exist, or there is no core.
    """
    operation, variant = workload.operation, workload.variant
    one_of("operation", operation, OPERATIONS)
    if variant not in VARIANTS[operation]:
        known = ", ".join(VARIANTS[operation])
        raise InvalidParameter(f"{operation} knows no {variant!r}: use one of {known}")
    if workload.cores < 1:
        raise InvalidParameter(f"{workload.cores} cores: give at least 1")
    return workload


def features(workload: Workload) -> dict[str, float]:
    """Return the features that a workload is priced by, in megabytes or megabytes per core, without zeros."""
    layout, cores = workload.layout, workload.cores
    share = layout.megabytes / cores
    found = {
        "start": 1.0,
        f"start:{workload.variant}": 1.0,
        "serial": layout.megabytes,
        f"work:{workload.variant}:{layout.sample_kind}": share,
    }
    if workload.operation == "create_cog" and workload.warps:
        found |= {"start:warp": 1.0, "warp": share}
    if layout.codec is not None:
        found |= {f"decode:{layout.codec}": share, "unpack": layout.on_storage_mb / cores}
    if not layout.tiled:
        found["strips"] = share
    if layout.remote:
        found["remote"] = layout.on_storage_mb
    return {name: value for name, value in found.items() if value}


def memory_bound_mb(workload: Workload) -> float:
    """Return the most memory that an operation needs, by its plan's own bound, in megabytes of 10⁶ bytes."""
    from gdaltools.cost.cog_memory import cog_memory_bound
    from gdaltools.cost.tiles_memory import auto_tile_size, tiles_memory_bound

    layout = workload.layout
    if workload.operation == "extract_tiles":
        bound = tiles_memory_bound(
            layout.width,
            layout.height,
            layout.bands,
            layout.itemsize,
            tile_size=workload.tile_size or auto_tile_size(layout.pixel_bytes),
            threads=workload.cores,
            warps=workload.variant == "warp",
        )
        return bound / 1e6
    bound = cog_memory_bound(
        layout.width,
        layout.height,
        layout.bands,
        layout.itemsize,
        warps=workload.warps,
        threads=workload.cores,
    )
    return bound / 1e6
