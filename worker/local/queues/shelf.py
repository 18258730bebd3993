"""The messages of a queue, indexed by sequence number, lock and time, and kept in step with the journal.

A shelf records its changes. They are saved, or undone, together with those of the queue's other shelf, so
that memory and journal agree after every operation.
"""

from __future__ import annotations

import heapq
import logging
from typing import Any
from uuid import UUID

from worker.local.queues.journal import Journal, NotSaved
from worker.local.queues.stored import Changes, Contents, State, Stored

DEAD_LETTER_PATH = "$deadletterqueue"

_LOGGER = logging.getLogger(__name__)


class Shelf:
    """The messages of a queue or sub-queue, and the message ids that it remembers.

    Parameters
    ----------
    path
        The queue's address in lower case, which is its name in the journal.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._stored: dict[int, Stored] = {}
        self._active: list[int] = []  # heap of sequence numbers; those no longer active are skipped
        self._timers: list[tuple[float, int]] = []  # heap of (time, sequence number); likewise
        self._locks: dict[UUID, int] = {}
        self._remembered: dict[Any, float] = {}  # message id → remembered until, oldest first
        self._next_sequence = 1
        # Unsaved changes
        self._before: dict[int, Stored | None] = {}  # by sequence number, the message at the last save
        self._to_remember: list[Any] = []
        self._to_forget: list[Any] = []
        self._next_sequence_before = 1

    def contents(self) -> Contents:
        """Return everything on this shelf."""
        return Contents(self._next_sequence, tuple(self.in_order()), tuple(self._remembered.items()))

    # Looking

    def __len__(self) -> int:
        return len(self._stored)

    def find(self, sequence: int) -> Stored | None:
        """Return the message with that sequence number, or None."""
        return self._stored.get(sequence)

    def find_locked(self, token: UUID) -> Stored | None:
        """Return the message that is locked under `token`, or None."""
        sequence = self._locks.get(token)
        return self._stored[sequence] if sequence is not None else None

    def locked(self) -> list[Stored]:
        """Return the locked messages."""
        return [self._stored[sequence] for sequence in self._locks.values()]

    def in_order(self) -> list[Stored]:
        """Return every message, in the order of their sequence numbers."""
        return [self._stored[sequence] for sequence in sorted(self._stored)]

    def first_active(self) -> Stored | None:
        """Return the message to be received next, or None."""
        while self._active:
            stored = self._stored.get(self._active[0])
            if stored is not None and stored.state is State.ACTIVE:
                return stored
            heapq.heappop(self._active)
        return None

    def next_due(self) -> float:
        """Return the earliest time at which `take_due` may find a message; infinity for never."""
        return self._timers[0][0] if self._timers else float("inf")

    def take_due(self, now: float) -> Stored | None:
        """Return a message that is due by `now`, or None; it is returned once: the caller must act on it."""
        while self._timers and self._timers[0][0] <= now:
            stored = self._stored.get(heapq.heappop(self._timers)[1])
            if stored is not None and stored.acts_at <= now:
                return stored
        return None

    # Changing

    def take_number(self) -> int:
        """Return the sequence number for a new message."""
        self._next_sequence += 1
        return self._next_sequence - 1

    def put(self, stored: Stored) -> None:
        """Store a message, in place of one with the same sequence number."""
        self._before.setdefault(stored.sequence, self._stored.get(stored.sequence))
        self._place(stored)

    def remove(self, stored: Stored) -> None:
        """Remove the message with the sequence number of `stored`."""
        self._before.setdefault(stored.sequence, self._stored.get(stored.sequence))
        self._take_away(stored.sequence)

    def remembers(self, message_id: Any, now: float) -> bool:
        """Return whether `message_id` is still remembered at `now`."""
        while self._remembered and next(iter(self._remembered.values())) <= now:
            oldest = next(iter(self._remembered))
            del self._remembered[oldest]
            self._to_forget.append(oldest)
        return self._remembered.get(message_id, now) > now

    def remember(self, message_id: Any, until: float) -> None:
        """Remember a message id until the time `until`."""
        self._remembered.pop(message_id, None)  # it goes to the end
        self._remembered[message_id] = until
        self._to_remember.append(message_id)

    # Saving

    def changes(self) -> Changes:
        """Return the unsaved changes."""
        put = [(self._stored[number], old) for number, old in self._before.items() if number in self._stored]
        return Changes(
            path=self.path,
            next_sequence=(
                self._next_sequence if self._next_sequence != self._next_sequence_before else None
            ),
            put=tuple(stored for stored, _ in put),
            new_messages=tuple(s for s, old in put if old is None or old.message is not s.message),
            removed=tuple(
                number
                for number, old in self._before.items()
                if old is not None and number not in self._stored
            ),
            remembered=tuple((each, self._remembered[each]) for each in self._to_remember),
            forgotten=tuple(self._to_forget),
        )

    def has_changes(self) -> bool:
        """Return whether there are unsaved changes."""
        return bool(self._before or self._to_remember or self._to_forget)

    def mark_saved(self) -> None:
        """Record that everything on this shelf is saved."""
        self._before.clear()
        self._to_remember.clear()
        self._to_forget.clear()
        self._next_sequence_before = self._next_sequence

    def undo(self) -> None:
        """Return to the saved state; what had become due becomes due again at the next `take_due`."""
        for sequence, stored in self._before.items():
            if stored is None:
                self._take_away(sequence)
            else:
                self._place(stored)
        for message_id in self._to_remember:
            del self._remembered[message_id]
        self._next_sequence = self._next_sequence_before
        self.mark_saved()

    def restore(self, contents: Contents) -> None:
        """Load the saved contents."""
        for stored in contents.stored:
            self._place(stored)
        self._remembered.update(contents.remembered)
        self._next_sequence = contents.next_sequence
        self.mark_saved()

    def _place(self, stored: Stored) -> None:
        old = self._stored.get(stored.sequence)
        if old is not None and old.lock_token is not None:
            del self._locks[old.lock_token]
        self._stored[stored.sequence] = stored
        if stored.lock_token is not None:
            self._locks[stored.lock_token] = stored.sequence
        if stored.state is State.ACTIVE:
            heapq.heappush(self._active, stored.sequence)
        if stored.acts_at != float("inf"):
            heapq.heappush(self._timers, (stored.acts_at, stored.sequence))

    def _take_away(self, sequence: int) -> None:
        old = self._stored.pop(sequence, None)
        if old is not None and old.lock_token is not None:
            del self._locks[old.lock_token]


class Shelves:
    """The two shelves of a queue, which are saved together in a journal.

    Parameters
    ----------
    path
        The queue's address in lower case.
    journal
        The journal in which both are saved.
    """

    def __init__(self, path: str, journal: Journal) -> None:
        self.messages = Shelf(path)
        self.dead_letters = Shelf(f"{path}/{DEAD_LETTER_PATH}")
        self._both = (self.messages, self.dead_letters)
        self._journal = journal

    def restore(self) -> None:
        """Load both shelves from the journal."""
        for shelf in self._both:
            shelf.restore(self._journal.load(shelf.path))

    def save(self) -> None:
        """Save the changes.

        Raises
        ------
        NotSaved
            The journal could not be written; the shelves are back in the state of the last save.
        """
        try:
            self._write()
        except BaseException:
            for shelf in self._both:
                shelf.undo()
            raise

    def save_passage_of_time(self) -> None:
        """Save the changes that time alone has caused; if that fails, they are saved with the next change.

        Nothing is lost by that: what has become due follows from the journal and the clock.
        """
        try:
            self._write()
        except NotSaved as error:
            _LOGGER.warning("%s", error)

    def _write(self) -> None:
        changed = [shelf for shelf in self._both if shelf.has_changes()]
        if changed:
            self._journal.write(shelf.changes() for shelf in changed)
            for shelf in changed:
                shelf.mark_saved()
