"""Send the messages of the outbox table to their queues, once their rows are durable.

Any worker sends the messages that another has left. A message is sent twice only if its sender dies after the
broker's answer and before the row is marked; its message_id is then the same, and duplicate detection drops
it.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence

from gdaltools.errors import GdalToolsError
from gdaltools.runtime import crash_points
from worker.database import Database
from worker.database.outbox_table import OutboxBatch
from worker.errors import MessageTooLarge, QueueNotFound
from worker.protocol.rows import OutboxRow
from worker.queue.bus import Bus, OutgoingMessage
from worker.telemetry import logs, traces

_BATCH = 500

log = logging.getLogger(__name__)


class Outbox:
    """Publishes pending rows."""

    def __init__(self, database: Database, bus: Bus) -> None:
        self._database = database
        self._bus = bus

    async def publish(self) -> None:
        """Send every pending row that no other worker is sending.

        Raises
        ------
        GdalToolsError
            The database or the broker did not answer; unsent rows stay pending.
        """
        while True:
            async with self._database.outbox.batch(limit=_BATCH) as batch:
                by_queue = defaultdict(list)
                for row in batch.rows:
                    by_queue[row.message.queue].append(row)
                for queue, rows in by_queue.items():
                    await self._send(batch, queue, rows)
            if batch.rows:
                crash_points.reach("outbox-marked")
            if len(batch.rows) < _BATCH:
                return

    async def _send(self, batch: OutboxBatch, queue: str, rows: Sequence[OutboxRow]) -> None:
        crash_points.reach("outbox-unsent")
        try:
            await self._bus.send(queue, [_outgoing(row) for row in rows])
            crash_points.reach("outbox-sent")
        except MessageTooLarge as error:
            if len(rows) == 1:
                log.error("message %s for %s waits: %s", rows[0].message.message_id, queue, error)
                batch.failed(rows[0], str(error))
                return
            for row in rows:  # none was sent; the one that is too large must not delay the others
                await self._send(batch, queue, [row])
        except QueueNotFound as error:
            log.error("%d messages for %s wait: %s", len(rows), queue, error)
            for row in rows:
                batch.failed(row, str(error))
        else:
            for row in rows:
                batch.sent(row)

    async def publish_or_leave(self) -> None:
        """Call `publish`, and leave rows that cannot be sent now to the next call; they are durable."""
        try:
            await self.publish()
        except GdalToolsError as error:
            log.warning("what is to be sent waits in the outbox: %s", error)


def _outgoing(row: OutboxRow) -> OutgoingMessage:
    is_ours = row.message.job_id in (None, logs.current().get("job_id"))
    return OutgoingMessage(
        body=row.message.body,
        message_id=row.message.message_id,
        correlation_id=row.message.correlation_id,
        scheduled_at=row.scheduled_at,
        application_properties=traces.properties() if is_ours else {},
    )
