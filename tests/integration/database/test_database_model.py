"""The database does what its model allows: workers, zombies, a platform and time in any order, two at once.

After each step the database must equal the model's prediction, whichever of two calls came first. The most
important properties are also checked on the database's contents alone. `--hypothesis-profile=long` runs for
longer.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests.support.database_model import platform_calls as platform
from tests.support.database_model import worker_calls as calls
from tests.support.database_model.choices import (
    ASKING,
    CLAIMS_CALLS,
    DISTURBANCES,
    FATES,
    WORKERS,
    Selection,
    choices,
    claims_call,
)
from tests.support.database_model.observer import Observer
from tests.support.database_model.world import (
    STAGES,
    TASKS,
    Operation,
    Row,
    Ticket,
    World,
    answer_of,
    explain,
)
from worker.database import Database
from worker.database.connections import Connections
from worker.protocol.rows import OVER_STATUSES, Claim, Claimed


class TaskLives(RuleBasedStateMachine):
    """One job whose rows go through everything."""

    run: Callable[[Coroutine[Any, Any, Any]], Any]
    workers: list[Database]
    observer: Observer

    def __init__(self) -> None:
        super().__init__()
        self.observer.empty()
        self.columns = {table: self.observer.columns(table) for table in ("jobs", "tasks")}
        self.model, self.before, self.seen = World(), World(), World()
        self.operations: list[Operation] = []
        self.answers: list[Any] = []
        self.tickets: list[Ticket] = []
        self.past: list[Operation] = []
        self.standing: set[UUID] = set()
        self.lost: set[UUID] = set()
        self.delivered: Counter[tuple[str, int]] = Counter()
        self.number = 0

    # What happens

    @initialize()
    def a_job_is_started(self) -> None:
        self.perform((0, platform.Submit(0)))
        self.perform((0, platform.StartStage(1, 0)))

    @rule(choice=choices)
    def somebody_acts(self, choice: Selection) -> None:
        self.perform((choice.worker, self.operation(choice)))

    @rule(one=choices, two=choices)
    def two_act_at_once(self, one: Selection, two: Selection) -> None:
        acting = [(one.worker, self.operation(one)), (two.worker, self.operation(two))]
        if all(isinstance(operation, platform.Submit) for _, operation in acting):
            acting.pop()  # one of them may be refused, and is then repeated
        self.perform(*acting)

    @rule(choice=choices)
    def one_acts_twice_at_once(self, choice: Selection) -> None:
        operation = self.operation(choice)
        if not isinstance(operation, platform.Submit):
            self.perform((choice.worker, operation), (choice.worker, operation))

    @rule(call=st.sampled_from(CLAIMS_CALLS), choice=choices)
    def a_worker_wakes_as_it_is_rescued(self, call: str, choice: Selection) -> None:
        ticket = self.ticket(replace(choice, zombie=False))
        if ticket is not None:
            self.perform((0, platform.LeaseRunsOut(ticket.task)))
            woken = claims_call(call, ticket, choice.pick, self.next_number())
            self.perform((choice.worker, woken), (choice.worker - 1, calls.Rescue()))

    @rule(endings=st.tuples(*[st.sampled_from(["complete", "complete", *CLAIMS_CALLS])] * 2))
    def the_last_two_of_a_stage_end_at_once(self, endings: tuple[str, str]) -> None:
        for task in [task for task, row in self.model.rows.items() if row.status == "queued"]:
            self.perform((0, calls.ClaimTask(task, self.next_number(), self.number)))
        held = [ticket for ticket in self.tickets if self.model.standing(ticket) == "held"]
        for ticket in held[:-2]:
            self.perform((1, calls.Complete(ticket)))
        works = [
            claims_call(ending, ticket, 0, self.next_number())
            for ending, ticket in zip(endings, held[-2:], strict=False)
        ]
        if works:
            self.perform(*enumerate(works))

    @rule(ago=st.integers(1, 4), worker=st.integers(0, WORKERS - 1))
    def a_call_is_repeated_whose_answer_was_lost(self, ago: int, worker: int) -> None:
        if len(self.past) >= ago:
            operation = self.past[-ago]
            if isinstance(operation, ASKING):
                operation = replace(operation, number=self.next_number())
            self.perform((worker, operation))

    # What must hold

    def rows_move_only_as_they_may(self) -> None:
        for task, row in self.seen.rows.items():
            assert row.status in ("queued", "processing", "completed", "failed")
            was = self.before.rows.get(task)
            if was is not None and was.life == row.life:
                assert row.status == was.status or not was.finished, "a finished task ran again"
                assert row.retries >= was.retries
            elif was is not None:
                assert row.life == was.life + 1

    def at_most_one_claim_stands_for_a_row(self) -> None:
        assert self.standing == {
            ticket.claim.token for ticket in self.tickets if self.model.standing(ticket) == "held"
        }
        tasks = {(t.task, t.claim.token) for t in self.tickets if t.claim.token in self.standing}
        assert all(count == 1 for count in Counter(task for task, _ in tasks).values())

    def a_lost_claim_does_not_stand_again(self) -> None:
        anew = {UUID(int=op.token) for op in self.operations if isinstance(op, calls.ClaimTask)}
        assert not self.standing & (self.lost - anew)
        self.lost = {ticket.claim.token for ticket in self.tickets} - self.standing

    def a_stage_is_signalled_once_by_the_completion_that_ended_it(self) -> None:
        for stage, tasks in STAGES.items():
            new = [key for key in self.seen.outbox if key[0] == f"signal {stage}"]
            new = [key for key in new if key not in self.before.outbox]
            finished = {self.seen.rows[t].status for t in newly_finished(self.before, self.seen, tasks)}
            over = self.seen.job is None or self.seen.job.status in OVER_STATUSES
            if not finished or self.seen.unfinished(stage):
                assert new == [], "the stage did not end"
            elif finished == {"failed"}:
                assert new == [], "a failed task ended the stage"
            elif finished == {"completed"} and not over:
                assert len(new) == 1, "a completion ended the stage"
            else:
                assert len(new) <= 1

    def nothing_reaches_a_queue_twice(self) -> None:
        for swept in self.answers:
            if isinstance(swept, calls.Swept):
                self.delivered.update(swept.sent)
        # Purged ids are older than any broker's memory, and may be used again.
        for key in self.before.outbox.keys() - self.seen.outbox.keys():
            del self.delivered[key]
        assert all(count == 1 for count in self.delivered.values())

    def a_sweep_alone_is_lent_all_that_is_owed(self) -> None:
        for swept in self.answers:
            if isinstance(swept, calls.Swept) and len(self.answers) == 1:
                outbox = self.model.outbox.items()
                assert {key for key, owed in outbox if not owed.settled and not owed.waits} <= swept.lent

    def teardown(self) -> None:
        # Our columns are never in the platform's tables.
        assert self.columns == {table: self.observer.columns(table) for table in ("jobs", "tasks")}

    # Helpers

    def perform(self, *acting: tuple[int, Operation]) -> None:
        """Perform operations concurrently, and check that their effect is that of some order."""
        operations = [operation for _, operation in acting]
        note(f"    {' | '.join(map(repr, operations))}")
        outcomes = self.run(
            together(*(operation.perform(self.workers[worker]) for worker, operation in acting))
        )
        answers = [answer_of(outcome) for outcome in outcomes]
        self.before, self.seen = self.seen, self.observer.world()
        after = explain(self.model, operations, answers, self.seen)
        assert after is not None, (
            f"no order of {operations} explains the answers {answers} and what came of\n"
            f"{self.model}\nwhich is now\n{self.seen}"
        )
        self.model, self.operations, self.answers = after, operations, answers
        self.past += operations
        for outcome in outcomes:
            if isinstance(outcome, Claimed):
                self.keep(outcome.claim)
        self.standing = self.run(self.workers[0].tasks.standing([ticket.claim for ticket in self.tickets]))
        self.rows_move_only_as_they_may()
        self.at_most_one_claim_stands_for_a_row()
        self.a_lost_claim_does_not_stand_again()
        self.a_stage_is_signalled_once_by_the_completion_that_ended_it()
        self.nothing_reaches_a_queue_twice()
        self.a_sweep_alone_is_lent_all_that_is_owed()

    def keep(self, claim: Claim) -> None:
        life = self.observer.life(claim.task_id, claim.row_created_at)
        ticket = Ticket(claim, life, claim.token.int)
        if ticket not in self.tickets:
            self.tickets.append(ticket)

    def operation(self, choice: Selection) -> Operation:
        """Return the operation that a choice selects: one that fits the present world; any for a zombie."""
        number, call = self.next_number(), choice.call
        if call == "disturbance":
            call = DISTURBANCES[choice.pick % len(DISTURBANCES)]
        step = self.platforms_next_step(number)
        if call == "platform" or (step is not None and not choice.zombie):
            return step or platform.Submit(number)
        ticket, rows = self.ticket(choice), self.model.rows.values()
        if not choice.zombie:
            if call == "rescue" and not any(row.stale for row in rows):
                call = "worker dies"
            if call == "claim" and not any(row.stale or row.status == "queued" for row in rows):
                call = "complete"
        if call in CLAIMS_CALLS and ticket is not None:
            return claims_call(call, ticket, choice.pick, number)
        match call:
            case "worker dies":
                return platform.LeaseRunsOut(
                    self.task(choice, lambda row: row.status == "processing" and not row.stale)
                )
            case "rescue":
                return calls.Rescue()
            case "sweep":
                return calls.Sweep(FATES[choice.pick % len(FATES)])
            case "days pass":
                return platform.DaysPass()
            case "note dead letter":
                return calls.NoteDeadLetter(self.task(choice, lambda row: row.status == "failed"))
            case "janitor":
                return platform.Janitor(self.task(choice, lambda row: row.status == "processing"))
            case "fail job":
                return platform.FailJob()
            case "finish job":
                return platform.FinishJob(self.model.job.stage if self.model.job else 1)
        return calls.ClaimTask(
            self.task(choice, lambda row: row.stale or row.status == "queued"), number, number
        )

    def task(self, choice: Selection, fits: Callable[[Row], bool]) -> str:
        """Return a task whose row fits, if there is one; any task for a zombie."""
        fitting = [task for task, row in self.model.rows.items() if fits(row)]
        among = TASKS if choice.zombie or not fitting else sorted(fitting)
        return among[choice.pick % len(among)]

    def ticket(self, choice: Selection) -> Ticket | None:
        """Return a claim that is held, or any past one for a zombie; the newest first."""
        held = [ticket for ticket in self.tickets if self.model.standing(ticket) == "held"]
        among = self.tickets if choice.zombie else held
        return among[-1 - choice.pick % len(among)] if among else None

    def platforms_next_step(self, number: int) -> Operation | None:
        """Return the platform's next operation; None while it waits for the stage."""
        job = self.model.job
        if job is None or job.status == "failed":
            return platform.Submit(number)
        if job.status == "completed":
            return platform.DeleteJob()
        if not any(row.stage == job.stage for row in self.model.rows.values()):
            return platform.StartStage(job.stage, number)
        if self.model.unfinished(job.stage):
            return None
        return (
            platform.FinishJob(job.stage)
            if job.stage == len(STAGES)
            else platform.AdvanceJob(job.stage, number)
        )

    def next_number(self) -> int:
        self.number += 1
        return self.number


