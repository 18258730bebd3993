"""Named places at which a test may end the process; in every other run they do nothing.

At each place something has just become durable, or is just about to. No setting and no environment variable
arms the places: only a program that imports this module and calls `arm` does.
"""

from __future__ import annotations

from collections.abc import Callable

_visit: Callable[[str], None] | None = None


def arm(visit: Callable[[str], None] | None) -> None:
    """Call `visit` with the name of each place that this process reaches from now on; None disarms."""
    global _visit
    _visit = visit


def reach(name: str) -> None:
    """Report that the place `name` is reached."""
    if _visit is not None:
        _visit(name)
