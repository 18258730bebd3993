"""When a worker's work is done."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from worker.queue.bus import Message
from worker.service.shift import Shift

MESSAGE = cast("Message", None)


async def _process(_: Message) -> None:
    await asyncio.sleep(0)


async def _forever(*_: Any) -> None:
    await asyncio.Event().wait()


async def test_without_a_limit_only_others_end_it() -> None:
    stopping = asyncio.Event()
    shift = Shift(stopping)
    running = asyncio.create_task(shift.run())
    await shift.watched(_process)(MESSAGE)
    assert not stopping.is_set()
    assert not shift.ends_by_itself
    stopping.set()
    await running
    assert not shift.is_over


async def test_once_ends_with_the_first_message_even_if_it_fails() -> None:
    async def fail(_: Message) -> None:
        raise RuntimeError

    for process in (_process, fail):
        stopping = asyncio.Event()
        shift = Shift(stopping, once=True)
        if process is fail:
            with pytest.raises(RuntimeError):
                await shift.watched(process)(MESSAGE)
        else:
            await shift.watched(process)(MESSAGE)
        assert stopping.is_set()
        assert shift.is_over
        assert shift.ends_by_itself


async def test_it_is_not_idle_while_a_message_is_in_hand() -> None:
    stopping = asyncio.Event()
    shift = Shift(stopping, idle_seconds=0.05)
    running = asyncio.create_task(shift.run())
    running_tasks = asyncio.ensure_future(shift.watched(_forever)(MESSAGE))
    await asyncio.wait({running}, timeout=0.3)
    assert not running.done()
    running_tasks.cancel()
    await running
    assert shift.is_over


async def test_stopped_from_outside_it_is_not_over() -> None:
    stopping = asyncio.Event()
    shift = Shift(stopping, once=True, idle_seconds=60)
    stopping.set()
    await shift.run()
    await shift.watched(_process)(MESSAGE)
    assert not shift.is_over


async def test_it_is_not_idle_before_every_slot_has_heard_from_its_queue() -> None:
    stopping = asyncio.Event()
    shift = Shift(stopping, idle_seconds=0.05)
    heard = [shift.new_slot() for _ in range(2)]
    running = asyncio.create_task(shift.run())
    heard[0]()
    heard[0]()
    await asyncio.wait({running}, timeout=0.3)
    assert not running.done()
    heard[1]()
    await running
    assert shift.is_over
