"""A message in a queue, in one of three states."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any
from uuid import UUID

from worker.local.amqp.message import Message
from worker.local.amqp.types import Int, Symbol, Timestamp


class State(Enum):
    """The state of a message; the first two values are those of ``x-opt-message-state``."""

    ACTIVE = 0
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
    due_at: float = 0.0  # when the lock expires, or the scheduled message becomes active
    lock_token: UUID | None = None

    @property
    def acts_at(self) -> float:
        """The time at which the message changes state without an operation; infinity for never."""
        return self.expires_at if self.state is State.ACTIVE else self.due_at

    def to_wire(self) -> Message:
        """Return the message with the annotations that Service Bus adds."""
        annotations: dict[Any, Any] = {
            Symbol("x-opt-sequence-number"): self.sequence,
            Symbol("x-opt-enqueue-sequence-number"): self.sequence,
            Symbol("x-opt-enqueued-time"): Timestamp(self.enqueued_at * 1000),
            Symbol("x-opt-message-state"): Int(self.state.value if self.state is not State.LOCKED else 0),
        }
        if self.lock_token is not None:
            annotations[Symbol("x-opt-locked-until")] = Timestamp(self.due_at * 1000)
        return self.message.delivered(delivery_count=self.failed_deliveries, annotations=annotations)
