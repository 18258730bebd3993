"""Plan a COG from the requested options and the facts of the source."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, cast, get_args

import numpy as np
from rasterio.io import DatasetReader
from rasterio.vrt import WarpedVRT

from gdaltools import storage
from gdaltools.cog.arrays import array_source, array_type, is_array
from gdaltools.cog.encode.adaptive import Policy
from gdaltools.cog.encode.codec import BlockEncoder, Encoding
from gdaltools.cog.encode.profiles import CogProfile, choose_profile
from gdaltools.cog.options import CogOptions, Overviews
from gdaltools.cog.overviews.halving import level_sizes
from gdaltools.cog.plan import CogPlan
from gdaltools.cog.warped import vrt_source, warped_source
from gdaltools.cost.cog_memory import affordable_blocksize, narrowed, piece_shape
from gdaltools.errors import InvalidParameter
from gdaltools.geo.crs import parse_crs
from gdaltools.geo.window import Span
from gdaltools.raster.dataset import numpy_dtypes, open_dataset
from gdaltools.raster.detect import RasterType, detect
from gdaltools.raster.facts import Facts, facts_of, sample_bits
from gdaltools.raster.info import mask_kind, source_crs
from gdaltools.raster.pixels.blocks import reading_of, stored_blocks
from gdaltools.raster.pixels.decoded import is_worth_decoding_first
from gdaltools.raster.pixels.raw import RawSource, raw_source
from gdaltools.raster.pixels.source import RasterSource, Source
from gdaltools.storage import Location
from gdaltools.storage.staging import is_worth_staging
from gdaltools.warp.target import TileSource

# Drivers whose files can only be decoded from the top down.
_SEQUENTIAL = ("PNG", "JPEG", "WEBP", "GIF", "JP2OpenJPEG")
_SAMPLED_BLOCKS = 6
# Pieces of a warp from which the rereads of all pieces are estimated.
_PIECES_LOOKED_AT = 24


def plan_for(src: Any, options: CogOptions) -> CogPlan:
    """Return the plan for a raster in storage, an open WarpedVRT or an xarray.DataArray.

    Raises
    ------
    InvalidParameter, SourceNotFound, UnsupportedRaster, CorruptRaster, StorageError
        As `create_cog` does.
    """
    check_overviews(options.overviews)
    if is_array(src):
        return _of_array(src, options)
    if isinstance(src, WarpedVRT):
        return _of_warped(src, options)
    location = storage.pinned(src)
    with open_dataset(location) as dataset:
        profile = profile_for(dataset, location, options)
        plan = _planned(dataset, location, profile, options)
    return replace(plan, staged=is_worth_staging(location, 1.0))


def check_overviews(name: str) -> None:
    """Raise unless `name` is a value that `create_cog` accepts for `overviews`.

    Raises
    ------
    InvalidParameter
        `name` is not one of `Overviews`.
    """
    if name not in get_args(Overviews):
        raise InvalidParameter(f"overviews {name!r} is unknown: use {', '.join(get_args(Overviews))}")


def _of_array(array: Any, options: CogOptions) -> CogPlan:
    if options.target_crs is not None or options.tms is not None or options.overviews == "keep":
        raise InvalidParameter(
            "an array is not warped and has no overviews to keep: use rio.reproject, overviews='build'"
        )
    source, facts = array_source(array)
    if options.input_crs is not None:
        facts = replace(facts, crs_wkt=parse_crs(options.input_crs, "input_crs").to_wkt())
    profile = profile_of_facts(facts, array_type(facts, options.raster_type), options)
    if not profile.lossless and facts.nodata is not None:
        facts = replace(facts, masked=True)
        source = replace(source, nodata=facts.nodata, masked=True)
    return plan_of_facts(source, facts, profile, options)


def _of_warped(vrt: WarpedVRT, options: CogOptions) -> CogPlan:
    if options.target_crs is not None or options.tms is not None or options.overviews == "keep":
        raise InvalidParameter("a WarpedVRT is warped already and has no overviews to keep")
    location = storage.locate(vrt.src_dataset.name)
    profile = profile_for(vrt, location, options)
    source, facts = vrt_source(vrt, location, mask_nodata=not profile.lossless)
    plan = plan_of_facts(source, facts, profile, options)
    return replace(plan, warps=True, source_crs_wkt=source.source_wkt)


def profile_for(dataset: DatasetReader, location: Location, options: CogOptions) -> CogProfile:
    """Return the profile with which the raster would be encoded."""
    requested = options.raster_type
    raster_type = (
        detect(dataset, location).raster_type if requested == "auto" else cast(RasterType, requested)
    )
    dtypes, bits = numpy_dtypes(dataset), sample_bits(dataset)
    return choose_profile(options, raster_type, dtypes, sample_bits=bits, colorinterp=dataset.colorinterp)


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


def with_estimate(plan: CogPlan) -> CogPlan:
    """Return the plan with `estimated_bytes`, extrapolated from six blocks that are read and encoded."""
    size = plan.profile.blocksize
    width, height = plan.levels[0]
    encoder = BlockEncoder(plan.encoding, Policy())
    places = np.linspace(0, math.ceil(height / size) * math.ceil(width / size) - 1, _SAMPLED_BLOCKS).astype(
        int
    )
    stored = pixels = 0
    for place in sorted(set(places.tolist())):
        row, col = divmod(place, math.ceil(width / size))
        rows = Span(row * size, min((row + 1) * size, height))
        cols = Span(col * size, min((col + 1) * size, width))
        block, _ = plan.source.read(rows, cols, plan.facts.numpy_dtype, planes=plan.planes)
        stored += sum(len(data) for data in encoder.encode_row(block[0])) * plan.planes
        pixels += len(rows) * len(cols)
    total = sum(w * h for w, h in plan.levels)
    return replace(plan, estimated_bytes=round(stored / pixels * total))


def _planned(dataset: DatasetReader, location: Location, profile: CogProfile, options: CogOptions) -> CogPlan:
    target = None if options.target_crs is None else parse_crs(options.target_crs, "target_crs")
    if target is not None or options.tms is not None:
        found = source_crs(dataset, location, options.input_crs)
    else:
        found = parse_crs(options.input_crs, "input_crs") if options.input_crs is not None else dataset.crs
    warps = options.tms is not None or target not in (None, found)
    kind = mask_kind(dataset)
    # A lossy codec changes values, so only a mask says reliably which pixels are nodata.
    mask_nodata = not profile.lossless and kind == "nodata"
    source: Source
    if warps:
        source, facts = warped_source(
            dataset,
            location,
            source_crs=found,
            target_crs=target,
            tms=options.tms,
            resampling=profile.reproject_resampling,
            mask_nodata=mask_nodata,
            blocksize=profile.blocksize,
        )
    else:
        masked = kind == "mask" or mask_nodata
        source = RasterSource(location, dataset.count, masked)
        facts = replace(facts_of(dataset, masked=masked), crs_wkt=found.to_wkt() if found else None)
    stored_rows, stored_cols = dataset.block_shapes[0]
    plan = plan_of_facts(source, facts, profile, options, stored_rows=1 if warps else stored_rows)
    plan = replace(plan, source_crs_wkt=found.to_wkt() if found else None, warps=warps)
    if options.overviews == "keep":
        sizes = _own_levels(dataset, location, facts, plan.profile.blocksize, warps)
        plan = replace(plan, levels=sizes, kept=True)
    if plan.pieces == 1:
        return plan
    compressed = dataset.compression is not None
    if isinstance(source, TileSource):
        rereads, size = _warp_rereads(dataset, source, plan)
        decode_first = compressed and source.pixels.by_kernel and is_worth_decoding_first(rereads, size)
        return replace(plan, decode_first=True) if decode_first else replace(plan, rereads=rereads)
    if (
        not (compressed or plan.kept)
        and isinstance(source, RasterSource)
        and isinstance(raw_source(source, facts), RawSource)
    ):
        return replace(plan, piece=narrowed(plan.piece, facts.pixel_bytes, plan.profile.blocksize))
    rereads = _rereads(facts, plan.piece, stored_rows, stored_cols)
    # A scratch file holds only the full resolution, so it cannot serve a plan that keeps overviews.
    often = compressed and is_worth_decoding_first(rereads, facts.width * facts.height * facts.pixel_bytes)
    if not plan.kept and (dataset.driver in _SEQUENTIAL or often):
        return replace(plan, decode_first=True)
    return replace(plan, rereads=rereads)


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
    """
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


