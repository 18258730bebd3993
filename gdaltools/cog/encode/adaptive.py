"""DEFLATE as fast as the data allows, within a promised size.

No encoder is best on all data: on sensor noise Huffman codes with runs (zlib's Z_RLE) are four times as fast
as libdeflate's level 7 and no larger, on smooth imagery they are half as large again; there libdeflate's
levels 4 to 6 are what saves time. So parts of blocks from all over the raster are tried with the candidates
first (`Trial`), and from what they took follows a `Policy`: in each row of blocks an encoder for each kind of
block, so that the row saves the most time for the bytes that may be spent on it. The measure is what
GDAL writes by default, libdeflate's level 7.

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
#: Every so many rows of a block tell its kind.
KIND_ROWS = 8
# Kinds of overviews are counted from here.
_OVERVIEW = 100
# Trials that a kind needs, and standard errors of their mean that are taken for granted.
_FEW_TRIALS, _CAUTION = 3, 1.0
# So large a share of the time is to be saved for each share of the size that is given.
_WORTH = 2.0
# Planned with, for very many trials; what of it few trials let one plan with less; what is kept back always.
_PLANNED_SHARE, _DOUBT, _KEPT_BACK = 0.97, 0.5, 0.0007


def kind_of(rows: Data, *, overview: bool) -> int:
    """Which kind of block it is: by the entropy of some of its rows; overviews, with other matches, apart."""
    octets = np.ascontiguousarray(rows).view(np.uint8)
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
    return Trial(kind_of(data[::KIND_ROWS], overview=overview), data.nbytes, sizes)


@dataclass(frozen=True)
class Choice:
    """How blocks of a kind are encoded: by `encoder`, but a `share` of them by `faster`."""

    encoder: str
    faster: str
    share: float


@dataclass(frozen=True)
class Candidate:
    """To a faster encoder: the shares of a kind's time that it saves and of its size that it costs."""

    encoder: str
    saved: float
    excess: float


@dataclass(frozen=True)
class DataKind:
    """What trials told of a kind of block.

    Attributes
    ----------
    seconds, stored : float
        What the reference takes for a byte of its pixels: time, of which the unit does not matter, and bytes.
    encoder : str
        The best of those that are no larger than the reference.
    steps : tuple of Candidate
        From it to ever faster and larger ones, each with less saved for a byte than the one before.
    """

    seconds: float
    stored: float
    encoder: str
    steps: tuple[Candidate, ...]


@dataclass(frozen=True)
class Policy:
    """How DEFLATE is written; a kind that was not tried often enough gets the reference.

    Attributes
    ----------
    tolerance : float
        The share by which blocks that are chosen for together may become larger than the reference's.
    """

    kinds: Mapping[int, DataKind] = field(default_factory=dict)
    tolerance: float = 0.0

    def choices(self, blocks: Iterable[int]) -> dict[int, Choice]:
        """How blocks of these kinds are encoded, so that together they keep the tolerance.

        Steps of all kinds are taken in the order of time saved for a byte until the tolerance is used.
        """
        counts = {kind: count for kind, count in Counter(blocks).items() if kind in self.kinds}
        left = self.tolerance * sum(count * self.kinds[kind].stored for kind, count in counts.items())
        choices, steps = {}, []
        for kind, count in counts.items():
            known = self.kinds[kind]
            choices[kind] = Choice(known.encoder, known.encoder, 0.0)
            for number, step in enumerate(known.steps):
                size = step.excess * known.stored
                steps.append((-step.saved * known.seconds / size, kind, number, count * size, step.encoder))
        for _, kind, _, size, encoder in sorted(steps):
            if size > left:
                choices[kind] = Choice(choices[kind].encoder, encoder, left / size)
                break
            left -= size
            choices[kind] = Choice(encoder, encoder, 0.0)
        return choices