def newly_finished(before: World, after: World, tasks: tuple[str, ...]) -> list[str]:
    """Return the rows that were finished in between."""
    return [
        task
        for task in tasks
        if task in after.rows
        and after.rows[task].finished
        and not (task in before.rows and before.rows[task] == after.rows[task])
    ]


async def together(*work: Awaitable[Any]) -> list[Any]:
    return await asyncio.gather(*work)


@pytest.fixture
def machine(conninfo: str) -> Iterator[type[TaskLives]]:
    """The state machine with its workers, each of which keeps its own pool for all examples."""

    async def connect(stack: AsyncExitStack) -> list[Database]:
        pools = [Database(Connections(conninfo, min_size=2, max_size=4)) for _ in range(WORKERS)]
        return [await stack.enter_async_context(pool) for pool in pools]

    with asyncio.Runner() as runner, psycopg.connect(conninfo, autocommit=True) as connection:
        stack = AsyncExitStack()
        surroundings = {
            "run": runner.run,
            "workers": runner.run(connect(stack)),
            "observer": Observer(connection),
        }
        yield type("Machine", (TaskLives,), surroundings)
        runner.run(stack.aclose())


# Shrinking a failure takes minutes, as the long profile does; the database's own limits end whatever hangs.
@pytest.mark.timeout(0)
def test_whatever_happens_the_database_is_as_the_model_says(machine):
    profile = settings.default
    run_state_machine_as_test(
        machine,
        settings=settings(
            profile,
            max_examples=profile.max_examples // 8,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
