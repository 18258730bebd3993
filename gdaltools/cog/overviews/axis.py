"""Ranges of rows and columns, and one axis of the step from a level of a COG to the next."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Span:
    """A range of rows or columns: `start` included, `stop` not."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Axis:
    """One axis of a step from a level to the next: both sizes, what is wanted and what is at hand."""

    source: int
    target: int
    window: Span
    given: Span
