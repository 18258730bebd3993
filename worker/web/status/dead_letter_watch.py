"""The dead letters of some queues, for as long as somebody wants to see them.

The first question opens a link to each queue, over which it is looked at every few seconds; when nobody has
asked for a while they are closed. Who asks never waits for a broker that is slow, or away.
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
"""How many of a queue are shown."""

_EVERY_SECONDS = 5.0
# After which time without a question the links are closed.
_IDLE_SECONDS = 30.0
# For how long a queue is asked, and a question waits for the first answer.
_LOOK_SECONDS, _FIRST_SECONDS = 10.0, 1.0


class DeadLetterWatch:
    """Watches some queues from the first question on; `on_news` is called when something else was found.

    To be closed when it is no longer needed.
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
        """What was found last, by queue; None while nothing was found yet."""
        self._asked = time.monotonic()
        if self._watching is None or self._watching.done():
            self._found = None
            self._news.clear()
            self._watching = asyncio.create_task(self._watch())
            await is_set_within(self._news, _FIRST_SECONDS)
        return self._found

    def look_again(self) -> None:
        """Have the queues looked at now, as something has changed."""
        self._due.set()

    async def close(self) -> None:
        """End the watch."""
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
    """How to look into each queue; closed all at once, as each takes a second."""
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
