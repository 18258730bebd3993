"""DEFLATE as fast as the data allows, within a promised size.

No encoder is best on all data: on sensor noise Huffman codes alone are four times as fast as libdeflate's
level 7 and no larger, on smooth imagery they are twice the size; there libdeflate's levels 4 to 6 are what
saves time. So blocks from all over the raster are tried with every candidate first (`Trial`), and from what
they took follows a `Policy`: an encoder for each kind of block, so that the whole saves the most time for the
bytes that may be spent. The measure is what GDAL writes by default, libdeflate's level 7.

The promise is about the sum of all blocks, and part of the tolerance is kept back for what trials do not
tell. A policy depends on the pixels alone, never on the machine, its load or the order of the work: the same
raster gives the same file on any number of threads or machines.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
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
ENCODERS = (*CANDIDATES, REFERENCE)
_BY_NAME = {encoder.name: encoder for encoder in ENCODERS}

# Bits of entropy by which blocks are of different kinds.
_KIND_BITS = 1.0
# Every so many rows of a block tell its kind.
_KIND_ROWS = 8
# Kinds of overviews are counted from here; those of less than so many bits are not worth a choice: what
# compresses as well as they do is compressed in no time.
_OVERVIEW, _FEW_BITS = 100, 1.0
# Trials that a kind needs, and standard errors of their mean that are taken for granted.
_FEW_TRIALS, _CAUTION = 3, 1.5
# Planned with, for very many trials; what of it few trials let one plan with less; what is kept back always.
_PLANNED_SHARE, _DOUBT, _KEPT_BACK = 0.92, 0.5, 0.0007


def kind_of(data: Data, *, overview: bool) -> int:
    """Which kind of block it is: by the entropy of its bytes; overviews, with other matches, are apart."""
    octets = np.ascontiguousarray(data[::_KIND_ROWS]).view(np.uint8)
    counts = np.bincount(octets.reshape(-1), minlength=256)
    shares = counts[counts > 0] / octets.size
    return int(-(shares * np.log2(shares)).sum() / _KIND_BITS) + overview * _OVERVIEW


@dataclass(frozen=True)
class Trial:
    """Bytes that each encoder made of a block of some kind and size, by name."""

    kind: int
    raw: int
    sizes: Mapping[str, int]


def try_block(data: Data, *, overview: bool) -> Trial:
    """What each encoder makes of a block, as the codec is given it."""
    sizes = {encoder.name: len(encoder.encode(data)) for encoder in ENCODERS}
    return Trial(kind_of(data, overview=overview), data.nbytes, sizes)


@dataclass(frozen=True)
class Choice:
    """How blocks of a kind are encoded: by `encoder`, but a `share` of them by `faster`."""

    encoder: str
    faster: str
    share: float


@dataclass(frozen=True)
class Policy:
    """An encoder for each kind of block; a kind that was not tried often enough gets the reference."""

    choices: Mapping[int, Choice] = field(default_factory=dict)

    def choice(self, kind: int) -> Choice:
        """How a block of this kind is encoded."""
        return self.choices.get(kind, Choice(REFERENCE.name, REFERENCE.name, 0.0))


def find_policy(trials: Iterable[Trial], tolerance: float) -> Policy:
    """The policy that saves the most time within the tolerance, by the trials.

    In each kind the encoders that are worth a thought form a chain, each faster and larger than the one
    before; steps along all chains are taken in the order of time saved for a byte until the budget is used.

    Parameters
    ----------
    tolerance : float
        How much larger than with libdeflate level 7 all blocks together may become, as a share.
    """
    trials = list(trials)
    often = Counter(t.kind for t in trials if t.kind % _OVERVIEW * _KIND_BITS >= _FEW_BITS)
    kinds = sorted(kind for kind, count in often.items() if count >= _FEW_TRIALS)
    reference = sum(trial.sizes[REFERENCE.name] for trial in trials)
    share = _PLANNED_SHARE - _DOUBT / max(1, len(trials)) ** 0.5
    planned = max(0.0, tolerance * share - _KEPT_BACK)
    budget = planned * reference
    steps: list[tuple[float, int, _Step]] = []
    choices: dict[int, Choice] = {}
    for kind in kinds:
        first, chain = _chain([trial for trial in trials if trial.kind == kind])
        choices[kind] = Choice(first.name, first.name, 0.0)
        steps += [(step.saved / step.bytes, kind, step) for step in chain]
        budget += sum(
            trial.sizes[REFERENCE.name] - trial.sizes[first.name] for trial in trials if trial.kind == kind
        )
    budget = min(budget, planned * reference)
    for _, kind, step in sorted(steps, key=lambda entry: -entry[0]):
        if step.bytes > budget:
            choices[kind] = Choice(choices[kind].encoder, step.encoder.name, budget / step.bytes)
            break
        budget -= step.bytes
        choices[kind] = Choice(step.encoder.name, step.encoder.name, 0.0)
    return Policy(choices)


@dataclass(frozen=True)
class _Step:
    """To a faster encoder: the time that it saves, the bytes that it costs."""

    encoder: Encoder
    saved: float
    bytes: float


def _chain(trials: list[Trial]) -> tuple[Encoder, list[_Step]]:
    """The fastest encoder that costs nothing, and the steps from it that save ever less for a byte."""
    raw = sum(trial.raw for trial in trials)
    total = {encoder: _expected(trials, encoder) for encoder in ENCODERS}
    current = min((e for e in ENCODERS if total[e] <= total[REFERENCE]), key=lambda e: e.cost)
    first = current
    steps: list[_Step] = []
    while True:
        faster = [
            _Step(e, (current.cost - e.cost) * raw, total[e] - total[current])
            for e in ENCODERS
            if e.cost < current.cost and total[e] > total[current]
        ]
        if not faster:
            return first, steps
        steps.append(max(faster, key=lambda step: step.saved / step.bytes))
        current = steps[-1].encoder


def _expected(trials: list[Trial], encoder: Encoder) -> float:
    """Bytes that an encoder takes of such blocks, and as much more as their spread lets fear."""
    reference = np.array([trial.sizes[REFERENCE.name] for trial in trials], float)
    stored = np.array([trial.sizes[encoder.name] for trial in trials], float)
    excess = stored / reference - stored.sum() / reference.sum()
    spread = np.sqrt((reference * excess**2).sum() / reference.sum() / (len(trials) - 1))
    return float(stored.sum() + _CAUTION * spread * reference.sum())


class AdaptiveDeflate:
    """Encodes the blocks of one piece, in order, by a policy."""

    def __init__(self, policy: Policy, *, overview: bool) -> None:
        self._policy = policy
        self._overview = overview
        self._due: dict[int, float] = {}

    def __call__(self, data: Data) -> bytes:
        """The zlib stream of a block."""
        kind = kind_of(data, overview=self._overview)
        choice = self._policy.choice(kind)
        due = self._due.get(kind, 0.5) + choice.share
        self._due[kind] = due % 1
        return _BY_NAME[choice.faster if due >= 1 else choice.encoder].encode(data)
