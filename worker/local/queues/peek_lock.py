"""The behavior of a Service Bus queue: peek-lock, delivery counts, expiry and dead letters.

This module has no network and no event loop. Every message is in one of three states: active (to be
received), locked, or scheduled. Its position is its sequence number, which never changes: an abandoned
message is received again before later ones. Nothing happens on its own: `Queue.advance` applies what has
become due, and every operation calls it first.

Source: learn.microsoft.com, Service Bus: "Message transfers, locks, and settlement", "Message expiration",
"Overview of dead-letter queues", "Duplicate detection", "Message sequencing and timestamps".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from uuid import UUID, uuid4

from gdaltools.errors import InvalidParameter
from worker.local.amqp.message import Message
from worker.local.queues.store import Shelf, Store
from worker.local.queues.stored import State, Stored

DEAD_LETTER_PATH = "$deadletterqueue"
MAX_LOCK_SECONDS = 300  # Service Bus's own limit


class LockNotHeld(Exception):
    """The lock token is unknown, or its lock has expired or was settled before."""


@dataclass(frozen=True, slots=True)
class QueueSpec:
    """A queue's name and settings; the defaults are those of ``docker-tasks`` (protocol.md §6).

    Parameters
    ----------
    name
        The queue's name, case-insensitive.
    lock_seconds
        How long a received message is hidden from other receivers, at most 300.
    max_delivery_count
        The number of deliveries after which a message that was not completed is dead-lettered.
    ttl_seconds
        The time to live of a message; a shorter one set on the message takes precedence. An expired message
        is dead-lettered.
    duplicate_window_seconds
        How long a message id is remembered: another message with the same id is accepted and dropped. 0
        disables duplicate detection.

    Raises
    ------
    InvalidParameter
        A setting is outside what Service Bus accepts.
    """

    name: str
    lock_seconds: float = 300.0
    max_delivery_count: int = 3
    ttl_seconds: float = 7 * 86_400.0
    duplicate_window_seconds: float = 600.0

    def __post_init__(self) -> None:
        if not self.name or "$" in self.name:
            raise InvalidParameter(f"{self.name!r} is not a queue name: it must not be empty or contain '$'")
        if not 0 < self.lock_seconds <= MAX_LOCK_SECONDS:
            raise InvalidParameter(f"lock_seconds is {self.lock_seconds}; it must be above 0 and at most 300")
        if self.max_delivery_count < 1 or self.ttl_seconds <= 0 or self.duplicate_window_seconds < 0:
            raise InvalidParameter(f"a count or duration of queue {self.name!r} is not positive: {self}")


@dataclass(frozen=True, slots=True)
class QueueCounts:
    """The number of messages of a queue in each state; `dead_letter` counts those in its sub-queue."""

    active: int
    locked: int
    scheduled: int
    dead_letter: int


class Queue:
    """One queue, or the dead-letter sub-queue of one.

    Every operation is saved when it returns. An operation that raises has not happened.

    Parameters
    ----------
    spec
        The queue's settings.
    store
        Where the messages are.
    clock
        Returns the time in seconds since 1970.
    dead_letters
        The sub-queue. None makes this queue itself a sub-queue, in which messages neither expire nor are
        dead-lettered by delivery count.
    """

    def __init__(
        self, spec: QueueSpec, store: Store, *, clock: Callable[[], float], dead_letters: Queue | None
    ) -> None:
        self.spec = spec
        self.dead_letters = dead_letters
        self.path = spec.name.lower() if dead_letters else f"{spec.name.lower()}/{DEAD_LETTER_PATH}"
        """The address of the queue, in lower case."""
        self._clock = clock
        self._store = store
        self._shelf = Shelf(store, self.path)
        self._grave = dead_letters._shelf if dead_letters is not None else self._shelf

    def counts(self) -> QueueCounts:
        """Return the number of messages in each state."""
        self.advance()
        states = self._shelf.count()
        return QueueCounts(
            active=states[State.ACTIVE],
            locked=states[State.LOCKED],
            scheduled=states[State.SCHEDULED],
            dead_letter=sum(self._grave.count().values()),
        )

    @contextmanager
    def _operation(self) -> Iterator[float]:
        """Apply what has become due, yield the current time, and save the block's changes."""
        now = self.advance()
        with self._store.saving():
            yield now

    # Sending

    def send(self, *messages: Message) -> None:
        """Add all messages or none; each becomes active now, or at the time for which it is scheduled.

        A message with a remembered id is accepted and dropped.
        """
        with self._operation() as now:
            for message in messages:
                if not self._is_duplicate(message, now):
                    self._take_in(message, now)

    def _take_in(self, message: Message, now: float) -> None:
        stored = Stored(self._shelf.take_number(), message, State.ACTIVE, enqueued_at=now, expires_at=0.0)
        if message.scheduled_for is not None and message.scheduled_for > now:
            self._shelf.put(replace(stored, state=State.SCHEDULED, due_at=message.scheduled_for))
        else:
            self._enqueue(stored, now)

    def _is_duplicate(self, message: Message, now: float) -> bool:
        window = self.spec.duplicate_window_seconds
        if message.message_id is None or not window or self.dead_letters is None:
            return False
        return not self._shelf.remember(message.message_id, now, now + window)

    def _enqueue(self, stored: Stored, when: float) -> None:
        ttl = min(self.spec.ttl_seconds, stored.message.ttl_seconds or self.spec.ttl_seconds)
        expires_at = when + ttl if self.dead_letters is not None else float("inf")
        self._shelf.put(replace(stored, state=State.ACTIVE, enqueued_at=when, expires_at=expires_at))

    # Receiving

    def receive(self) -> Stored | None:
        """Lock the next active message and return it; None when there is none."""
        with self._operation() as now:
            stored = self._shelf.first_active()
            if stored is None:
                return None
            until = now + self.spec.lock_seconds
            locked = replace(stored, state=State.LOCKED, lock_token=uuid4(), due_at=until)
            self._shelf.put(locked)
            return locked

    def has_active(self) -> bool:
        """Return whether `receive` would return a message."""
        self.advance()
        return self._shelf.has_active()

    def peek(self, from_sequence: int, count: int) -> list[Stored]:
        """Return up to `count` messages in any state, in order, beginning at `from_sequence`."""
        self.advance()
        return self._shelf.in_order(from_sequence, count)

    # Settling by token; each operation raises LockNotHeld when the lock has expired or was settled

    def renew(self, token: UUID) -> float:
        """Renew the lock for its full duration; return when it expires, in seconds since 1970."""
        with self._operation() as now:
            renewed = replace(self._held(token), due_at=now + self.spec.lock_seconds)
            self._shelf.put(renewed)
        return renewed.due_at

    def complete(self, token: UUID) -> None:
        """Remove the message for good."""
        with self._operation():
            self._shelf.remove(self._held(token))

    def release(self, token: UUID) -> None:
        """Return the message to the queue without counting the delivery."""
        with self._operation():
            self._give_back(self._held(token))

    def abandon(self, token: UUID) -> None:
        """Return the message to the queue and count the delivery; at the limit it is dead-lettered."""
        with self._operation():
            self._count_delivery(self._held(token))

    def dead_letter(self, token: UUID, reason: str | None, description: str | None) -> None:
        """Move the message to the sub-queue; in the sub-queue itself, set the new reason."""
        with self._operation():
            self._bury(self._held(token), reason, description)

    def expire_lock(self, *, message_id: str | None = None) -> int:
        """Expire the locks of all messages, or of those with `message_id`, now; return how many."""
        with self._operation():
            held = [
                stored
                for stored in self._shelf.locked()
                if message_id is None or stored.message.message_id == message_id
            ]
            for stored in held:
                self._count_delivery(stored)
        return len(held)

    def _held(self, token: UUID) -> Stored:
        stored = self._shelf.find_locked(token)
        if stored is None:
            raise LockNotHeld(f"the lock {token} on a message of {self.path} has expired or was settled")
        return stored

    def _give_back(self, stored: Stored) -> None:
        self._shelf.put(replace(stored, state=State.ACTIVE, lock_token=None))

    def _count_delivery(self, stored: Stored) -> None:
        counted = replace(stored, failed_deliveries=stored.failed_deliveries + 1)
        limit = self.spec.max_delivery_count
        if self.dead_letters is not None and counted.failed_deliveries >= limit:
            description = f"Message could not be consumed after {limit} delivery attempts."
            self._bury(counted, "MaxDeliveryCountExceeded", description)
        else:
            self._give_back(counted)

    def _bury(self, stored: Stored, reason: str | None, description: str | None) -> None:
        reasons = {"DeadLetterReason": reason, "DeadLetterErrorDescription": description}
        message = stored.message.with_application_properties(
            {k: v for k, v in reasons.items() if v is not None}
        )
        self._shelf.remove(stored)
        self._grave.put(
            Stored(
                stored.sequence,
                message,
                State.ACTIVE,
                enqueued_at=stored.enqueued_at,
                expires_at=float("inf"),
                failed_deliveries=stored.failed_deliveries,
            )
        )

    # Time

    def next_due(self) -> float:
        """Return the earliest time at which `advance` may have something to do; infinity for never."""
        return self._shelf.next_due()

    def advance(self) -> float:
        """Apply what has become due (expired locks, scheduled messages, expiry); return the current time."""
        now = self._clock()
        if self._shelf.next_due() <= now:
            with self._store.saving():
                while (stored := self._shelf.first_due(now)) is not None:
                    if stored.state is State.LOCKED:
                        self._count_delivery(stored)
                    elif stored.state is State.SCHEDULED:
                        self._enqueue(stored, now)
                    else:
                        reason = "The message expired and was dead lettered."
                        self._bury(stored, "TTLExpiredException", reason)
        return now


def create_queue(spec: QueueSpec, store: Store, *, clock: Callable[[], float]) -> Queue:
    """Return a queue with its dead-letter sub-queue, both with the messages that `store` has of them."""
    return Queue(spec, store, clock=clock, dead_letters=Queue(spec, store, clock=clock, dead_letters=None))
