"""The outbox table: messages that a committed transaction owes to a queue; the base class of `Database`.

A message is written here in the same transaction as the change that it follows from. worker/queue/outbox.py
sends it when the broker answers. The statements are in queries.sql.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC
from types import TracebackType
from typing import Self

from psycopg.rows import DictRow

from worker.database.connections import Connection, Connections, Password
from worker.protocol.json_text import clean_text, dumps
from worker.protocol.rows import OutboxBacklog, OutboxMessage, OutboxRow

PURGE_DAYS = 8
"""Sent messages, and claims whose task is gone, are kept for longer than any broker detects duplicates (at
most 7 days).
"""


@dataclass(frozen=True)
class OutboxBatch:
    """Messages locked for this caller until the context ends; those not reported as sent stay unsent."""

    rows: tuple[OutboxRow, ...]
    _sent: list[int] = field(default_factory=list)
    _failed: dict[int, str] = field(default_factory=dict)

    def sent(self, row: OutboxRow) -> None:
        """Report that the broker has accepted the message."""
        self._sent.append(row.id)

    def failed(self, row: OutboxRow, error: str) -> None:
        """Report that the message could not be sent; it is retried later and does not delay the others."""
        self._failed[row.id] = error


class OutboxTable:
    """The outbox of one schema; use it as an async context manager."""

    def __init__(self, connections: Connections) -> None:
        self._db = connections

    @classmethod
    def connect(
        cls,
        conninfo: str,
        *,
        schema: str = "app",
        password: Password | None = None,
        min_size: int = 1,
        max_size: int = 8,
        application_name: str = "",
    ) -> Self:
        """Create the connection pool; it opens on entry to the context and connects in the background.

        Parameters
        ----------
        conninfo : str
            A libpq connection string or URI.
        schema : str
            The platform's schema (APP_SCHEMA).
        password : callable, optional
            Called for each new connection, because a managed identity's token is short-lived.

        Raises
        ------
        InvalidParameter
            The schema's name is not valid.
        """
        return cls(
            Connections(
                conninfo,
                schema=schema,
                password=password,
                min_size=min_size,
                max_size=max_size,
                application_name=application_name,
            )
        )

    async def __aenter__(self) -> Self:
        await self._db.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._db.__aexit__(kind, error, trace)

    @asynccontextmanager
    async def outbox(
        self, *, limit: int = 100, ids: Sequence[int] | None = None
    ) -> AsyncIterator[OutboxBatch]:
        """Yield unsent messages for sending; concurrent callers get different ones.

        Messages that were reported as sent are marked at the end, even if the body raises. If a caller dies,
        its messages are unlocked at once and go to another caller; the broker recognises those that it
        already has by their ``message_id``. With `ids` only these messages are yielded, even before their
        next attempt is due.
        """
        async with self._db.connection(within_seconds=None) as connection:
            await self._db.one(connection, "forget_stale")
            rows = await self._db.all(
                connection, "lock_outbox", limit=limit, ids=None if ids is None else list(ids)
            )
            batch = OutboxBatch(tuple(_outbox_row(row) for row in rows))
            try:
                yield batch
            finally:
                if batch._sent:
                    await self._db.one(connection, "mark_sent", ids=batch._sent)
                for row_id, error in batch._failed.items():
                    await self._db.one(connection, "mark_unsent", id=row_id, error=clean_text(error))
                await connection.commit()

    async def owe(self, messages: Iterable[OutboxMessage]) -> list[int]:
        """Put messages into the outbox; return their outbox ids."""
        owed = list(messages)

        async def work(connection: Connection) -> list[int]:
            return await self._owe(connection, owed, job_id=None)

        return await self._db.transaction(work)

    async def outbox_backlog(self) -> OutboxBacklog:
        """Return the number of unsent messages and the age of the oldest."""
        row = await self._read_one("count_outbox")
        assert row is not None
        return OutboxBacklog(**row)

    async def purge(self, *, days: float = PURGE_DAYS) -> int:
        """Delete messages sent and claims made more than `days` ago, the latter only if their task is gone.

        Return the number of deleted rows.
        """

        async def work(connection: Connection) -> int:
            messages = await self._db.count(connection, "purge_outbox", days=days)
            return messages + await self._db.count(connection, "purge_claims", days=days)

        return await self._db.transaction(work)

    async def _owe(
        self, connection: Connection, messages: Sequence[OutboxMessage], *, job_id: str | None
    ) -> list[int]:
        rows = [
            {
                "position": position,
                "job_id": message.job_id or job_id,
                "queue": message.queue,
                "message_id": message.message_id,
                "body": message.body,
                "correlation_id": message.correlation_id,
                "delay_seconds": message.delay_seconds,
            }
            for position, message in enumerate(messages)
        ]
        written = await self._db.all(connection, "put_in_outbox", messages=dumps(rows))
        return [row["id"] for row in written]

    async def _read_one(self, query: str, **values: object) -> DictRow | None:
        async with self._db.connection() as connection:
            return await self._db.one(connection, query, **values)

    async def _read_all(self, query: str, **values: object) -> list[DictRow]:
        async with self._db.connection() as connection:
            return await self._db.all(connection, query, **values)

    async def _write_one(self, query: str, **values: object) -> DictRow | None:
        async def work(connection: Connection) -> DictRow | None:
            return await self._db.one(connection, query, **values)

        return await self._db.transaction(work)


def _outbox_row(row: DictRow) -> OutboxRow:
    scheduled = row["scheduled_at"]
    occurrence = row["occurrence"]
    message = OutboxMessage(
        queue=row["queue"],
        body=row["body"],
        message_id=row["message_id"] if occurrence == 1 else f"{row['message_id']}:{occurrence}",
        correlation_id=row["correlation_id"],
        job_id=row["job_id"],
    )
    scheduled_at = None if scheduled is None else scheduled.replace(tzinfo=UTC)
    return OutboxRow(row["id"], message, scheduled_at, row["attempts"])
