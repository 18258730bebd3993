"""One axis of the step from a level of a COG to the next."""

from __future__ import annotations

from dataclasses import dataclass

from gdaltools.geo.window import Span


@dataclass(frozen=True)
class HalvingAxis:
    """One axis of a step from a level to the next.

    Attributes
    ----------
    source, target : int
        The size of both levels along the axis, in pixels.
    window : Span
        The pixels of the target level to compute.
    available : Span
        The pixels of the source level that are available.
    """

    source: int
    target: int
    window: Span
    available: Span
