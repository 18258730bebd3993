"""What of a task decides how long it takes: the raster's layout, the operation, warp and cores, as features.

A `Workload` says what a header tells; `features` turns it into the numbers that a calibration holds a price
for. Each of them grows with the raster and shrinks, or stays, with more cores, and no price is negative: so a
larger raster never has the smaller estimate.

A worker reads a calibration at its start and does without rasterio, numpy and dask; so does this module, but
for the two functions that need them.

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

from gdaltools.errors import InvalidParameter

Operation = Literal["extract_tiles", "create_cog"]
OPERATIONS: tuple[Operation, ...] = get_args(Operation)
VARIANTS: dict[Operation, tuple[str, ...]] = {
    "create_cog": ("analysis", "archive", "visualization", "fast"),
    "extract_tiles": ("window", "warp"),
}
#: A codec of which no more is known than that there is one.
SOME_CODEC = "some"

# A file that is smaller than its pixels by more than this is compressed, whatever else is known of it.
_PLAIN_SHARE = 0.9


@dataclass(frozen=True)
class Layout:
    """What of a raster decides how much time and memory an operation on it takes.

    Attributes
    ----------
    floating : bool
        Whether samples are floating-point numbers.
    codec : str or None
        How the file is compressed, by GDAL's name in lower case; None for plain pixels.
    stored_mb : float or None
        Size on storage, megabytes of 10⁶ bytes; None where it is not known.
    tiled : bool
        Whether it is stored in tiles; else in strips.
    remote : bool
        Whether it lies in Azure, and the result goes there.
    rough : bool
        Whether bytes look like noise to a codec (`gdaltools.raster.roughness`); False also where nobody has
        looked.
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
        """Bytes of one pixel, all bands together."""
        return self.bands * self.itemsize

    @property
    def megabytes(self) -> float:
        """All pixels, uncompressed, in megabytes of 10⁶ bytes."""
        return self.width * self.height * self.pixel_bytes / 1e6

    @property
    def on_storage_mb(self) -> float:
        """`stored_mb`, or `megabytes` where that is not known."""
        return self.megabytes if self.stored_mb is None else self.stored_mb

    @property
    def sample_kind(self) -> str:
        """What codecs have a pace of their own for: byte, rough (bytes), wide (more bits) or float."""
        if self.floating:
            return "float"
        if self.itemsize > 1:
            return "wide"
        return "rough" if self.rough else "byte"


def layout_of(dtypes: tuple[str, ...], width: int, height: int, **facts: Any) -> Layout:
    """The layout of a raster whose bands are of these dtypes: all become the widest.

    `facts` are what else is known of a `Layout`.

    >>> layout_of(("uint8", "uint16"), 100, 10).itemsize, layout_of(("float32",), 100, 10).floating
    (2, True)
    """
    import numpy as np

    dtype = np.result_type(*dtypes)
    return Layout(width, height, len(dtypes), dtype.itemsize, floating=dtype.kind in "fc", **facts)


def square_layout(megabytes: float) -> Layout:
    """A square raster of RGB of so many megabytes of pixels: for where nothing else is known.

    >>> square_layout(300).width
    10000
    """
    side = max(1, math.ceil(math.sqrt(megabytes * 1e6 / 3)))
    return Layout(side, side, 3, 1)


def guessed_codec(stored_mb: float, megabytes: float) -> str | None:
    """`SOME_CODEC` where a file is smaller than its pixels; for where the header was not read.

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
        A COG's profile; "window" or "warp" of tiles.
    warps : bool
        Whether a COG's pixels are warped; of tiles the variant says it.
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
        """It as JSON holds it."""
        return asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Workload:
        """The workload that `to_dict` made a dict of.

        Raises
        ------
        InvalidParameter
            Something is missing, too much, or unknown.
        """
        try:
            found = Workload(**{**values, "layout": Layout(**values["layout"])})
        except (TypeError, KeyError) as error:
            raise InvalidParameter(f"this is no workload: {error}") from error
        return checked(found)


def checked(workload: Workload) -> Workload:
    """The workload, if there is such an operation and variant and a core to do it.

    Raises
    ------
    InvalidParameter
        There is not.
    """
    operation, variant = workload.operation, workload.variant
    if operation not in VARIANTS:
        raise InvalidParameter(f"operation {operation!r} is unknown: use one of {', '.join(OPERATIONS)}")
    if variant not in VARIANTS[operation]:
        known = ", ".join(VARIANTS[operation])
        raise InvalidParameter(f"{operation} knows no {variant!r}: use one of {known}")
    if workload.cores < 1:
        raise InvalidParameter(f"{workload.cores} cores: give at least 1")
    return workload


def features(workload: Workload) -> dict[str, float]:
    """What a workload is priced by, in megabytes or megabytes a core; what is 0 is left out."""
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
    """What an operation takes at most, by its plan's own bound; megabytes of 10⁶ bytes."""
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
