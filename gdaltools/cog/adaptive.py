"""DEFLATE as fast as the data allows, within a promised size.

No encoder is best on all data: on sensor noise Huffman codes with runs (zlib's Z_RLE) are four times as fast
as libdeflate's level 7 and no larger, on smooth imagery they are half as large again; there libdeflate's
levels 4 to 6 are what saves time. So parts of blocks from all over the raster are tried with the candidates
first (`Trial`), and from what they took follows a `Policy`: an encoder for each kind of block, so that the
whole saves the most time for the bytes that may be spent. The measure is what GDAL writes by default,
libdeflate's level 7.

The promise is about the sum of all blocks, and part of the tolerance is kept back for what trials do not
tell. A policy depends on the pixels alone, never on the machine, its load or the order of the work: the same
raster gives the same file on any number of threads or machines.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
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
    """One way to write DEFLATE.

    Attributes
    ----------
    costs : tuple of float
        Its time as a share of libdeflate level 7's, for blocks of 0, 1, 2, ... bits of entropy: medians over
        satellite imagery, shaded relief, elevations and sensor noise.
    """

    name: str
    costs: tuple[float, ...]
    encode: Callable[[Data], bytes]

    def cost(self, kind: int) -> float:
        """Its cost for a kind of block."""
        return _of_entropy(self.costs, kind)


def deflate(data: Any, level: int) -> bytes:
    """The zlib stream of any contiguous buffer by libdeflate, level 1 to 12."""
    return bytes(imagecodecs.deflate_encode(data, level=level))


def _libdeflate(level: int) -> Callable[[Data], bytes]:
    return lambda data: deflate(data, level)


def _isal(data: Data) -> bytes:
    return bytes(isal_zlib.compress(data, level=2))


def _runs(data: Data) -> bytes:
    encoder = zlib_ng.compressobj(1, zlib_ng.DEFLATED, 15, 8, zlib_ng.Z_RLE)
    return bytes(encoder.compress(data)) + bytes(encoder.flush())


REFERENCE = Encoder("libdeflate 7", (1.0,), _libdeflate(7))
#: They cost next to nothing where they are of use.
QUICK = (
    Encoder("ISA-L 2", (0.08, 0.13, 0.13, 0.13, 0.14, 0.25, 0.25), _isal),
    Encoder("runs", (0.16, 0.22, 0.26, 0.24, 0.3, 0.45, 0.48), _runs),
)
THOROUGH = (
    Encoder("libdeflate 4", (0.6, 0.5, 0.5, 0.42, 0.5, 0.68, 0.75), _libdeflate(4)),
    Encoder("libdeflate 5", (0.65, 0.55, 0.57, 0.5, 0.6, 0.8, 0.9), _libdeflate(5)),
    Encoder("libdeflate 6", (0.75, 0.65, 0.72, 0.65, 0.72, 0.88, 0.95), _libdeflate(6)),
)
ENCODERS = (*QUICK, *THOROUGH, REFERENCE)
_BY_NAME = {encoder.name: encoder for encoder in ENCODERS}

# Megabytes in a second that the reference encodes, of blocks of 0, 1, 2, ... bits of entropy.
_SPEEDS = (150, 60, 55, 40, 45, 55, 65)
# Every so many rows of a block tell its kind.
_KIND_ROWS = 8
# Kinds of overviews are counted from here; those of less than so many bits are not worth a choice: what
# compresses as well as they do is compressed in no time.
_OVERVIEW, _FEW_BITS = 100, 1
# Trials that a kind needs, and standard errors of their mean that are taken for granted.
_FEW_TRIALS, _CAUTION = 3, 2.0
# Of the whole time a step is to save at least as large a share as of the whole size it costs, times so much.
_WORTH = 2.0
# Planned with, for very many trials; what of it few trials let one plan with less; what is kept back always.
_PLANNED_SHARE, _DOUBT, _KEPT_BACK = 0.88, 0.5, 0.0007


def kind_of(data: Data, *, overview: bool) -> int:
    """Which kind of block it is: by the entropy of its bytes; overviews, with other matches, are apart."""
    octets = np.ascontiguousarray(data[::_KIND_ROWS]).view(np.uint8)
    counts = np.bincount(octets.reshape(-1), minlength=256)
    shares = counts[counts > 0] / octets.size
    return int(-(shares * np.log2(shares)).sum()) + overview * _OVERVIEW


def _of_entropy(values: Sequence[float], kind: int) -> float:
    return values[min(kind % _OVERVIEW, len(values) - 1)]


@dataclass(frozen=True)
class Trial:
    """Bytes that encoders made of a block of some kind and size, by name."""

    kind: int
    raw: int
    sizes: Mapping[str, int]


def try_block(data: Data, *, overview: bool) -> Trial:
    """What the encoders make of a block, as the codec is given it.

    Where a quick one needs no more bytes than the reference, nothing can be gained by a thorough one.
    """
    sizes = {encoder.name: len(encoder.encode(data)) for encoder in (*QUICK, REFERENCE)}
    if min(sizes.values()) == sizes[REFERENCE.name]:
        sizes |= {encoder.name: len(encoder.encode(data)) for encoder in THOROUGH}
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
    before; steps along all chains are taken in the order of time saved for a byte until the budget is used:
    by what the trials let expect, and by as much more as their spread lets fear.

    Parameters
    ----------
    tolerance : float
        How much larger than with libdeflate level 7 all blocks together may become, as a share.
    """
    trials = list(trials)
    often = Counter(t.kind for t in trials if t.kind % _OVERVIEW >= _FEW_BITS)
    kinds = sorted(kind for kind, count in often.items() if count >= _FEW_TRIALS)
    share = _PLANNED_SHARE - _DOUBT / max(1, len(trials)) ** 0.5
    stored = sum(trial.sizes[REFERENCE.name] for trial in trials)
    budget = max(0.0, tolerance * share - _KEPT_BACK) * stored
    least = _WORTH * sum(_seconds(trial) for trial in trials) / max(1, stored)
    choices: dict[int, Choice] = {}
    steps: list[tuple[float, int, _Step]] = []
    for kind in kinds:
        first, chain = _chain(kind, [trial for trial in trials if trial.kind == kind])
        choices[kind] = Choice(first.name, first.name, 0.0)
        worth = ((step.saved / step.bytes, kind, step) for step in chain)
        steps += [each for each in worth if each[0] >= least]
    spent, variances = 0.0, dict.fromkeys(kinds, 0.0)
    for _, kind, step in sorted(steps, key=lambda entry: -entry[0]):
        feared = variances | {kind: step.error**2}
        before, after = (_CAUTION * sum(each.values()) ** 0.5 for each in (variances, feared))
        costs = step.bytes + max(0.0, after - before)
        if spent + before + costs > budget:
            part = max(0.0, budget - spent - before) / costs
            choices[kind] = Choice(choices[kind].encoder, step.encoder.name, part)
            break
        spent, variances = spent + step.bytes, feared
        choices[kind] = Choice(step.encoder.name, step.encoder.name, 0.0)
    return Policy(choices)


