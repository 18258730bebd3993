"""The most memory that an extraction needs: the memory of its readers, whose size the plan decides."""

from __future__ import annotations

import math

from gdaltools.cost.cog_memory import KERNEL_BYTES, SHARED_BYTES, cog_memory_bound, piece_shape, strips_bytes
from gdaltools.raster.dataset import CACHE_MB
from gdaltools.warp.plan import cell_side

#: A strip of a group, with all bands, uncompressed. A reader holds about three times as much.
STRIP_BYTES = 48 << 20
#: GDAL's block cache grows up to this size if the strips of all threads need it.
CACHE_BYTES = 512 << 20
_THREAD_BYTES, _WARP_BYTES = 24 << 20, 32 << 20
# The usual side of a tile's blocks.
_BLOCK = 512

#: An automatic tile is a square of about this many uncompressed bytes, with all bands …
AUTO_TILE_BYTES = 450_000_000
#: … whose side is a multiple of this many pixels, within these limits (protocol.md §5).
AUTO_TILE_STEP, AUTO_TILE_MIN, AUTO_TILE_MAX = 512, 5_120, 20_480

# A tile is written from top to bottom if a row of its blocks, with all bands, has at most this many bytes.
_ROW_BYTES = 64 << 20

# The most and fewest rows of a plain strip, and the most bytes of a tile's part of it.
_PLAIN_ROWS, _LEAST_ROWS = 512, 64
_PLAIN_BYTES = 16 << 20


def extraction_memory_bound(
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
    """Return the most bytes that `threads` readers need, whose groups are `width` pixels wide.

    Each reader holds its strip, as it was read and as rows that do not fill a block yet, the blocks of one
    tile while they are encoded and, for COGs, the halved rows that wait for their neighbours.
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
    """Return the most bytes that plain tiles need, for a raster in strips whose layout alone is known."""
    pixel_bytes, block = bands * itemsize, min(_BLOCK, tile_size)
    side = min(tile_size, width)
    if not goes_by_rows(side, block, pixel_bytes):
        rows, cols = piece_shape(side, min(tile_size, height), pixel_bytes, block)
        bound = cog_memory_bound(side, min(tile_size, height), bands, itemsize, threads=threads)
        bound += KERNEL_BYTES if warps else 0
        return bound + threads * strips_bytes(min(rows, height) * min(cols, width) * pixel_bytes)
    # For a warp, neither the overlap is known, which decides the side of cells, nor the target grid, on which
    # the raster may be wider.
    step = cell_side(tile_size, 1) if warps else plain_step(1, side * pixel_bytes)
    across = 2 * width if warps else width
    busy = min(threads, math.ceil(height / tile_size) * math.ceil(width / side))
    return extraction_memory_bound(
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


def budgeted_tile_size(pixel_bytes: int, tile_mb: float) -> int:
    """Return the side of the largest tile of at most `tile_mb` (10⁶ bytes), a multiple of 512 pixels.

    >>> budgeted_tile_size(3, 100), budgeted_tile_size(3, 0.001)
    (5632, 512)
    """
    side = math.isqrt(int(tile_mb * 1e6 / pixel_bytes))
    return min(max(side // AUTO_TILE_STEP, 1) * AUTO_TILE_STEP, 1 << 20)


def auto_tile_size(pixel_bytes: int) -> int:
    """Return the side of a tile of about 450 MB, for pixels of `pixel_bytes`, all bands together."""
    side = math.sqrt(AUTO_TILE_BYTES / pixel_bytes)
    return min(AUTO_TILE_MAX, max(AUTO_TILE_MIN, round(side / AUTO_TILE_STEP) * AUTO_TILE_STEP))


def goes_by_rows(width: int, block: int, pixel_bytes: int) -> bool:
    """Return `TileFormat.by_rows` for a tile of which only this is known.

    >>> goes_by_rows(5120, 512, 16), goes_by_rows(5120, 512, 120)
    (True, False)
    """
    return block * width * pixel_bytes <= _ROW_BYTES


def plain_step(stored_rows: int, row_bytes: int) -> int:
    """Return the rows of a plain strip for a source whose blocks have `stored_rows`: whole blocks if low.

    `row_bytes` is the size of one row of a tile: with very many bands a strip has fewer rows.

    >>> plain_step(1, 12_288), plain_step(12, 12_288), plain_step(1024, 12_288), plain_step(1, 122_880)
    (512, 504, 512, 136)
    """
    rows = min(_PLAIN_ROWS, max(_LEAST_ROWS, _PLAIN_BYTES // row_bytes))
    return rows // stored_rows * stored_rows if stored_rows <= rows else rows
