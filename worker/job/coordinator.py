"""Process the jobs queue in the modes that act as the platform: the machine handles each message.

The machine's decisions are durable, as rows and outbox messages, before the message is settled. A message
that is delivered again has no effect.
"""

from __future__ import annotations

import asyncio
import logging

from gdaltools.runtime import crash_points
from worker.database.connections import with_retries
from worker.errors import BusError, DatabaseError, LockLost
from worker.job.machine import JobOutcome, Machine
from worker.protocol.messages import InvalidMessage, JobMessage, StageComplete, parse_jobs_queue
from worker.queue.bus import Message
from worker.queue.outbox import Outbox

log = logging.getLogger(__name__)


class Coordinator:
    """Passes messages of the jobs queue to the machine."""

    def __init__(self, machine: Machine, outbox: Outbox) -> None:
        self._machine = machine
        self._outbox = outbox

    async def process(self, message: Message) -> None:
        """Process one message from receipt to settlement.

        If the bus or the database fails, the message stays unsettled and is delivered again when its lock
        expires.
        """
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
                outcomes = await self._outcome(parsed, lost)
                crash_points.reach("job-message-handled")
                log.info("job %s: %s: %s", outcomes.job_id[:8], outcomes.action, outcomes.detail)
                await self._outbox.publish_or_leave()
                await message.complete()
        except (BusError, DatabaseError) as error:
            log.error("message %s comes again when its lock ends: %s", message.message_id, error)

    async def _outcome(self, message: JobMessage | StageComplete, lost: asyncio.Event) -> JobOutcome:
        async def pause(seconds: float) -> None:
            if lost.is_set():
                raise LockLost("the message's lock was lost while the database did not answer")
            await asyncio.sleep(seconds)

        return await with_retries(lambda: self._machine.handle(message), pause=pause)
