"""The namespace: its queues and their consumers, the timer for what is due, and the armed faults.

Everything here runs on one event loop and never waits. Connections report what has arrived. The namespace
delivers messages round-robin to the links that have credit, so that competing consumers share a queue.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

from gdaltools.errors import InvalidParameter
from worker.local.queues.peek_lock import Queue, QueueSpec, create_queue
from worker.local.queues.store import Store
from worker.local.queues.stored import Stored

SERVER_BUSY = "com.microsoft:server-busy"
LOCK_LOST = "com.microsoft:message-lock-lost"

Operation = Literal["send", "receive", "settle", "renew", "management"]


@dataclass(frozen=True, slots=True)
class Token:
    """A client's credentials: the kind of token, its value, and the entity it is for."""

    kind: str
    value: str
    audience: str


class Consumer(Protocol):
    """A link on which the broker may deliver messages of a queue."""

    @property
    def queue(self) -> Queue:
        """The queue whose messages are delivered."""

    def is_ready(self) -> bool:
        """Return whether one more message may be delivered now."""

    def deliver(self, stored: Stored) -> None:
        """Send the message."""

    def detach(self, condition: str, description: str) -> None:
        """Close the link with an error."""


class Peer(Protocol):
    """A connection."""

    def drop(self) -> None:
        """Abort the connection without a close frame."""

    def detach_links(self, queue: Queue | None, condition: str) -> int:
        """Close the links to `queue` (None: to every queue) with an error; return how many."""


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
    store
        Where the queues' messages are.
    accept_token
        Returns whether a client with the token is accepted.
    clock
        Returns the time in seconds since 1970.

    Raises
    ------
    InvalidParameter
        Two queues have the same name.
    """

    def __init__(
        self,
        specs: Iterable[QueueSpec],
        store: Store,
        *,
        accept_token: Callable[[Token], bool],
        clock: Callable[[], float] = time.time,
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
            queue = create_queue(spec, store, clock=clock)
            for each in filter(None, (queue, queue.dead_letters)):
                self._queues[each.path] = each

    def find_queue(self, path: str) -> Queue | None:
        """Return the queue or sub-queue at an address, in any case; None when there is none."""
        return self._queues.get(path.lower())

    def get_queue(self, path: str) -> Queue:
        """Return the queue or sub-queue at an address that the caller expects to exist.

        Raises
        ------
        InvalidParameter
            There is no queue at the address.
        """
        queue = self.find_queue(path)
        if queue is None:
            raise InvalidParameter(
                f"there is no queue {path!r}; the queues are {', '.join(sorted(self._queues))}"
            )
        return queue

    # Delivery

    def add_consumer(self, consumer: Consumer) -> None:
        """Add a link to the consumers that share its queue's messages."""
        self._consumers.setdefault(consumer.queue, []).append(consumer)

    def remove_consumer(self, consumer: Consumer) -> None:
        """Remove a link; its locks last until they expire."""
        consumers = self._consumers.get(consumer.queue, [])
        if consumer in consumers:
            consumers.remove(consumer)

    def wake(self) -> None:
        """Deliver what can be delivered, and set the timer for what is due next."""
        for queue in self._queues.values():
            queue.advance()
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
                if (stored := queue.receive()) is not None:
                    consumer.deliver(stored)
        self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = min((queue.next_due() for queue in self._queues.values()), default=float("inf"))
        if due != float("inf"):
            # A day at most: the loop's clock and the wall clock drift apart, and selectors limit a wait.
            delay = min(max(0.0, due - self._clock()), 86_400.0)
            self._timer = asyncio.get_running_loop().call_later(delay, self.wake)

    def close(self) -> None:
        """Cancel the timer and drop every connection."""
        if self._timer is not None:
            self._timer.cancel()
        self.drop_peers()

    def drop_peers(self) -> int:
        """Drop every connection; return how many there were."""
        peers = list(self.peers)
        for peer in peers:
            peer.drop()
        return len(peers)

    # Faults

    def arm_fault(self, operation: Operation, condition: str, queue: Queue | None, times: int) -> None:
        """Make the next `times` operations of a kind fail, at `queue` or (None) at any queue."""
        self._faults.append(_ArmedFault(operation, condition, queue, times))

    def disarm_faults(self) -> None:
        """Clear every armed fault and the reply delay."""
        self._faults.clear()
        self.reply_delay = 0.0

    def take_fault(self, operation: Operation, queue: Queue) -> str | None:
        """Use up one armed fault for `operation` and return its condition; None when none is armed."""
        for fault in self._faults:
            if fault.operation == operation and fault.queue in (None, queue):
                fault.left -= 1
                if fault.left <= 0:
                    self._faults.remove(fault)
                return fault.condition
        return None
