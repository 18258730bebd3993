"""An interruption of work on threads: Ctrl-C reaches the main thread alone, the threads ask here.

They ask before each window that they read, before each block that they encode and before they publish, so
that what was interrupted ends soon and nothing appears under its name after that.
"""

from __future__ import annotations

import threading

_THREAD = threading.local()


class Interruption:
    """The interruption of one run, which may never come; every thread of the run watches for it."""

    def __init__(self) -> None:
        self._requested = threading.Event()

    def tell(self) -> None:
        """Interrupt every thread that watches, at its next `check`."""
        self._requested.set()

    def watch(self) -> None:
        """Make `check` in this thread ask for this interruption."""
        _THREAD.requested = self._requested


def is_requested() -> bool:
    """Whether this thread's run was interrupted."""
    requested: threading.Event | None = getattr(_THREAD, "requested", None)
    return requested is not None and requested.is_set()


def check() -> None:
    """End this thread's work if its run was interrupted.

    Raises
    ------
    KeyboardInterrupt
        It was.
    """
    if is_requested():
        raise KeyboardInterrupt
