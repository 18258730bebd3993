"""The dead letters of some queues, watched only while the page is viewed.

The first request opens a link to each queue and peeks over it every 5 s; 30 s after the last request the
links are closed. A request waits at most 1 s, even when the broker is slow or down.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from gdaltools.errors import GdalToolsError
from worker.queue.dead_letters import DeadLetters, Look
from worker.waiting import is_set_within
from worker.web.status.facts import QueueDeadLetters, said

MOST_DEAD_LETTERS = 20
"""The most dead letters shown of one queue."""

_EVERY_SECONDS = 5.0
# The links are closed after this time without a request.
_IDLE_SECONDS = 30.0
# Time limits of one peek at a queue, and of the wait for the first result.
_LOOK_SECONDS, _FIRST_SECONDS = 10.0, 1.0


class DeadLetterWatch:
    """Watches queues from the first request on; calls `on_news` when their dead letters have changed.

    The caller must close it.
    """

    def __init__(
        self, dead_letters: DeadLetters, queues: tuple[str, ...], *, on_news: Callable[[], None]
    ) -> None:
        self._dead_letters = dead_letters
        self._queues = queues
        self._on_news = on_news
        self._found: tuple[QueueDeadLetters, ...] | None = None
        self._asked = float("-inf")
        self._due, self._news = asyncio.Event(), asyncio.Event()
        self._watching: asyncio.Task[None] | None = None

    async def dead_letters(self) -> tuple[QueueDeadLetters, ...] | None:
        """Return the newest result, one entry per queue; None before the first result."""
        self._asked = time.monotonic()
        if self._watching is None or self._watching.done():
            self._found = None
            self._news.clear()
            self._watching = asyncio.create_task(self._watch())
            await is_set_within(self._news, _FIRST_SECONDS)
        return self._found

    def look_again(self) -> None:
        """Peek at the queues now, as they have changed."""
        self._due.set()

    async def close(self) -> None:
        """Stop watching and close the links."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)

    async def _watch(self) -> None:
        async with _links(self._dead_letters, self._queues) as looks:
            while time.monotonic() - self._asked < _IDLE_SECONDS:
                self._due.clear()
                found = tuple(await asyncio.gather(*(_seen(queue, look) for queue, look in looks)))
                if found != self._found:
                    self._found = found
                    self._news.set()
                    self._on_news()
                await is_set_within(self._due, _EVERY_SECONDS)


@asynccontextmanager
async def _links(dead_letters: DeadLetters, queues: Sequence[str]) -> AsyncIterator[list[tuple[str, Look]]]:
    """Yield each queue with its `Look`; the links are closed concurrently, as each takes a second."""
    links = [dead_letters.watching(queue) for queue in queues]
    looks = await asyncio.gather(*(link.__aenter__() for link in links))
    try:
        yield list(zip(queues, looks, strict=True))
    finally:
        await asyncio.gather(*(link.__aexit__(None, None, None) for link in links))


async def _seen(queue: str, look: Look) -> QueueDeadLetters:
    try:
        async with asyncio.timeout(_LOOK_SECONDS):
            found = await look(MOST_DEAD_LETTERS + 1)
    except TimeoutError:
        return QueueDeadLetters(queue, problem=f"no answer within {_LOOK_SECONDS:g} s")
    except GdalToolsError as error:
        return QueueDeadLetters(queue, problem=said(str(error)))
    return QueueDeadLetters(queue, found[:MOST_DEAD_LETTERS], more=len(found) > MOST_DEAD_LETTERS)
