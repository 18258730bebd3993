"""A queue's rules, with a clock that the test advances."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gdaltools.errors import InvalidParameter
from worker.local.amqp.message import Message
from worker.local.amqp.types import Symbol, Timestamp, UInt
from worker.local.queues.peek_lock import LockNotHeld, Queue, QueueSpec, create_queue
from worker.local.queues.store import Store


@dataclass
class Clock:
    """A clock that stands still until it is advanced."""

    now: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store() -> Iterator[Store]:
    with Store() as store:
        yield store


def message(message_id: str | None = None, *, ttl_seconds: float | None = None) -> Message:
    header = (None, None, UInt(ttl_seconds * 1000)) if ttl_seconds else ()
    return Message(header=header, properties=(message_id,))


def scheduled(when: float) -> Message:
    return Message(annotations={Symbol("x-opt-scheduled-enqueue-time"): Timestamp(when * 1000)})


def lock(queue: Queue) -> UUID:
    stored = queue.receive()
    assert stored is not None
    assert stored.lock_token is not None
    return stored.lock_token


def test_a_lock_ends_in_time_and_counts_a_delivery(store: Store) -> None:
    clock = Clock()
    queue = create_queue(QueueSpec("q", lock_seconds=30), store, clock=clock)
    queue.send(message())
    token = lock(queue)
    clock.now += 29.9
    assert queue.counts().locked == 1
    clock.now += 0.1
    assert queue.counts().active == 1
    with pytest.raises(LockNotHeld):
        queue.complete(token)
    again = queue.receive()
    assert again is not None
    assert again.failed_deliveries == 1


def test_a_renewed_lock_ends_a_full_time_later(store: Store) -> None:
    clock = Clock()
    queue = create_queue(QueueSpec("q", lock_seconds=30), store, clock=clock)
    queue.send(message())
    token = lock(queue)
    clock.now += 20
    assert queue.renew(token) == clock.now + 30
    clock.now += 29
    assert queue.counts().locked == 1
    clock.now += 1
    assert queue.counts().active == 1


def test_locks_that_end_count_up_to_the_limit(store: Store) -> None:
    clock = Clock()
    queue = create_queue(QueueSpec("q", lock_seconds=1, max_delivery_count=3), store, clock=clock)
    queue.send(message())
    for _ in range(3):
        lock(queue)
        clock.now += 1
    assert (queue.counts().active, queue.counts().dead_letter) == (0, 1)


def test_a_released_message_is_not_counted(store: Store) -> None:
    queue = create_queue(QueueSpec("q", max_delivery_count=1), store, clock=Clock())
    queue.send(message())
    for _ in range(5):
        queue.release(lock(queue))
    assert (queue.counts().active, queue.counts().dead_letter) == (1, 0)


def test_a_locked_message_expires_only_when_it_comes_back(store: Store) -> None:
    clock = Clock()
    queue = create_queue(QueueSpec("q", lock_seconds=30), store, clock=clock)
    queue.send(message(ttl_seconds=10))
    lock(queue)
    clock.now += 20
    assert queue.counts().locked == 1
    clock.now += 10
    assert queue.counts().dead_letter == 1


def test_a_scheduled_message_lives_from_its_time_on(store: Store) -> None:
    clock = Clock()
    queue = create_queue(QueueSpec("q", ttl_seconds=10), store, clock=clock)
    queue.send(scheduled(clock.now + 100))
    clock.now += 99
    assert (queue.counts().scheduled, queue.receive()) == (1, None)
    assert queue.next_due() == clock.now + 1
    clock.now += 10
    assert queue.counts().active == 1
    clock.now += 10
    assert queue.counts().dead_letter == 1


def test_a_message_id_is_free_again_after_the_window(store: Store) -> None:
    clock = Clock()
    queue = create_queue(QueueSpec("q", duplicate_window_seconds=60), store, clock=clock)
    queue.send(message("a"))
    queue.complete(lock(queue))
    clock.now += 59
    queue.send(message("a"))
    assert queue.counts().active == 0
    clock.now += 1
    queue.send(message("a"))
    assert queue.counts().active == 1


def test_dead_letters_neither_expire_nor_die_again(store: Store) -> None:
    clock = Clock()
    queue = create_queue(QueueSpec("q", max_delivery_count=1, ttl_seconds=10), store, clock=clock)
    queue.send(message())
    queue.abandon(lock(queue))
    assert queue.dead_letters is not None
    for _ in range(5):
        queue.dead_letters.abandon(lock(queue.dead_letters))
    clock.now += 1_000_000
    assert queue.counts().dead_letter == 1
    queue.dead_letters.complete(lock(queue.dead_letters))
    assert queue.counts().dead_letter == 0


OPERATIONS = st.sampled_from(
    ["send", "later", "receive", *["complete", "abandon", "release", "bury", "wait"]]
)


@given(st.lists(OPERATIONS, max_size=60))
def test_no_message_is_lost_or_doubled(operations: list[str]) -> None:
    with Store() as store:
        play(store, operations)


def play(store: Store, operations: list[str]) -> None:
    clock = Clock()
    queue = create_queue(QueueSpec("q", lock_seconds=5, ttl_seconds=1000), store, clock=clock)
    sent = completed = 0
    tokens: list[UUID] = []
    for operation in operations:
        if operation in ("send", "later"):
            sent += 1
            queue.send(message() if operation == "send" else scheduled(clock.now + 3))
        elif operation == "receive":
            stored = queue.receive()
            tokens += [stored.lock_token] if stored is not None and stored.lock_token is not None else []
        elif operation == "wait":
            clock.now += 2
        elif tokens:
            token = tokens.pop(0)
            settle = {
                "complete": queue.complete,
                "abandon": queue.abandon,
                "release": queue.release,
                "bury": lambda token: queue.dead_letter(token, "why", None),
            }[operation]
            try:
                settle(token)
            except LockNotHeld:
                continue
            completed += operation == "complete"
        counts = queue.counts()
        kept = counts.active + counts.locked + counts.scheduled + counts.dead_letter
        assert kept + completed == sent
        assert queue.has_active() == (counts.active > 0)


@pytest.mark.parametrize(
    "setting",
    [
        {"name": ""},
        {"name": "q/$DeadLetterQueue"},
        {"lock_seconds": 0},
        {"lock_seconds": 301},
        {"max_delivery_count": 0},
        {"ttl_seconds": 0},
        {"duplicate_window_seconds": -1},
    ],
)
def test_a_setting_that_service_bus_refuses_is_refused(setting: dict[str, object]) -> None:
    with pytest.raises(InvalidParameter):
        QueueSpec(**{"name": "q", **setting})  # type: ignore[arg-type]
