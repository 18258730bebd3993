"""The rate of work, the time that is left and the memory in use."""

from __future__ import annotations

import time
from collections.abc import Callable

from gdaltools.display.progress import Progress
from gdaltools.runtime.text import megabytes

# From this share on only the measured time counts; until then the estimate counts less and less.
_TRUSTED = 0.2
# The shortest time between two looks at memory; a look at all processes takes some milliseconds.
_LOOK_SECONDS = 1.0


class Pace:
    """The pace of one piece of work from now on.

    Parameters
    ----------
    expected : float, optional
        Seconds that the work is expected to take.
    begun : int
        Units of the work that were done before.
    clock : callable
        Returns the seconds since an arbitrary moment.
    """

    def __init__(
        self,
        expected: float | None = None,
        begun: int = 0,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._expected, self._begun, self._clock = expected, begun, clock
        self._began = clock()
        self._looked = float("-inf")
        self._memory: float | None = None

    def describe(self, state: Progress) -> str:
        """Return the rate, the time left and the memory in use, as far as they are known.

        >>> now = iter((0.0, 2.0))
        >>> Pace(clock=lambda: next(now)).describe_rate(Progress("cog", 50, 100, "blocks"))
        '25.0 blocks/s, 2 s left'
        """
        self._look()
        describe_rate = self.describe_rate(state)
        held = "" if self._memory is None else megabytes(self._memory)
        return ", ".join(part for part in (describe_rate, held) if part)

    def describe_rate(self, state: Progress) -> str:
        """Return what `describe` returns, without the memory."""
        seconds = self._clock() - self._began
        done, total = state.done - self._begun, state.total - self._begun
        speed = done / seconds if seconds else None
        if done >= total:
            parts = [rate(speed, state.unit), f"in {duration(seconds)}"]
        else:
            left = seconds_left(done / total, seconds, self._expected)
            parts = [rate(speed, state.unit), "" if left is None else f"{duration(left)} left"]
        return ", ".join(part for part in parts if part)

    def _look(self) -> None:
        if time.monotonic() - self._looked >= _LOOK_SECONDS:
            self._memory, self._looked = memory_bytes(), time.monotonic()


def seconds_left(fraction: float, seconds: float, expected: float | None) -> float | None:
    """Return the seconds left after `seconds` with a share of 0 to 1 done; None if nothing is known.

    At first the expected time counts, then the measured time.

    >>> seconds_left(0.5, 10, None), seconds_left(0, 1, 60), seconds_left(0.1, 2, 60)
    (10.0, 60, 36.0)
    >>> seconds_left(0, 1, None) is None
    True
    """
    measured = seconds / fraction * (1 - fraction) if fraction else None
    if expected is None or measured is None:
        return measured if expected is None else expected
    trust = min(fraction / _TRUSTED, 1)
    return trust * measured + (1 - trust) * expected * (1 - fraction)


def memory_bytes() -> float | None:
    """Return the bytes that this process and its children hold in memory; None without psutil.

    A notebook always has psutil.
    """
    try:
        import psutil
    except ImportError:
        return None
    held = 0.0
    own = psutil.Process()
    for process in (own, *own.children(recursive=True)):
        try:
            held += process.memory_info().rss
        except psutil.Error:  # the process has ended meanwhile
            continue
    return held


def duration(seconds: float) -> str:
    """Return seconds as text for a person.

    >>> duration(0.31), duration(42.4), duration(200), duration(9000)
    ('0.3 s', '42 s', '3 min 20 s', '2 h 30 min')
    """
    if seconds < 10:
        return f"{seconds:.1f} s" if seconds % 1 else f"{seconds:.0f} s"
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def rate(speed: float | None, unit: str) -> str:
    """Return units per second as text for a person; empty if not yet known.

    >>> rate(41.26, "blocks"), rate(12_300_000, "bytes"), rate(7_654_321, "pixels"), rate(None, "tiles")
    ('41.3 blocks/s', '12.3 MB/s', '7.7 Mpixels/s', '')
    """
    if not speed:
        return ""
    if unit == "bytes":
        return f"{speed / 1e6:,.1f} MB/s"
    return f"{speed / 1e6:,.1f} M{unit}/s" if speed >= 1e6 else f"{speed:,.1f} {unit}/s"
