"""Many COGs as one map: a MosaicJSON document that says which of them each map tile needs.

The document (`gdaltools.catalog.mosaicjson`) is made from the COGs' footprints, which are read here, so that
their names stay exactly as they were given.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import dask
from pydantic import BaseModel, ConfigDict, ValidationError

from gdaltools import storage
from gdaltools.catalog.mosaicjson import LATITUDE_LIMIT, MosaicDocument, quadkey_zoom, tiles_of
from gdaltools.display.progress import ProgressOption
from gdaltools.display.reporting import reporting
from gdaltools.errors import InvalidParameter, UnsupportedRaster
from gdaltools.geo.crs import METRES_A_DEGREE, Bounds, union
from gdaltools.geo.footprint import geographic_bounds, hull
from gdaltools.geo.footprint import parts as cut
from gdaltools.raster.maps import OnMap
from gdaltools.raster.picture import file_name
from gdaltools.runtime import graph
from gdaltools.storage import Location, StrPath

# Web Mercator: metres a pixel at zoom 0.
_ZOOM_0_METRES = 156_543.033928
_TILE_PIXELS = 256
_MAX_ZOOM = 24
# Degrees; a raster of no height or width has this much.
_LEAST_SIDE = 1e-7


class MosaicResult(OnMap, BaseModel):
    """The document that was written.

    Attributes
    ----------
    tile_count : int
        COGs in the mosaic.
    quadkey_count : int
        Map tiles of zoom `quadkey_zoom` that have any of them.
    bounds : tuple of 4 float
        left, bottom, right, top in EPSG:4326.
    center : tuple of 3
        Longitude, latitude and zoom to begin at.
    cogs : tuple of str
        As they are named in the document.
    left_out : tuple of str
        COGs that lie wholly beyond the latitudes of Web Mercator (85.05°), where web maps end.
    """

    model_config = ConfigDict(frozen=True)

    location: str
    name: str
    tile_count: int
    quadkey_count: int
    quadkey_zoom: int
    minzoom: int
    maxzoom: int
    bounds: Bounds
    center: tuple[float, float, int]
    cogs: tuple[str, ...]
    left_out: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"{self.location}: {self.tile_count} COGs, zoom {self.minzoom} to {self.maxzoom}, "
            f"{self.quadkey_count} quadkeys, bounds {', '.join(f'{value:.6g}' for value in self.bounds)}"
            + (f"; {len(self.left_out)} COGs beyond web maps left out" if self.left_out else "")
        )

    def _rows(self) -> dict[str, str]:
        rows = {
            "location": self.location,
            "COGs": f"{self.tile_count}",
            "zoom": f"{self.minzoom} to {self.maxzoom}, {self.quadkey_count} quadkeys of {self.quadkey_zoom}",
            "bounds": ", ".join(f"{value:.6g}" for value in self.bounds),
        }
        if self.left_out:
            rows["left out"] = f"{len(self.left_out)} COGs beyond web maps"
        return rows

    def _on_map(self) -> dict[str, Any]:
        left, _, right, _ = self.bounds
        # Bounds over half of the world may be those of COGs on both sides of the antimeridian.
        return {"sources": self.cogs, "bounds": self.bounds if right - left < 180 else None}

    def _about(self) -> str:
        return file_name(self.location)


@dataclass(frozen=True)
class _Footprint:
    name: str
    bounds: Bounds  # left > right across the antimeridian
    minzoom: int
    maxzoom: int
    dtype: str

    @property
    def beyond_web_maps(self) -> bool:
        """Whether no part of it lies where web maps are drawn."""
        return self.bounds[1] >= LATITUDE_LIMIT or self.bounds[3] <= -LATITUDE_LIMIT


def create_mosaicjson(
    cogs: Sequence[StrPath | Location],
    dst: StrPath | Location,
    *,
    minzoom: int | None = None,
    maxzoom: int | None = None,
    name: str = "mosaic",
    overwrite: bool = False,
    progress: ProgressOption = "auto",
) -> MosaicResult:
    """Write the MosaicJSON of `cogs` to `dst`, whole or not at all.

    Parameters
    ----------
    cogs : sequence of path, URL or Location
        Where they overlap, the first is drawn first.
    minzoom, maxzoom : int, optional
        0 to 24. By default maxzoom is the finest COG's resolution, minzoom the zoom at which the coarsest
        overview of the COGs fits one map tile.
    name : str
        What the document calls itself.

    Raises
    ------
    InvalidParameter
        There are no COGs, a zoom is out of range, or the COGs' dtypes differ.
    UnsupportedRaster
        A COG has no CRS, or all lie beyond the latitudes of Web Mercator (85.05°).
    SourceNotFound, CorruptRaster, TargetExists, StorageError
        A COG cannot be read, or the target exists or cannot be written.

    Examples
    --------
    >>> create_mosaicjson(["scene.tif"], "mosaic.json", progress=False).tile_count
    1
    """
    check_cogs(cogs, "mosaic")
    for parameter, value in (("minzoom", minzoom), ("maxzoom", maxzoom)):
        _check_zoom(parameter, value)
    target = storage.locate(dst)
    storage.check_target(target, overwrite=overwrite)
    named = list(dict.fromkeys(str(cog) if isinstance(cog, Location) else os.fspath(cog) for cog in cogs))
    tasks = [dask.delayed(_footprint, pure=False)(cog) for cog in named]
    with reporting(progress, label="mosaic", total=len(tasks), unit="COGs") as advance:
        footprints = cast(list[_Footprint], graph.run(tasks, ended=lambda *_: advance(1)))
    left_out = tuple(footprint.name for footprint in footprints if footprint.beyond_web_maps)
    footprints = [footprint for footprint in footprints if not footprint.beyond_web_maps]
    _check_drawable(footprints, left_out)
    low, high = _zooms(footprints, minzoom, maxzoom)
    document = _document(footprints, name, low, high)
    content = document.model_dump_json().encode()
    storage.write_bytes(target, content, overwrite=overwrite)
    return MosaicResult(
        location=str(target),
        name=name,
        tile_count=len(footprints),
        quadkey_count=len(document.tiles),
        quadkey_zoom=document.quadkey_zoom,
        minzoom=low,
        maxzoom=high,
        bounds=document.bounds,
        center=document.center,
        cogs=tuple(footprint.name for footprint in footprints),
        left_out=left_out,
    )


def check_cogs(cogs: Sequence[StrPath | Location], goal: str) -> None:
    """Refuse a single name in place of a list of COGs, and an empty list.

    Raises
    ------
    InvalidParameter
        It is one of these.
    """
    if isinstance(cogs, (str, os.PathLike, Location)):
        raise InvalidParameter(f"cogs is the single name {str(cogs)!r}: give a list of names")
    if not cogs:
        raise InvalidParameter(f"a {goal} of no COGs is empty: give at least one")


def _check_drawable(footprints: list[_Footprint], left_out: tuple[str, ...]) -> None:
    if not footprints:
        raise UnsupportedRaster(
            f"{left_out[0]} lies beyond 85.05 degrees of latitude, where web maps end, as all the COGs do: "
            "make no mosaic of them (create_mosaicjson=false in a job)"
        )
    dtypes = sorted({footprint.dtype for footprint in footprints})
    if len(dtypes) > 1:
        raise InvalidParameter(f"the COGs' dtypes differ ({', '.join(dtypes)}): make a mosaic of each")


def _check_zoom(parameter: str, value: int | None) -> None:
    if value is not None and (
        isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MAX_ZOOM
    ):
        raise InvalidParameter(f"{parameter} {value!r} is not a whole number from 0 to {_MAX_ZOOM}")


def _zooms(footprints: list[_Footprint], minzoom: int | None, maxzoom: int | None) -> tuple[int, int]:
    high = max(f.maxzoom for f in footprints) if maxzoom is None else maxzoom
    low = min(max(f.minzoom for f in footprints), high) if minzoom is None else minzoom
    if minzoom is not None and maxzoom is None:
        high = max(high, low)
    if low > high:
        raise InvalidParameter(f"minzoom {low} is above maxzoom {high}: exchange them")
    return low, high


def _footprint(cog: str) -> _Footprint:
    """Where a COG lies, from its header."""
    from gdaltools.raster.dataset import open_dataset

    location = storage.locate(cog)
    with open_dataset(location, verify=False) as dataset:
        left, bottom, right, top = geographic_bounds(dataset, location)
        width, height, dtype = dataset.width, dataset.height, str(dataset.dtypes[0])
    finest = _metres_a_pixel((left, bottom, right, top), width, height)
    maxzoom = min(max(round(math.log2(_ZOOM_0_METRES / finest)), 0), _MAX_ZOOM)
    halvings = math.ceil(math.log2(max(max(width, height) / _TILE_PIXELS, 1)))
    return _Footprint(cog, (left, bottom, right, top), max(maxzoom - halvings, 0), maxzoom, dtype)


def _metres_a_pixel(bounds: Bounds, width: int, height: int) -> float:
    """The finer side of a pixel, in Web Mercator's metres at the latitude nearest to the equator."""
    left, bottom, right, top = bounds
    across = right - left if right > left else right - left + 360
    nearest = 0.0 if bottom <= 0 <= top else min(abs(bottom), abs(top))
    stretch = 1 / math.cos(math.radians(min(nearest, LATITUDE_LIMIT)))
    x = max(across, _LEAST_SIDE) * METRES_A_DEGREE / width
    y = max(top - bottom, _LEAST_SIDE) * METRES_A_DEGREE * stretch / height
    return min(x, y)


def _document(footprints: list[_Footprint], name: str, minzoom: int, maxzoom: int) -> MosaicDocument:
    parts = [(f.name, part) for f in footprints for part in cut(f.bounds)]
    west, _, east, _ = hull([f.bounds for f in footprints])
    middle = (west + east) / 2 if west <= east else (west + east) / 2 % 360 - 180
    bounds = union([part for _, part in parts])
    boxes = [
        (cog, (left, max(bottom, -LATITUDE_LIMIT), right, min(top, LATITUDE_LIMIT)))
        for cog, (left, bottom, right, top) in parts
    ]
    zoom = quadkey_zoom([box for _, box in boxes], minzoom)
    try:
        return MosaicDocument(
            name=name,
            minzoom=minzoom,
            maxzoom=maxzoom,
            quadkey_zoom=zoom,
            bounds=bounds,
            center=(middle, (bounds[1] + bounds[3]) / 2, minzoom),
            tiles=tiles_of(boxes, zoom),
        )
    except ValidationError as error:
        raise InvalidParameter(f"the mosaic would not be a valid MosaicJSON: {error}") from error
