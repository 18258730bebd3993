"""What a Service Bus queue does with its messages: peek-lock, counting, expiry, dead letters.

There is no network here, and no loop. Every message is in one of four states: active (to be received),
locked, deferred, or scheduled. Its place is its sequence number, which it keeps for life: an abandoned
message is received again before those behind it. Nothing happens by itself: `Queue.advance` does what has
become due, and every operation calls it first.

Source: learn.microsoft.com, Service Bus: "Message transfers, locks, and settlement", "Message expiration",
"Overview of dead-letter queues", "Duplicate detection", "Message sequencing and timestamps".
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any
from uuid import UUID, uuid4

from gdaltools.errors import InvalidParameter
from worker.local.amqp import Int, Symbol, Timestamp
from worker.local.message import Message

MAX_LOCK_SECONDS = 300  # Service Bus's own limit
DEAD_LETTER_PATH = "$deadletterqueue"


class LockNotHeld(Exception):
    """The lock token is unknown, expired, or was settled before."""


class MessageNotFound(Exception):
    """No message with that sequence number is in the state that the operation needs."""


@dataclass(frozen=True, slots=True)
class QueueSpec:
    """A queue's name and settings, by default those of ``docker-tasks`` (protocol.md §6).

    Parameters
    ----------
    name
        Compared without regard to case.
    lock_seconds
        How long a received message is hidden from others, at most 300.
    max_delivery_count
        Deliveries after which a message that was not completed is dead-lettered.
    ttl_seconds
        How long a message lives; a message's own shorter time to live wins.
    dead_letter_on_expiry
        Whether an expired message is dead-lettered (else it is dropped).
    duplicate_window_seconds
        How long a message id is remembered: a second message with it is accepted and dropped. 0 turns it off.

    Raises
    ------
    InvalidParameter
        A setting is outside what Service Bus accepts.
    """

    name: str
    lock_seconds: float = 300
    max_delivery_count: int = 3
    ttl_seconds: float = 7 * 86_400
    dead_letter_on_expiry: bool = True
    duplicate_window_seconds: float = 600

    def __post_init__(self) -> None:
        if not self.name or "$" in self.name:
            raise InvalidParameter(f"{self.name!r} is not a queue name: it must not be empty or contain '$'")
        if not 0 < self.lock_seconds <= MAX_LOCK_SECONDS:
            raise InvalidParameter(f"lock_seconds is {self.lock_seconds}; it must be above 0 and at most 300")
        if self.max_delivery_count < 1 or self.ttl_seconds <= 0 or self.duplicate_window_seconds < 0:
            raise InvalidParameter(f"a count or duration of queue {self.name!r} is not positive: {self}")


@dataclass(frozen=True, slots=True)
class QueueCounts:
    """How many messages of a queue are in each state; ``dead_letter`` counts those of its sub-queue."""

    active: int
    locked: int
    deferred: int
    scheduled: int
    dead_letter: int


class State(Enum):
    """Where a message is; the values of the first three are those of ``x-opt-message-state``."""

    ACTIVE = 0
    DEFERRED = 1
    SCHEDULED = 2
    LOCKED = 3


@dataclass(slots=True)
class Stored:
    """A message in a queue."""

    sequence: int
    message: Message
    state: State
    enqueued_at: float
    expires_at: float
    failed_deliveries: int = 0
    due_at: float = 0.0  # when the lock ends, or the schedule is up
    lock_token: UUID | None = None
    deferred: bool = False  # stays deferred when its lock ends

    def to_wire(self) -> Message:
        """The message with the annotations that Service Bus adds."""
        annotations: dict[Any, Any] = {
            Symbol("x-opt-sequence-number"): self.sequence,
            Symbol("x-opt-enqueue-sequence-number"): self.sequence,
            Symbol("x-opt-enqueued-time"): Timestamp(self.enqueued_at * 1000),
            Symbol("x-opt-message-state"): Int(self.state.value if self.state is not State.LOCKED else 0),
        }
        if self.lock_token is not None:
            annotations[Symbol("x-opt-locked-until")] = Timestamp(self.due_at * 1000)
        return self.message.delivered(delivery_count=self.failed_deliveries, annotations=annotations)


class Queue:
    """One queue, or the dead-letter sub-queue of one.

    Parameters
    ----------
    spec
        Its settings.
    clock
        Seconds since 1970.
    dead_letters
        The sub-queue; None makes this one a sub-queue, in which nothing expires or is dead-lettered by count.
    """

    def __init__(self, spec: QueueSpec, *, clock: Callable[[], float], dead_letters: Queue | None) -> None:
        self.spec = spec
        self.dead_letters = dead_letters
        self._clock = clock
        self._stored: dict[int, Stored] = {}
        self._active: list[int] = []  # heap of sequence numbers; those no longer active are skipped
        self._timers: list[tuple[float, int]] = []  # heap of (when, sequence number); the same
        self._locks: dict[UUID, Stored] = {}
        self._seen: dict[Any, float] = {}  # message id → until when it is remembered, oldest first
        self._next_sequence = 1

    @property
    def path(self) -> str:
        """The address of the queue."""
        return self.spec.name if self.dead_letters is not None else f"{self.spec.name}/$DeadLetterQueue"

    def counts(self) -> QueueCounts:
        """How many messages are in each state now."""
        self.advance()
        states = [stored.state for stored in self._stored.values()]
        return QueueCounts(
            active=states.count(State.ACTIVE),
            locked=states.count(State.LOCKED),
            deferred=states.count(State.DEFERRED),
            scheduled=states.count(State.SCHEDULED),
            dead_letter=len(self.dead_letters._stored) if self.dead_letters is not None else len(states),
        )

    # Sending

    def send(self, message: Message) -> int | None:
        """Take a message in, now or when it is scheduled for; None: it was a duplicate, and dropped."""
        now = self.advance()
        if self._is_duplicate(message.message_id, now):
            return None
        sequence, self._next_sequence = self._next_sequence, self._next_sequence + 1
        stored = Stored(sequence, message, State.ACTIVE, enqueued_at=now, expires_at=0.0)
        self._stored[sequence] = stored
        if message.scheduled_for is not None and message.scheduled_for > now:
            stored.state, stored.due_at = State.SCHEDULED, message.scheduled_for
            self._set_timer(stored.due_at, stored)
        else:
            self._enqueue(stored, now)
        return sequence

    def cancel_scheduled(self, sequences: Iterable[int]) -> None:
        """Remove scheduled messages: all of them, or none when one is not there.

        Raises
        ------
        MessageNotFound
            One of them was cancelled before or is no longer scheduled.
        """
        self.advance()
        for stored in self._find(sequences, State.SCHEDULED):
            del self._stored[stored.sequence]

    def _is_duplicate(self, message_id: Any, now: float) -> bool:
        window = self.spec.duplicate_window_seconds
        if message_id is None or not window or self.dead_letters is None:
            return False
        while self._seen and next(iter(self._seen.values())) <= now:
            del self._seen[next(iter(self._seen))]
        if message_id in self._seen:
            return True
        self._seen[message_id] = now + window
        return False

    def _enqueue(self, stored: Stored, now: float) -> None:
        ttl = min(self.spec.ttl_seconds, stored.message.ttl_seconds or self.spec.ttl_seconds)
        stored.enqueued_at, stored.expires_at = now, now + ttl
        if self.dead_letters is None:
            stored.expires_at = float("inf")
        self._make_active(stored)

    def _make_active(self, stored: Stored) -> None:
        stored.state, stored.lock_token = State.ACTIVE, None
        heapq.heappush(self._active, stored.sequence)
        self._set_timer(stored.expires_at, stored)

    # Receiving

    def receive(self, *, delete: bool = False) -> Stored | None:
        """The next active message, locked (or, with ``delete``, gone); None when there is none."""
        now = self.advance()
        while self._active:
            stored = self._stored.get(heapq.heappop(self._active))
            if stored is not None and stored.state is State.ACTIVE:
                if delete:
                    del self._stored[stored.sequence]
                else:
                    self._lock(stored, now)
                return stored
        return None

    def has_active(self) -> bool:
        """Whether `receive` would find a message."""
        self.advance()
        while self._active:
            stored = self._stored.get(self._active[0])
            if stored is not None and stored.state is State.ACTIVE:
                return True
            heapq.heappop(self._active)
        return False

    def receive_deferred(self, sequences: Iterable[int], *, delete: bool = False) -> list[Stored]:
        """Lock deferred messages by their sequence numbers.

        Raises
        ------
        MessageNotFound
            One of them is not deferred; then none of them is locked.
        """
        now = self.advance()
        found = self._find(sequences, State.DEFERRED)
        for stored in found:
            if delete:
                del self._stored[stored.sequence]
            else:
                self._lock(stored, now)
        return found

    def peek(self, from_sequence: int, count: int) -> list[Stored]:
        """Up to ``count`` messages from that sequence number on, in order, whatever their state."""
        self.advance()
        return [self._stored[number] for number in sorted(self._stored) if number >= from_sequence][
            : max(0, count)
        ]

    def _lock(self, stored: Stored, now: float) -> None:
        stored.state, stored.lock_token = State.LOCKED, uuid4()
        stored.due_at = now + self.spec.lock_seconds
        self._locks[stored.lock_token] = stored
        self._set_timer(stored.due_at, stored)

    def _find(self, sequences: Iterable[int], state: State) -> list[Stored]:
        found = [self._stored.get(sequence) for sequence in sequences]
        present = [stored for stored in found if stored is not None and stored.state is state]
        if len(present) < len(found):
            raise MessageNotFound(f"{len(found) - len(present)} of {len(found)} are not {state.name.lower()}")
        return present

    # Settling; each raises LockNotHeld when the lock has ended

    def renew(self, token: UUID) -> float:
        """Begin the lock's time anew, and say when it ends."""
        stored = self._held(token)
        stored.due_at = self._clock() + self.spec.lock_seconds
        self._set_timer(stored.due_at, stored)
        return stored.due_at

    def complete(self, token: UUID) -> None:
        """Remove the message for good."""
        stored = self._unlock(token)
        del self._stored[stored.sequence]

    def release(self, token: UUID) -> None:
        """Give the message back as if it had not been delivered."""
        self._give_back(self._unlock(token))

    def abandon(self, token: UUID) -> None:
        """Give the message back, one delivery counted; the last one permitted dead-letters it."""
        self._count_delivery(self._unlock(token))

    def defer(self, token: UUID) -> None:
        """Keep the message until somebody asks for its sequence number."""
        stored = self._unlock(token)
        stored.deferred = True
        self._give_back(stored)

    def dead_letter(self, token: UUID, reason: str | None, description: str | None) -> None:
        """Move the message to the sub-queue; in the sub-queue itself, note the new reason."""
        self._bury(self._unlock(token), reason, description)

    def expire_lock(self, *, message_id: str | None = None) -> int:
        """End the locks now, of all messages or those with an id; says how many ended."""
        self.advance()
        held = [s for s in self._locks.values() if message_id is None or s.message.message_id == message_id]
        for stored in held:
            stored.due_at = self._clock()
            self._set_timer(stored.due_at, stored)
        self.advance()
        return len(held)

    def _held(self, token: UUID) -> Stored:
        self.advance()
        stored = self._locks.get(token)
        if stored is None:
            raise LockNotHeld(f"the lock {token} on a message of {self.path} has expired or was settled")
        return stored

    def _unlock(self, token: UUID) -> Stored:
        stored = self._held(token)
        del self._locks[token]
        stored.lock_token = None
        return stored

    def _give_back(self, stored: Stored) -> None:
        if stored.deferred:
            stored.state, stored.lock_token = State.DEFERRED, None
        else:
            self._make_active(stored)

    def _count_delivery(self, stored: Stored) -> None:
        stored.failed_deliveries += 1
        if self.dead_letters is not None and stored.failed_deliveries >= self.spec.max_delivery_count:
            limit = self.spec.max_delivery_count
            self._bury(
                stored,
                "MaxDeliveryCountExceeded",
                f"Message could not be consumed after {limit} delivery attempts.",
            )
        else:
            self._give_back(stored)

    def _bury(self, stored: Stored, reason: str | None, description: str | None) -> None:
        reasons = {"DeadLetterReason": reason, "DeadLetterErrorDescription": description}
        message = stored.message.with_application_properties(
            {k: v for k, v in reasons.items() if v is not None}
        )
        del self._stored[stored.sequence]
        target = self.dead_letters if self.dead_letters is not None else self
        buried = Stored(
            stored.sequence,
            message,
            State.ACTIVE,
            enqueued_at=stored.enqueued_at,
            expires_at=float("inf"),
            failed_deliveries=stored.failed_deliveries,
        )
        target._stored[buried.sequence] = buried
        target._make_active(buried)

    # Time

    def next_due(self) -> float:
        """When `advance` will have something to do, at the earliest; infinity for never."""
        sub_queue = self.dead_letters.next_due() if self.dead_letters is not None else float("inf")
        return min(self._timers[0][0] if self._timers else float("inf"), sub_queue)

    def advance(self) -> float:
        """Do what has become due (locks that end, schedules that are up, expiry), and say what time it is."""
        now = self._clock()
        while self._timers and self._timers[0][0] <= now:
            stored = self._stored.get(heapq.heappop(self._timers)[1])
            if stored is None:
                continue
            if stored.state is State.LOCKED and stored.due_at <= now and stored.lock_token is not None:
                del self._locks[stored.lock_token]
                stored.lock_token = None
                self._count_delivery(stored)
            elif stored.state is State.SCHEDULED and stored.due_at <= now:
                self._enqueue(stored, now)
            elif stored.state is State.ACTIVE and stored.expires_at <= now:
                self._expire(stored)
        if self.dead_letters is not None:
            self.dead_letters.advance()
        return now

    def _expire(self, stored: Stored) -> None:
        if self.spec.dead_letter_on_expiry:
            self._bury(stored, "TTLExpiredException", "The message expired and was dead lettered.")
        else:
            del self._stored[stored.sequence]

    def _set_timer(self, when: float, stored: Stored) -> None:
        if when != float("inf"):
            heapq.heappush(self._timers, (when, stored.sequence))


def create_queue(spec: QueueSpec, *, clock: Callable[[], float]) -> Queue:
    """A queue with its dead-letter sub-queue."""
    return Queue(spec, clock=clock, dead_letters=Queue(spec, clock=clock, dead_letters=None))