def find_policy(trials: Iterable[Trial], tolerance: float) -> Policy:
    """The policy that saves the most time within the tolerance, by the trials.

    Trials tell what encoders make of a kind of block, but little of how many blocks of a kind there are: that
    is for `Policy.choices`, which is told. Where a kind has few trials those of its neighbours count as well.

    Parameters
    ----------
    tolerance : float
        How much larger than with libdeflate level 7 all blocks together may become, as a share.
    """
    kinds: dict[int, list[Trial]] = {}
    for trial in trials:
        kinds.setdefault(trial.kind, []).append(trial)
    count = sum(map(len, kinds.values()))
    planned = tolerance * (_PLANNED_SHARE - _DOUBT / max(1, count) ** 0.5) - _KEPT_BACK
    known = {}
    for kind in sorted({near for found in kinds for near in (found - 1, found, found + 1)}):
        tried = kinds.get(kind, [])
        if len(tried) < _FEW_TRIALS:
            tried = [trial for near in (kind - 1, kind, kind + 1) for trial in kinds.get(near, [])]
        if len(tried) >= _FEW_TRIALS:
            known[kind] = _known(kind, tried)
    return Policy(known, max(0.0, planned))


def _known(kind: int, trials: list[Trial]) -> DataKind:
    """The encoders that are worth a thought: the best that is free, and a chain of steps from it."""
    feared = {
        encoder: _feared(trials, encoder)
        for encoder in ENCODERS
        if all(encoder.name in trial.sizes for trial in trials)
    }
    free = (encoder for encoder, share in feared.items() if share <= 0)
    first = current = min(free, key=lambda encoder: encoder.cost(kind) + _WORTH * feared[encoder])
    steps: list[Candidate] = []
    while True:
        faster = [
            Candidate(e.name, current.cost(kind) - e.cost(kind), share - feared[current])
            for e, share in feared.items()
            if e.cost(kind) < current.cost(kind) and share > feared[current]
        ]
        best = max(faster, key=lambda step: step.saved / step.excess, default=None)
        if best is None or best.saved < _WORTH * best.excess:
            break
        steps.append(best)
        current = _BY_NAME[best.encoder]
    stored = sum(trial.sizes[REFERENCE.name] for trial in trials) / sum(trial.raw for trial in trials)
    return DataKind(1 / _of_entropy(_SPEEDS, kind), stored, first.name, tuple(steps))


def _feared(trials: list[Trial], encoder: Encoder) -> float:
    """By which share such blocks may be larger than the reference's: the mean, and its standard error."""
    if encoder is REFERENCE:
        return 0.0
    reference = np.array([trial.sizes[REFERENCE.name] for trial in trials], float)
    stored = np.array([trial.sizes[encoder.name] for trial in trials], float)
    mean = stored.sum() / reference.sum() - 1
    excess = stored / reference - 1 - mean
    error = np.sqrt((reference * excess**2).sum() / reference.sum() / (len(trials) - 1))
    return float(mean + _CAUTION * error)


class AdaptiveDeflate:
    """Chooses encoders for the blocks of one piece, a row of blocks at a time."""

    def __init__(self, policy: Policy, *, overview: bool) -> None:
        self._policy = policy
        self._overview = overview
        self._due: dict[int, float] = {}

    def encoders(self, rows: Sequence[Data]) -> list[Callable[[Data], bytes]]:
        """An encoder for each block of a row of them, of which `rows` are every so many rows of samples."""
        kinds = [kind_of(each, overview=self._overview) for each in rows]
        choices = self._policy.choices(kinds)
        return [self._next(kind, choices.get(kind, _UNKNOWN)) for kind in kinds]

    def _next(self, kind: int, choice: Choice) -> Callable[[Data], bytes]:
        due = self._due.get(kind, 0.5) + choice.share
        self._due[kind] = due % 1
        return _BY_NAME[choice.faster if due >= 1 else choice.encoder].encode


_UNKNOWN = Choice(REFERENCE.name, REFERENCE.name, 0.0)
