"""Report the phases of long work to listeners that measure where its time goes.

>>> heard = []
>>> with listening(lambda name, began, ended: heard.append(name)):
...     with phase("read"):
...         pass
>>> heard
['read']
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PhaseListener = Callable[[str, float, float], None]
"""``(name, began, ended)``, in seconds since 1970; called on the thread that did the work."""

_listeners: list[PhaseListener] = []


@contextmanager
def listening(listener: PhaseListener) -> Iterator[None]:
    """Call `listener` for every phase that ends in this process, until the block ends."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Mark work of one kind: ``stage-in``, ``read``, ``encode`` or ``commit``; also usable as a decorator."""
    if not _listeners:
        yield
        return
    began = time.time()
    try:
        yield
    finally:
        for listener in _listeners:
            listener(name, began, time.time())