@dataclass(frozen=True)
class _Step:
    """To a faster encoder: the time that it saves, the bytes that it costs, and the error of their total."""

    encoder: Encoder
    saved: float
    bytes: float
    error: float


def _chain(kind: int, trials: list[Trial]) -> tuple[Encoder, list[_Step]]:
    """The fastest encoder that costs nothing, and the steps from it that save ever less for a byte."""
    seconds = sum(map(_seconds, trials))
    tried = [encoder for encoder in ENCODERS if all(encoder.name in trial.sizes for trial in trials)]
    totals = {encoder: _total(trials, encoder) for encoder in tried}
    most = totals[REFERENCE][0]
    free = [e for e, (total, error) in totals.items() if total + _CAUTION * error <= most]
    current = first = min(free, key=lambda encoder: encoder.cost(kind))
    steps: list[_Step] = []
    while True:
        faster = [
            _Step(e, (current.cost(kind) - e.cost(kind)) * seconds, total - totals[current][0], error)
            for e, (total, error) in totals.items()
            if e.cost(kind) < current.cost(kind) and total > totals[current][0]
        ]
        if not faster:
            return first, steps
        steps.append(max(faster, key=lambda step: step.saved / step.bytes))
        current = steps[-1].encoder


def _seconds(trial: Trial) -> float:
    """What the reference takes for a block; the unit does not matter."""
    return trial.raw / _of_entropy(_SPEEDS, trial.kind)


def _total(trials: list[Trial], encoder: Encoder) -> tuple[float, float]:
    """Bytes that an encoder takes of such blocks, and the standard error beside the reference's."""
    reference = np.array([trial.sizes[REFERENCE.name] for trial in trials], float)
    stored = np.array([trial.sizes[encoder.name] for trial in trials], float)
    excess = stored / reference - stored.sum() / reference.sum()
    spread = np.sqrt((reference * excess**2).sum() / reference.sum() / (len(trials) - 1))
    return float(stored.sum()), float(spread * reference.sum())


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
