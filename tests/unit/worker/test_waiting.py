"""A cancellation that comes in the same turn of the loop as the awaited result."""

from __future__ import annotations

import asyncio
from types import ModuleType

import pytest

from worker.waiting import mend_cancellation


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
