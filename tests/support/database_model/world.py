"""The tests' model of the database: its relevant state, and the possible results of concurrent calls.

A `World` is a job, its tasks' rows, their claims and the outbox. An `Operation` can be performed on a real
database, and predicts on a world its effect and its answer. Concurrent operations must have the effect of the
same operations one after the other, in some order: `explain` looks for that order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import permutations, product
from typing import Any

from worker.database import Database
from worker.protocol.rows import (
    OVER_STATUSES,
    Advance,
    Claim,
    Claimed,
    Completion,
    Finished,
    HeldElsewhere,
    JobOver,
    Missing,
    Submission,
)

JOB = "c" * 64
STAGES = {1: ("t1", "t2", "t3"), 2: ("u1", "u2")}
QUEUE = "docker-tasks"
TASKS = tuple(task for tasks in STAGES.values() for task in tasks)


@dataclass
class Job:
    """The job's row. ``life`` distinguishes it from earlier rows with its id."""

    life: int
    status: str = "queued"
    stage: int = 1


@dataclass
class Row:
    """A task's row. ``life`` distinguishes it from earlier rows with its id."""

    stage: int
    life: int
    status: str = "queued"
    retries: int = 0
    stale: bool = False

    @property
    def finished(self) -> bool:
        return self.status in ("completed", "failed")


@dataclass
class Held:
    """The record of the last claim of a task id."""

    life: int
    token: int
    request: str | None
    takeovers: int
    deaths: int
    outcome: str | None = None
    stage_ended: bool = False
    remaining: int = 0
    reason: str | None = None
    days: int = 0


@dataclass
class Owed:
    """A message of the outbox, and the life of its job in which it was stored.

    Whether it still waits for its next attempt depends on the clock, and is not compared.
    """

    job_life: int
    settled: bool = False
    days: int = 0
    waits: bool = field(default=False, compare=False)


@dataclass
class World:
    """The database; a message is identified by its body and its occurrence among equal bodies."""

    job: Job | None = None
    rows: dict[str, Row] = field(default_factory=dict)
    claims: dict[str, Held] = field(default_factory=dict)
    outbox: dict[tuple[str, int], Owed] = field(default_factory=dict)
    lives: dict[str, int] = field(default_factory=dict, compare=False)

    def owe(self, body: str) -> None:
        occurrence = 1 + max((number for other, number in self.outbox if other == body), default=0)
        assert self.job is not None
        self.outbox[body, occurrence] = Owed(self.job.life)

    def unfinished(self, stage: int) -> int:
        return sum(row.stage == stage and not row.finished for row in self.rows.values())

    def standing(self, ticket: Ticket) -> str:
        """Return how a claim stands: held, lost, or its outcome."""
        row, held = self.rows.get(ticket.task), self.claims.get(ticket.task)
        if row is None or held is None or (held.life, held.token) != (row.life, ticket.token):
            return "lost"
        if row.life != ticket.life:
            return "lost"
        return held.outcome or ("held" if row.status == "processing" else "lost")

    def next_life(self, task_or_job: str) -> int:
        self.lives[task_or_job] = self.lives.get(task_or_job, 0) + 1
        return self.lives[task_or_job]

    def end(self, task: str, outcome: str, **values: Any) -> Held:
        held = self.claims[task]
        held.outcome, held.request, held.reason = outcome, None, None
        for name, value in values.items():
            setattr(held, name, value)
        return held

    def finish(self, task: str, status: str) -> int:
        """Finish a row; return how many of its stage are left."""
        row = self.rows[task]
        row.status, row.stale = status, False
        return self.unfinished(row.stage)

    def queue_again(self, task: str) -> None:
        row = self.rows[task]
        row.status, row.stale = "queued", False

    def fail_job(self) -> bool:
        if self.job is None or self.job.status in OVER_STATUSES:
            return False
        self.job.status = "failed"
        return True

    def create(self, stage: int, number: int) -> int:
        new = [task for task in STAGES[stage] if task not in self.rows]
        for task in new:
            self.rows[task] = Row(stage, self.next_life(task))
            self.owe(f"run {task} #{number}")
        return len(new)


@dataclass(frozen=True)
class Ticket:
    """A claim that a worker holds, perhaps one lost long ago."""

    claim: Claim = field(repr=False)
    life: int
    token: int

    @property
    def task(self) -> str:
        return self.claim.task_id


Transaction = Callable[[World], Any]


@dataclass(frozen=True)
class Operation:
    """One call, by one worker or by the platform."""

    async def perform(self, database: Database) -> Any:
        raise NotImplementedError

    def predict(self, world: World) -> Any:
        """Apply the call to the world, and return its answer in the form of `answer_of`."""
        raise NotImplementedError

    def ways(self, world: World, answer: Any) -> Iterator[Sequence[Transaction]]:
        """Yield the transactions that the call may consist of, in each order that it may choose."""
        yield [self.predict]

    def summary(self, answers: list[Any]) -> Any:
        """Return the call's answer from its transactions' answers."""
        return answers[0]


def answer_of(outcome: Any) -> Any:
    """Return the content of an answer, without what only a clock can know."""
    match outcome:
        case Claimed():
            return "claimed", outcome.takeovers, outcome.deaths, outcome.retry_count
        case Finished():
            return "finished", outcome.status, outcome.burial and outcome.burial.reason
        case HeldElsewhere():
            return "held elsewhere"
        case JobOver():
            return "job over", outcome.status
        case Missing():
            return "missing"
        case Completion():
            return outcome.accepted, outcome.last, outcome.remaining, outcome.signal_id is not None
        case Submission():
            return outcome.created
        case Advance():
            return outcome.advanced
        case list():
            return sorted(outcome)
        case _:
            return outcome


def explain(
    world: World, operations: Sequence[Operation], answers: Sequence[Any], observed: World
) -> World | None:
    """Return the world after the operations, in an order that gives these answers and this database.

    None if there is no such order.
    """
    for ways in product(*(op.ways(world, answer) for op, answer in zip(operations, answers, strict=True))):
        turns = [which for which, steps in enumerate(ways) for _ in steps]
        for order in sorted(set(permutations(turns))):
            trial, given = deepcopy(world), [[] for _ in operations]
            for which in order:
                given[which].append(ways[which][len(given[which])](trial))
            said = [op.summary(steps) for op, steps in zip(operations, given, strict=True)]
            if said == list(answers) and trial == observed:
                return trial
    return None
