"""What long work is doing, for whoever wants to know where its time goes.

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
"""``(name, began, ended)``, in seconds since 1970; called on whichever thread has done the work."""

_listeners: list[PhaseListener] = []


@contextmanager
def listening(listener: PhaseListener) -> Iterator[None]:
    """Have a listener told of every phase that ends in this process, from entry to exit."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Work of one kind: ``stage-in``, ``read``, ``encode`` or ``commit``; also a decorator."""
    if not _listeners:
        yield
        return
    began = time.time()
    try:
        yield
    finally:
        for listener in _listeners:
            listener(name, began, time.time())
