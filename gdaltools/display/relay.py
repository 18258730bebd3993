"""Progress of a dask Delayed that is computed later, perhaps elsewhere, and shown where it was built.

A `Relay` travels with the tasks. In its own process it shows the progress that they report. In a cluster's
worker it arrives as a `RelaySender`, which sends the same reports as dask events to the client that was
active when the `Relay` was built.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal
from uuid import uuid4
from weakref import WeakSet, WeakValueDictionary

from gdaltools.display.progress import ProgressOption
from gdaltools.display.reporting import expecting, reporting, watched
from gdaltools.runtime import graph

_TOPIC = "gdaltools-progress"
# The shortest time between two reports; a person cannot follow faster ones.
_SEND_SECONDS = 0.25

RelayEvent = Literal["begin", "advance", "end"]


class Relay:
    """Show in this process the progress of tasks that may run elsewhere; lives as long as the Delayed.

    Parameters
    ----------
    option, label, total, unit, begun
        As for `gdaltools.display.reporting.reporting`.
    expected : callable
        As for `gdaltools.display.reporting.expecting`.
    """

    def __init__(
        self,
        option: ProgressOption,
        *,
        label: str,
        total: int,
        unit: str,
        begun: int = 0,
        expected: Callable[[], float],
    ) -> None:
        self._option: ProgressOption = option if option != "auto" else watched()
        self._label, self._total, self._unit, self._begun = label, total, unit, begun
        self._expected = expected
        self._name = uuid4().hex
        self._lock = threading.Lock()
        self._shown = ExitStack()
        self._advance: Callable[[int], None] | None = None
        if self._option is not False:
            _relays[self._name] = self
            _listen()

    def begin(self) -> None:
        """Start to show the work; a computation that is still shown ends first."""
        self.end()
        with self._lock, expecting(self._expected):
            self._advance = self._shown.enter_context(
                reporting(
                    self._option, label=self._label, total=self._total, unit=self._unit, begun=self._begun
                )
            )

    def advance(self, step: int) -> None:
        """Report `step` more units as done; no effect after the end."""
        advance = self._advance
        if advance is not None:
            advance(step)

    def end(self) -> None:
        """Stop showing the work, which is complete or was stopped."""
        with self._lock:
            self._advance = None
            shown, self._shown = self._shown, ExitStack()
        shown.close()

    @contextmanager
    def telling(self) -> Iterator[Callable[[int], None]]:
        """Yield the function that one task calls as it advances; if the task fails, the work ends."""
        try:
            yield self.advance
        except BaseException:
            self.end()
            raise

    def hear(self, event: RelayEvent, step: int) -> None:
        """Apply an event that a `RelaySender` sent."""
        if event == "advance":
            self.advance(step)
        elif event == "begin":
            self.begin()
        else:
            self.end()

    def __reduce__(self) -> tuple[Callable[[str], Relay | RelaySender], tuple[str]]:
        return _arrived, (self._name if self._option is not False else "",)


class RelaySender:
    """A `Relay` in another process; without a name it sends nothing, as no relay listens."""

    def __init__(self, name: str) -> None:
        self._name = name

    def begin(self) -> None:
        """Send the event that makes the relay begin."""
        self._send("begin")

    def end(self) -> None:
        """Send the event that makes the relay end."""
        self._send("end")

    @contextmanager
    def telling(self) -> Iterator[Callable[[int], None]]:
        """As `Relay.telling`; steps are sent a few times a second."""
        held, sent = 0, time.monotonic()

        def advance(step: int) -> None:
            nonlocal held, sent
            held += step
            if time.monotonic() - sent >= _SEND_SECONDS:
                self._send("advance", held)
                held, sent = 0, time.monotonic()

        try:
            yield advance
        except BaseException:
            self.end()
            raise
        self._send("advance", held)

    def _send(self, event: RelayEvent, step: int = 0) -> None:
        distributed = sys.modules.get("distributed")
        if not self._name or distributed is None:
            return
        try:
            worker = distributed.get_worker()
        except ValueError:  # not a worker of a cluster: there is no way back to the client
            return
        worker.log_event(_TOPIC, [self._name, event, step])

    def __reduce__(self) -> tuple[Callable[[str], Relay | RelaySender], tuple[str]]:
        return _arrived, (self._name,)


_relays: WeakValueDictionary[str, Relay] = WeakValueDictionary()
_clients: WeakSet[Any] = WeakSet()


def _arrived(name: str) -> Relay | RelaySender:
    """Return the relay in the process that has it, else a sender to that relay."""
    return _relays.get(name) or RelaySender(name)


def _listen() -> None:
    client = graph.active_client()
    if client is not None and client not in _clients:
        client.subscribe_topic(_TOPIC, _heard)
        _clients.add(client)


def _heard(message: tuple[float, tuple[str, RelayEvent, int]]) -> None:
    _, (name, event, step) = message
    relay = _relays.get(name)
    if relay is not None:
        relay.hear(event, step)
