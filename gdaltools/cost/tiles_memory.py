"""What an extraction takes of memory at most: what its readers hold, of which the plan decides the size."""

from __future__ import annotations

import math

from gdaltools.cost.cog_memory import KERNEL_BYTES, SHARED_BYTES, piece_shape, strips_bytes
from gdaltools.cost.cog_memory import memory_bound as cog_memory_bound
from gdaltools.raster.dataset import CACHE_MB
from gdaltools.tiles.extract.format import goes_by_rows
from gdaltools.warp.plan import cell_side
from gdaltools.warp.target import plain_step

#: A strip of a group, of all bands, uncompressed: what a reader holds, about three times over.
STRIP_BYTES = 48 << 20
#: GDAL's block cache is raised up to this where a strip of every thread takes it.
CACHE_BYTES = 512 << 20
_THREAD_BYTES, _WARP_BYTES = 24 << 20, 32 << 20
# Side of a tile's blocks, as it usually is.
_BLOCK = 512


def memory_bound(
    pixel_bytes: int,
    *,
    width: int,
    tile_width: int,
    step: int,
    block: int,
    threads: int,
    cache_bytes: int,
    cogs: bool,
    warps: bool,
) -> int:
    """Bytes that so many readers need at most, whose groups are `width` pixels wide.

    Each holds its strip, as it was read and as rows that do not yet fill a block, one tile's blocks while
    they are encoded, and of COGs the halves that wait for their neighbours.
    """
    strip = width * step * pixel_bytes
    rows = width * block * pixel_bytes
    piece = min(width, tile_width) * block * pixel_bytes
    waiting = rows * 3 // 4 if cogs else 0
    working = strip + (rows if block != step else 0) + 3 * piece + waiting + _THREAD_BYTES
    working += _WARP_BYTES if warps else 0
    shared = SHARED_BYTES - (CACHE_MB << 20) + cache_bytes + (KERNEL_BYTES if warps else 0)
    return shared + threads * working


def tiles_memory_bound(
    width: int, height: int, bands: int, itemsize: int, *, tile_size: int, threads: int, warps: bool
) -> int:
    """Bytes that plain tiles need at most of a raster in strips of which no more is known than its layout."""
    pixel_bytes, block = bands * itemsize, min(_BLOCK, tile_size)
    side = min(tile_size, width)
    if not goes_by_rows(side, block, pixel_bytes):
        rows, cols = piece_shape(side, min(tile_size, height), pixel_bytes, block)
        bound = cog_memory_bound(side, min(tile_size, height), bands, itemsize, threads=threads)
        bound += KERNEL_BYTES if warps else 0
        return bound + threads * strips_bytes(min(rows, height) * min(cols, width) * pixel_bytes)
    # Neither the overlap of a warp's tiles is known, which its cells' side follows from, nor its target grid,
    # on which the raster may be wider.
    step = cell_side(tile_size, 1) if warps else plain_step(1, side * pixel_bytes)
    across = 2 * width if warps else width
    busy = min(threads, math.ceil(height / tile_size) * math.ceil(width / side))
    return memory_bound(
        pixel_bytes,
        width=max(side, min(across, STRIP_BYTES // (step * pixel_bytes))),
        tile_width=side,
        step=step,
        block=block,
        threads=busy,
        cache_bytes=min(CACHE_BYTES, max(CACHE_MB << 20, 2 * busy * step * width * pixel_bytes)),
        cogs=False,
        warps=warps,
    )
