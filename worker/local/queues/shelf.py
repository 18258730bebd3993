"""Where a queue's messages lie: found by number, by lock, by time, and kept in step with the journal.

A shelf notes what changes. Its changes are saved, or undone, together with those of the other shelf of the
same queue, so that what the queue knows and what the journal holds are the same after every operation.
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
        Its address, in lower case: its name in the journal.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._stored: dict[int, Stored] = {}
        self._active: list[int] = []  # heap of sequence numbers; those no longer active are skipped
        self._timers: list[tuple[float, int]] = []  # heap of (when, sequence number); the same
        self._locks: dict[UUID, int] = {}
        self._remembered: dict[Any, float] = {}  # message id → until when, oldest first
        self._next_sequence = 1
        # What is not saved yet
        self._before: dict[int, Stored | None] = {}  # what lay there when it was last saved
        self._to_remember: list[Any] = []
        self._to_forget: list[Any] = []
        self._next_sequence_before = 1

    def contents(self) -> Contents:
        """All that lies here."""
        return Contents(self._next_sequence, tuple(self.in_order()), tuple(self._remembered.items()))

    # Looking

    def __len__(self) -> int:
        return len(self._stored)

    def find(self, sequence: int) -> Stored | None:
        """The message with that number."""
        return self._stored.get(sequence)

    def find_locked(self, token: UUID) -> Stored | None:
        """The message that is locked under that token."""
        sequence = self._locks.get(token)
        return self._stored[sequence] if sequence is not None else None

    def locked(self) -> list[Stored]:
        """The messages that are locked."""
        return [self._stored[sequence] for sequence in self._locks.values()]

    def in_order(self) -> list[Stored]:
        """Every message, in the order of their numbers."""
        return [self._stored[sequence] for sequence in sorted(self._stored)]

    def first_active(self) -> Stored | None:
        """The message to be received next."""
        while self._active:
            stored = self._stored.get(self._active[0])
            if stored is not None and stored.state is State.ACTIVE:
                return stored
            heapq.heappop(self._active)
        return None

    def next_due(self) -> float:
        """When `take_due` will find something, at the earliest; infinity for never."""
        return self._timers[0][0] if self._timers else float("inf")

    def take_due(self, now: float) -> Stored | None:
        """A message to which something is to happen by now. It is told once: do it."""
        while self._timers and self._timers[0][0] <= now:
            stored = self._stored.get(heapq.heappop(self._timers)[1])
            if stored is not None and stored.acts_at <= now:
                return stored
        return None

    # Changing

    def take_number(self) -> int:
        """A number for a new message."""
        self._next_sequence += 1
        return self._next_sequence - 1

    def put(self, stored: Stored) -> None:
        """Lay a message down, in place of what had its number."""
        self._before.setdefault(stored.sequence, self._stored.get(stored.sequence))
        self._place(stored)

    def remove(self, stored: Stored) -> None:
        """Take away the message with that one's number."""
        self._before.setdefault(stored.sequence, self._stored.get(stored.sequence))
        self._take_away(stored.sequence)

    def remembers(self, message_id: Any, now: float) -> bool:
        """Whether there was a message with that id lately."""
        while self._remembered and next(iter(self._remembered.values())) <= now:
            oldest = next(iter(self._remembered))
            del self._remembered[oldest]
            self._to_forget.append(oldest)
        return self._remembered.get(message_id, now) > now

    def remember(self, message_id: Any, until: float) -> None:
        """Note a message id."""
        self._remembered.pop(message_id, None)  # it goes to the end
        self._remembered[message_id] = until
        self._to_remember.append(message_id)

    # Saving

    def changes(self) -> Changes:
        """What is not saved yet."""
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
        """Whether something is not saved yet."""
        return bool(self._before or self._to_remember or self._to_forget)

    def mark_saved(self) -> None:
        """Take what lies here as what is saved."""
        self._before.clear()
        self._to_remember.clear()
        self._to_forget.clear()
        self._next_sequence_before = self._next_sequence

    def undo(self) -> None:
        """Go back to what is saved; what its time has ended ends again by the next look at the clock."""
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
        """Begin with what was saved."""
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
    """The two shelves of a queue, and the journal in which both are saved at once.

    Parameters
    ----------
    path
        The queue's address, in lower case.
    journal
        Where to save.
    """

    def __init__(self, path: str, journal: Journal) -> None:
        self.messages = Shelf(path)
        self.dead_letters = Shelf(f"{path}/{DEAD_LETTER_PATH}")
        self._both = (self.messages, self.dead_letters)
        self._journal = journal

    def restore(self) -> None:
        """Begin with what the journal holds."""
        for shelf in self._both:
            shelf.restore(self._journal.load(shelf.path))

    def save(self) -> None:
        """Save what has changed.

        Raises
        ------
        NotSaved
            The journal could not be written: the shelves are again as they were when they were last saved.
        """
        try:
            self._write()
        except BaseException:
            for shelf in self._both:
                shelf.undo()
            raise

    def save_passage_of_time(self) -> None:
        """Save what has changed because its time had come; if that fails, with the next change.

        Nothing is lost by that: whoever reads the journal finds by the clock what has become due.
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
