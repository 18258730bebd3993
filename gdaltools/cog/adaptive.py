"""DEFLATE as fast as the data allows, within a promised size.

No encoder is best on all data: on sensor noise Huffman codes alone are four times as fast as libdeflate's
level 7 and no larger, on smooth imagery they are twice the size; there libdeflate's levels 4 to 6 are what
saves time. So samples of the blocks are encoded by every candidate, and each block gets the mixture of two
encoders that saves the most time for the bytes that may be spent. The measure is what GDAL writes by default,
libdeflate's level 7.

The promise is about the sum of all blocks: an account of what was spent, against what level 7 would have
taken, is kept from block to block, and only part of the tolerance is planned with. Which encoder a block gets
depends on the pixels alone, never on the machine or its load: the same raster gives the same file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray
from zlib_ng import zlib_ng

Data = NDArray[Any]


@dataclass(frozen=True)
class Encoder:
    """One way to write DEFLATE; `cost` is its time as a share of libdeflate level 7's, by experience."""

    name: str
    cost: float
    encode: Callable[[Data], bytes]


def deflate(data: Any, level: int) -> bytes:
    """The zlib stream of any contiguous buffer by libdeflate, level 1 to 12."""
    return bytes(imagecodecs.deflate_encode(data, level=level))


def _libdeflate(level: int) -> Callable[[Data], bytes]:
    return lambda data: deflate(data, level)


def _isal(data: Data) -> bytes:
    return bytes(isal_zlib.compress(data, level=2))


def _huffman(data: Data) -> bytes:
    encoder = zlib_ng.compressobj(1, zlib_ng.DEFLATED, 15, 8, zlib_ng.Z_HUFFMAN_ONLY)
    return bytes(encoder.compress(data)) + bytes(encoder.flush())


REFERENCE = Encoder("libdeflate 7", 1.0, _libdeflate(7))
CANDIDATES = (
    Encoder("ISA-L 2", 0.15, _isal),
    Encoder("Huffman only", 0.25, _huffman),
    Encoder("libdeflate 4", 0.48, _libdeflate(4)),
    Encoder("libdeflate 5", 0.58, _libdeflate(5)),
    Encoder("libdeflate 6", 0.75, _libdeflate(6)),
)

# Planned with; the rest is for what samples do not tell.
_PLANNED_SHARE = 0.9
# Every so many blocks the encoders in use are compared, and every so many all candidates.
_COMPARE_EVERY, _CHOOSE_EVERY = 8, 48
# A sample is so many runs of rows, an eighth of the block together.
_SAMPLE_RUNS, _SAMPLE_SHARE = 3, 8
# Below so many bytes a sample would say nothing: the whole block is taken.
_SMALL_BLOCK = 96 << 10
# How much of an estimate a new sample replaces.
_LEARNING = 0.4


class AdaptiveDeflate:
    """Encodes the blocks of one chunk, in order.

    Parameters
    ----------
    tolerance : float
        How much larger than with libdeflate level 7 all blocks together may become, as a share.
    """

    def __init__(self, tolerance: float) -> None:
        self._tolerance = tolerance * _PLANNED_SHARE
        self._seen = 0
        self._base = self._faster = REFERENCE
        self._excess = {encoder.name: np.inf for encoder in CANDIDATES} | {REFERENCE.name: 0.0}
        # Bytes above the reference, and the reference's bytes: of samples known, of other blocks estimated.
        self._spent = 0.0
        self._reference = 0.0

    def __call__(self, data: Data) -> bytes:
        """The zlib stream of a block."""
        if self._seen % _CHOOSE_EVERY == 0:
            self._learn(data, CANDIDATES, weight=1.0 if self._seen == 0 else _LEARNING)
            self._choose()
        elif self._seen % _COMPARE_EVERY == 0:
            self._learn(data, {self._base, self._faster} - {REFERENCE}, weight=_LEARNING)
            self._choose()
        verify = self._seen % _CHOOSE_EVERY == _COMPARE_EVERY // 2
        self._seen += 1
        encoder = self._affordable()
        block = encoder.encode(data)
        if encoder is REFERENCE:
            self._reference += len(block)
            return block
        if verify:
            return self._verified(encoder, block, data)
        reference = len(block) / (1 + self._excess[encoder.name])
        self._account(len(block), reference)
        return block

    def _affordable(self) -> Encoder:
        excess = self._excess[self._faster.name]
        # What the next block may cost, measured in blocks of the mean size.
        mean = self._reference / max(1, self._seen - 1)
        planned = self._tolerance * (self._reference + mean) - self._spent
        return self._faster if excess * mean <= planned else self._base

    def _verified(self, encoder: Encoder, block: bytes, data: Data) -> bytes:
        """The better of the block and the reference's; what was estimated of the encoder is corrected."""
        reference = REFERENCE.encode(data)
        found = len(block) / len(reference) - 1
        self._excess[encoder.name] += (found - self._excess[encoder.name]) * _LEARNING
        if len(reference) <= len(block):
            self._reference += len(reference)
            return reference
        self._account(len(block), len(reference))
        return block

    def _account(self, stored: float, reference: float) -> None:
        self._spent += stored - reference
        self._reference += reference

    def _learn(self, data: Data, encoders: Any, *, weight: float) -> None:
        samples = list(_samples(data))
        reference = sum(len(REFERENCE.encode(sample)) for sample in samples)
        for encoder in encoders:
            found = sum(len(encoder.encode(sample)) for sample in samples) / reference - 1
            known = self._excess[encoder.name]
            self._excess[encoder.name] = found if known == np.inf else known + (found - known) * weight

    def _choose(self) -> None:
        """The best mixture: the cheapest that is affordable for every block, and the best step up from it."""
        known = [REFERENCE, *CANDIDATES]
        affordable = [e for e in known if self._excess[e.name] <= self._tolerance]
        self._base = min(affordable, key=lambda e: e.cost)
        spare = self._tolerance - self._excess[self._base.name]

        def saving(encoder: Encoder) -> float:
            step = self._excess[encoder.name] - self._excess[self._base.name]
            return (self._base.cost - encoder.cost) * min(1.0, spare / step)

        faster = [e for e in known if e.cost < self._base.cost]
        self._faster = max(faster, key=saving, default=self._base)


def _samples(data: Data) -> Iterator[Data]:
    """Some runs of the block's rows, spread over it."""
    rows = data.shape[0]
    run = rows // (_SAMPLE_SHARE * _SAMPLE_RUNS)
    if data.nbytes <= _SMALL_BLOCK or run < 1:
        yield data
        return
    for part in range(_SAMPLE_RUNS):
        start = (2 * part + 1) * rows // (2 * _SAMPLE_RUNS) - run // 2
        yield data[start : start + run]
