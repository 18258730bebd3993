"""A worker's calls on the database: each can be performed, and says what it promises on a `World`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import permutations
from typing import Any, Literal
from uuid import UUID

from tests.support.database_model.world import JOB, QUEUE, Held, Operation, Ticket, Transaction, World
from worker.database import Database
from worker.protocol.rows import OVER_STATUSES, OutboxMessage, OutboxRow

LEASE_SECONDS = 600.0


@dataclass(frozen=True)
class ClaimTask(Operation):
    """``number`` tells this call's message from that of another call with the same token."""

    task: str
    token: int
    number: int

    async def perform(self, database: Database) -> Any:
        message = OutboxMessage(QUEUE, f"request #{self.number}")
        return await database.tasks.claim(
            self.task,
            JOB,
            worker="w",
            lease_seconds=LEASE_SECONDS,
            token=UUID(int=self.token),
            message=message,
        )

    def predict(self, world: World) -> Any:
        row, held = world.rows.get(self.task), world.claims.get(self.task)
        if row is None:
            return "missing"
        same_row = held is not None and held.life == row.life
        if row.finished:
            return "finished", row.status, held.reason if same_row else None
        if world.job is not None and world.job.status in OVER_STATUSES:
            return "job over", world.job.status
        takeovers, deaths = (held.takeovers, held.deaths) if same_row else (0, 0)
        if row.status == "processing":
            if same_row and held.token == self.token and held.outcome is None:
                return "claimed", takeovers, deaths, row.retries
            if not row.stale:
                return "held elsewhere"
            takeovers += 1
        row.status, row.stale = "processing", False
        world.claims[self.task] = Held(row.life, self.token, f"request #{self.number}", takeovers, deaths)
        return "claimed", takeovers, deaths, row.retries


@dataclass(frozen=True)
class Heartbeat(Operation):
    ticket: Ticket

    async def perform(self, database: Database) -> Any:
        return await database.tasks.heartbeat(self.ticket.claim, progress={"done": 1})

    def predict(self, world: World) -> Any:
        if world.standing(self.ticket) != "held":
            return False
        world.rows[self.ticket.task].stale = False
        return True


@dataclass(frozen=True)
class Complete(Operation):
    ticket: Ticket

    async def perform(self, database: Database) -> Any:
        stage = self.ticket.claim.stage
        signal = OutboxMessage("geospatial-jobs", f"signal {stage}", f"{JOB}:{stage}:stage_complete")
        return await database.tasks.complete(self.ticket.claim, {"success": True}, signal=signal)

    def predict(self, world: World) -> Any:
        match world.standing(self.ticket):
            case "completed":
                held = world.claims[self.ticket.task]
                return True, held.stage_ended, held.remaining, False
            case "held":
                remaining = world.finish(self.ticket.task, "completed")
                last = remaining == 0
                world.end(self.ticket.task, "completed", stage_ended=last, remaining=remaining)
                signals = last and world.job is not None and world.job.status not in OVER_STATUSES
                if signals:
                    world.owe(f"signal {self.ticket.claim.stage}")
                return True, last, remaining, signals
        return False, False, 0, False


@dataclass(frozen=True)
class Retry(Operation):
    ticket: Ticket
    number: int
    deaths: int

    async def perform(self, database: Database) -> Any:
        message = OutboxMessage(QUEUE, f"retry #{self.number}", f"retry-{self.number}")
        return await database.tasks.retry(
            self.ticket.claim, message=message, error="reset", deaths=self.deaths
        )

    def predict(self, world: World) -> Any:
        standing = world.standing(self.ticket)
        if standing == "held":
            world.queue_again(self.ticket.task)
            world.rows[self.ticket.task].retries += 1
            world.end(self.ticket.task, "retried").deaths += self.deaths
            world.owe(f"retry #{self.number}")
        return standing in ("held", "retried")


@dataclass(frozen=True)
class Release(Operation):
    ticket: Ticket
    number: int
    how: Literal["with a message", "without"]

    async def perform(self, database: Database) -> Any:
        message = OutboxMessage(QUEUE, f"release #{self.number}", f"release-{self.number}")
        given = message if self.how == "with a message" else None
        return await database.tasks.release(self.ticket.claim, message=given)

    def predict(self, world: World) -> Any:
        standing = world.standing(self.ticket)
        if standing == "held":
            world.queue_again(self.ticket.task)
            world.end(self.ticket.task, "released")
            if self.how == "with a message":
                world.owe(f"release #{self.number}")
        return standing in ("held", "released")


