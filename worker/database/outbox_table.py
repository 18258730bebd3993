"""The outbox table: messages that a committed transaction owes to a queue.

A message is written here in the same transaction as the change that it follows from. worker/queue/outbox.py
sends it when the broker answers. The statements are in queries.sql.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC

from psycopg.rows import DictRow

from worker.database.connections import Connection, Connections, in_transaction
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


@dataclass(frozen=True)
class OutboxTable:
    """The outbox of one schema."""

    connections: Connections

    @asynccontextmanager
    async def batch(
        self, *, limit: int = 100, ids: Sequence[int] | None = None
    ) -> AsyncIterator[OutboxBatch]:
        """Yield unsent messages for sending; concurrent callers get different ones.

        Messages that were reported as sent are marked at the end, even if the body raises. If a caller dies,
        its messages are unlocked at once and go to another caller; the broker recognises those that it
        already has by their ``message_id``. With `ids` only these messages are yielded, even before their
        next attempt is due.
        """
        async with self.connections.connection(within_seconds=None) as connection:
            await connection.one("forget_stale")
            rows = await connection.all("lock_outbox", limit=limit, ids=None if ids is None else list(ids))
            batch = OutboxBatch(tuple(_outbox_row(row) for row in rows))
            try:
                yield batch
            finally:
                if batch._sent:
                    await connection.one("mark_sent", ids=batch._sent)
                for row_id, error in batch._failed.items():
                    await connection.one("mark_unsent", id=row_id, error=clean_text(error))
                await connection.commit()

    async def owe(self, messages: Iterable[OutboxMessage]) -> list[int]:
        """Put messages into the outbox; return their outbox ids."""
        owed = list(messages)
        return await self.connections.transaction(lambda connection: owe(connection, owed, job_id=None))

    async def backlog(self) -> OutboxBacklog:
        """Return the number of unsent messages and the age of the oldest."""
        row = await self.connections.one("count_outbox")
        assert row is not None
        return OutboxBacklog(**row)

    @in_transaction
    async def purge(self, connection: Connection, *, days: float = PURGE_DAYS) -> int:
        """Delete messages sent and claims made more than `days` ago, the latter only if their task is gone.

        Return the number of deleted rows.
        """
        messages = await connection.count("purge_outbox", days=days)
        return messages + await connection.count("purge_claims", days=days)


async def owe(connection: Connection, messages: Sequence[OutboxMessage], *, job_id: str | None) -> list[int]:
    """Put messages into the outbox within the connection's transaction; return their outbox ids."""
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
    written = await connection.all("put_in_outbox", messages=dumps(rows))
    return [row["id"] for row in written]


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
