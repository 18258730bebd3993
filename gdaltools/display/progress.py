"""How work in hand tells how far it is: one small protocol for bars, heartbeats and silence.

Every long function takes ``progress=``: True (a bar), False (silence), "auto" (a bar where a person
watches: a terminal or a notebook, and not where the variable CI is set) or a callback that is given a
`Progress` at each step. An error that the callback raises ends the work: this is how a caller cancels it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


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
        self.reported = 0

    def __call__(self, state: Progress) -> None:
        """Hear of the part's own progress."""
        done = int(self._size * state.fraction)
        if done > self.reported:
            step, self.reported = done - self.reported, done
            self._advance(step)
