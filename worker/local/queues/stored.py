"""What a queue knows, as values: its messages, each in a state, and the message ids that it remembers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any
from uuid import UUID

from worker.local.amqp.message import Message
from worker.local.amqp.types import Int, Symbol, Timestamp


class State(Enum):
    """Where a message is; the values of the first three are those of ``x-opt-message-state``."""

    ACTIVE = 0
    DEFERRED = 1
    SCHEDULED = 2
    LOCKED = 3


@dataclass(frozen=True, slots=True)
class Stored:
    """A message in a queue; times are in seconds since 1970."""

    sequence: int
    message: Message
    state: State
    enqueued_at: float
    expires_at: float
    failed_deliveries: int = 0
    due_at: float = 0.0  # when the lock ends, or the schedule is up
    lock_token: UUID | None = None
    deferred: bool = False  # stays deferred when its lock ends

    @property
    def acts_at(self) -> float:
        """When something happens to it by itself; infinity for never."""
        if self.state is State.ACTIVE:
            return self.expires_at
        return self.due_at if self.state is not State.DEFERRED else float("inf")

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


@dataclass(frozen=True, slots=True)
class Contents:
    """All that a queue or sub-queue knows.

    Parameters
    ----------
    next_sequence
        The number that the next message gets.
    stored
        The messages, in the order of their numbers.
    remembered
        Message ids, each with the time until when a second message with it is dropped, oldest first.
    """

    next_sequence: int = 1
    stored: tuple[Stored, ...] = ()
    remembered: tuple[tuple[Any, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Changes:
    """What became different in a queue or sub-queue.

    Parameters
    ----------
    path
        Which.
    next_sequence
        As in `Contents`; None when it is the same.
    put
        Messages that are new or in another state.
    new_messages
        Those of them whose content is new as well.
    removed
        Numbers of messages that are gone.
    remembered, forgotten
        Message ids.
    """

    path: str
    next_sequence: int | None
    put: tuple[Stored, ...]
    new_messages: tuple[Stored, ...]
    removed: tuple[int, ...]
    remembered: tuple[tuple[Any, float], ...]
    forgotten: tuple[Any, ...]
