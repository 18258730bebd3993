"""Turn huge rasters into tiles and Cloud Optimized GeoTIFFs, in a notebook or from a task queue.

>>> import gdaltools as gt
>>> info = gt.inspect("scene.tif")
>>> cog = gt.create_cog("scene.tif", "scene-cog.tif")

Everything is reached through this module; each name is imported on first use.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from gdaltools.runtime.moved import MovedModules, moved

if TYPE_CHECKING:
    from gdaltools.catalog.mosaic import MosaicResult, create_mosaicjson
    from gdaltools.catalog.stac import StacResult, create_stac_collection, create_stac_item
    from gdaltools.cog.batch.create import CogsResult, create_cogs
    from gdaltools.cog.create import CogPlan, CogResult, cog_profile, create_cog, plan_cog
    from gdaltools.cog.encode.profiles import CogProfile
    from gdaltools.cog.options import CogOptions
    from gdaltools.cog.validate import CogReport, validate_cog
    from gdaltools.cost.estimation import Estimate, estimate
    from gdaltools.errors import GdalToolsError
    from gdaltools.geo.grid import Grid
    from gdaltools.raster.info import RasterInfo, inspect
    from gdaltools.raster.vrt import create_vrt
    from gdaltools.tiles.adopted import read_tiling_scheme
    from gdaltools.tiles.extract.create import (
        ExtractionPlan,
        ExtractionResult,
        extract_tiles,
        plan_extraction,
    )
    from gdaltools.tiles.generate import generate_tiling_scheme
    from gdaltools.tiles.scheme import Tile, TilingScheme
    from gdaltools.xr.open import open
    from gdaltools.xr.warp import warp

# The import system binds a package's name in its parent only when it first loads the package. Loading
# gdaltools.warp here and deleting the name leaves it to the function `warp`, whatever is imported later.
import_module("gdaltools.warp")
del warp

_ROOMS = {
    "catalog.mosaic": ("MosaicResult", "create_mosaicjson"),
    "catalog.stac": ("StacResult", "create_stac_collection", "create_stac_item"),
    "cog.batch.create": ("CogsResult", "create_cogs"),
    "cog.create": ("CogPlan", "CogResult", "cog_profile", "create_cog", "plan_cog"),
    "cog.encode.profiles": ("CogProfile",),
    "cog.options": ("CogOptions",),
    "cog.validate": ("CogReport", "validate_cog"),
    "cost.estimation": ("Estimate", "estimate"),
    "errors": ("GdalToolsError",),
    "geo.grid": ("Grid",),
    "raster.info": ("RasterInfo", "inspect"),
    "raster.vrt": ("create_vrt",),
    "tiles.adopted": ("read_tiling_scheme",),
    "tiles.extract.create": ("ExtractionPlan", "ExtractionResult", "extract_tiles", "plan_extraction"),
    "tiles.generate": ("generate_tiling_scheme",),
    "tiles.scheme": ("Tile", "TilingScheme"),
    "xr.open": ("open",),
    "xr.warp": ("warp",),
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}

# Public names that have moved; their old names work for one more version.
_MOVED = {name: f"worker.protocol.routing.{name}" for name in ("Route", "RoutingRules", "route")}
MovedModules(
    {
        "gdaltools.accessor": "gdaltools.xr.accessor",
        "gdaltools.calibration": "gdaltools.cost.calibration",
        "gdaltools.estimation": "gdaltools.cost.estimation",
        "gdaltools.preview": "gdaltools.catalog.preview",
        "gdaltools.progress": "gdaltools.display.progress",
        "gdaltools.reads": "gdaltools.cog.reads",
        "gdaltools.routing": "worker.protocol.routing",
        "gdaltools.samples": "gdaltools.raster.samples",
    }
).install()

__all__ = [
    "CogOptions",
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
    "read_tiling_scheme",
    "validate_cog",
    "warp",
]


# If xarray is loaded, ``da.gt`` works without a further import; otherwise the import costs nothing.
if "xarray" in sys.modules:
    import_module("gdaltools.xr.accessor")
# In a notebook an error shows its message and the line of the cell, without this package's frames.
if "IPython" in sys.modules:
    import_module("gdaltools.display.reporting").show_errors_briefly()


def __getattr__(name: str) -> Any:
    if name in _MOVED:
        return moved(f"gdaltools.{name}", _MOVED[name])
    room = _ROOM_OF.get(name)
    if room is None:
        raise AttributeError(f"module 'gdaltools' has no attribute {name!r}")
    value = getattr(import_module(f"gdaltools.{room}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
