"""Huge rasters into tiles and Cloud Optimized GeoTIFFs, in a notebook or from a task queue.

>>> import gdaltools as gt
>>> info = gt.inspect("scene.tif")
>>> cog = gt.create_cog("scene.tif", "scene-cog.tif")

Everything is reached through this module; what it names is imported when it is first used.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gdaltools.cog.batch import CogsResult, create_cogs
    from gdaltools.cog.create import CogPlan, CogResult, cog_profile, create_cog, plan_cog
    from gdaltools.cog.profiles import CogProfile
    from gdaltools.cog.validate import CogReport, validate_cog
    from gdaltools.errors import GdalToolsError
    from gdaltools.estimation import Estimate, estimate
    from gdaltools.extract import ExtractionPlan, ExtractionResult, extract_tiles, plan_extraction
    from gdaltools.grid import Grid
    from gdaltools.mosaic import MosaicResult, create_mosaicjson
    from gdaltools.raster import RasterInfo, inspect, open
    from gdaltools.routing import Route, RoutingRules, route
    from gdaltools.stac import StacResult, create_stac_collection, create_stac_item
    from gdaltools.tiling import Tile, TilingScheme
    from gdaltools.tiling_plan import generate_tiling_scheme
    from gdaltools.vrt import create_vrt
    from gdaltools.warp_array import warp

_ROOMS = {
    "cog.batch": ("CogsResult", "create_cogs"),
    "cog.create": ("CogPlan", "CogResult", "cog_profile", "create_cog", "plan_cog"),
    "cog.profiles": ("CogProfile",),
    "cog.validate": ("CogReport", "validate_cog"),
    "errors": ("GdalToolsError",),
    "estimation": ("Estimate", "estimate"),
    "extract": ("ExtractionPlan", "ExtractionResult", "extract_tiles", "plan_extraction"),
    "grid": ("Grid",),
    "mosaic": ("MosaicResult", "create_mosaicjson"),
    "raster": ("RasterInfo", "inspect", "open"),
    "routing": ("Route", "RoutingRules", "route"),
    "stac": ("StacResult", "create_stac_collection", "create_stac_item"),
    "tiling": ("Tile", "TilingScheme"),
    "tiling_plan": ("generate_tiling_scheme",),
    "vrt": ("create_vrt",),
    "warp_array": ("warp",),
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = [
    "CogPlan",
    "CogProfile",
    "CogReport",
    "CogResult",
    "CogsResult",
    "Estimate",
    "ExtractionPlan",
    "ExtractionResult",
    "GdalToolsError",
    "Grid",
    "MosaicResult",
    "RasterInfo",
    "Route",
    "RoutingRules",
    "StacResult",
    "Tile",
    "TilingScheme",
    "cog_profile",
    "create_cog",
    "create_cogs",
    "create_mosaicjson",
    "create_stac_collection",
    "create_stac_item",
    "create_vrt",
    "estimate",
    "extract_tiles",
    "generate_tiling_scheme",
    "inspect",
    "open",
    "plan_cog",
    "plan_extraction",
    "route",
    "validate_cog",
    "warp",
]


# Whoever works with xarray finds ``da.gt`` without a further import; nobody else pays for it.
if "xarray" in sys.modules:
    import_module("gdaltools.accessor")


def __getattr__(name: str) -> Any:
    room = _ROOM_OF.get(name)
    if room is None:
        raise AttributeError(f"module 'gdaltools' has no attribute {name!r}")
    value = getattr(import_module(f"gdaltools.{room}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
