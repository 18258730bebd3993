"""Access to the tables in PostgreSQL: each guarantee is kept by one short transaction.

`Connections` is the only way to the server; `Tasks`, `Jobs` and `OutboxTable` are the operations on its
tables.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

from worker.database.connections import Connections
from worker.database.jobs import Jobs
from worker.database.outbox_table import OutboxTable
from worker.database.tasks import Tasks


class Database:
    """The tables of one schema; use it as an async context manager, which opens and closes `connections`."""

    def __init__(self, connections: Connections) -> None:
        self.connections = connections
        self.tasks = Tasks(connections)
        self.jobs = Jobs(connections)
        self.outbox = OutboxTable(connections)

    async def __aenter__(self) -> Self:
        await self.connections.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.connections.__aexit__(kind, error, trace)