def _warp_rereads(dataset: DatasetReader, source: TileSource, plan: CogPlan) -> tuple[float, int]:
    """Return how often the pieces of a warp decode a stored block, and the decoded bytes of all blocks.

    The first number is estimated from some of the pieces.
    """
    warp = source.pixels.warp
    if warp is None or source.pixels.raw is not None:
        return 1.0, 0
    blocks = stored_blocks(dataset, warp.source, warp.target, warps=True)
    rows, cols = plan.piece
    height, width = plan.facts.height, plan.facts.width
    places = [
        (top, min(top + rows, height), left, min(left + cols, width))
        for top in range(0, height, rows)
        for left in range(0, width, cols)
    ]
    first = max(0, len(places) // 2 - _PIECES_LOOKED_AT // 2)
    readers = [iter([place]) for place in places[first : first + _PIECES_LOOKED_AT]]
    return reading_of(blocks, readers, warp.cell).rereads, blocks.decoded_bytes


def _rereads(facts: Facts, piece: tuple[int, int], stored_rows: int, stored_cols: int) -> float:
    """Return how often a stored block is decoded, on average over the raster."""

    def along(size: int, part: int, stored: int) -> float:
        touched = sum(
            -(-min(begin + part, size) // stored) - begin // stored for begin in range(0, size, part)
        )
        return touched / math.ceil(size / stored)

    return along(facts.height, piece[0], stored_rows) * along(facts.width, piece[1], stored_cols)
