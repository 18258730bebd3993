"""What a Service Bus queue does with its messages: peek-lock, counting, expiry, dead letters.

There is no network here, and no loop. Every message is in one of four states: active (to be received),
locked, deferred, or scheduled. Its place is its sequence number, which it keeps for life: an abandoned
message is received again before those behind it. Nothing happens by itself: `Queue.advance` does what has
become due, and every operation calls it first.

Source: learn.microsoft.com, Service Bus: "Message transfers, locks, and settlement", "Message expiration",
"Overview of dead-letter queues", "Duplicate detection", "Message sequencing and timestamps".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from uuid import UUID, uuid4

from gdaltools.errors import InvalidParameter
from worker.local.amqp.message import Message
from worker.local.queues.journal import MEMORY_ONLY, Journal
from worker.local.queues.shelf import Shelves
from worker.local.queues.stored import State, Stored

MAX_LOCK_SECONDS = 300  # Service Bus's own limit


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


class Queue:
    """One queue, or the dead-letter sub-queue of one.

    Every operation is saved when it returns. One that raises `NotSaved` has not happened.

    Parameters
    ----------
    spec
        Its settings.
    shelves
        Where its messages lie, and those of the sub-queue.
    clock
        Seconds since 1970.
    dead_letters
        The sub-queue; None makes this one a sub-queue, in which nothing expires or is dead-lettered by count.
    """

    def __init__(
        self, spec: QueueSpec, shelves: Shelves, *, clock: Callable[[], float], dead_letters: Queue | None
    ) -> None:
        self.spec = spec
        self.dead_letters = dead_letters
        self._clock = clock
        self._shelves = shelves
        self._shelf = shelves.dead_letters if dead_letters is None else shelves.messages

    @property
    def path(self) -> str:
        """The address of the queue."""
        return self.spec.name if self.dead_letters is not None else f"{self.spec.name}/$DeadLetterQueue"

    def restore(self) -> None:
        """Begin with what the journal holds, of the sub-queue too; what ended meanwhile ends now.

        Raises
        ------
        InvalidParameter
            The journal cannot be read.
        """
        self._shelves.restore()
        self.advance()

    def counts(self) -> QueueCounts:
        """How many messages are in each state now."""
        self.advance()
        states = [stored.state for stored in self._shelf.in_order()]
        return QueueCounts(
            active=states.count(State.ACTIVE),
            locked=states.count(State.LOCKED),
            deferred=states.count(State.DEFERRED),
            scheduled=states.count(State.SCHEDULED),
            dead_letter=len(self._shelves.dead_letters),
        )

    # Sending

    def send(self, *messages: Message) -> list[int | None]:
        """Take messages in, all or none, now or when they are scheduled for.

        Returns
        -------
        list of int or None
            Their sequence numbers; None for one that was a duplicate, and dropped.
        """
        now = self.advance()
        sequences = [self._take_in(message, now) for message in messages]
        self._shelves.save()
        return sequences

    def cancel_scheduled(self, sequences: Iterable[int]) -> None:
        """Remove scheduled messages: all of them, or none when one is not there.

        Raises
        ------
        MessageNotFound
            One of them was cancelled before or is no longer scheduled.
        """
        self.advance()
        for stored in self._find(sequences, State.SCHEDULED):
            self._shelf.remove(stored)
        self._shelves.save()

    def _take_in(self, message: Message, now: float) -> int | None:
        if self._is_duplicate(message, now):
            return None
        sequence = self._shelf.take_number()
        stored = Stored(sequence, message, State.ACTIVE, enqueued_at=now, expires_at=0.0)
        if message.scheduled_for is not None and message.scheduled_for > now:
            self._shelf.put(replace(stored, state=State.SCHEDULED, due_at=message.scheduled_for))
        else:
            self._enqueue(stored, now)
        return sequence

    def _is_duplicate(self, message: Message, now: float) -> bool:
        window = self.spec.duplicate_window_seconds
        if message.message_id is None or not window or self.dead_letters is None:
            return False
        if self._shelf.remembers(message.message_id, now):
            return True
        self._shelf.remember(message.message_id, now + window)
        return False

    def _enqueue(self, stored: Stored, when: float) -> None:
        ttl = min(self.spec.ttl_seconds, stored.message.ttl_seconds or self.spec.ttl_seconds)
        expires_at = when + ttl if self.dead_letters is not None else float("inf")
        self._shelf.put(replace(stored, state=State.ACTIVE, enqueued_at=when, expires_at=expires_at))

    # Receiving

    def receive(self, *, delete: bool = False) -> Stored | None:
        """The next active message, locked (or, with ``delete``, gone); None when there is none."""
        now = self.advance()
        stored = self._shelf.first_active()
        if stored is None:
            return None
        taken = self._take_out(stored, now, delete=delete)
        self._shelves.save()
        return taken

    def has_active(self) -> bool:
        """Whether `receive` would find a message."""
        self.advance()
        return self._shelf.first_active() is not None

    def receive_deferred(self, sequences: Iterable[int], *, delete: bool = False) -> list[Stored]:
        """Lock deferred messages by their sequence numbers.

        Raises
        ------
        MessageNotFound
            One of them is not deferred; then none of them is locked.
        """
        now = self.advance()
        found = self._find(sequences, State.DEFERRED)
        taken = [self._take_out(stored, now, delete=delete) for stored in found]
        self._shelves.save()
        return taken

    def peek(self, from_sequence: int, count: int) -> list[Stored]:
        """Up to ``count`` messages from that sequence number on, in order, whatever their state."""
        self.advance()
        return [s for s in self._shelf.in_order() if s.sequence >= from_sequence][: max(0, count)]

    def _take_out(self, stored: Stored, now: float, *, delete: bool) -> Stored:
        if delete:
            self._shelf.remove(stored)
            return stored
        until = now + self.spec.lock_seconds
        locked = replace(stored, state=State.LOCKED, lock_token=uuid4(), due_at=until)
        self._shelf.put(locked)
        return locked

    def _find(self, sequences: Iterable[int], state: State) -> list[Stored]:
        found = [self._shelf.find(sequence) for sequence in sequences]
        present = [stored for stored in found if stored is not None and stored.state is state]
        if len(present) < len(found):
            raise MessageNotFound(f"{len(found) - len(present)} of {len(found)} are not {state.name.lower()}")
        return present

    # Settling; each raises LockNotHeld when the lock has ended

    def renew(self, token: UUID) -> float:
        """Begin the lock's time anew, and say when it ends."""
        renewed = replace(self._held(token), due_at=self._clock() + self.spec.lock_seconds)
        self._shelf.put(renewed)
        self._shelves.save()
        return renewed.due_at

    def complete(self, token: UUID) -> None:
        """Remove the message for good."""
        self._shelf.remove(self._held(token))
        self._shelves.save()

    def release(self, token: UUID) -> None:
        """Give the message back as if it had not been delivered."""
        self._give_back(self._held(token))
        self._shelves.save()

    def abandon(self, token: UUID) -> None:
        """Give the message back, one delivery counted; the last one permitted dead-letters it."""
        self._count_delivery(self._held(token))
        self._shelves.save()

    def defer(self, token: UUID) -> None:
        """Keep the message until somebody asks for its sequence number."""
        self._give_back(replace(self._held(token), deferred=True))
        self._shelves.save()

    def dead_letter(self, token: UUID, reason: str | None, description: str | None) -> None:
        """Move the message to the sub-queue; in the sub-queue itself, note the new reason."""
        self._bury(self._held(token), reason, description)
        self._shelves.save()

    def expire_lock(self, *, message_id: str | None = None) -> int:
        """End the locks now, of all messages or those with an id; says how many ended."""
        self.advance()
        held = [s for s in self._shelf.locked() if message_id is None or s.message.message_id == message_id]
        for stored in held:
            self._count_delivery(stored)
        self._shelves.save()
        return len(held)

    def _held(self, token: UUID) -> Stored:
        self.advance()
        stored = self._shelf.find_locked(token)
        if stored is None:
            raise LockNotHeld(f"the lock {token} on a message of {self.path} has expired or was settled")
        return stored

    def _give_back(self, stored: Stored) -> None:
        state = State.DEFERRED if stored.deferred else State.ACTIVE
        self._shelf.put(replace(stored, state=state, lock_token=None))

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
        self._shelves.dead_letters.put(
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
        """When `advance` will have something to do, at the earliest; infinity for never."""
        return min(self._shelves.messages.next_due(), self._shelves.dead_letters.next_due())

    def advance(self) -> float:
        """Do what has become due (locks that end, schedules that are up, expiry), and say what time it is."""
        now = self._clock()
        something_was_due = False
        while (stored := self._shelf.take_due(now)) is not None:
            something_was_due = True
            if stored.state is State.LOCKED:
                self._count_delivery(stored)
            elif stored.state is State.SCHEDULED:
                self._enqueue(stored, now)
            else:
                self._expire(stored)
        if self.dead_letters is not None:
            self.dead_letters.advance()
        if something_was_due:
            self._shelves.save_passage_of_time()
        return now

    def _expire(self, stored: Stored) -> None:
        if self.spec.dead_letter_on_expiry:
            self._bury(stored, "TTLExpiredException", "The message expired and was dead lettered.")
        else:
            self._shelf.remove(stored)


def create_queue(spec: QueueSpec, *, clock: Callable[[], float], journal: Journal = MEMORY_ONLY) -> Queue:
    """A queue with its dead-letter sub-queue; both are empty before `Queue.restore`."""
    shelves = Shelves(spec.name.lower(), journal)
    dead_letters = Queue(spec, shelves, clock=clock, dead_letters=None)
    return Queue(spec, shelves, clock=clock, dead_letters=dead_letters)
