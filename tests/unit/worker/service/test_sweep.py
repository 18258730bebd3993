"""A duty is repeated until the worker stops, and each outcome is reported once."""

from __future__ import annotations

import asyncio

import pytest

from gdaltools.errors import GdalToolsError
from worker.errors import BusError, DatabaseError
from worker.service.sweep import Duty


class Work:
    """Fails with its outcomes one after the other, succeeds at a None, and stops the worker at the last."""

    def __init__(self, *outcomes: GdalToolsError | None) -> None:
        self.outcomes = list(outcomes)
        self.stopping = asyncio.Event()
        self.reports: list[tuple[str, GdalToolsError | None]] = []

    async def step(self) -> None:
        outcome = self.outcomes.pop(0)
        if not self.outcomes:
            self.stopping.set()
        if outcome is not None:
            raise outcome

    async def run(self) -> None:
        duty = Duty("rescue", self.step, every_seconds=0.001, after_fault_seconds=0.001)
        await duty.repeat(self.stopping, lambda part, error: self.reports.append((part, error)))


async def test_a_fault_is_reported_for_the_part_that_has_it_and_the_work_goes_on() -> None:
    work = Work(away := DatabaseError("no answer"), busy := BusError("busy"), None)
    await work.run()
    assert work.reports == [
        *(("database", away), ("rescue", None)),
        *(("database", None), ("rescue", busy)),
        *(("database", None), ("rescue", None)),
    ]


async def test_an_error_that_was_not_foreseen_ends_the_duty() -> None:
    work = Work()
    with pytest.raises(IndexError):
        await work.run()


async def test_a_worker_that_stops_begins_nothing() -> None:
    work = Work(None)
    work.stopping.set()
    await work.run()
    assert not work.reports
