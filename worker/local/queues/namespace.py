"""The namespace: its queues, who waits at them, when something is due, and which faults are armed.

Everything here runs on one event loop and never waits. Connections tell the namespace what arrived; the
namespace hands messages to the links that have credit, one each in turn, so that competing consumers share.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

from gdaltools.errors import InvalidParameter
from worker.local.queues.journal import MEMORY_ONLY, Journal, NotSaved
from worker.local.queues.peek_lock import Queue, QueueSpec, create_queue
from worker.local.queues.shelf import DEAD_LETTER_PATH
from worker.local.queues.stored import Stored

SERVER_BUSY = "com.microsoft:server-busy"
LOCK_LOST = "com.microsoft:message-lock-lost"

Operation = Literal["send", "receive", "settle", "renew", "management"]


@dataclass(frozen=True, slots=True)
class Token:
    """What a client shows to be let in: the kind of token, the token, and what it wants to reach."""

    kind: str
    value: str
    audience: str


class Consumer(Protocol):
    """A link on which the broker may deliver messages of a queue."""

    deletes: bool

    @property
    def queue(self) -> Queue:
        """Whose messages."""

    def is_ready(self) -> bool:
        """Whether one more message may be delivered now."""

    def deliver(self, stored: Stored) -> None:
        """Send the message."""

    def detach(self, condition: str, description: str) -> None:
        """Close the link with an error."""


class Peer(Protocol):
    """A connection."""

    def drop(self) -> None:
        """Break the connection without a word."""

    def detach_links(self, queue: Queue | None, condition: str) -> int:
        """Close the links to a queue, or to every queue, with an error; says how many."""


@dataclass(slots=True)
class _ArmedFault:
    operation: Operation
    condition: str
    queue: Queue | None
    left: int


class Namespace:
    """The state that all connections share.

    Parameters
    ----------
    specs
        The queues.
    accept_token
        Whether a client is let in.
    clock
        Seconds since 1970.
    journal
        What keeps the queues; see `restore`.

    Raises
    ------
    InvalidParameter
        Two queues have one name.
    """

    def __init__(
        self,
        specs: Iterable[QueueSpec],
        *,
        accept_token: Callable[[Token], bool],
        clock: Callable[[], float] = time.time,
        journal: Journal = MEMORY_ONLY,
    ) -> None:
        self.accept_token = accept_token
        self.reply_delay = 0.0  # seconds
        self.peers: set[Peer] = set()
        self._clock = clock
        self._queues: dict[str, Queue] = {}
        self._consumers: dict[Queue, list[Consumer]] = {}
        self._faults: list[_ArmedFault] = []
        self._timer: asyncio.TimerHandle | None = None
        for spec in specs:
            if spec.name.lower() in self._queues:
                raise InvalidParameter(f"the queue {spec.name!r} is named twice")
            queue = create_queue(spec, clock=clock, journal=journal)
            self._queues[spec.name.lower()] = queue
            if queue.dead_letters is not None:
                self._queues[f"{spec.name.lower()}/{DEAD_LETTER_PATH}"] = queue.dead_letters

    def restore(self) -> None:
        """Begin with what the journal holds.

        Raises
        ------
        InvalidParameter
            It cannot be read.
        """
        for queue in self._queues.values():
            if queue.dead_letters is not None:
                queue.restore()

    def find_queue(self, path: str) -> Queue | None:
        """The queue or sub-queue at an address, whatever its case."""
        return self._queues.get(path.lower())

    def get_queue(self, path: str) -> Queue:
        """The queue or sub-queue at an address that the caller knows to exist.

        Raises
        ------
        InvalidParameter
            There is none.
        """
        queue = self.find_queue(path)
        if queue is None:
            raise InvalidParameter(
                f"there is no queue {path!r}; the queues are {', '.join(sorted(self._queues))}"
            )
        return queue

    # Delivery

    def add_consumer(self, consumer: Consumer) -> None:
        """Let a link take part in the sharing of its queue's messages."""
        self._consumers.setdefault(consumer.queue, []).append(consumer)

    def remove_consumer(self, consumer: Consumer) -> None:
        """Forget a link; its locks stay until they end."""
        consumers = self._consumers.get(consumer.queue, [])
        if consumer in consumers:
            consumers.remove(consumer)

    def wake(self) -> None:
        """Deliver what can be delivered, and set the clock for what is due next."""
        for queue, consumers in self._consumers.items():
            while queue.has_active():
                consumer = next((each for each in consumers if each.is_ready()), None)
                if consumer is None:
                    break
                consumers.remove(consumer)
                consumers.append(consumer)
                condition = self.take_fault("receive", queue)
                if condition is not None:
                    consumer.detach(condition, "fault injected")
                    continue
                try:
                    stored = queue.receive(delete=consumer.deletes)
                except NotSaved as error:
                    consumer.detach(SERVER_BUSY, str(error))
                    continue
                if stored is not None:
                    consumer.deliver(stored)
        self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = min((queue.next_due() for queue in self._queues.values()), default=float("inf"))
        if due != float("inf"):
            # A day at most: the loop's clock and the calendar's drift apart, and selectors limit a wait.
            delay = min(max(0.0, due - self._clock()), 86_400.0)
            self._timer = asyncio.get_running_loop().call_later(delay, self.wake)

    def close(self) -> None:
        """Stop the clock and break every connection."""
        if self._timer is not None:
            self._timer.cancel()
        for peer in list(self.peers):
            peer.drop()

    # Faults

    def arm_fault(self, operation: Operation, condition: str, queue: Queue | None, times: int) -> None:
        """Let the next operations of a kind fail, at one queue or at any."""
        self._faults.append(_ArmedFault(operation, condition, queue, times))

    def disarm_faults(self) -> None:
        """Forget every armed fault and the delay."""
        self._faults.clear()
        self.reply_delay = 0.0

    def take_fault(self, operation: Operation, queue: Queue) -> str | None:
        """The condition with which this operation is to fail, or None."""
        for fault in self._faults:
            if fault.operation == operation and fault.queue in (None, queue):
                fault.left -= 1
                if fault.left <= 0:
                    self._faults.remove(fault)
                return fault.condition
        return None
