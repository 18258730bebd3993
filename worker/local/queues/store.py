"""The messages of all queues in an SQLite database: in memory, or in a file that outlives the process.

When `Store.saving` ends, the changes are in the file, even if the process dies next; a change that is
interrupted or cannot be written has not happened. The file is not synced to disk: a power cut may lose the
most recent writes.

Source: sqlite.org, "Write-Ahead Logging" (§8, without shared memory) and "Pragma statements".
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import UUID

from gdaltools.errors import InvalidParameter
from worker.local.amqp.message import decode_message, encode_message
from worker.local.amqp.types import encode
from worker.local.queues.stored import State, Stored

APPLICATION_ID = 0x67646271  # "gdbq": marks the file as ours
FORMAT_VERSION = 2

_CREATE = f"""
    pragma application_id = {APPLICATION_ID};
    pragma user_version = {FORMAT_VERSION};
    create table queue (path text primary key, next_sequence integer not null) without rowid;
    create table message (
        path text, sequence integer, content blob not null, state integer not null, enqueued_at real not null,
        expires_at real not null, failed_deliveries integer not null, due_at real not null, lock_token blob,
        acts_at real not null, primary key (path, sequence)
    );
    create index by_state on message (path, state, sequence);
    create index by_time on message (path, acts_at);
    create unique index by_lock on message (lock_token) where lock_token is not null;
    create table remembered (
        path text, message_id blob, until real not null, primary key (path, message_id)
    ) without rowid;
