"""Encode the pixels of a block to the bytes of one TIFF segment, exactly as libtiff decodes them.

DEFLATE, ZSTD and no compression are encoded here: numpy applies the predictor and imagecodecs the codec; its
libdeflate writes the same bytes as GDAL's. GDAL encodes all other codecs, and samples that do not fill whole
bytes: it writes the blocks to a GeoTIFF in memory, from which their bytes are copied.

Sources: TIFF 6.0 §14 (differencing predictor), §15 (tiles); Adobe Photoshop TIFF Technical Note 3 (floating
point predictor); libtiff, tif_zip.c (levels from 6 on are libdeflate's plus one, as measured on its output).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import RasterioError
from rasterio.io import MemoryFile

from gdaltools.cog.encode import adaptive
from gdaltools.cog.encode.profiles import CogProfile
from gdaltools.errors import GdalToolsError
from gdaltools.runtime import interruption

Pixels = NDArray[Any]

#: The libdeflate level that GDAL uses for its default DEFLATE level, 6.
GDAL_DEFAULT_DEFLATE = 7
# Bytes of pixels per file that GDAL writes in memory: enough to make the cost of a file negligible.
_GDAL_BYTES = 8 << 20
_EDGE = struct.Struct("<I")


@dataclass(frozen=True)
class Encoding:
    """How the blocks of a COG are encoded.

    Attributes
    ----------
    profile : CogProfile
        Codec, level, predictor and block size.
    dtype : str
        rasterio's name of the samples' dtype in the file.
    sample_bits : int or None
        Bits of a sample, if fewer than the dtype's (GDAL's NBITS).
    ycbcr : bool
        Whether JPEG stores its three bands as luma and chroma.
    """

    profile: CogProfile
    dtype: str
    sample_bits: int | None = None
    ycbcr: bool = False

    @property
    def by_gdal(self) -> bool:
        """Whether GDAL encodes the blocks."""
        odd_bits = self.sample_bits is not None or self.dtype.startswith("complex_int")
        return odd_bits or self.profile.compression not in ("DEFLATE", "ZSTD", "NONE")

    def creation_options(self) -> dict[str, Any]:
        """Return GDAL's creation options for a GeoTIFF with this encoding."""
        profile = self.profile
        options: dict[str, Any] = {"compress": profile.compression, "photometric": "minisblack"}
        if profile.compression in ("DEFLATE", "ZSTD", "LZW"):
            options["predictor"] = profile.predictor
        if profile.level is not None:
            options["zlevel" if "DEFLATE" in profile.compression else "zstd_level"] = profile.level
        if profile.compression == "JPEG":
            options["jpeg_quality"] = profile.quality
            if self.ycbcr:
                options["photometric"] = "ycbcr"
        if profile.compression == "WEBP":
            options |= {"webp_level": profile.quality, "webp_lossless": profile.lossless}
        if profile.compression.startswith("LERC"):
            options["max_z_error"] = profile.max_z_error
        if self.sample_bits is not None:
            options["nbits"] = self.sample_bits
        return options


Encode = Callable[[Pixels], bytes]


