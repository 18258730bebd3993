"""The codec's own limit: how fast it encodes blocks of a source when nothing else is done.

No COG writer that uses the codec at this level on these cores can be faster; the share of the limit that it
reaches is its efficiency. GDAL's DEFLATE levels 6 to 9 are libdeflate's 7 to 10 (libtiff, tif_zip.c).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.windows import Window

from benchmarks.compare.jobs import Encoding

Encode = Callable[[NDArray[Any]], bytes]

_REPEATS = 3
# Blocks that are sampled, about 38 MB of RGB, and block rows that they are from, spread over the height.
_BLOCKS, _PLACES = 48, 8


def measure_codec(source: Path, encoding: Encoding, threads: int) -> dict[str, float]:
    """Return the rates of the codec on predictor-processed blocks of the source, best of three.

    Returns
    -------
    dict
        ``mb_per_second`` of one thread by its CPU time, and ``all_threads_mb_per_second`` of `threads` at
        once by the clock (less than the multiple on cores that share computing units).
    """
    encode = _encoder(encoding)
    blocks = [_predicted(block, encoding.predictor) for block in _sample_blocks(source, encoding.blocksize)]
    megabytes = sum(block.nbytes for block in blocks) / 1e6
    return {
        "mb_per_second": megabytes / min(_cpu_seconds(encode, blocks) for _ in range(_REPEATS)),
        "all_threads_mb_per_second": megabytes
        / min(_wall_seconds(encode, blocks, threads) for _ in range(_REPEATS)),
    }


def encoded_megabytes(width: int, height: int, pixel_bytes: int, blocksize: int) -> float:
    """Return the size of a raster with its overviews before they are encoded.

    >>> round(encoded_megabytes(20_000, 20_000, 3, 512))  # about 4/3 of 1200
    1600
    """
    pixels = width * height
    while max(width, height) > blocksize:
        width, height = -(-width // 2), -(-height // 2)
        pixels += width * height
    return pixels * pixel_bytes / 1e6


def _encoder(encoding: Encoding) -> Encode:
    """Return the codec as a function of one block, with the options that GDAL would use."""
    import imagecodecs

    level = encoding.level
    if encoding.codec == "DEFLATE":
        libdeflate = 6 if level is None else level
        libdeflate += 6 <= libdeflate <= 9
        return lambda block: bytes(imagecodecs.deflate_encode(block.tobytes(), level=libdeflate))
    if encoding.codec == "ZSTD":
        return lambda block: bytes(
            imagecodecs.zstd_encode(block.tobytes(), level=9 if level is None else level)
        )
    if encoding.codec == "LZW":
        return lambda block: bytes(imagecodecs.lzw_encode(block.tobytes()))
    return lambda block: block.tobytes()


def _predicted(block: NDArray[Any], predictor: int) -> NDArray[Any]:
    """Apply TIFF's predictor to a block `(rows, cols, bands)` (TIFF 6.0 §14; Technical Note 3 for floats)."""
    import imagecodecs

    if predictor == 2:
        return np.ascontiguousarray(imagecodecs.delta_encode(block, axis=-2))
    if predictor == 3:
        return np.ascontiguousarray(imagecodecs.floatpred_encode(block, axis=-2))
    return block


def _sample_blocks(source: Path, size: int) -> list[NDArray[Any]]:
    """Return whole blocks `(rows, cols, bands)` from places spread evenly over the source."""
    with rasterio.Env(GDAL_CACHEMAX=64), rasterio.open(source) as dataset:
        down, across = max(dataset.height // size, 1), max(dataset.width // size, 1)
        rows = sorted({int(row) for row in np.linspace(0, down - 1, min(_PLACES, down)).round()})
        each = max(_BLOCKS // len(rows), 1)
        blocks = []
        for number, row in enumerate(rows):
            # Shifted from row to row, so that the places do not line up in columns.
            cols = {
                int(col + number) % across for col in np.linspace(0, across - 1, min(each, across)).round()
            }
            for col in sorted(cols):
                window = Window(col * size, row * size, min(size, dataset.width), min(size, dataset.height))
                blocks.append(np.ascontiguousarray(dataset.read(window=window).transpose(1, 2, 0)))
    return blocks


def _cpu_seconds(encode: Encode, blocks: list[NDArray[Any]]) -> float:
    began = time.thread_time()
    for block in blocks:
        encode(block)
    return time.thread_time() - began


def _wall_seconds(encode: Encode, blocks: list[NDArray[Any]], threads: int) -> float:
    began = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(encode, blocks):
            pass
    return time.perf_counter() - began
