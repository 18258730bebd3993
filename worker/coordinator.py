"""The jobs queue, for the modes that play the platform: each message to the machine, then settled.

What the machine decides is durable, in rows and outbox messages, before the message is settled; a message
that comes again does nothing.
"""

from __future__ import annotations

import asyncio
import logging
from random import random

from gdaltools.errors import GdalToolsError
from worker.bus import Message
from worker.database import DatabaseError
from worker.errors import BusError
from worker.machine import Handled, Machine
from worker.messages import InvalidMessage, JobMessage, StageComplete, parse_jobs_queue
from worker.outbox import Outbox

_LONGEST_WAIT_SECONDS = 10.0

log = logging.getLogger(__name__)


class Coordinator:
    """Takes messages of the jobs queue to the machine."""

    def __init__(self, machine: Machine, outbox: Outbox) -> None:
        self._machine = machine
        self._outbox = outbox

    async def process(self, message: Message) -> None:
        """Take one message from receipt to settlement; unsettled, it comes again when its lock ends."""
        lost = asyncio.Event()
        try:
            async with message.lock_kept(lost.set):
                try:
                    parsed = parse_jobs_queue(message.body)
                except InvalidMessage as error:
                    log.error(
                        "message %s on %s is dead-lettered: %s", message.message_id, message.queue, error
                    )
                    await message.dead_letter("InvalidMessage", str(error))
                    return
                handled = await self._handled(parsed, lost)
                log.info("job %s: %s: %s", handled.job_id[:8], handled.action, handled.detail)
                await self._publish()
                await message.complete()
        except (BusError, DatabaseError) as error:
            log.error("message %s comes again when its lock ends: %s", message.message_id, error)

    async def _handled(self, message: JobMessage | StageComplete, lost: asyncio.Event) -> Handled:
        wait = 0.25
        while True:
            try:
                return await self._machine.handle(message)
            except DatabaseError as error:
                if not error.retryable or lost.is_set():
                    raise
                log.warning("the database did not answer, trying again: %s", error)
            await asyncio.sleep(wait * (0.5 + random()))
            wait = min(2 * wait, _LONGEST_WAIT_SECONDS)

    async def _publish(self) -> None:
        try:
            await self._outbox.publish()
        except GdalToolsError as error:
            log.warning("what is to be sent waits in the outbox: %s", error)
