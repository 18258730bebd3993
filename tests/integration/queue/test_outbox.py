"""What a transaction stored for the queues reaches them, whatever else is in the outbox."""

from __future__ import annotations

from worker.database import Database
from worker.local.broker.server import BrokerThread, QueueSpec
from worker.protocol.rows import OutboxMessage
from worker.queue.bus import Bus
from worker.queue.outbox import Outbox


async def test_a_message_that_no_queue_takes_holds_up_no_other(database: Database) -> None:
    with BrokerThread([QueueSpec("tasks")]) as broker:
        async with Bus.connect(connection_string=broker.connection_string) as bus:
            await database.outbox.owe(
                [
                    OutboxMessage("tasks", '"first"'),
                    OutboxMessage("tasks", '"' + "x" * 300_000 + '"'),
                    OutboxMessage("nowhere", '"lost"'),
                    OutboxMessage("tasks", '"last"'),
                ]
            )
            await Outbox(database, bus).publish()
            assert broker.counts("tasks").active == 2
            assert (await database.outbox.backlog()).unsent == 2
