"""Dead letters without a worker in between, on the queues and the database that the environment names.

Results have the form of the HTTP API's, so a command need not know where they come from.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from worker.queue.dead_letter import Selection, SortOrder, describe_done, describe_listing, describe_whole
from worker.queue.dead_letters import DeadLetters
from worker.service import backing
from worker.settings import ServiceSettings

T = TypeVar("T")


class Direct:
    """The dead-letter methods of `worker.web.client.Client`, in this process; each call opens connections."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._settings = settings

    def dead_letters(self, queue: str, *, order: SortOrder, limit: int) -> dict[str, Any]:
        """Return up to `limit` dead letters and their total; raise QueueNotFound for an unknown queue."""
        return describe_listing(
            self._run(lambda dead_letters: dead_letters.listing(queue, order=order, limit=limit))
        )

    def dead_letter(self, queue: str, sequence_number: int) -> dict[str, Any]:
        """Return one dead letter in full; raise DeadLetterNotFound when `sequence_number` has none."""
        return describe_whole(
            self._run(lambda dead_letters: dead_letters.show(queue, sequence_number), rows=True)
        )

    def redrive(self, queue: str, choice: dict[str, Any]) -> dict[str, Any]:
        """Restart the tasks of the selected dead letters; return the outcome of each."""
        meant = Selection.of(choice)
        done = self._run(lambda dead_letters: dead_letters.redrive(queue, meant), rows=True)
        return describe_done(queue, done)

    def purge(self, queue: str, choice: dict[str, Any]) -> dict[str, Any]:
        """Remove the selected dead letters for good; return the outcome of each."""
        meant = Selection.of(choice)
        return describe_done(queue, self._run(lambda dead_letters: dead_letters.purge(queue, meant)))

    def _run(self, work: Callable[[DeadLetters], Awaitable[T]], *, rows: bool = False) -> T:
        async def run() -> T:
            settings = self._settings
            async with AsyncExitStack() as stack:
                bus = await stack.enter_async_context(backing.bus(settings))
                database = None
                if rows and settings.postgis_host:
                    database = await stack.enter_async_context(backing.one_connection(settings))
                return await work(DeadLetters(bus, queues=settings.all_queues, database=database))

        return asyncio.run(run())
