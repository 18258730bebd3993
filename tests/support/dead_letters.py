"""Dead letters for a test: their bodies, their queue, and what became of their tasks and jobs."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

from tests.support.bench import JOB, QUEUE, SCENE
from worker.database import Database
from worker.protocol.rows import Claimed, TaskRow
from worker.queue.bus import Bus, OutgoingMessage
from worker.queue.dead_letter import DeadLetterResult, Selection
from worker.queue.dead_letters import DeadLetters

ALL = Selection(everything=True)


def body(task_id: str, **fields: Any) -> str:
    task = {"task_id": task_id, "parent_job_id": JOB, "job_type": "any_job", "task_type": "create_cog"}
    return json.dumps({**task, "stage": 1, "parameters": SCENE, **fields})


async def bury(
    bus: Bus, *bodies: str | bytes, queue: str = QUEUE, reason: str = "TestReason", text: str = "as a test"
) -> None:
    """Send messages and dead-letter each one."""
    await bus.send(queue, [OutgoingMessage(each, f"m-{uuid4()}") for each in bodies])
    async with bus.receiver(queue) as receiver:
        for _ in bodies:
            message = await receiver.receive(wait_seconds=10)
            assert message is not None
            await message.dead_letter(reason, text)


async def fail(database: Database, task_id: str) -> None:
    claimed = await database.tasks.claim(task_id, JOB, worker="w", lease_seconds=60)
    assert isinstance(claimed, Claimed)
    assert await database.tasks.fail(
        claimed.claim, reason="Broke", error_details="broke", result={"success": False}
    )


async def sequences(dead_letters: DeadLetters, queue: str = QUEUE) -> list[int]:
    return [
        dead_letter.sequence_number
        for dead_letter in (await dead_letters.listing(queue, order="oldest")).dead_letters
    ]


async def task(database: Database, task_id: str) -> TaskRow:
    found = await database.tasks.get(task_id)
    assert found is not None
    return found


async def job_status(database: Database) -> tuple[str, str | None]:
    found = await database.jobs.get(JOB)
    assert found is not None
    return found.status, found.error_details


def outcomes(handled: list[DeadLetterResult]) -> list[str]:
    return [each.outcome for each in handled]
