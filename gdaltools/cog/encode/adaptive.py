"""Adaptive DEFLATE: the fastest encoders that keep a file within a promised size.

No encoder is best on all data. On sensor noise, Huffman codes with runs (zlib's Z_RLE) are four times as fast
as libdeflate's level 7 and no larger; on smooth imagery they are half as large again, and there libdeflate's
levels 4 to 6 save time. So the candidates first encode parts of blocks from all over the raster (`Trial`). A
`Policy` follows from the sizes: in each row of blocks it chooses an encoder for each kind of block, so that
the row saves the most time within the bytes that it may spend. The reference is GDAL's default, libdeflate's
level 7.

The promise holds for the sum of all blocks; part of the tolerance is reserved for what trials cannot show. A
policy depends only on the pixels, never on the machine, its load or the order of the work: the same raster
gives the same file on any number of threads or machines.
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
        """Return its cost for a kind of block."""
        return _of_entropy(self.costs, kind)


def deflate(data: Any, level: int) -> bytes:
    """Return the zlib stream that libdeflate writes of any contiguous buffer at `level`, 1 to 12."""
    return bytes(imagecodecs.deflate_encode(data, level=level))


def _libdeflate(level: int) -> Callable[[Data], bytes]:
    return lambda data: deflate(data, level)


def _isal(data: Data) -> bytes:
    return bytes(isal_zlib.compress(data, level=2))


def _runs(data: Data) -> bytes:
    encoder = zlib_ng.compressobj(1, zlib_ng.DEFLATED, 15, 8, zlib_ng.Z_RLE)
    return bytes(encoder.compress(data)) + bytes(encoder.flush())


REFERENCE = Encoder("libdeflate 7", (1.0,), _libdeflate(7))
#: Encoders that are much faster than the reference; every trial includes them.
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

# The speed of the reference in MB/s, for blocks of 0, 1, 2, ... bits of entropy.
_SPEEDS = (150, 60, 55, 40, 45, 55, 65)
#: Every `KIND_ROWS`-th row of a block is used to determine its kind.
KIND_ROWS = 8
# The kinds of overview blocks are numbered from here.
_OVERVIEW = 100
# The fewest trials that a kind needs, and the standard errors that are added to their mean as a precaution.
_FEW_TRIALS, _CAUTION = 3, 1.0
# The share of time that must be saved per share of size that is spent.
_WORTH = 2.0
# The share of the tolerance to plan with after very many trials; the reduction for few trials, divided by the
# root of their number; the share of the size that is always reserved.
_PLANNED_SHARE, _DOUBT, _KEPT_BACK = 0.97, 0.5, 0.0007


def kind_of(rows: Data, *, overview: bool) -> int:
    """Return the kind of a block: the entropy of some of its rows in whole bits.

    Overviews have kinds of their own, because encoders find other matches in them.
    """
    octets = np.ascontiguousarray(rows).view(np.uint8)
    counts = np.bincount(octets.reshape(-1), minlength=256)
    shares = counts[counts > 0] / octets.size
    return int(-(shares * np.log2(shares)).sum()) + overview * _OVERVIEW


def _of_entropy(values: Sequence[float], kind: int) -> float:
    return values[min(kind % _OVERVIEW, len(values) - 1)]


@dataclass(frozen=True)
class Trial:
    """The sizes to which encoders, by name, encoded a block of one kind and `raw` bytes."""

    kind: int
    raw: int
    sizes: Mapping[str, int]


def try_block(data: Data, *, overview: bool) -> Trial:
    """Encode a block, with the predictor already applied, with each encoder and return the sizes.

    The thorough encoders are left out if a quick one is smaller than the reference: they cannot gain any.
    """
    sizes = {encoder.name: len(encoder.encode(data)) for encoder in (*QUICK, REFERENCE)}
    if min(sizes.values()) == sizes[REFERENCE.name]:
        sizes |= {encoder.name: len(encoder.encode(data)) for encoder in THOROUGH}
    return Trial(kind_of(data[::KIND_ROWS], overview=overview), data.nbytes, sizes)


@dataclass(frozen=True)
class Choice:
    """How blocks of a kind are encoded: a `share` of them with `faster`, the others with `encoder`."""

    encoder: str
    faster: str
    share: float


@dataclass(frozen=True)
class Candidate:
    """A change to a faster encoder: the share of a kind's time that it saves and of its size that it adds."""

    encoder: str
    saved: float
    excess: float


@dataclass(frozen=True)
class DataKind:
    """The result of the trials for one kind of block.

    Attributes
    ----------
    seconds, stored : float
        The reference's time (in any unit) and encoded bytes, per byte of pixels.
    encoder : str
        The best encoder whose blocks are no larger than the reference's.
    steps : tuple of Candidate
        Changes from it to ever faster and larger encoders; each saves less time per byte than the one before.
    """

    seconds: float
    stored: float
    encoder: str
    steps: tuple[Candidate, ...]


@dataclass(frozen=True)
class Policy:
    """The encoders of adaptive DEFLATE for each kind of block; a kind with too few trials gets the reference.

    Attributes
    ----------
    tolerance : float
        The share by which the blocks of one call of `choices` may together exceed the reference's size.
    """

    kinds: Mapping[int, DataKind] = field(default_factory=dict)
    tolerance: float = 0.0

    def choices(self, blocks: Iterable[int]) -> dict[int, Choice]:
        """Return the choice for each kind of block in `blocks`; together the blocks keep the tolerance.

        The steps of all kinds are taken in the order of time saved per byte, until the tolerance is used up.
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
    """Return the policy that saves the most time within the tolerance, according to the trials.

    Trials show how large encoders make a kind of block, but hardly how many blocks of each kind there are;
    `Policy.choices` receives those numbers. A kind with few trials also uses those of its neighbours.

    Parameters
    ----------
    tolerance : float
        The share by which all blocks together may exceed their size with libdeflate level 7.
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
    """Return the encoders to consider: the best that costs no size, and the chain of steps from it."""
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
    """Return the share by which blocks may exceed the reference's size: the mean plus its standard error."""
    if encoder is REFERENCE:
        return 0.0
    reference = np.array([trial.sizes[REFERENCE.name] for trial in trials], float)
    stored = np.array([trial.sizes[encoder.name] for trial in trials], float)
    mean = stored.sum() / reference.sum() - 1
    excess = stored / reference - 1 - mean
    error = np.sqrt((reference * excess**2).sum() / reference.sum() / (len(trials) - 1))
    return float(mean + _CAUTION * error)


class AdaptiveDeflate:
    """Chooses encoders for the blocks of one piece, one row of blocks at a time."""

    def __init__(self, policy: Policy, *, overview: bool) -> None:
        self._policy = policy
        self._overview = overview
        self._due: dict[int, float] = {}

    def encoders(self, rows: Sequence[Data]) -> list[Callable[[Data], bytes]]:
        """Return an encoder for each block of a row of blocks.

        Parameters
        ----------
        rows : sequence of ndarray
            Every `KIND_ROWS`-th row of samples of each block.
        """
        kinds = [kind_of(each, overview=self._overview) for each in rows]
        choices = self._policy.choices(kinds)
        return [self._next(kind, choices.get(kind, _UNKNOWN)) for kind in kinds]

    def _next(self, kind: int, choice: Choice) -> Callable[[Data], bytes]:
        due = self._due.get(kind, 0.5) + choice.share
        self._due[kind] = due % 1
        return _BY_NAME[choice.faster if due >= 1 else choice.encoder].encode


_UNKNOWN = Choice(REFERENCE.name, REFERENCE.name, 0.0)
