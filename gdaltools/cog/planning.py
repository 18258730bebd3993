"""Plan a COG from the requested options and the facts of the source."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, cast, get_args

from rasterio.io import DatasetReader
from rasterio.vrt import WarpedVRT

from gdaltools import storage
from gdaltools.cog.arrays import array_source, array_type, is_array
from gdaltools.cog.encode.adaptive import Policy
from gdaltools.cog.encode.codec import BlockEncoder, Encoding
from gdaltools.cog.encode.profiles import CogProfile, choose_profile
from gdaltools.cog.format.template import check_color_table, check_crs
from gdaltools.cog.options import CogOptions, Overviews
from gdaltools.cog.overviews.halving import level_sizes
from gdaltools.cog.pieces.geometry import spread
from gdaltools.cog.plan import CogPlan
from gdaltools.cog.warped import vrt_source, warped_source
from gdaltools.cost.cog_memory import affordable_blocksize, narrowed, piece_shape
from gdaltools.errors import InvalidParameter, one_of
from gdaltools.geo.crs import parse_crs
from gdaltools.geo.grid import Grid
from gdaltools.geo.window import Span
from gdaltools.raster.dataset import numpy_dtypes, open_dataset, side_cars
from gdaltools.raster.detect import RasterType, detect
from gdaltools.raster.facts import Facts, facts_of, mask_kind, sample_bits
from gdaltools.raster.info import source_crs
from gdaltools.raster.pixels.blocks import reading_of, stored_blocks
from gdaltools.raster.pixels.raw import RawSource
from gdaltools.raster.pixels.source import RasterSource, Source
from gdaltools.storage import Location
from gdaltools.storage.staging import is_worth_staging
from gdaltools.warp.target import TileSource

_SAMPLED_BLOCKS = 6
# At least this many pieces are looked at to estimate how often a stored block is decoded.
_PIECES_LOOKED_AT = 24
_UNIT = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def plan_for(src: Any, options: CogOptions) -> CogPlan:
    """Return the plan for a raster in storage, an open WarpedVRT or an xarray.DataArray.

    Raises
    ------
    InvalidParameter, SourceNotFound, UnsupportedRaster, CorruptRaster, StorageError
        As `create_cog` does.
    """
    one_of("overviews", options.overviews, get_args(Overviews))
    if is_array(src):
        return _of_array(src, options)
    if isinstance(src, WarpedVRT):
        return _of_warped(src, options)
    location = storage.pinned(src)
    with open_dataset(location) as dataset:
        return _of_raster(dataset, location, options)


def _of_array(array: Any, options: CogOptions) -> CogPlan:
    if options.target_crs is not None or options.tms is not None or options.overviews == "keep":
        raise InvalidParameter(
            "an array is not warped and has no overviews to keep: use rio.reproject, overviews='build'"
        )
    source, facts = array_source(array)
    if options.input_crs is not None:
        facts = replace(facts, crs_wkt=parse_crs(options.input_crs, "input_crs").to_wkt())
    profile = profile_of_facts(facts, array_type(source, facts, options.raster_type), options)
    if not profile.lossless and facts.nodata is not None:
        facts = replace(facts, masked=True)
        source = replace(source, nodata=facts.nodata, masked=True)
    return plan_of_facts(source, facts, profile, options)


def _of_warped(vrt: WarpedVRT, options: CogOptions) -> CogPlan:
    if options.target_crs is not None or options.tms is not None or options.overviews == "keep":
        raise InvalidParameter("a WarpedVRT is warped already and has no overviews to keep")
    location = storage.pinned(vrt.src_dataset.name)
    profile = profile_for(vrt, location, options)
    source, facts = vrt_source(vrt, location, mask_nodata=not profile.lossless)
    plan = plan_of_facts(source, facts, profile, options)
    return replace(
        plan,
        warps=True,
        source_crs_wkt=source.source_wkt,
        staged=is_worth_staging(location, 1.0),
        side_cars=side_cars(location),
    )


def profile_for(dataset: DatasetReader, location: Location, options: CogOptions) -> CogProfile:
    """Return the profile with which the raster would be encoded."""
    found = detect(dataset, location) if options.raster_type == "auto" else None
    raster_type = found.raster_type if found else cast(RasterType, options.raster_type)
    dtypes, bits = numpy_dtypes(dataset), sample_bits(dataset)
    profile = choose_profile(options, raster_type, dtypes, sample_bits=bits, colorinterp=dataset.colorinterp)
    return profile.model_copy(update={"type_reason": found.reason if found else None})


def profile_of_facts(facts: Facts, raster_type: RasterType, options: CogOptions) -> CogProfile:
    """Return the profile with which a raster with these `facts` would be encoded.

    Raises
    ------
    InvalidParameter
        The options exclude each other, or do not fit the pixels.
    """
    dtypes = (facts.numpy_dtype.name,) * facts.count
    return choose_profile(
        options, raster_type, dtypes, sample_bits=facts.sample_bits, colorinterp=facts.colorinterp
    )


def with_estimate(plan: CogPlan, *, blocks: int = _SAMPLED_BLOCKS) -> CogPlan:
    """Return the plan with `estimated_bytes`, extrapolated from a few blocks that are read and encoded."""
    size = plan.profile.blocksize
    width, height = plan.levels[0]
    encoder = BlockEncoder(plan.encoding, Policy())
    places = spread(math.ceil(height / size), math.ceil(width / size), blocks, 1)
    stored = pixels = 0
    for row, col in sorted({place for line in places for place in line}):
        rows = Span(row * size, min((row + 1) * size, height))
        cols = Span(col * size, min((col + 1) * size, width))
        block, _ = plan.source.read(rows, cols, plan.facts.numpy_dtype, planes=plan.planes)
        stored += sum(len(data) for data in encoder.encode_row(block[0])) * plan.planes
        pixels += len(rows) * len(cols)
    total = sum(w * h for w, h in plan.levels)
    return replace(plan, estimated_bytes=round(stored / pixels * total))


def _of_raster(dataset: DatasetReader, location: Location, options: CogOptions) -> CogPlan:
    profile = profile_for(dataset, location, options)
    target = None if options.target_crs is None else parse_crs(options.target_crs, "target_crs")
    if target is not None:
        check_crs(target.to_wkt())
    if target is not None or options.tms is not None:
        crs = source_crs(dataset, location, options.input_crs)
    else:
        crs = dataset.crs if options.input_crs is None else parse_crs(options.input_crs, "input_crs")
    crs_wkt = crs.to_wkt() if crs else None
    kind = mask_kind(dataset)
    # A lossy codec changes values, so only a mask says reliably which pixels are nodata.
    mask_nodata = not profile.lossless and kind == "nodata"
    source: Source
    stored_rows = 1
    warps = options.tms is not None or target not in (None, crs)
    if warps:
        source, facts = warped_source(
            dataset,
            location,
            source_crs=crs,
            target_crs=target,
            tms=options.tms,
            resampling=profile.reproject_resampling,
            mask_nodata=mask_nodata,
            blocksize=profile.blocksize,
        )
    else:
        masked = kind == "mask" or mask_nodata
        source = RasterSource(location, dataset.count, masked)
        facts = replace(facts_of(dataset, masked=masked), crs_wkt=crs_wkt)
        stored_rows = dataset.block_shapes[0][0]
    plan = replace(
        plan_of_facts(source, facts, profile, options, stored_rows=stored_rows),
        source_crs_wkt=crs_wkt,
        warps=warps,
        staged=is_worth_staging(location, 1.0),
        side_cars=side_cars(location),
    )
    if options.overviews == "keep":
        sizes = _own_levels(dataset, location, facts, plan.profile.blocksize, warps)
        plan = replace(plan, levels=sizes, kept=True)
    return plan if plan.pieces == 1 else _by_pieces(dataset, plan)


def _by_pieces(dataset: DatasetReader, plan: CogPlan) -> CogPlan:
    """Return the plan of several pieces with how they read the source."""
    source = plan.source
    if plan.location and dataset.compression is None:
        source = plan.source_at(plan.location)
    if isinstance(source, RawSource):
        return replace(plan, piece=narrowed(plan.piece, plan.facts.pixel_bytes, plan.profile.blocksize))
    warp = source.pixels.warp if isinstance(source, TileSource) else None
    if isinstance(source, TileSource) and warp is not None:
        if source.pixels.raw is not None:
            return plan
        blocks, cell = stored_blocks(dataset, warp.source, warp.target, warps=True), warp.cell
        can_decode_first = source.pixels.by_kernel
    else:
        # Only its size matters: a raster that is not warped needs no place on Earth.
        grid = Grid(crs="", transform=_UNIT, width=dataset.width, height=dataset.height)
        blocks, cell = stored_blocks(dataset, grid, grid, warps=False), plan.piece[1]
        # A scratch file holds only the full resolution.
        can_decode_first = not plan.kept
    rereads = reading_of(blocks, [iter([piece]) for piece in _middle_pieces(plan)], cell).rereads
    if can_decode_first and blocks.is_worth_decoding_first(rereads):
        return replace(plan, decode_first=True)
    return replace(plan, rereads=rereads)


def _middle_pieces(plan: CogPlan) -> list[tuple[int, int, int, int]]:
    """Return top, bottom, left and right of the pieces of some rows in the middle of the raster."""
    (width, height), (rows, cols) = plan.levels[0], plan.piece
    down, across = -(-height // rows), -(-width // cols)
    looked = min(down, -(-_PIECES_LOOKED_AT // across))
    first = (down - looked) // 2
    return [
        (top, min(top + rows, height), left, min(left + cols, width))
        for top in range(first * rows, (first + looked) * rows, rows)
        for left in range(0, width, cols)
    ]


def plan_of_facts(
    source: Source, facts: Facts, profile: CogProfile, options: CogOptions, *, stored_rows: int = 1
) -> CogPlan:
    """Return the plan for a source that can be read in any order, with a profile that is already chosen.

    Parameters
    ----------
    stored_rows : int
        The height of the source's stored blocks, in pixels.

    Raises
    ------
    InvalidParameter
        The options request statistics of complex samples.
    UnsupportedRaster
        A GeoTIFF cannot state the CRS, or cannot hold the colour table.
    """
    check_crs(facts.crs_wkt)
    check_color_table(facts)
    if options.statistics and facts.numpy_dtype.kind == "c":
        raise InvalidParameter(f"statistics of {facts.dtype} have no order: leave statistics out")
    bands = 1 if profile.interleave == "band" else facts.count
    block = affordable_blocksize(profile.blocksize, bands, facts.numpy_dtype.itemsize)
    profile = profile.model_copy(update={"blocksize": block})
    full = (facts.width, facts.height)
    return CogPlan(
        source=source,
        facts=facts,
        profile=profile,
        encoding=Encoding(
            profile,
            facts.dtype,
            facts.sample_bits,
            ycbcr=profile.compression == "JPEG" and facts.count == 3,
        ),
        levels=(full,) if options.overviews == "none" else level_sizes(*full, block),
        piece=piece_shape(facts.width, facts.height, facts.pixel_bytes, block, stored_rows),
        source_crs_wkt=facts.crs_wkt,
        warps=False,
        decode_first=False,
        rereads=1.0,
        kept=False,
        sparse=options.sparse,
        statistics=options.statistics,
    )


def _own_levels(
    dataset: DatasetReader, location: Location, facts: Facts, blocksize: int, warps: bool
) -> tuple[tuple[int, int], ...]:
    full = (facts.width, facts.height)
    if warps:
        raise InvalidParameter("overviews='keep' cannot be had with target_crs: warped pixels need new ones")
    sizes = [full]
    for level in range(len(dataset.overviews(1))):
        with open_dataset(location, verify=False, overview_level=level) as overview:
            sizes.append((overview.width, overview.height))
    if len(sizes) == 1 and max(full) > blocksize:
        raise InvalidParameter(f"{location} has no overviews to keep: use overviews='build'")
    return tuple(sizes)
