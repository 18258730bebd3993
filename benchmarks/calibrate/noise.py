"""How noisy the machine is: a loop that always does the same, before and after each measurement."""

from __future__ import annotations

import time
import zlib

import numpy as np

_BYTES = 3 << 20
_LEVEL = 6


class Reference:
    """A loop of arithmetic and compression of about a tenth of a second, and its best time so far."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self._block = rng.normal(100, 4, _BYTES).astype("uint8")
        self.best = float("inf")

    def seconds(self) -> float:
        """Wall seconds that it takes now."""
        began = time.perf_counter()
        zlib.compress(np.diff(self._block).tobytes(), _LEVEL)
        took = time.perf_counter() - began
        self.best = min(self.best, took)
        return took
