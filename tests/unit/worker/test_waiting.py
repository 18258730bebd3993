"""Retries, and a cancellation that comes in the same turn of the loop as the awaited result."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from itertools import islice
from types import ModuleType

import pytest

from worker.errors import BusError, LockLost, QueueNotFound
from worker.waiting import growing, mend_cancellation, retried


class Attempts:
    """Raises its errors one after the other, then returns; notes what `retried` reports and waits for."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.reported: list[BusError] = []
        self.waited: list[float] = []

    async def attempt(self) -> str:
        if self.errors:
            raise self.errors.pop(0)
        return "done"

    async def sleep(self, seconds: float) -> None:
        self.waited.append(seconds)

    async def retried(self, *, pauses: Iterable[float] = (1, 2)) -> str:
        return await retried(
            self.attempt, errors=BusError, pauses=pauses, on_error=self.reported.append, sleep=self.sleep
        )


async def test_errors_that_may_pass_are_followed_by_a_pause_and_an_attempt() -> None:
    attempts = Attempts(first := BusError("1"), second := BusError("2"))
    assert await attempts.retried() == "done"
    assert attempts.reported == [first, second]
    assert attempts.waited == [1, 2]


async def test_when_the_pauses_are_used_up_the_last_error_is_raised() -> None:
    attempts = Attempts(BusError("1"), BusError("2"), BusError("3"))
    with pytest.raises(BusError, match="3"):
        await attempts.retried()
    assert len(attempts.reported) == 2


@pytest.mark.parametrize("error", [LockLost("gone"), QueueNotFound("no queue"), KeyError("another error")])
async def test_an_error_that_does_not_pass_is_raised_at_once(error: Exception) -> None:
    attempts = Attempts(error)
    with pytest.raises(type(error)):
        await attempts.retried()
    assert not attempts.waited


def test_pauses_grow_to_the_longest() -> None:
    for pause, middle in zip(islice(growing(1, 4), 5), (1, 2, 4, 4, 4), strict=True):
        assert middle / 2 <= pause <= 1.5 * middle


@pytest.fixture
def library() -> ModuleType:
    """Return a module that says ``import asyncio``, with our fix applied."""
    module = ModuleType("library")
    vars(module)["asyncio"] = asyncio
    mend_cancellation(module)
    return module


async def test_it_is_not_lost(library: ModuleType) -> None:
    result: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(library.asyncio.wait_for(result, 10))
    await asyncio.sleep(0)
    result.set_result("here")
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_a_wait_has_its_result_or_its_end(library: ModuleType) -> None:
    async def soon() -> str:
        await asyncio.sleep(0)
        return "here"

    assert await library.asyncio.wait_for(soon(), 10) == "here"
    assert await library.asyncio.wait_for(soon(), None) == "here"
    for seconds in (0.01, 0, -1):
        with pytest.raises(library.asyncio.TimeoutError):
            await library.asyncio.wait_for(asyncio.Event().wait(), seconds)


def test_mending_twice_is_mending_once(library: ModuleType) -> None:
    mended = library.asyncio
    mend_cancellation(library)
    assert library.asyncio is mended
