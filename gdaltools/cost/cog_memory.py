"""How a COG is cut into pieces, and the memory that it needs: both follow from the raster's shape alone."""

from __future__ import annotations

import math

from dask.system import CPU_COUNT

from gdaltools.raster.dataset import CACHE_MB
from gdaltools.raster.tiff import BLOCK_UNIT

# The largest block, decoded, with all bands.
_BLOCK_BYTES = 64 << 20
_SMALLEST_BLOCK = 128
# A piece of the full resolution, which one task holds. Pieces as wide as the raster are the fastest to read.
_PIECE_BYTES = 24 << 20
_WIDE_PIECE_BYTES = 96 << 20
_FEW_PIECES = 8
# Python with rasterio, numpy and dask loaded, and memory that a thread's allocator keeps.
_BASE_BYTES = 150 << 20
#: The part of a bound that the process needs once, however many COGs it writes at a time.
SHARED_BYTES = _BASE_BYTES + (CACHE_MB << 20)
#: Memory of numba, its compiler and the compiled code, once a process warps by our own kernels.
KERNEL_BYTES = 140 << 20
_THREAD_BYTES = 16 << 20
_STRIPS_BYTES = 24 << 20
_GDAL_BYTES = 24 << 20
_BLOCK_TABLE_BYTES = 64


def affordable_blocksize(blocksize: int, bands: int, itemsize: int) -> int:
    """Return `blocksize`, halved until a block of all bands fits the memory limit of one block.

    >>> affordable_blocksize(512, 4, 2), affordable_blocksize(512, 1000, 4)
    (512, 128)
    """
    while blocksize > _SMALLEST_BLOCK and blocksize * blocksize * bands * itemsize > _BLOCK_BYTES:
        blocksize = max(blocksize // 2 // BLOCK_UNIT * BLOCK_UNIT, _SMALLEST_BLOCK)
    return blocksize


def piece_shape(
    width: int, height: int, pixel_bytes: int, blocksize: int, stored_rows: int = 1
) -> tuple[int, int]:
    """Return the rows and columns of a piece: whole blocks, as wide as the raster if memory permits.

    `stored_rows` is the height of the source's own blocks: pieces hold whole ones if possible.

    >>> piece_shape(18500, 18300, 3, 512), piece_shape(1_000_000, 1_000_000, 3, 512)
    ((512, 18944), (512, 16384))
    """
    row_bytes = -(-width // blocksize) * blocksize * pixel_bytes
    across = -(-width // blocksize) * blocksize
    if row_bytes * blocksize > _WIDE_PIECE_BYTES:
        return _narrow_piece(pixel_bytes, blocksize)
    unit = blocksize
    whole = math.lcm(blocksize, stored_rows)
    if row_bytes * whole <= _WIDE_PIECE_BYTES:
        unit = whole
    fitting = max(1, _PIECE_BYTES // max(1, row_bytes * unit))
    spread = max(1, -(-height // unit) // _FEW_PIECES)
    return unit * min(fitting, spread), across


def narrowed(piece: tuple[int, int], pixel_bytes: int, blocksize: int) -> tuple[int, int]:
    """Return `piece`, or a narrower one if it is large; for sources any part of which can be read alone.

    >>> narrowed((512, 18944), 3, 512), narrowed((512, 36864), 3, 512)
    ((512, 18944), (512, 16384))
    """
    rows, cols = piece
    if rows * cols * pixel_bytes <= 2 * _PIECE_BYTES:
        return piece
    return _narrow_piece(pixel_bytes, blocksize)


def _narrow_piece(pixel_bytes: int, blocksize: int) -> tuple[int, int]:
    cols = max(1, _PIECE_BYTES // (blocksize * blocksize * pixel_bytes))
    # The number of blocks is a power of two, so that pieces halve with the levels.
    return blocksize, blocksize * (1 << (cols.bit_length() - 1))


def strips_bytes(piece_bytes: int) -> int:
    """Return the extra memory of a thread for a piece that is read in strips, or warped."""
    return 2 * piece_bytes + _STRIPS_BYTES


def cog_memory_bound(
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
    warps: bool = False,
    threads: int | None = None,
) -> int:
    """Return the most bytes that writing a COG of such a raster needs, with `threads` tasks at a time.

    By default there is one task per core. Each task holds its piece, the blocks being encoded, the piece at
    half the resolution in each direction and, for a warp, its strips. Halved pieces wait for their
    neighbours. The process itself, GDAL's block cache, the tables of blocks and the kernels of a warp add to
    that.
    """
    busy = threads or int(CPU_COUNT)
    block = affordable_blocksize(blocksize, bands // planes, itemsize)
    rows, cols = piece or piece_shape(width, height, bands * itemsize, block)
    held = min(rows, height) * min(cols, width) * (bands * itemsize + (1 if masked else 0))
    block_bytes = block**2 * bands // planes * itemsize
    encoding = 3 * block_bytes + (_GDAL_BYTES + 2 * block_bytes if by_gdal else 0)
    working = held + held // 4 + encoding + _THREAD_BYTES + (strips_bytes(held) if warps else 0)
    # If pieces have neighbours beside them, three wait for the fourth at every level.
    depth = math.ceil(math.log2(max(width / cols, height / rows, 1))) + 1 if cols < width else 1
    waiting = (busy + 3 * depth) * held // 4 if max(width, height) > block else 0
    blocks = math.ceil(width / block) * math.ceil(height / block) * planes * 4 // 3
    shared = SHARED_BYTES + (KERNEL_BYTES if warps else 0)
    return shared + busy * working + waiting + _BLOCK_TABLE_BYTES * blocks
