"""The format of a scheme's tiles: their codec, and which of the source's metadata they keep.

All tiles of a scheme share one format. Plain tiles are read once more, to become COGs, so they have a COG's
blocks and the fastest lossless compression: ZSTD at level 1 with a predictor, without overviews. Tiles that
are COGs already are encoded as `gdaltools.create_cog` would encode them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from rasterio.io import DatasetReader
from rasterio.transform import Affine

from gdaltools.cog.encode.profiles import MIN_BLOCKSIZE, CogProfile
from gdaltools.cog.options import CogOptions
from gdaltools.cog.plan import CogPlan
from gdaltools.cog.planning import plan_of_facts, profile_of_facts
from gdaltools.cost.tiles_memory import goes_by_rows, plain_step
from gdaltools.geo.crs import parse_crs
from gdaltools.geo.window import PixelWindow
from gdaltools.raster.facts import Facts, facts_of, mask_kind
from gdaltools.storage import Location
from gdaltools.tiles.scheme import TilingScheme
from gdaltools.warp.strips import WarpPlan
from gdaltools.warp.target import GridPixels, TargetPixels

# Tags and domains that describe the whole raster and are wrong for a part of it.
_DROPPED_TAGS = ("STATISTICS_", "TIFFTAG_XRESOLUTION", "TIFFTAG_YRESOLUTION", "TIFFTAG_RESOLUTIONUNIT")
_DROPPED_DOMAINS = ("TILING_SCHEME",)
_MANY_BANDS = 8
# The blocksize of tiles that no block of a sensible size divides.
_ODD_BLOCKSIZE = 256


@dataclass(frozen=True)
class TileFormat:
    """The format that all tiles of a scheme share.

    Attributes
    ----------
    facts : Facts
        Facts of the whole target grid.
    cogs : bool
        Whether the tiles are COGs; else they are plain tiles.
    """

    facts: Facts
    profile: CogProfile
    options: CogOptions
    cogs: bool

    def plan_of(self, scheme: TilingScheme, window: PixelWindow, pixels: GridPixels) -> CogPlan:
        """Return the plan for writing the tile with this `window`."""
        facts = replace(
            self.facts,
            width=window.width,
            height=window.height,
            transform=Affine(*scheme.transform_of(window)),
        )
        plan = plan_of_facts(pixels.tile(window), facts, self.profile, self.options)
        if not self.by_rows(window.width):
            return plan
        block = plan.profile.blocksize
        return replace(plan, piece=(block, -(-window.width // block) * block))

    def by_rows(self, width: int) -> bool:
        """Return whether a row of blocks of a tile `width` pixels wide fits the memory allowed for one."""
        return goes_by_rows(width, self.profile.blocksize, self.facts.pixel_bytes)


def tile_options(scheme: TilingScheme, bands: int) -> CogOptions:
    """Return the options for plain tiles."""
    return CogOptions(
        codec="ZSTD",
        level=1,
        overviews="none",
        blocksize=scheme.cog_blocksize if scheme.cog_blocksize >= MIN_BLOCKSIZE else _ODD_BLOCKSIZE,
        interleave="pixel" if bands <= _MANY_BANDS else "band",
    )


def tile_format(
    dataset: DatasetReader,
    location: Location,
    scheme: TilingScheme,
    warp: WarpPlan | None,
    options: CogOptions,
    *,
    cogs: bool,
) -> tuple[TileFormat, TargetPixels]:
    """Return the format of the tiles of an open raster, and how their pixels are read.

    Raises
    ------
    InvalidParameter
        The options contradict each other or do not suit the raster.
    """
    kind = mask_kind(dataset)
    masked = warp.adds_mask if warp is not None else kind == "mask"
    facts = facts_of(dataset, masked=masked).warped(
        width=scheme.grid.width,
        height=scheme.grid.height,
        transform=scheme.grid.affine,
        crs=parse_crs(scheme.grid.crs, "CRS of the tiles"),
        masked=masked,
    )
    facts = replace(
        facts,
        domains={
            name: tags if name else _kept(tags)
            for name, tags in facts.domains.items()
            if name not in _DROPPED_DOMAINS
        },
    )
    if not cogs and (facts.colormap is not None or scheme.raster_type == "categorical"):
        options = replace(options, predictor=1)
    profile = profile_of_facts(facts, scheme.raster_type, options)
    hidden = facts.nodata if kind == "nodata" and not profile.lossless else None
    if hidden is not None:
        facts = replace(facts, masked=True)
    widest = min(scheme.tile_size, scheme.grid.width)
    stored_rows, _ = dataset.block_shapes[0]
    step = warp.cell if warp is not None else plain_step(stored_rows, widest * facts.pixel_bytes)
    pixels = TargetPixels(location, warp, masked, hidden, step)
    return TileFormat(facts, profile, options, cogs), pixels


def _kept(tags: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in tags.items() if not name.startswith(_DROPPED_TAGS)}
