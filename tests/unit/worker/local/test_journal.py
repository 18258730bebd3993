"""A state file holds what the queue knows, after every operation, even when the disk is full."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gdaltools.errors import InvalidParameter
from tests.unit.worker.local.test_queues import Clock, message, scheduled
from worker.local.amqp.message import Message
from worker.local.amqp.types import ULong
from worker.local.queues.journal import MEMORY_ONLY, Journal, NotSaved, SqliteJournal
from worker.local.queues.peek_lock import LockNotHeld, MessageNotFound, Queue, QueueSpec, create_queue
from worker.local.queues.shelf import Shelves
from worker.local.queues.stored import Changes, Contents

SPEC = QueueSpec("q", lock_seconds=5, max_delivery_count=2, ttl_seconds=30, duplicate_window_seconds=20)
MESSAGE_IDS = [None, "a", "b", b"a", ULong(1), UUID(int=1)]


@dataclass
class FullDisk:
    """A journal that cannot be written while its disk is full."""

    journal: Journal
    is_full: bool = False

    def load(self, path: str) -> Contents:
        return self.journal.load(path)

    def write(self, changes: Iterable[Changes]) -> None:
        if self.is_full:
            raise NotSaved("the disk is full")
        self.journal.write(changes)


@dataclass
class Player:
    """Performs operations on a queue, with the locks obtained so far."""

    journal: Journal
    clock: Clock = field(default_factory=Clock)
    tokens: list[tuple[Queue, UUID]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.shelves = Shelves("q", self.journal)
        self.dead_letters = Queue(SPEC, self.shelves, clock=self.clock, dead_letters=None)
        self.queue = Queue(SPEC, self.shelves, clock=self.clock, dead_letters=self.dead_letters)

    def play(self, operation: str, number: int) -> None:
        queue = self.dead_letters if number % 3 == 0 else self.queue
        if operation == "send":
            sent = [Message(properties=(MESSAGE_IDS[(number + each) % 6],)) for each in range(number % 3 + 1)]
            self.queue.send(*sent)
        elif operation == "schedule":
            self.queue.send(scheduled(self.clock.now + number))
        elif operation == "cancel":
            self.queue.cancel_scheduled([number])
        elif operation == "receive":
            stored = queue.receive(delete=number % 5 == 0)
            if stored is not None and stored.lock_token is not None:
                self.tokens.append((queue, stored.lock_token))
        elif operation == "receive deferred":
            for stored in self.queue.receive_deferred([number]):
                assert stored.lock_token is not None
                self.tokens.append((self.queue, stored.lock_token))
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

    def known(self) -> list[tuple[object, ...]]:
        return [_comparable(each.contents()) for each in (self.shelves.messages, self.shelves.dead_letters)]


def _comparable(contents: Contents) -> tuple[object, ...]:
    return contents.next_sequence, contents.stored, dict(contents.remembered)


def _saved(journal: Journal) -> list[tuple[object, ...]]:
    return [_comparable(journal.load(path)) for path in ("q", "q/$deadletterqueue")]


SETTLING = ["renew", "complete", "abandon", "release", "defer", "bury"]
OPERATIONS = st.tuples(
    st.sampled_from(
        ["send"] * 2
        + ["receive"] * 3
        + ["schedule", "cancel", "receive deferred", "expire locks", "wait", *SETTLING]
    ),
    st.integers(1, 12),
)


@settings(deadline=None)  # the disk may be busy
@given(st.lists(OPERATIONS, max_size=40))
def test_a_restored_queue_knows_what_the_one_before_it_knew(operations: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "state.db"
        with SqliteJournal(file) as journal:
            before = Player(journal)
            for operation, number in operations:
                try:
                    before.play(operation, number)
                except (LockNotHeld, MessageNotFound):
                    continue
        with SqliteJournal(file) as journal:
            after = Player(journal, before.clock)
            after.queue.restore()
            assert after.known() == before.known()
            for queue, shelf in (
                (after.queue, before.shelves.messages),
                (after.dead_letters, before.shelves.dead_letters),
            ):
                for held in shelf.locked():
                    assert held.lock_token is not None
                    assert queue.renew(held.lock_token) == after.clock.now + SPEC.lock_seconds


@settings(deadline=None)
@given(st.lists(st.tuples(OPERATIONS, st.booleans()), max_size=40))
@example([((step, 1), n == 3) for n, step in enumerate(["receive", "expire locks"] * 2)])  # dead-letters
def test_what_could_not_be_saved_has_not_happened(operations: list[tuple[tuple[str, int], bool]]) -> None:
    with tempfile.TemporaryDirectory() as folder, SqliteJournal(Path(folder) / "state.db") as journal:
        disk = FullDisk(journal)
        player = Player(disk)
        for (operation, number), is_full in operations:
            disk.is_full = False
            player.play("send", 1)
            before = player.known()
            assert before == _saved(journal)
            disk.is_full = is_full
            try:
                player.play(operation, number)
            except NotSaved:
                assert player.known() == before
            except (LockNotHeld, MessageNotFound):
                continue
        disk.is_full = False
        player.play("send", 1)
        assert player.known() == _saved(journal)


def test_time_goes_on_while_the_disk_is_full() -> None:
    disk, clock = FullDisk(MEMORY_ONLY), Clock()
    queue = create_queue(QueueSpec("q", lock_seconds=5), clock=clock, journal=disk)
    queue.send(message())
    queue.receive()
    disk.is_full = True
    clock.now += 5
    with pytest.raises(NotSaved):
        queue.receive()
    assert (queue.counts().active, queue.counts().locked) == (1, 0)
    disk.is_full = False
    again = queue.receive()
    assert again is not None
    assert again.failed_deliveries == 1


def test_what_ended_while_nobody_had_the_file_ends_at_the_restart(tmp_path: Path) -> None:
    clock = Clock()
    spec = QueueSpec("q", lock_seconds=5, ttl_seconds=1000)
    with SqliteJournal(tmp_path / "state.db") as journal:
        queue = create_queue(spec, clock=clock, journal=journal)
        queue.send(message(), message(ttl_seconds=3), scheduled(clock.now + 4), scheduled(clock.now + 60))
        queue.receive()
    clock.now += 10
    with SqliteJournal(tmp_path / "state.db") as journal:
        queue = create_queue(spec, clock=clock, journal=journal)
        queue.restore()
        counts = queue.counts()
        assert (counts.active, counts.locked, counts.scheduled, counts.dead_letter) == (2, 0, 1, 1)
        first = queue.receive()
        assert first is not None
        assert (first.sequence, first.failed_deliveries) == (1, 1)


def test_a_queue_that_nobody_names_stays_in_the_file(tmp_path: Path) -> None:
    for name, sent in (("one", 2), ("two", 1), ("ONE", 1)):
        with SqliteJournal(tmp_path / "state.db") as journal:
            queue = create_queue(QueueSpec(name), clock=Clock(), journal=journal)
            queue.restore()
            queue.send(*[message()] * sent)
            assert queue.counts().active == {"one": 2, "two": 1, "ONE": 3}[name]


def test_a_file_has_one_broker_at_a_time(tmp_path: Path) -> None:
    with (
        SqliteJournal(tmp_path / "state.db"),
        pytest.raises(InvalidParameter, match="in use by another broker"),
        SqliteJournal(tmp_path / "state.db"),
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
        with pytest.raises(InvalidParameter, match=file.name), SqliteJournal(file):
            pass
        assert file.read_bytes() == before


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "state.db"
    with SqliteJournal(file) as journal:
        create_queue(SPEC, clock=Clock(), journal=journal).send(*[Message(body=b"x" * 3000)] * 20)
    with file.open("r+b") as damaged:
        damaged.seek(8 * 4096)
        damaged.write(b"\xff" * 4096 * 2)
    with pytest.raises(InvalidParameter, match=r"damaged .* move it away"), SqliteJournal(file) as journal:
        create_queue(SPEC, clock=Clock(), journal=journal).restore()


def test_a_message_that_makes_no_sense_is_damage(tmp_path: Path) -> None:
    file = tmp_path / "state.db"
    with SqliteJournal(file) as journal:
        create_queue(SPEC, clock=Clock(), journal=journal).send(message("a"))
    with sqlite3.connect(file) as other:
        other.execute("update message set content = x'00ff'")
    other.close()
    with SqliteJournal(file) as journal, pytest.raises(InvalidParameter, match="damaged"):
        create_queue(SPEC, clock=Clock(), journal=journal).restore()