@dataclass(frozen=True)
class Fail(Operation):
    ticket: Ticket

    async def perform(self, database: Database) -> Any:
        return await database.tasks.fail(
            self.ticket.claim, reason="Broken", error_details="broken", result={}
        )

    def predict(self, world: World) -> Any:
        standing = world.standing(self.ticket)
        if standing == "held":
            remaining = world.finish(self.ticket.task, "failed")
            world.fail_job()
            world.end(
                self.ticket.task, "failed", stage_ended=remaining == 0, remaining=remaining, reason="Broken"
            )
        return standing in ("held", "failed")


@dataclass(frozen=True)
class NoteDeadLetter(Operation):
    task: str

    async def perform(self, database: Database) -> Any:
        return await database.tasks.note_dead_letter(self.task)

    def predict(self, world: World) -> Any:
        if self.task in world.claims:
            world.claims[self.task].reason = None


@dataclass(frozen=True)
class Rescue(Operation):
    async def perform(self, database: Database) -> Any:
        return await database.tasks.rescue([QUEUE], lease_seconds=LEASE_SECONDS)

    def ways(self, world: World, answer: Any) -> Iterator[Sequence[Transaction]]:
        running = [task for task, row in world.rows.items() if row.status == "processing"]
        for order in permutations(running):
            yield [partial(self._rescue_one, task) for task in order]

    def summary(self, answers: list[Any]) -> Any:
        return sorted(task for task in answers if task is not None)

    @staticmethod
    def _rescue_one(task: str, world: World) -> str | None:
        row, held = world.rows.get(task), world.claims.get(task)
        if row is None or held is None or not row.stale or held.life != row.life or held.outcome is not None:
            return None
        assert held.request is not None
        world.owe(held.request)
        world.queue_again(task)
        world.end(task, "rescued").takeovers += 1
        return task


@dataclass(frozen=True)
class Swept:
    """What one sweep was lent and what it reported, each message by its body and occurrence."""

    lent: frozenset[tuple[str, int]]
    sent: frozenset[tuple[str, int]]
    failed: frozenset[tuple[str, int]]


@dataclass(frozen=True)
class Sweep(Operation):
    """Send what is owed: all of it, only the first, none, or the first before the sender dies."""

    fate: Literal["all sent", "one sent, the others failed", "none reported", "one sent, then an error"]

    async def perform(self, database: Database) -> Any:
        rows: tuple[OutboxRow, ...] = ()
        sent: tuple[OutboxRow, ...] = ()
        failed: tuple[OutboxRow, ...] = ()
        try:
            async with database.outbox.batch(limit=500) as batch:
                rows = batch.rows
                sent = {"all sent": rows, "none reported": ()}.get(self.fate, rows[:1])
                failed = rows[1:] if self.fate == "one sent, the others failed" else ()
                for row in sent:
                    batch.sent(row)
                for row in failed:
                    batch.failed(row, "no such queue")
                if self.fate == "one sent, then an error":
                    raise ConnectionError("the broker went away")
        except ConnectionError:
            pass
        return Swept(*(frozenset(message_key(row.message) for row in part) for part in (rows, sent, failed)))

    def ways(self, world: World, answer: Any) -> Iterator[Sequence[Transaction]]:
        yield [self._forget, partial(self._lend, answer)]

    def summary(self, answers: list[Any]) -> Any:
        return answers[-1]

    @staticmethod
    def _forget(world: World) -> bool:
        for owed in world.outbox.values():
            if world.job is None or owed.job_life != world.job.life:
                owed.settled = True  # what a run left unsaid is not said into the next
        return True

    @staticmethod
    def _lend(swept: Swept, world: World) -> Swept | None:
        """Another statement, which sees what was committed since the first."""
        if any(key not in world.outbox or world.outbox[key].settled for key in swept.lent):
            return None
        for key in swept.sent:
            world.outbox[key].settled = True
        for key in swept.failed:
            world.outbox[key].waits = True
        return swept


def message_key(message: OutboxMessage) -> tuple[str, int]:
    """A message's body, and the occurrence that its id for the broker names."""
    _, _, last = message.message_id.rpartition(":")
    return message.body, int(last) if last.isdecimal() and last != message.message_id else 1
