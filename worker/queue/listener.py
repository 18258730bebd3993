"""The loop: slots that receive from the queues and hand each message to its processor, until told to stop.

A slot is one receiver of one queue holding at most one message, so a worker never has more messages in
hand than it has slots, and a receiver is never asked for a message while it renews another's lock.
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
"""How long one receive waits for a message."""

# After an error of our own: it may be one that the next message meets, too.
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
    """Receive from `queue` and process, one message at a time, until `stopping`.

    Before each receive `relieved` is waited for. A message in hand when `stopping` is set is processed to its
    end; no further one is received. Each receive waits for `wait_seconds`; what it ends with is told to
    `on_error`: a fault of the broker, or None. A
    message on which `process` fails in a way that nobody foresaw is left to its lock, and the slot goes on.
    """
    async with bus.receiver(queue) as receiver:
        while not stopping.is_set():
            await _unless_stopping(relieved(), stopping)
            if stopping.is_set():
                return
            try:
                message = await _unless_stopping(receiver.receive(wait_seconds=wait_seconds), stopping)
            except BusError as error:  # the receiver paces itself after a failure
                on_error(error)
                continue
            on_error(None)
            if message is None:
                continue
            try:
                await process(message)
            except Exception:  # the border of one message: it must not stop the queue
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
