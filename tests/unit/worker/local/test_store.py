"""A state file holds what the queue knows, after every operation, even when the disk is full."""

from __future__ import annotations

import sqlite3
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gdaltools.errors import InvalidParameter
from tests.unit.worker.local.test_queues import Clock, message, scheduled
from worker.local.amqp.message import Message
from worker.local.amqp.types import Described, ULong, encode
from worker.local.queues.peek_lock import LockNotHeld, Queue, QueueSpec, create_queue
from worker.local.queues.store import Store

SPEC = QueueSpec("q", lock_seconds=5, max_delivery_count=2, ttl_seconds=30, duplicate_window_seconds=20)
MESSAGE_IDS = [None, "a", "b", b"a", ULong(1), UUID(int=1)]


@dataclass
class Player:
    """Performs operations on a queue, with the locks obtained so far."""

    store: Store
    clock: Clock = field(default_factory=Clock)
    tokens: list[tuple[Queue, UUID]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.queue = create_queue(SPEC, self.store, clock=self.clock)
        assert self.queue.dead_letters is not None
        self.dead_letters = self.queue.dead_letters

    def play(self, operation: str, number: int) -> None:
        queue = self.dead_letters if number % 3 == 0 else self.queue
        if operation == "send":
            sent = [Message(properties=(MESSAGE_IDS[(number + each) % 6],)) for each in range(number % 3 + 1)]
            self.queue.send(*sent)
        elif operation == "schedule":
            self.queue.send(scheduled(self.clock.now + number))
        elif operation == "receive":
            stored = queue.receive()
            if stored is not None and stored.lock_token is not None:
                self.tokens.append((queue, stored.lock_token))
        elif operation == "expire locks":
            queue.expire_lock()
        elif operation == "wait":
            self.clock.now += number
            self.queue.advance()
        elif self.tokens:
            queue, token = self.tokens[number % len(self.tokens)]
            if operation == "bury":
                queue.dead_letter(token, "why", f"number {number}")
            else:
                getattr(queue, operation)(token)

    def known(self) -> list[object]:
        return [
            each for queue in (self.queue, self.dead_letters) for each in (queue.counts(), queue.peek(0, 99))
        ]


SETTLING = ["renew", "complete", "abandon", "release", "bury"]
OPERATIONS = st.tuples(
    st.sampled_from(["send"] * 2 + ["receive"] * 3 + ["schedule", "expire locks", "wait", *SETTLING]),
    st.integers(1, 12),
)


@settings(deadline=None)  # the disk may be busy
@given(st.lists(OPERATIONS, max_size=40))
def test_a_broker_that_comes_back_knows_what_the_one_before_it_knew(
    operations: list[tuple[str, int]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "state.db"
        with Store(file) as store:
            before = Player(store)
            for operation, number in operations:
                try:
                    before.play(operation, number)
                except LockNotHeld:
                    continue
            known = before.known()
        with Store(file) as store:
            after = Player(store, before.clock)
            assert after.known() == known
            for queue in (after.queue, after.dead_letters):
                for held in queue.peek(0, 99):
                    if held.lock_token is not None:
                        assert queue.renew(held.lock_token) == after.clock.now + SPEC.lock_seconds


def test_what_could_not_be_saved_has_not_happened(tmp_path: Path) -> None:
    with Store(tmp_path / "state.db") as store:
        player = Player(store)
        player.queue.send(message("a"), message("b"))
        held = player.queue.receive()
        assert held is not None
        assert held.lock_token is not None
        known = player.known()
        (pages,) = store.database.execute("pragma page_count").fetchone()
        store.database.execute(f"pragma max_page_count = {pages}")
        large = Message(body=encode(Described(ULong(0x75), b"x" * 100_000)))
        with pytest.raises(sqlite3.OperationalError, match="full"):
            player.queue.send(message("c"), large)
        assert player.known() == known
        store.database.execute("pragma max_page_count = 1000000")
        player.queue.send(message("c"), large)
        assert [each.sequence for each in player.queue.peek(0, 9)] == [1, 2, 3, 4]
        player.queue.complete(held.lock_token)


def test_what_ended_while_nobody_had_the_file_ends_at_the_restart(tmp_path: Path) -> None:
    clock = Clock()
    spec = QueueSpec("q", lock_seconds=5, ttl_seconds=1000)
    with Store(tmp_path / "state.db") as store:
        queue = create_queue(spec, store, clock=clock)
        queue.send(message(), message(ttl_seconds=3), scheduled(clock.now + 4), scheduled(clock.now + 60))
        queue.receive()
    clock.now += 10
    with Store(tmp_path / "state.db") as store:
        queue = create_queue(spec, store, clock=clock)
        counts = queue.counts()
        assert (counts.active, counts.locked, counts.scheduled, counts.dead_letter) == (2, 0, 1, 1)
        first = queue.receive()
        assert first is not None
        assert (first.sequence, first.failed_deliveries) == (1, 1)


def test_a_queue_that_nobody_names_stays_in_the_file(tmp_path: Path) -> None:
    for name, sent in (("one", 2), ("two", 1), ("ONE", 1)):
        with Store(tmp_path / "state.db") as store:
            queue = create_queue(QueueSpec(name), store, clock=Clock())
            queue.send(*[message()] * sent)
            assert queue.counts().active == {"one": 2, "two": 1, "ONE": 3}[name]


def test_a_file_has_one_broker_at_a_time(tmp_path: Path) -> None:
    with (
        Store(tmp_path / "state.db"),
        pytest.raises(InvalidParameter, match="in use by another broker"),
        Store(tmp_path / "state.db"),
    ):
        pass


def test_a_file_of_somebody_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    text, database = tmp_path / "notes.txt", tmp_path / "other.db"
    text.write_text("not a database, but long enough to be one " * 100)
    with sqlite3.connect(database) as other:
        other.execute("create table queue (path text)")
    other.close()
    for file in (text, database):
        before = file.read_bytes()
        with pytest.raises(InvalidParameter, match=file.name), Store(file):
            pass
        assert file.read_bytes() == before


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "state.db"
    with Store(file) as store:
        create_queue(SPEC, store, clock=Clock()).send(*[Message(body=b"x" * 3000)] * 20)
    with file.open("r+b") as damaged:
        damaged.seek(8 * 4096)
        damaged.write(b"\xff" * 4096 * 2)
    with pytest.raises(InvalidParameter, match=r"cannot be opened .* move it away"), Store(file):
        pass
