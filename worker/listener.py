"""The loop: slots that receive from the queues and hand each message to its processor, until told to stop.

A slot is one receiver of one queue holding at most one message, so a worker never has more messages in
hand than it has slots, and a receiver is never asked for a message while it renews another's lock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from worker.bus import Bus, Message
from worker.errors import BusError

_WAIT_SECONDS = 30.0

Process = Callable[[Message], Awaitable[None]]


async def listen(
    bus: Bus,
    queue: str,
    process: Process,
    *,
    stopping: asyncio.Event,
    on_error: Callable[[BusError | None], None],
) -> None:
    """Receive from `queue` and process, one message at a time, until `stopping`.

    A message in hand when `stopping` is set is processed to its end; no further one is received. Faults
    of the broker are told to `on_error` (None: it works again).
    """
    async with bus.receiver(queue) as receiver:
        while not stopping.is_set():
            try:
                message = await _unless_stopping(receiver.receive(wait_seconds=_WAIT_SECONDS), stopping)
            except BusError as error:  # the receiver paces itself after a failure
                on_error(error)
                continue
            on_error(None)
            if message is not None:
                await process(message)


async def _unless_stopping(waiting: Awaitable[Message | None], stopping: asyncio.Event) -> Message | None:
    received = asyncio.ensure_future(waiting)
    stop = asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait({received, stop}, return_when=asyncio.FIRST_COMPLETED)
        return received.result() if received.done() else None
    finally:
        for future in (received, stop):
            future.cancel()
        await asyncio.gather(received, stop, return_exceptions=True)
