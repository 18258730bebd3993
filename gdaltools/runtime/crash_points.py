"""Places in the code at which a test may end the process, by name; in every other run they do nothing.

A place is named where something has just become durable, or is just about to. No setting and no environment
variable arms them: only a program that imports this module and calls `arm` does.
"""

from __future__ import annotations

from collections.abc import Callable

_visit: Callable[[str], None] | None = None


def arm(visit: Callable[[str], None] | None) -> None:
    """Call `visit` with the name of each place that this process reaches from now on; None disarms."""
    global _visit
    _visit = visit


def reach(name: str) -> None:
    """Say that the place `name` is reached."""
    if _visit is not None:
        _visit(name)
