"""The receive loop of a slot: receive messages from a queue and process each, until the worker stops.

A slot is one receiver of one queue with at most one message. A worker therefore never holds more messages
than it has slots, and no receiver receives while it renews the lock of another message.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from worker.errors import BusError
from worker.queue.bus import Bus, Message
from worker.waiting import is_set_within

WAIT_SECONDS = 30.0
"""The time for which one receive waits for a message."""

# The pause after an unexpected error, which the next message may cause as well.
_UNFORESEEN_SECONDS = 5.0

log = logging.getLogger(__name__)
T = TypeVar("T")

Process = Callable[[Message], Awaitable[None]]


async def listen(
    bus: Bus,
    queue: str,
    process: Process,
    *,
    relieved: Callable[[], Awaitable[None]],
    stopping: asyncio.Event,
    on_error: Callable[[BusError | None], None],
    wait_seconds: float = WAIT_SECONDS,
) -> None:
    """Receive messages from `queue` and process them, one at a time, until `stopping` is set.

    Each receive first waits for `relieved`, and then up to `wait_seconds` for a message. Its outcome is
    passed to `on_error`: a fault of the broker, or None. A message that is being processed when `stopping` is
    set is processed to its end. If `process` raises an unexpected error, the message stays locked until its
    lock expires, and the slot continues.
    """
    async with bus.receiver(queue) as receiver:
        while not stopping.is_set():
            await _unless_stopping(relieved(), stopping)
            if stopping.is_set():
                return
            try:
                message = await _unless_stopping(receiver.receive(wait_seconds=wait_seconds), stopping)
            except BusError as error:  # the receiver pauses before its next call
                on_error(error)
                continue
            on_error(None)
            if message is None:
                continue
            try:
                await process(message)
            except Exception:  # the border of one message: an error must not stop the slot
                log.exception("message %s on %s: an error that was not foreseen", message.message_id, queue)
                await is_set_within(stopping, _UNFORESEEN_SECONDS)


async def _unless_stopping(waiting: Awaitable[T], stopping: asyncio.Event) -> T | None:
    received = asyncio.ensure_future(waiting)
    stop = asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait({received, stop}, return_when=asyncio.FIRST_COMPLETED)
        return received.result() if received.done() else None
    finally:
        for future in (received, stop):
            future.cancel()
        await asyncio.gather(received, stop, return_exceptions=True)
