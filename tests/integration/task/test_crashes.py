"""What happens to a task when processes die, its own or its worker's, and when deliveries run out."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.support.bench import JOB, JOBS, QUEUE, Bench, working
from tests.support.eventually import eventually
from worker.database import Database
from worker.local.broker.server import BrokerThread, QueueSpec
from worker.protocol.rows import Claimed, OutboxMessage
from worker.queue.bus import Bus
from worker.queue.dead_letter import DeadLetter
from worker.queue.dead_letters import DeadLetters
from worker.queue.outbox import Outbox
from worker.service.sweep import duties

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(params=[1, 10])
def broker(request: pytest.FixtureRequest) -> Iterator[BrokerThread]:
    """Queues that deliver a message once, or ten times as Service Bus does by default."""
    spec = QueueSpec(QUEUE, lock_seconds=5, max_delivery_count=request.param)
    with BrokerThread([spec, QueueSpec(JOBS)]) as made:
        yield made


@pytest.fixture
def blobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GDALTOOLS_BLOB_ROOT", str(tmp_path))
    return tmp_path


async def dead_letters(bench: Bench) -> tuple[DeadLetter, ...]:
    return (await DeadLetters(bench.bus, queues=[QUEUE]).listing(QUEUE)).dead_letters


async def crashed(bench: Bench, task_id: str, *, times: int) -> None:
    """Simulate `times` workers that died running a task."""
    for _ in range(times):
        outcome = await bench.database.tasks.claim(
            task_id, JOB, worker="dead", lease_seconds=60, message=OutboxMessage("elsewhere", "{}")
        )
        assert isinstance(outcome, Claimed)
        with psycopg.connect(bench.conninfo, autocommit=True) as connection:
            connection.execute("alter table app.tasks disable trigger user")
            connection.execute("update app.tasks set heartbeat = 'epoch', updated_at = 'epoch'")
            connection.execute("alter table app.tasks enable trigger user")
        assert await bench.database.tasks.rescue(["elsewhere"], lease_seconds=60) == [task_id]


async def test_a_task_whose_process_dies_three_times_is_failed_with_that_story(bench: Bench) -> None:
    bench.create("deadly", task_type="leave", parameters={})
    await bench.send("deadly", task_type="leave", parameters={})
    task = await bench.until("deadly", "failed")
    assert "ChildDied: the process of leave ended with exit code 7" in str(task.error_details)
    assert task.retry_count == 2, "two retries, and the third death is the last"
    await bench.quiet()
    (dead_letter,) = await dead_letters(bench)
    assert dead_letter.message.dead_letter_reason == "ChildDied"
    assert dead_letter.message.dead_letter_description == task.error_details


async def test_a_task_that_took_three_workers_down_is_failed_and_not_run(bench: Bench) -> None:
    bench.create("deadly", task_type="do_nothing", parameters={})
    await crashed(bench, "deadly", times=3)
    await bench.send("deadly", task_type="do_nothing", parameters={})
    task = await bench.until("deadly", "failed")
    assert "WorkerDied: 3 workers and 0 of its own processes died running this task" in str(
        task.error_details
    )
    await bench.quiet()
    (dead_letter,) = await dead_letters(bench)
    assert dead_letter.message.dead_letter_reason == "WorkerDied"
    assert await bench.signals() == []


async def test_two_take_overs_and_a_death_are_three(bench: Bench) -> None:
    bench.create("deadly", task_type="leave", parameters={})
    await crashed(bench, "deadly", times=2)
    await bench.send("deadly", task_type="leave", parameters={})
    task = await bench.until("deadly", "failed")
    assert task.retry_count == 0


async def test_a_failure_is_dead_lettered_although_its_worker_died_in_between(bench: Bench) -> None:
    bench.create("failed", task_type="do_nothing", parameters={})
    outcome = await bench.database.tasks.claim("failed", JOB, worker="dead", lease_seconds=60)
    assert isinstance(outcome, Claimed)
    assert await bench.database.tasks.fail(
        outcome.claim, reason="SourceNotFound", error_details="SourceNotFound: no blob", result={}
    )
    await bench.send("failed", task_type="do_nothing", parameters={})
    await eventually(lambda: bench.broker.counts(QUEUE).dead_letter == 1, within_seconds=20)
    (dead_letter,) = await dead_letters(bench)
    assert dead_letter.message.dead_letter_reason == "SourceNotFound"
    assert dead_letter.message.dead_letter_description == "SourceNotFound: no blob"
    await bench.send("failed", task_type="do_nothing", parameters={})
    await bench.quiet()
    assert bench.broker.counts(QUEUE).dead_letter == 1, "one letter is enough"


@pytest.mark.parametrize("broker", [1], indirect=True)
async def test_a_message_that_the_broker_gave_up_before_it_was_claimed_is_taken_back(
    database: Database, conninfo: str, broker: BrokerThread, tmp_path: Path
) -> None:
    async with Bus.connect(connection_string=broker.connection_string) as bus:
        async with working(database, conninfo, broker) as bench:
            await bench.stop()
            bench.create("unlucky", task_type="do_nothing", parameters={})
            await bench.send("unlucky", task_type="do_nothing", parameters={})
        async with bus.receiver(QUEUE) as receiver:
            assert await receiver.receive(wait_seconds=10) is not None
            broker.faults.expire_locks(QUEUE)
        assert broker.counts(QUEUE).dead_letter == 1
        async with working(database, conninfo, broker) as bench:
            sweep = duties(
                database,
                Outbox(database, bus),
                DeadLetters(bus, queues=[QUEUE], database=database),
                queues=[QUEUE],
                lease_seconds=3,
            )
            stopping = asyncio.Event()
            sweeping = [asyncio.create_task(duty.repeat(stopping, lambda *_: None)) for duty in sweep]
            await bench.until("unlucky", "completed")
            await bench.quiet()
            await eventually(lambda: broker.counts(QUEUE).dead_letter == 0, within_seconds=20)
            stopping.set()
            await asyncio.gather(*sweeping)
            assert len(await bench.signals()) == 1


async def test_a_task_that_never_fits_into_memory_fails_with_both_numbers(bench: Bench) -> None:
    bench.create("large", task_type="do_nothing", parameters={"needs_mb": 10**9})
    await bench.send("large", task_type="do_nothing", parameters={"needs_mb": 10**9})
    task = await bench.until("large", "failed")
    assert "InsufficientMemory: the task needs about 1,000,000,000 MB" in str(task.error_details)
