"""Persistence of the broker's queues beyond its process: in an SQLite file, or none.

When `SqliteJournal.write` returns, the changes are in the file, even if the process dies next. An interrupted
write is in the file completely or not at all. The file is not synced to disk: a power cut may lose the most
recent writes.

Source: sqlite.org, "Write-Ahead Logging" (§8, without shared memory) and "Pragma statements".
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self
from uuid import UUID

from gdaltools.errors import InvalidParameter
from worker.local.amqp.message import decode_message, encode_message
from worker.local.amqp.types import decode, encode
from worker.local.queues.stored import Changes, Contents, State, Stored

APPLICATION_ID = 0x67646271  # "gdbq": marks the file as ours
FORMAT_VERSION = 1


class NotSaved(Exception):
    """The journal could not be written; the operation has not happened."""


class Journal(Protocol):
    """Persistence for queues."""

    def load(self, path: str) -> Contents:
        """Return the saved contents of a queue or sub-queue; empty when it is new."""

    def write(self, changes: Iterable[Changes]) -> None:
        """Save all `changes` atomically, or none and raise `NotSaved`."""


class MemoryOnly:
    """A journal that saves nothing: queues exist only in memory."""

    def load(self, path: str) -> Contents:
        """Return empty contents."""
        return Contents()

    def write(self, changes: Iterable[Changes]) -> None:
        """Do nothing; `changes` is not even iterated, which would cost time."""


MEMORY_ONLY: Journal = MemoryOnly()


class SqliteJournal:
    """A journal in an SQLite file, which no other process can open during the ``with`` block.

    Queues in the file that are not loaded stay in it unchanged.

    Parameters
    ----------
    file
        The file; created if missing. A second file, with the suffix ``-wal``, belongs to it.

    Raises
    ------
    InvalidParameter
        On entry: the file is in use by another broker, damaged, not a journal, or cannot be opened.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._opened: sqlite3.Connection | None = None

    def __enter__(self) -> Self:
        try:
            # Autocommit: this class begins its transactions itself.
            self._opened = sqlite3.connect(self._file, timeout=0, isolation_level=None)
            self._prepare(self._opened)
        except sqlite3.Error as error:
            self._close()
            raise InvalidParameter(self._reason(error)) from error
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def load(self, path: str) -> Contents:
        """Return the contents of a queue or sub-queue in the file; empty when the file has none.

        Raises
        ------
        InvalidParameter
            The contents cannot be read or decoded.
        """
        database = self._database
        try:
            (next_sequence,) = database.execute(_SELECT_QUEUE, (path,)).fetchone() or (1,)
            return Contents(
                next_sequence,
                tuple(_stored(*row) for row in database.execute(_SELECT_STORED, (path,))),
                tuple(
                    (decode(message_id)[0], until)
                    for message_id, until in database.execute(_SELECT_REMEMBERED, (path,))
                ),
            )
        except (sqlite3.Error, ValueError, TypeError) as error:
            raise InvalidParameter(self._damaged(error)) from error

    def write(self, changes: Iterable[Changes]) -> None:
        """Save all `changes` atomically.

        Raises
        ------
        NotSaved
            The disk is full or fails; the file is unchanged.
        """
        database = self._database
        try:
            database.execute("begin")
            for each in changes:
                _write(database, each)
            database.execute("commit")
        except sqlite3.Error as error:
            raise NotSaved(f"the state file {self._file} cannot be written: {error}") from error
        finally:
            if database.in_transaction:
                with suppress(sqlite3.Error):  # SQLite then rolls back before the next write
                    database.execute("rollback")

    @property
    def _database(self) -> sqlite3.Connection:
        if self._opened is None:
            raise InvalidParameter(f"the state file {self._file} is not open: use the journal with `with`")
        return self._opened

    def _prepare(self, database: sqlite3.Connection) -> None:
        database.execute("pragma locking_mode = exclusive")
        (marked,) = database.execute("pragma application_id").fetchone()
        (version,) = database.execute("pragma user_version").fetchone()
        (tables,) = database.execute("select count(*) from sqlite_master").fetchone()
        if tables and (marked, version) != (APPLICATION_ID, FORMAT_VERSION):
            raise InvalidParameter(
                f"{self._file} is not a state file of this version of the broker: give another path"
            )
        database.execute("pragma journal_mode = wal")
        database.execute("pragma synchronous = off")
        database.execute("begin exclusive")
        if not tables:
            for statement in _CREATE:
                database.execute(statement)
        database.execute("commit")
        (verdict,) = database.execute("pragma quick_check(1)").fetchone()
        if verdict != "ok":
            raise InvalidParameter(self._damaged(verdict))

    def _reason(self, error: sqlite3.Error) -> str:
        code = getattr(error, "sqlite_errorcode", None)
        if code == sqlite3.SQLITE_BUSY:
            return f"the state file {self._file} is in use by another broker: stop it, or give another path"
        if code == sqlite3.SQLITE_CORRUPT:
            return self._damaged(error)
        return f"the state file {self._file} cannot be opened: {error}"

    def _damaged(self, why: object) -> str:
        reason = " ".join(str(why).split())  # SQLite's reasons have several lines
        return f"the state file {self._file} is damaged ({reason}): move it away to begin with empty queues"

    def _close(self) -> None:
        if self._opened is not None:
            self._opened.close()
            self._opened = None


