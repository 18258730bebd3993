"""Ranges of rows and columns, and one axis of the step from a level of a COG to the next."""

from __future__ import annotations

from dataclasses import dataclass

from gdaltools.geo.window import Span


@dataclass(frozen=True)
class HalvingAxis:
    """One axis of a step from a level to the next: both sizes, what is wanted and what is at hand."""

    source: int
    target: int
    window: Span
    available: Span
