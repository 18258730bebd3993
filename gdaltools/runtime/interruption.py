"""Interruption of work on threads: Ctrl-C reaches only the main thread, so the other threads check here.

They check before each window that they read, before each block that they encode and before they publish.
Interrupted work therefore ends soon, and nothing appears under its name afterwards.
"""

from __future__ import annotations

import threading

_THREAD = threading.local()


class Interruption:
    """The interruption of one run, which may never come; every thread of the run watches for it."""

    def __init__(self) -> None:
        self._requested = threading.Event()

    def request(self) -> None:
        """Interrupt every thread that watches, at its next `check`."""
        self._requested.set()

    def watch(self) -> None:
        """Make `check` in this thread observe this interruption."""
        _THREAD.requested = self._requested


def is_requested() -> bool:
    """Return whether this thread's run was interrupted."""
    requested: threading.Event | None = getattr(_THREAD, "requested", None)
    return requested is not None and requested.is_set()


def check() -> None:
    """End this thread's work if its run was interrupted.

    Raises
    ------
    KeyboardInterrupt
        The run was interrupted.
    """
    if is_requested():
        raise KeyboardInterrupt
