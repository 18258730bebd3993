"""How work in hand tells how far it is: one small protocol for bars, heartbeats and silence.

Every long function takes ``progress=``: True (a bar), False (silence), "auto" (a bar where a person
watches: a terminal or a notebook, and not where the variable CI is set) or a callback that is given a
`Progress` at each step. An error that the callback raises ends the work: this is how a caller cancels it.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal

from gdaltools.display.mistake import interrupted_shortly


@dataclass(frozen=True)
class Progress:
    """How far the work named by `label` is: `done` of `total`, both in `unit`."""

    label: str
    done: int
    total: int
    unit: str

    @property
    def fraction(self) -> float:
        """Share of the work that is done, 0 to 1.

        >>> Progress("tiles", 3, 12, "tiles").fraction
        0.25
        """
        return self.done / self.total if self.total else 1.0


ProgressCallback = Callable[[Progress], None]
ProgressOption = bool | Literal["auto"] | ProgressCallback


_expected: ContextVar[Callable[[], float] | None] = ContextVar("expected", default=None)


@contextmanager
def expecting(seconds: Callable[[], float]) -> Iterator[None]:
    """In the block work is expected to take so long: a bar says at first what is left of that.

    Parameters
    ----------
    seconds : callable
        Asked only where there is a bar.
    """
    token = _expected.set(seconds)
    try:
        yield
    finally:
        _expected.reset(token)


@contextmanager
def reporting(
    option: ProgressOption, *, label: str | Callable[[], str], total: int, unit: str, begun: int = 0
) -> Iterator[Callable[[int], None]]:
    """A function that reports so many more units as done; it may be called from any thread.

    A `label` that is a function is asked at each step. So many units as `begun` says were done before: they
    count as done, and not for rate and time.

    >>> seen = []
    >>> with reporting(seen.append, label="cog", total=2, unit="blocks") as advance:
    ...     advance(2)
    >>> [state.done for state in seen]
    [0, 2]
    """
    with interrupted_shortly():
        if option is False or (option == "auto" and not watched()):
            yield lambda _: None
            return
        if callable(option):
            yield _counted(option, label, total, unit, begun)
            return
        from gdaltools.display.bars import showing

        expected = _expected.get()
        with showing(None if expected is None else expected(), begun) as show:
            yield _counted(show, label, total, unit, begun)


def _counted(
    show: ProgressCallback, label: str | Callable[[], str], total: int, unit: str, begun: int
) -> Callable[[int], None]:
    lock = threading.Lock()
    done = begun

    def advance(step: int) -> None:
        nonlocal done
        with lock:
            done = min(done + step, total)
            show(Progress(label if isinstance(label, str) else label(), done, total, unit))

    advance(0)
    return advance


class Share:
    """What a part of some work tells of itself, as steps of the whole, of which it is `size` units.

    >>> steps = []
    >>> share = Share(1000, steps.append)
    >>> share(Progress("copy", 1, 4, "blocks"))
    >>> share(Progress("copy", 4, 4, "blocks"))
    >>> steps
    [250, 750]
    """

    def __init__(self, size: int, advance: Callable[[int], None]) -> None:
        self._size = size
        self._advance = advance
        self.told = 0

    def __call__(self, state: Progress) -> None:
        """Hear of the part's own progress."""
        done = int(self._size * state.fraction)
        if done > self.told:
            step, self.told = done - self.told, done
            self._advance(step)


def watched() -> bool:
    """Whether a person looks on: at a notebook or a terminal, but not at the log of a CI's run."""
    from gdaltools.display.bars import in_notebook

    return not os.environ.get("CI") and (in_notebook() or sys.stderr.isatty())
