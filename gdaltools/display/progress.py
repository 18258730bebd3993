"""How running work reports its progress: one small protocol for bars, heartbeats and silence.

Every long function takes ``progress=``: True (a bar), False (silence), "auto" (a bar where a person
watches: a terminal or a notebook, unless the variable CI is set) or a callback that receives a `Progress`
at each step. An error that the callback raises ends the work: this is how a caller cancels it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Progress:
    """The progress of the work named by `label`: `done` of `total`, both in `unit`."""

    label: str
    done: int
    total: int
    unit: str

    @property
    def fraction(self) -> float:
        """The share of the work that is done, 0 to 1.

        >>> Progress("tiles", 3, 12, "tiles").fraction
        0.25
        """
        return self.done / self.total if self.total else 1.0


ProgressCallback = Callable[[Progress], None]
ProgressOption = bool | Literal["auto"] | ProgressCallback


class Share:
    """Convert the progress of a part into steps of the whole work; the part is `size` units of it.

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
        """Advance the whole work by the part's progress since the last call."""
        done = int(self._size * state.fraction)
        if done > self.reported:
            step, self.reported = done - self.reported, done
            self._advance(step)
