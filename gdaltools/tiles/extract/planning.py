"""From a caller's options to the plan of an extraction: the options are checked, and the source is opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from gdaltools.cog.options import CogOptions, EncodingKeywords
from gdaltools.cog.planning import with_estimate
from gdaltools.cost.estimation import Layout, estimate_layout
from gdaltools.errors import InvalidParameter
from gdaltools.raster.dataset import open_dataset
from gdaltools.raster.pixels.blocks import StoredBlocks, stored_blocks
from gdaltools.raster.pixels.windows import raw_pixels
from gdaltools.storage import Location
from gdaltools.tiles.area import tiles_within
from gdaltools.tiles.extract.format import tile_format, tile_options
from gdaltools.tiles.extract.groups import Position
from gdaltools.tiles.extract.plan import ExtractionPlan, grouped
from gdaltools.tiles.scheme import TilingScheme
from gdaltools.warp.strips import WarpPlan, cell_side, chosen_resampling, plan_warp

# The largest table of blocks that is sent to another process with each group of tiles.
_SENT_BYTES = 1 << 20
# Tiles from all over the grid by which the size of all is estimated.
_SAMPLED_TILES = 6


def cog_options(profile: str | None, options: Mapping[str, Any], *, as_cog: bool) -> CogOptions | None:
    """Return the options of tiles that are COGs; None for plain tiles.

    Raises
    ------
    InvalidParameter
        Options of COGs are passed for plain tiles.
    TypeError
        There is no such option.
    """
    passed = {name: value for name, value in {"profile": profile, **options}.items() if value is not None}
    for name in options.keys() - EncodingKeywords.__annotations__.keys():
        raise TypeError(f"tiles have no option {name!r}: use {', '.join(EncodingKeywords.__annotations__)}")
    if passed and not as_cog:
        raise InvalidParameter(
            f"{', '.join(passed)} is said of COGs: pass as_cog=True as well, or leave it out"
        )
    return CogOptions(**passed) if as_cog else None


def planned(
    source: Location,
    scheme: TilingScheme,
    chosen: Sequence[Position],
    cog: CogOptions | None,
    *,
    resampling: str | None,
    input_crs: str | None,
    threads: int,
    may_decode_first: bool,
) -> ExtractionPlan:
    """Return the plan for the `chosen` tiles of a file.

    Parameters
    ----------
    cog : CogOptions, optional
        How COGs are encoded; without it tiles are plain.
    may_decode_first : bool
        Whether readers can use a scratch file on this machine.

    Raises
    ------
    InvalidParameter, SourceNotFound, UnsupportedRaster, CorruptRaster, StorageError
        As in `extract_tiles`.
    """
    with open_dataset(source) as dataset:
        scheme.check_belongs(dataset, source, input_crs)
        warp = _warp(dataset, scheme, resampling)
        plain = tile_options(scheme, dataset.count)
        encoding = plain if cog is None else replace(cog, blocksize=plain.blocksize)
        layout, pixels = tile_format(dataset, source, scheme, warp, encoding, cogs=cog is not None)
        raw = raw_pixels(dataset, source)
        if raw is not None and (may_decode_first or raw.offsets.nbytes <= _SENT_BYTES):
            pixels = replace(pixels, raw=raw)
        blocks = stored_blocks(dataset, scheme.source_grid, scheme.grid, warps=scheme.warps)
    # GDAL's warp cannot read a scratch file.
    can_decode_first = may_decode_first and (warp is None or pixels.by_kernel)
    _check_meets(blocks, scheme, source)
    plan = grouped(scheme, pixels, layout, blocks, chosen, threads)
    share = len(chosen) / len(scheme)
    if can_decode_first and blocks.is_worth_decoding_first(plan.rereads, share=share):
        return grouped(scheme, pixels, layout, blocks, chosen, threads, decode_first=True)
    return plan


def _warp(dataset: Any, scheme: TilingScheme, resampling: str | None) -> WarpPlan | None:
    name = chosen_resampling(dataset, resampling, categorical=scheme.raster_type == "categorical")
    if not scheme.warps:
        return None
    cell = cell_side(scheme.tile_size, scheme.overlap)
    return plan_warp(dataset, scheme.source_grid, scheme.grid, name, cell=cell)


def _check_meets(blocks: StoredBlocks, scheme: TilingScheme, source: Location) -> None:
    """Refuse a grid that contains no pixel of the raster."""
    grid = scheme.grid
    if blocks.misses():
        raise InvalidParameter(
            f"the tiling scheme's grid, {grid.width} x {grid.height} pixels in "
            f"{grid.crs.split(',')[0][:60]}, misses {source}: generate a scheme for this raster"
        )


def chosen_tiles(scheme: TilingScheme, tiles: Sequence[str] | None, area: Any) -> list[Position]:
    """Return the requested tiles in their order: all, those with these ids, those that touch `area`.

    Raises
    ------
    InvalidParameter
        The scheme has no such tile, `area` is no GeoJSON geometry, or no tile touches it.
    """
    if isinstance(tiles, str):
        raise InvalidParameter(f"tiles {tiles!r}: give a list of tile ids")
    if tiles is not None:
        chosen = [scheme.position(name) for name in dict.fromkeys(tiles)]
    else:
        chosen = [(row, col) for row in range(scheme.rows) for col in range(scheme.cols)]
    if area is None:
        return chosen
    inside = tiles_within(scheme, area)
    chosen = [place for place in chosen if place in inside]
    if not chosen:
        raise InvalidParameter(
            "the area touches none of the tiles: check its coordinates (longitude, latitude)"
        )
    return chosen


def regrouped(plan: ExtractionPlan, missing: Sequence[Position]) -> ExtractionPlan:
    """Return the plan for only the `missing` tiles."""
    return grouped(
        plan.scheme,
        plan.file,
        plan.layout,
        plan.blocks,
        missing,
        plan.threads,
        decode_first=plan.decode_first,
    )


def estimated_bytes(plan: ExtractionPlan) -> int:
    """Return the expected size of all tiles; two blocks of up to six of them are read and encoded for it."""
    places = list(plan.positions())
    count = min(_SAMPLED_TILES, len(places))
    sampled = [places[(2 * number + 1) * len(places) // (2 * count)] for number in range(count)]
    tiles = [with_estimate(plan.plan_of(place), blocks=2) for place in sampled]
    pixels = sum(tile.facts.width * tile.facts.height for tile in tiles)
    return round(sum(tile.estimated_bytes or 0 for tile in tiles) / pixels * plan.total_pixels)


def estimated_seconds(plan: ExtractionPlan) -> float:
    """Return the expected duration for all tiles, at the rates of `gdaltools.estimate`."""
    facts = plan.layout.facts
    layout = Layout(plan.total_pixels, 1, facts.count, facts.numpy_dtype.itemsize)
    variant = "window" if plan.warp is None else "warp"
    return estimate_layout("extract_tiles", layout, variant=variant, cores=plan.threads).seconds
