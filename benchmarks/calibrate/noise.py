"""Measure how noisy the machine is, with a constant loop timed before and after each measurement."""

from __future__ import annotations

import time
import zlib

import numpy as np

_BYTES = 1 << 20
_LEVEL = 6
_TRIES = 3


class Reference:
    """A loop of arithmetic and compression that takes about 30 ms, and its best time so far.

    Each time is the best of three trials: one interruption of one trial says nothing about the minute.
    """

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self._block = rng.normal(100, 4, _BYTES).astype("uint8")
        self.best = float("inf")

    def seconds(self) -> float:
        """Return the wall seconds that the loop takes now."""
        took = min(self._try() for _ in range(_TRIES))
        self.best = min(self.best, took)
        return took

    def _try(self) -> float:
        began = time.perf_counter()
        zlib.compress(np.diff(self._block).tobytes(), _LEVEL)
        return time.perf_counter() - began
