"""Everything about a COG that is decided before its first pixel is read.

>>> print(plan_cog("scene.tif"))  # doctest: +SKIP
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from dask.system import CPU_COUNT
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.io import DatasetReader
from rasterio.vrt import WarpedVRT

from gdaltools import storage
from gdaltools.cog.adaptive import Policy
from gdaltools.cog.arrays import array_source, array_type, is_array
from gdaltools.cog.axes import Span
from gdaltools.cog.codec import BlockEncoder, Encoding
from gdaltools.cog.facts import Facts, facts_of, sample_bits
from gdaltools.cog.geometry import LevelAxis, level_axes
from gdaltools.cog.overviews import Rule, level_sizes
from gdaltools.cog.profiles import BLOCK_STEP, CogProfile, choose_profile
from gdaltools.cog.pyramid import Work
from gdaltools.cog.sink import Sink
from gdaltools.cog.source import RasterSource, Source
from gdaltools.cog.warped import aligned_grid, vrt_source, warped_source
from gdaltools.crs import parse_crs
from gdaltools.dataset import CACHE_MB, numpy_dtypes, open_dataset
from gdaltools.detect import RASTER_TYPES, RasterType, detect
from gdaltools.errors import InvalidParameter
from gdaltools.nearness import is_worth_fetching
from gdaltools.storage import Location

Overviews = Literal["build", "keep", "none"]

# One block of all bands, decoded.
_BLOCK_BYTES = 64 << 20
_SMALLEST_BLOCK = 128
# A piece of the full resolution: what a task holds of it. Pieces as wide as the raster are read best.
_PIECE_BYTES = 24 << 20
_WIDE_PIECE_BYTES = 96 << 20
_FEW_PIECES = 8
# Formats that can only be decoded from the top.
_SEQUENTIAL = ("PNG", "JPEG", "WEBP", "GIF", "JP2OpenJPEG")
# A block is sent again as a whole: small ones first.
_STAGING_BYTES = (4 << 20, 16 << 20, 64 << 20, 1 << 30)
# Python with rasterio, numpy and dask loaded, and what a thread's allocator keeps.
_BASE_BYTES = 150 << 20
#: What of a bound is the process's own, however many COGs it makes at a time.
SHARED_BYTES = _BASE_BYTES + (CACHE_MB << 20)
_THREAD_BYTES = 16 << 20
_LIFTING_BYTES = 24 << 20
_BLOCK_TABLE_BYTES = 64
_SAMPLED_BLOCKS = 6


@dataclass(frozen=True)
class CogPlan:
    """How a COG will be made.

    Attributes
    ----------
    profile : CogProfile
        Codec, level, predictor, block size and resampling.
    levels : tuple of (int, int)
        Width and height of every level, the full resolution first.
    piece : (int, int)
        Rows and columns of the full resolution that one task holds.
    staged : bool
        Whether the source is decoded into a scratch file first, as its format has no random access.
    fetched : bool
        Whether the source is brought from Azure to the local disk first.
    rereads : float
        How often a stored block of the source is decoded on average; 1 is once.
    kept : bool
        Whether the overviews are the source's own.
    estimated_bytes : int or None
        The file's size by a sample of its blocks; None where it was not asked for.
    """

    source: Source
    facts: Facts
    profile: CogProfile
    encoding: Encoding
    levels: tuple[tuple[int, int], ...]
    piece: tuple[int, int]
    source_crs_wkt: str | None
    warps: bool
    staged: bool
    rereads: float
    kept: bool
    sparse: bool
    statistics: bool = False
    estimated_bytes: int | None = None
    fetched: bool = False

    @property
    def planes(self) -> int:
        """1 where a block holds all bands, else the number of bands."""
        return self.facts.count if self.profile.interleave == "band" else 1

    @property
    def axes(self) -> tuple[tuple[LevelAxis, ...], tuple[LevelAxis, ...]]:
        """The levels' grids of pieces: rows, columns."""
        block = self.profile.blocksize
        widths, heights = zip(*self.levels, strict=True)
        if self.kept:
            rows = tuple(LevelAxis(height, self.piece[0]) for height in heights)
            return rows, tuple(LevelAxis(width, self.piece[1]) for width in widths)
        return level_axes(heights, self.piece[0], block), level_axes(widths, self.piece[1], block)

    @property
    def pieces(self) -> int:
        """Tasks that read the source."""
        return math.ceil(self.levels[0][1] / self.piece[0]) * math.ceil(self.levels[0][0] / self.piece[1])

    @property
    def blocks(self) -> int:
        """Blocks of all levels, masks left out."""
        return sum(self.level_blocks(level) for level in range(len(self.levels)))

    def level_blocks(self, level: int) -> int:
        """Blocks of one level."""
        width, height = self.levels[level]
        block = self.profile.blocksize
        return math.ceil(width / block) * math.ceil(height / block) * self.planes

    @property
    def staging_bytes(self) -> int | None:
        """The largest block of a blob (not of the TIFF) that the file is staged in where it goes to Azure.

        The smallest with which a blob's blocks suffice; None where they would not, however large.
        """
        for size in _STAGING_BYTES:
            if self.staged_blocks(size) <= storage.MOST_BLOCKS:
                return size
        return None

    def staged_blocks(self, size: int) -> int:
        """How many such blocks of at most so many bytes there are, at most."""
        rows, cols = self.axes
        block, pixel_bytes = self.profile.blocksize, self.facts.pixel_bytes
        parts = self.planes + (1 if self.facts.masked and self.planes > 1 else 0)
        total = 1
        for down, across in zip(rows, cols, strict=True):
            cuts = parts if across.count == 1 else parts * math.ceil(down.piece / block)
            piece_bytes = down.piece * min(across.piece, across.size) * pixel_bytes
            total += down.count * across.count * (cuts + piece_bytes // size)
        return total

    def memory_bytes(self, threads: int | None = None) -> int:
        """What the process needs at most, with so many tasks at a time (by default one a core)."""
        facts, (width, height) = self.facts, self.levels[0]
        return memory_bound(
            width,
            height,
            facts.count,
            facts.numpy_dtype.itemsize,
            blocksize=self.profile.blocksize,
            piece=self.piece,
            planes=self.planes,
            masked=facts.masked,
            by_gdal=self.encoding.by_gdal,
            threads=threads,
        )

    def rule(self) -> Rule:
        """How overviews are computed."""
        facts = self.facts
        palette = None
        if facts.colormap is not None and self.profile.overview_resampling not in ("nearest", "mode"):
            palette = tuple((index, *colour) for index, colour in sorted(facts.colormap.items()))
        return Rule(self.profile.overview_resampling, facts.dtype, facts.nodata, palette, facts.hides)

    def work(self, sink: Sink) -> Work:
        """What all of its tasks have in common."""
        rows, cols = self.axes
        return Work(
            encoding=self.encoding,
            rule=self.rule(),
            rows=rows,
            cols=cols,
            planes=self.planes,
            bands_together=self.facts.count // self.planes,
            dtype=self.facts.numpy_dtype,
            sparse=self.sparse,
            statistics=self.statistics,
            kept=self.kept,
            sink=sink,
        )

    def __str__(self) -> str:
        profile, facts = self.profile, self.facts
        width, height = self.levels[0]
        across = "the whole width" if self.piece[1] >= width else f"{self.piece[1]} columns"
        level = f"level {profile.level}" if profile.level else ""
        if profile.size_tolerance is not None:
            level = f"adaptive, at most {profile.size_tolerance:.1%} larger than level 6"
        if profile.quality is not None:
            level = f"quality {profile.quality}"
        lines = {
            "source": self.source.name
            + (", brought to the local disk first" if self.fetched else "")
            + (", warped as it is read" if self.warps else ""),
            "image": f"{width} x {height} pixels, {facts.count} x {facts.dtype}, by {profile.interleave}",
            "levels": ", ".join(f"{w} x {h}" for w, h in self.levels)
            + (" (the source's own)" if self.kept else f" ({profile.overview_resampling})"),
            "codec": ", ".join(
                part for part in (profile.compression, level, f"predictor {profile.predictor}") if part
            ),
            "blocks": f"{self.blocks} of {profile.blocksize} x {profile.blocksize}",
            "tasks": f"{self.pieces} pieces of {self.piece[0]} rows by {across}"
            + (", decoded once into a scratch file" if self.staged else ""),
            "decoding": "each stored block once"
            if self.rereads < 1.05
            else f"each stored block {self.rereads:.1f} times, as rows of blocks would not fit the memory",
            "memory": f"at most {self.memory_bytes() / 1e6:,.0f} MB on {CPU_COUNT} cores",
        }
        if self.estimated_bytes is not None:
            lines["size"] = f"about {self.estimated_bytes / 1e6:,.1f} MB"
        return "\n".join(f"{key:<10}{value}" for key, value in lines.items())


@dataclass(frozen=True)
class Wanted:
    """What a caller asked for, before it is checked: the arguments of `create_cog`."""

    profile: str = "analysis"
    raster_type: str = "auto"
    target_crs: str | CRS | None = None
    input_crs: str | CRS | None = None
    codec: str | None = None
    level: int | None = None
    size_tolerance: float | None = None
    predictor: int | str = "auto"
    quality: int = 85
    max_z_error: float = 0.0
    blocksize: int = 512
    interleave: str = "pixel"
    overviews: str = "build"
    overview_resampling: str | None = None
    reproject_resampling: str | None = None
    sparse: bool = False
    statistics: bool = False
    tms: str | None = None


def plan_for(src: Any, wanted: Wanted) -> CogPlan:
    """The plan of a raster in storage, of an open WarpedVRT or of an xarray.DataArray.

    Raises
    ------
    InvalidParameter, SourceNotFound, UnsupportedRaster, CorruptRaster, StorageError
        As `create_cog` does.
    """
    if wanted.overviews not in get_args(Overviews):
        raise InvalidParameter(f"overviews {wanted.overviews!r} is unknown: use build, keep or none")
    if is_array(src):
        return _of_array(src, wanted)
    if isinstance(src, WarpedVRT):
        return _of_warped(src, wanted)
    location = storage.pinned(src)
    with open_dataset(location) as dataset:
        profile = profile_for(dataset, location, wanted)
        plan = _planned(dataset, location, profile, wanted)
    return replace(plan, fetched=is_worth_fetching(location, 1.0))


def _of_array(array: Any, wanted: Wanted) -> CogPlan:
    if wanted.target_crs is not None or wanted.tms is not None or wanted.overviews == "keep":
        raise InvalidParameter(
            "an array is not warped and has no overviews to keep: use rio.reproject, overviews='build'"
        )
    source, facts = array_source(array)
    if wanted.input_crs is not None:
        facts = replace(facts, crs_wkt=parse_crs(wanted.input_crs, "input_crs").to_wkt())
    profile = _chosen(
        wanted, array_type(facts, wanted.raster_type), (facts.dtype,) * facts.count, None, facts.colorinterp
    )
    if not profile.lossless and facts.nodata is not None:
        facts = replace(facts, masked=True)
        source = replace(source, nodata=facts.nodata, masked=True)
    return _finished(source, facts, profile, wanted)


def _of_warped(vrt: WarpedVRT, wanted: Wanted) -> CogPlan:
    if wanted.target_crs is not None or wanted.tms is not None or wanted.overviews == "keep":
        raise InvalidParameter("a WarpedVRT is warped already and has no overviews to keep")
    location = storage.locate(vrt.src_dataset.name)
    profile = profile_for(vrt, location, wanted)
    source, facts = vrt_source(vrt, location, mask_nodata=not profile.lossless)
    plan = _finished(source, facts, profile, wanted)
    return replace(plan, warps=True, source_crs_wkt=source.source_wkt)


def profile_for(dataset: DatasetReader, location: Location, wanted: Wanted) -> CogProfile:
    """How the raster would be encoded."""
    raster_type = _raster_type(dataset, location, wanted.raster_type)
    return _chosen(wanted, raster_type, numpy_dtypes(dataset), sample_bits(dataset), dataset.colorinterp)


def _chosen(
    wanted: Wanted,
    raster_type: RasterType,
    dtypes: tuple[str, ...],
    bits: int | None,
    colorinterp: Sequence[ColorInterp],
) -> CogProfile:
    return choose_profile(
        wanted.profile,
        raster_type=raster_type,
        dtypes=dtypes,
        sample_bits=bits,
        alpha=ColorInterp.alpha in colorinterp,
        colour_table=ColorInterp.palette in colorinterp,
        codec=wanted.codec,
        level=wanted.level,
        size_tolerance=wanted.size_tolerance,
        predictor=wanted.predictor,
        quality=wanted.quality,
        max_z_error=wanted.max_z_error,
        blocksize=wanted.blocksize,
        interleave=wanted.interleave,
        overview_resampling=wanted.overview_resampling,
        reproject_resampling=wanted.reproject_resampling,
    )


def with_estimate(plan: CogPlan) -> CogPlan:
    """The plan with the size that some of its blocks, read and encoded, let expect."""
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


def affordable_blocksize(blocksize: int, bands: int, itemsize: int) -> int:
    """`blocksize`, halved until a block of all bands fits the memory that one may take.

    >>> affordable_blocksize(512, 4, 2), affordable_blocksize(512, 1000, 4)
    (512, 128)
    """
    while blocksize > _SMALLEST_BLOCK and blocksize * blocksize * bands * itemsize > _BLOCK_BYTES:
        blocksize = max(blocksize // 2 // BLOCK_STEP * BLOCK_STEP, _SMALLEST_BLOCK)
    return blocksize


def piece_shape(
    width: int, height: int, pixel_bytes: int, blocksize: int, stored_rows: int = 1
) -> tuple[int, int]:
    """Rows and columns of a piece: whole blocks, as wide as the raster where that fits the memory.

    `stored_rows` is the height of the source's own blocks: pieces hold whole ones where they can.

    >>> piece_shape(18500, 18300, 3, 512), piece_shape(1_000_000, 1_000_000, 3, 512)
    ((512, 18944), (512, 16384))
    """
    row_bytes = -(-width // blocksize) * blocksize * pixel_bytes
    across = -(-width // blocksize) * blocksize
    if row_bytes * blocksize > _WIDE_PIECE_BYTES:
        cols = max(1, _PIECE_BYTES // (blocksize * blocksize * pixel_bytes))
        # A power of two of blocks, so that pieces halve with the levels.
        return blocksize, blocksize * (1 << (cols.bit_length() - 1))
    unit = blocksize
    whole = math.lcm(blocksize, stored_rows)
    if row_bytes * whole <= _WIDE_PIECE_BYTES:
        unit = whole
    fitting = max(1, _PIECE_BYTES // max(1, row_bytes * unit))
    spread = max(1, -(-height // unit) // _FEW_PIECES)
    return unit * min(fitting, spread), across


def memory_bound(
    width: int,
    height: int,
    bands: int,
    itemsize: int,
    *,
    blocksize: int = 512,
    piece: tuple[int, int] | None = None,
    planes: int = 1,
    masked: bool = False,
    by_gdal: bool = False,
    threads: int | None = None,
) -> int:
    """Bytes that making a COG of such a raster needs at most, with so many tasks at a time (one a core).

    Each task holds its piece, what it encodes and half of the piece in each direction; halves wait for their
    neighbours; beside them are the process itself, GDAL's block cache and the tables of blocks.
    """
    busy = threads or int(CPU_COUNT)
    block = affordable_blocksize(blocksize, bands // planes, itemsize)
    rows, cols = piece or piece_shape(width, height, bands * itemsize, block)
    held = min(rows, height) * min(cols, width) * (bands * itemsize + (1 if masked else 0))
    block_bytes = block**2 * bands // planes * itemsize
    encoding = 3 * block_bytes + (_LIFTING_BYTES + 2 * block_bytes if by_gdal else 0)
    working = held + held // 4 + encoding + _THREAD_BYTES
    waiting = (busy + 3) * held // 4 if max(width, height) > block else 0
    blocks = math.ceil(width / block) * math.ceil(height / block) * planes * 4 // 3
    return SHARED_BYTES + busy * working + waiting + _BLOCK_TABLE_BYTES * blocks


def _raster_type(dataset: DatasetReader, location: Location, asked: str) -> RasterType:
    if asked == "auto":
        return detect(dataset, location).raster_type
    if asked not in RASTER_TYPES:
        raise InvalidParameter(
            f"raster_type {asked!r} is unknown: use auto or one of {', '.join(RASTER_TYPES)}"
        )
    return asked


def _planned(dataset: DatasetReader, location: Location, profile: CogProfile, wanted: Wanted) -> CogPlan:
    # Imported where it is used: xarray, which it brings, takes seconds.
    from gdaltools.raster import mask_kind, source_crs

    aligned = None if wanted.tms is None else aligned_grid(dataset, location, wanted.tms, profile.blocksize)
    target = None if wanted.target_crs is None else parse_crs(wanted.target_crs, "target_crs")
    if aligned is not None:
        if target is not None and target != aligned.crs:
            raise InvalidParameter(f"tms {wanted.tms!r} has a CRS of its own: leave target_crs out")
        target = aligned.crs
    if target is not None:
        found = source_crs(dataset, location, wanted.input_crs)
    else:
        found = parse_crs(wanted.input_crs, "input_crs") if wanted.input_crs is not None else dataset.crs
    warps = target is not None and (target != found or aligned is not None)
    kind = mask_kind(dataset)
    # Only a mask can promise which pixels are nodata where the codec changes values.
    mask_nodata = not profile.lossless and kind == "nodata"
    source: Source
    if warps and target is not None:
        source, facts = warped_source(
            dataset,
            location,
            source_crs=found,
            target_crs=target,
            resampling=profile.reproject_resampling,
            mask_nodata=mask_nodata,
            grid=aligned.grid if aligned else None,
        )
        if aligned is not None:
            facts = replace(facts, domains={**facts.domains, "TILING_SCHEME": aligned.tags})
    else:
        masked = kind == "mask" or mask_nodata
        source = RasterSource(location, dataset.count, masked)
        facts = replace(facts_of(dataset, masked=masked), crs_wkt=found.to_wkt() if found else None)
    stored_rows, stored_cols = dataset.block_shapes[0]
    plan = _finished(source, facts, profile, wanted, stored_rows=1 if warps else stored_rows)
    plan = replace(plan, source_crs_wkt=found.to_wkt() if found else None, warps=warps)
    if wanted.overviews == "keep":
        sizes = _own_levels(dataset, location, facts, plan.profile.blocksize, warps)
        plan = replace(plan, levels=sizes, kept=True)
    if warps or plan.pieces == 1:
        return plan
    rereads = _rereads(facts, plan.piece, stored_rows, stored_cols)
    compressed = dataset.compression is not None
    # A scratch file holds the full resolution alone.
    if not plan.kept and (dataset.driver in _SEQUENTIAL or (compressed and rereads > 2)):
        return replace(plan, staged=True)
    return replace(plan, rereads=rereads)


def _finished(
    source: Source, facts: Facts, profile: CogProfile, wanted: Wanted, *, stored_rows: int = 1
) -> CogPlan:
    """The plan of pixels that can be read in any order, once."""
    if wanted.statistics and facts.numpy_dtype.kind == "c":
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
        levels=(full,) if wanted.overviews == "none" else level_sizes(*full, block),
        piece=piece_shape(facts.width, facts.height, facts.pixel_bytes, block, stored_rows),
        source_crs_wkt=facts.crs_wkt,
        warps=False,
        staged=False,
        rereads=1.0,
        kept=False,
        sparse=wanted.sparse,
        statistics=wanted.statistics,
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


def _rereads(facts: Facts, piece: tuple[int, int], stored_rows: int, stored_cols: int) -> float:
    """How often a stored block is decoded, on average over the raster."""

    def along(size: int, part: int, stored: int) -> float:
        touched = sum(
            -(-min(begin + part, size) // stored) - begin // stored for begin in range(0, size, part)
        )
        return touched / math.ceil(size / stored)

    return along(facts.height, piece[0], stored_rows) * along(facts.width, piece[1], stored_cols)