_CREATE = (
    f"pragma application_id = {APPLICATION_ID}",
    f"pragma user_version = {FORMAT_VERSION}",
    "create table queue (path text primary key, next_sequence integer not null) without rowid",
    # The content has its own table, so that a lock or a settlement does not write it again.
    """create table message (
        path text, sequence integer, content blob not null, primary key (path, sequence)
    ) without rowid""",
    """create table place (
        path text, sequence integer, state text not null, enqueued_at real not null, expires_at real not null,
        failed_deliveries integer not null, due_at real not null, lock_token blob, deferred integer not null,
        primary key (path, sequence)
    ) without rowid""",
    """create table remembered (
        path text, message_id blob, until real not null, primary key (path, message_id)
    ) without rowid""",
)
_SELECT_QUEUE = "select next_sequence from queue where path = ?"
_SELECT_STORED = """
    select sequence, content, state, enqueued_at, expires_at, failed_deliveries, due_at, lock_token, deferred
    from place left join message using (path, sequence) where path = ? order by sequence"""
_SELECT_REMEMBERED = "select message_id, until from remembered where path = ? order by until"


def _stored(
    sequence: int,
    content: bytes,
    state: str,
    enqueued_at: float,
    expires_at: float,
    failed_deliveries: int,
    due_at: float,
    lock_token: bytes | None,
    deferred: int,
) -> Stored:
    return Stored(
        sequence,
        decode_message(content),
        _STATES[state],
        enqueued_at=enqueued_at,
        expires_at=expires_at,
        failed_deliveries=failed_deliveries,
        due_at=due_at,
        lock_token=UUID(bytes=lock_token) if lock_token is not None else None,
        deferred=bool(deferred),
    )


_STATES = {state.name.lower(): state for state in State}
_STATE_NAMES = {state: name for name, state in _STATES.items()}


def _write(database: sqlite3.Connection, changes: Changes) -> None:
    path = changes.path
    if changes.next_sequence is not None:
        database.execute("insert or replace into queue values (?, ?)", (path, changes.next_sequence))
    gone = [(path, sequence) for sequence in changes.removed]
    database.executemany("delete from place where path = ? and sequence = ?", gone)
    database.executemany("delete from message where path = ? and sequence = ?", gone)
    database.executemany(
        "insert or replace into message values (?, ?, ?)",
        ((path, each.sequence, encode_message(each.message)) for each in changes.new_messages),
    )
    database.executemany(
        "insert or replace into place values (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            (
                path,
                each.sequence,
                _STATE_NAMES[each.state],
                each.enqueued_at,
                each.expires_at,
                each.failed_deliveries,
                each.due_at,
                each.lock_token.bytes if each.lock_token is not None else None,
                each.deferred,
            )
            for each in changes.put
        ),
    )
    database.executemany(
        "delete from remembered where path = ? and message_id = ?",
        ((path, encode(message_id)) for message_id in changes.forgotten),
    )
    database.executemany(
        "insert or replace into remembered values (?, ?, ?)",
        ((path, encode(message_id), until) for message_id, until in changes.remembered),
    )