class BlockEncoder:
    """Encodes the blocks of one piece."""

    def __init__(self, encoding: Encoding, policy: adaptive.Policy, *, overview: bool = False) -> None:
        self._encoding = encoding
        self._size = encoding.profile.blocksize
        self._adaptive = adaptive.AdaptiveDeflate(policy, overview=overview)

    def encode_row(self, pixels: Pixels, left_out: Sequence[bool] = ()) -> Iterator[bytes]:
        """Yield the encoded blocks of one row of blocks, from left to right.

        Parameters
        ----------
        pixels : ndarray, shape (rows, cols, samples)
            Pixels of at most one block's height; incomplete blocks are padded as GDAL pads them.
        left_out : sequence of bool
            For each block, whether the caller discards it; such a block may be yielded as empty bytes.

        Raises
        ------
        KeyboardInterrupt
            The run was interrupted; no further block is encoded.
        """
        interruption.check()
        if self._encoding.by_gdal:
            yield from self._gdal_blocks(pixels, left_out)
            return
        predictor = self._encoding.profile.predictor
        kept = [
            self._block(pixels, left)
            for left in range(0, pixels.shape[1], self._size)
            if not (left_out and left_out[left // self._size])
        ]

        def encoded_block(block: Pixels, encode: Encode) -> bytes:
            interruption.check()
            return encode(predicted(block, predictor))

        encoded = map(encoded_block, kept, self._encoders(kept))
        yield from (b"" if out else next(encoded) for out in left_out or [False] * len(kept))

    def _block(self, pixels: Pixels, left: int) -> Pixels:
        """Return the whole block that begins at column `left`, padded with zeros beyond `pixels`."""
        size = self._size
        block = pixels[:, left : left + size]
        if block.shape[:2] == (size, size):
            return block
        whole = np.zeros((size, size, pixels.shape[2]), pixels.dtype)
        whole[: block.shape[0], : block.shape[1]] = block
        return whole

    def _encoders(self, blocks: Sequence[Pixels]) -> Sequence[Encode]:
        profile = self._encoding.profile
        if profile.compression != "DEFLATE" or not profile.size_tolerance:
            return [_compressor(profile)] * len(blocks)
        rows = (predicted(block[:: adaptive.KIND_ROWS], profile.predictor) for block in blocks)
        return self._adaptive.encoders(list(rows))

    def _gdal_blocks(self, pixels: Pixels, left_out: Sequence[bool]) -> Iterator[bytes]:
        size = self._size
        block_bytes = size * size * pixels.shape[2] * pixels.dtype.itemsize
        step = max(1, _GDAL_BYTES // block_bytes) * size
        for left in range(0, pixels.shape[1], step):
            omitted = left_out[left // size : (left + step) // size]
            if omitted and all(omitted):
                yield from (b"" for _ in omitted)
            else:
                yield from encode_by_gdal(pixels[:, left : left + step], self._encoding)


def predicted(block: Pixels, predictor: int) -> Pixels:
    """Return the codec's input for a whole block of shape (rows, cols, samples).

    It holds the differences of `predictor`, or with predictor 1 the pixels.
    """
    if predictor == 3:
        return _floating_point_differences(block)
    plain = block.view(np.dtype(f"u{block.dtype.itemsize}")) if predictor == 2 else block
    if predictor == 1:
        return np.ascontiguousarray(plain)
    differences = np.empty(plain.shape, plain.dtype)
    differences[:, 0] = plain[:, 0]
    np.subtract(plain[:, 1:], plain[:, :-1], out=differences[:, 1:])
    return differences


def _floating_point_differences(block: Pixels) -> Pixels:
    rows, cols, samples = block.shape
    width = block.dtype.itemsize
    octets = np.ascontiguousarray(block).view(np.uint8).reshape(rows, cols * samples, width)
    # Byte planes, the most significant first, as on a big-endian machine.
    planes = np.ascontiguousarray(octets[:, :, ::-1].transpose(0, 2, 1)).reshape(rows, -1)
    differences = np.empty_like(planes)
    differences[:, :samples] = planes[:, :samples]
    np.subtract(planes[:, samples:], planes[:, :-samples], out=differences[:, samples:])
    return differences


def _compressor(profile: CogProfile) -> Encode:
    if profile.compression == "NONE":
        return lambda data: data.tobytes()
    if profile.compression == "ZSTD":
        level = profile.level or 9
        return lambda data: _zstd(data, level)
    return fixed_deflate(profile.level or 6)


def _zstd(data: Any, level: int) -> bytes:
    return bytes(imagecodecs.zstd_encode(data, level=level))


def fixed_deflate(level: int) -> Encode:
    """Return a DEFLATE encoder that writes GDAL's bytes at GDAL's `level`: 1 to 9, or 12 with libdeflate."""
    own = level + 1 if level >= 6 else level
    return lambda data: adaptive.deflate(data, min(own, 12))


def encode_mask_block(valid: NDArray[np.bool_], blocksize: int) -> bytes:
    """Encode a mask block as GDAL does: one bit per pixel, DEFLATE and no predictor for any imagery."""
    whole = valid
    if valid.shape != (blocksize, blocksize):
        whole = np.zeros((blocksize, blocksize), bool)
        whole[: valid.shape[0], : valid.shape[1]] = valid
    return adaptive.deflate(np.packbits(whole, axis=1), GDAL_DEFAULT_DEFLATE)


def framed(block: bytes) -> bytes:
    """Return `block` with the leader and trailer that GDAL's ghost area promises.

    Source: GDAL's COG driver page, "Header ghost area".
    """
    return _EDGE.pack(len(block)) + block + block[-4:].rjust(4, b"\0")


def encode_by_gdal(pixels: Pixels, encoding: Encoding) -> list[bytes]:
    """Return the blocks of `pixels`, shape (rows, cols, samples), as GDAL encodes them.

    Raises
    ------
    GdalToolsError
        GDAL cannot encode these pixels.
    """
    rows, cols, samples = pixels.shape
    size = encoding.profile.blocksize
    try:
        with rasterio.Env(GDAL_PAM_ENABLED="NO"), MemoryFile() as memory:
            with memory.open(
                driver="GTiff",
                width=cols,
                height=rows,
                count=samples,
                dtype=encoding.dtype,
                tiled=True,
                blockxsize=size,
                blockysize=size,
                interleave="pixel",
                **encoding.creation_options(),
            ) as dataset:
                dataset.write(pixels.transpose(2, 0, 1))
            with memory.open() as dataset:
                places = [
                    _place(dataset, col, row)
                    for row in range(-(-rows // size))
                    for col in range(-(-cols // size))
                ]
            content = memory.getbuffer()
            return [bytes(content[offset : offset + length]) for offset, length in places]
    except RasterioError as error:
        raise GdalToolsError(
            f"GDAL cannot encode {samples} x {encoding.dtype} as {encoding.profile.compression}: {error}"
        ) from error


def _place(dataset: Any, col: int, row: int) -> tuple[int, int]:
    offset = dataset.get_tag_item(f"BLOCK_OFFSET_{col}_{row}", "TIFF", bidx=1)
    length = dataset.get_tag_item(f"BLOCK_SIZE_{col}_{row}", "TIFF", bidx=1)
    return int(offset), int(length)
