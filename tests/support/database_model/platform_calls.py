"""What happens to a worker's tasks from outside: the platform's calls, and the passing of time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.support.database_model.world import JOB, QUEUE, STAGES, Job, Operation, World
from worker.database import Database
from worker.protocol.rows import OVER_STATUSES, NewJob, NewTask, OutboxMessage

PURGED_AFTER_DAYS = 8


@dataclass(frozen=True)
class Submit(Operation):
    number: int

    async def perform(self, database: Database) -> Any:
        message = OutboxMessage("geospatial-jobs", f"job #{self.number}")
        return await database.jobs.submit(NewJob(JOB, "a_job", {}, len(STAGES)), message=message)

    def predict(self, world: World) -> Any:
        if world.job is not None:
            if world.job.status != "failed":
                return False
            world.rows.clear()
        world.job = Job(world.next_life(JOB))
        world.owe(f"job #{self.number}")
        return True


@dataclass(frozen=True)
class StartStage(Operation):
    stage: int
    number: int

    async def perform(self, database: Database) -> Any:
        return await database.jobs.start_stage(JOB, self.stage, _new_tasks(self.stage, self.number))

    def predict(self, world: World) -> Any:
        if world.job is None or world.job.status in OVER_STATUSES or world.job.stage != self.stage:
            return 0
        world.job.status = "processing"
        return world.create(self.stage, self.number)


@dataclass(frozen=True)
class AdvanceJob(Operation):
    stage: int
    number: int

    async def perform(self, database: Database) -> Any:
        tasks = _new_tasks(self.stage + 1, self.number)
        return await database.jobs.advance(JOB, self.stage, results=[{"ok": True}], tasks=tasks)

    def predict(self, world: World) -> Any:
        if world.job is None or world.job.status in OVER_STATUSES or world.job.stage != self.stage:
            return False
        world.job.status, world.job.stage = "processing", self.stage + 1
        world.create(self.stage + 1, self.number)
        return True


def _new_tasks(stage: int, number: int) -> list[NewTask]:
    return [
        NewTask(task, "create_cog", {}, task[1:], OutboxMessage(QUEUE, f"run {task} #{number}"))
        for task in STAGES[stage]
    ]


@dataclass(frozen=True)
class FinishJob(Operation):
    """Complete the job, as an operator may do even while its tasks run."""

    stage: int

    async def perform(self, database: Database) -> Any:
        return await database.jobs.finish(JOB, self.stage, stage_results={}, result={})

    def predict(self, world: World) -> Any:
        if world.job is None or world.job.status in OVER_STATUSES or world.job.stage != self.stage:
            return False
        world.job.status = "completed"
        return True


@dataclass(frozen=True)
class FailJob(Operation):
    async def perform(self, database: Database) -> Any:
        return await database.jobs.fail(JOB, error_details="the platform gave up")

    def predict(self, world: World) -> Any:
        return world.fail_job()


@dataclass(frozen=True)
class DeleteJob(Operation):
    async def perform(self, database: Database) -> Any:
        return await _run(database, f"delete from app.jobs where job_id = '{JOB}'")

    def predict(self, world: World) -> Any:
        had, world.job = world.job is not None, None
        world.rows.clear()
        return int(had)


@dataclass(frozen=True)
class Janitor(Operation):
    """The platform's janitor assumes that a row is dead and fails it, without notice."""

    task: str

    async def perform(self, database: Database) -> Any:
        return await _run(
            database,
            f"update app.tasks set status = 'failed' where task_id = '{self.task}' and status = 'processing'",
        )

    def predict(self, world: World) -> Any:
        if self.task not in world.rows or world.rows[self.task].status != "processing":
            return 0
        world.finish(self.task, "failed")
        return 1


@dataclass(frozen=True)
class LeaseRunsOut(Operation):
    """The worker of a row gives no sign of life for an hour."""

    task: str

    async def perform(self, database: Database) -> Any:
        await _run(database, "alter table app.tasks disable trigger user")
        aged = await _run(
            database,
            "update app.tasks set heartbeat = timezone('utc', now()) - interval '1 hour',"
            " updated_at = timezone('utc', now()) - interval '1 hour'"
            f" where task_id = '{self.task}' and status = 'processing'",
        )
        await _run(database, "alter table app.tasks enable trigger user")
        return aged

    def predict(self, world: World) -> Any:
        if self.task not in world.rows or world.rows[self.task].status != "processing":
            return 0
        world.rows[self.task].stale = True
        return 1


@dataclass(frozen=True)
class DaysPass(Operation):
    """Five days pass for stored claims and messages, and what is old enough is purged.

    Unsent rows are left unlocked, as they are when days really pass: a sweep skips rows that another process
    holds.
    """

    async def perform(self, database: Database) -> Any:
        await _run(
            database,
            "update app.worker_outbox set sent_at = sent_at - interval '5 days' where sent_at is not null",
        )
        await _run(database, "update app.worker_claims set claimed_at = claimed_at - interval '5 days'")
        return await database.outbox.purge(days=PURGED_AFTER_DAYS)

    def predict(self, world: World) -> Any:
        for owed in world.outbox.values():
            owed.days += 5 if owed.settled else 0
        for held in world.claims.values():
            held.days += 5
        messages = [key for key, owed in world.outbox.items() if owed.days > PURGED_AFTER_DAYS]
        claims = [
            task
            for task, held in world.claims.items()
            if held.days > PURGED_AFTER_DAYS and task not in world.rows
        ]
        for key in messages:
            del world.outbox[key]
        for task in claims:
            del world.claims[task]
        return len(messages) + len(claims)


async def _run(database: Database, statement: str) -> int:
    async def work(connection: Any) -> int:
        return (await connection.execute(statement.encode())).rowcount

    return await database.connections.transaction(work)