"""
_SELECT = (
    "select sequence, content, state, enqueued_at, expires_at, failed_deliveries, due_at, lock_token "
    "from message where path = ? and "
)


class Store:
    """The database of one broker, for the duration of a ``with`` block.

    Parameters
    ----------
    file
        The file; created if missing, and closed to every other process. None keeps the queues in memory.
        Queues in the file that nobody asks for stay in it unchanged.

    Raises
    ------
    InvalidParameter
        On entry: the file is in use by another broker, not a state file, damaged, or cannot be opened.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._opened: sqlite3.Connection | None = None

    def __enter__(self) -> Self:
        try:
            # Autocommit: this class begins its transactions itself.
            self._opened = sqlite3.connect(self._file or ":memory:", timeout=0, isolation_level=None)
            self._prepare(self._opened)
        except sqlite3.Error as error:
            self._close()
            raise InvalidParameter(self._reason(error)) from error
        except InvalidParameter:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    @property
    def database(self) -> sqlite3.Connection:
        """The open database."""
        if self._opened is None:
            raise InvalidParameter("the queues are not open: use the store with `with`")
        return self._opened

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Save the changes of the block together at its end, or none of them if it raises."""
        database = self.database
        database.execute("begin")
        try:
            yield
            database.execute("commit")
        finally:
            if database.in_transaction:
                database.execute("rollback")

    def _prepare(self, database: sqlite3.Connection) -> None:
        database.execute("pragma locking_mode = exclusive")
        (marked,) = database.execute("pragma application_id").fetchone()
        (version,) = database.execute("pragma user_version").fetchone()
        (tables,) = database.execute("select count(*) from sqlite_master").fetchone()
        if tables and (marked, version) != (APPLICATION_ID, FORMAT_VERSION):
            raise InvalidParameter(
                f"the state file {self._file} is not one of this version of the broker: give another path"
            )
        database.execute("pragma journal_mode = wal")
        database.execute("pragma synchronous = off")
        database.execute("begin exclusive")
        if not tables:
            for statement in filter(str.strip, _CREATE.split(";")):
                database.execute(statement)
        database.execute("commit")
        (verdict,) = database.execute("pragma quick_check(1)").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError(verdict)

    def _reason(self, error: sqlite3.Error) -> str:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY:
            return f"the state file {self._file} is in use by another broker: stop it, or give another path"
        reason = " ".join(str(error).split())  # SQLite's reasons have several lines
        return f"the state file {self._file} cannot be opened ({reason}): move it away, or give another path"

    def _close(self) -> None:
        if self._opened is not None:
            self._opened.close()
            self._opened = None


class Shelf:
    """The messages of a queue or sub-queue, and the message ids that it remembers.

    Parameters
    ----------
    path
        The queue's address in lower case, which is its name in the store.
    """

    def __init__(self, store: Store, path: str) -> None:
        self._store = store
        self._path = path

    def count(self) -> dict[State, int]:
        """Return the number of messages in each state."""
        rows = self._execute("select state, count(*) from message where path = ? group by state")
        return dict.fromkeys(State, 0) | {State(state): number for state, number in rows}

    def find_locked(self, token: UUID) -> Stored | None:
        """Return the message that is locked under `token`, or None."""
        return self._first("lock_token = ?", token.bytes)

    def locked(self) -> list[Stored]:
        """Return the locked messages."""
        return self._all("state = ? order by sequence", State.LOCKED.value)

    def first_active(self) -> Stored | None:
        """Return the message to be received next, or None."""
        return self._first("state = ? order by sequence limit 1", State.ACTIVE.value)

    def has_active(self) -> bool:
        """Return whether `first_active` has a message."""
        found = self._execute(
            "select 1 from message where path = ? and state = ? limit 1", State.ACTIVE.value
        )
        return found.fetchone() is not None

    def in_order(self, first: int, count: int) -> list[Stored]:
        """Return up to `count` messages in the order of their sequence numbers, from number `first` on."""
        return self._all("sequence >= ? order by sequence limit ?", first, max(0, count))

    def next_due(self) -> float:
        """Return the earliest time at which `first_due` has a message; infinity for never."""
        (earliest,) = self._execute("select min(acts_at) from message where path = ?").fetchone()
        return float("inf") if earliest is None else float(earliest)

    def first_due(self, now: float) -> Stored | None:
        """Return the message that was due first, by `now`; None when none is."""
        return self._first("acts_at <= ? order by acts_at, sequence limit 1", now)

    def take_number(self) -> int:
        """Return the sequence number for a new message."""
        taken = self._execute(
            "insert into queue values (?, 2) on conflict do update set next_sequence = next_sequence + 1 "
            "returning next_sequence - 1"
        )
        return int(taken.fetchone()[0])

    def put(self, stored: Stored) -> None:
        """Store a message, in place of one with the same sequence number."""
        self._execute(
            f"insert or replace into message values (?{', ?' * 9})",
            stored.sequence,
            encode_message(stored.message),
            stored.state.value,
            stored.enqueued_at,
            stored.expires_at,
            stored.failed_deliveries,
            stored.due_at,
            None if stored.lock_token is None else stored.lock_token.bytes,
            stored.acts_at,
        )

    def remove(self, stored: Stored) -> None:
        """Remove the message with the sequence number of `stored`."""
        self._execute("delete from message where path = ? and sequence = ?", stored.sequence)

    def remember(self, message_id: Any, now: float, until: float) -> bool:
        """Remember a message id until the time `until`; return False if it is remembered already."""
        self._execute("delete from remembered where path = ? and until <= ?", now)
        added = self._execute("insert or ignore into remembered values (?, ?, ?)", encode(message_id), until)
        return added.rowcount == 1

    def _execute(self, statement: str, *values: object) -> sqlite3.Cursor:
        return self._store.database.execute(statement, (self._path, *values))

    def _first(self, condition: str, *values: object) -> Stored | None:
        row = self._execute(_SELECT + condition, *values).fetchone()
        return None if row is None else _stored(*row)

    def _all(self, condition: str, *values: object) -> list[Stored]:
        return [_stored(*row) for row in self._execute(_SELECT + condition, *values)]


def _stored(sequence: int, content: bytes, state: int, *rest: Any) -> Stored:
    enqueued_at, expires_at, failed_deliveries, due_at, lock_token = rest
    return Stored(
        sequence,
        decode_message(content),
        State(state),
        enqueued_at,
        expires_at,
        failed_deliveries,
        due_at,
        None if lock_token is None else UUID(bytes=lock_token),
    )
