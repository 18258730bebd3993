from __future__ import annotations

import pytest
import pytest_asyncio

from tests.support.bench import JOB, JOBS, QUEUE, SCENE
from worker.database import Database
from worker.protocol.rows import NewJob, NewTask, OutboxMessage
from worker.queue.bus import Bus
from worker.queue.dead_letters import DeadLetters


@pytest.fixture
def dead_letters(bus: Bus, database: Database) -> DeadLetters:
    return DeadLetters(bus, queues=(QUEUE, JOBS), database=database)


@pytest_asyncio.fixture
async def job(database: Database) -> Database:
    """A job at stage 1 of 2 with the tasks a, b and c; none of its messages were sent."""
    await database.jobs.submit(NewJob(JOB, "any_job", {}, 2), message=OutboxMessage(JOBS, "{}"))
    tasks = [NewTask(name, "create_cog", SCENE, name, OutboxMessage(QUEUE, "{}")) for name in "abc"]
    await database.jobs.start_stage(JOB, 1, tasks)
    async with database.outbox.batch() as batch:
        for row in batch.rows:
            batch.sent(row)
    return database
