"""Dead letters are redriven with a real queue, a real database and a real worker: none is lost."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import psycopg
import pytest

from tests.support.bench import JOB, JOBS, QUEUE, Bench
from tests.support.dead_letters import ALL, body, bury, fail, job_status, outcomes, sequences, task
from tests.support.eventually import eventually
from tests.support.rasters import smooth, write_raster
from worker.database import Database
from worker.errors import ConfigurationError
from worker.local.broker.server import BrokerThread
from worker.protocol.rows import Claimed, OutboxMessage
from worker.queue.bus import Bus
from worker.queue.dead_letter import Selection
from worker.queue.dead_letters import DeadLetters
from worker.queue.outbox import Outbox

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def blobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GDALTOOLS_BLOB_ROOT", str(tmp_path))
    (tmp_path / "bronze-rasters").mkdir()
    return tmp_path


async def test_a_failed_task_is_redriven_and_really_completes(
    bench: Bench, dead_letters: DeadLetters, blobs: Path
) -> None:
    bench.create("late")
    await bench.send("late")
    await bench.until("late", "failed")
    await eventually(lambda: bench.broker.counts(QUEUE).dead_letter == 1)
    write_raster(blobs / "bronze-rasters" / "scene.tif", smooth(3, 128, 128))
    (handled,) = await dead_letters.redrive(QUEUE, Selection(task_id="late"))
    assert (handled.outcome, handled.task_id) == ("redriven", "late")
    assert "its job goes on at stage 3" in handled.detail
    row = await bench.until("late", "completed")
    assert (row.retry_count, row.error_details) == (0, None)
    await bench.quiet()
    assert bench.broker.counts(QUEUE).dead_letter == 0
    assert [each["message_id"] for each in await bench.signals()] == [f"{JOB}:3:stage_complete"]


async def test_tasks_whose_messages_were_dropped_with_the_failed_job_run_as_well(
    bench: Bench, dead_letters: DeadLetters, blobs: Path
) -> None:
    for name in ("failing", "beside"):
        bench.create(name)
    await bench.send("failing")
    await bench.until("failing", "failed")
    await bench.send("beside")  # dropped: its job is over
    await bench.quiet()
    write_raster(blobs / "bronze-rasters" / "scene.tif", smooth(3, 128, 128))
    (handled,) = await dead_letters.redrive(QUEUE, ALL)
    assert "its job goes on at stage 3" in handled.detail
    assert "1 unfinished" in handled.detail
    for name in ("failing", "beside"):
        await bench.until(name, "completed")
    await bench.quiet()
    assert len(await bench.signals()) == 1


async def test_redriving_resets_row_and_job_and_makes_the_old_claim_worthless(
    dead_letters: DeadLetters, bus: Bus, broker: BrokerThread, job: Database, conninfo: str
) -> None:
    zombie = await job.tasks.claim("a", JOB, worker="zombie", lease_seconds=60)
    assert isinstance(zombie, Claimed)
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(
            "update app.tasks set status = 'failed', retry_count = 3, error_details = 'janitor',"
            " result_data = '{}' where task_id = 'a'"
        )
        connection.execute("update app.jobs set status = 'failed', error_details = 'janitor'")
        connection.execute("update app.worker_claims set takeovers = 2, deaths = 1")
    await bury(bus, body("a"))
    (handled,) = await dead_letters.redrive(QUEUE, Selection(reason="testreason"))
    assert handled.outcome == "redriven"
    row = await task(job, "a")
    assert (row.status, row.retry_count, row.error_details) == ("queued", 0, None)
    assert (row.result_data, row.heartbeat) == (None, None)
    assert await job_status(job) == ("processing", None)
    assert broker.counts(QUEUE).dead_letter == 0
    fresh = await job.tasks.claim("a", JOB, worker="w", lease_seconds=60)
    assert isinstance(fresh, Claimed)
    assert fresh.crashes == 0
    assert not await job.tasks.heartbeat(zombie.claim)
    assert not (await job.tasks.complete(zombie.claim, {}, signal=OutboxMessage(JOBS, "{}"))).accepted
    assert not await job.tasks.fail(zombie.claim, reason="Late", error_details="late", result={})
    assert (await task(job, "a")).status == "processing"


async def test_the_copy_has_the_letters_body_and_an_id_of_its_own(
    dead_letters: DeadLetters, bus: Bus, job: Database
) -> None:
    await fail(job, "a")
    await bury(bus, body("a", retry_count=2))
    await dead_letters.redrive(QUEUE, ALL)
    bodies, ids = set(), set()
    async with bus.receiver(QUEUE) as receiver:
        while received := await receiver.receive_many(10, wait_seconds=1):
            bodies |= {message.body.decode() for message in received}
            ids |= {message.message_id for message in received}
    assert body("a", retry_count=2) in bodies
    assert {json.loads(each)["task_id"] for each in bodies} == {"a", "b", "c"}, "b and c are asked for again"
    assert len(ids) == 3
    assert not [each for each in ids if str(each).startswith("m-")]


async def test_one_of_thirty_is_redriven_and_the_others_keep_place_and_order(
    dead_letters: DeadLetters, bus: Bus, job: Database
) -> None:
    await fail(job, "a")
    await bury(bus, *(body("a") if number == 17 else body(f"other-{number}") for number in range(30)))
    before = await sequences(dead_letters)
    (handled,) = await dead_letters.redrive(QUEUE, Selection(sequences=frozenset({before[17]})))
    assert handled.outcome == "redriven"
    after = await dead_letters.listing(QUEUE, order="oldest")
    assert [each.sequence_number for each in after.dead_letters] == before[:17] + before[18:]
    assert [each.task_id for each in after.dead_letters] == [f"other-{n}" for n in range(30) if n != 17]
    async with bus.receiver(QUEUE, sub_queue="dead-letter") as receiver:
        unlocked = await receiver.receive_many(30, wait_seconds=2)
        assert [message.sequence_number for message in unlocked] == before[:17] + before[18:]


async def test_redriving_twice_does_no_harm(
    dead_letters: DeadLetters, bus: Bus, broker: BrokerThread, job: Database
) -> None:
    await fail(job, "a")
    await bury(bus, body("a"))
    assert outcomes(await dead_letters.redrive(QUEUE, ALL)) == ["redriven"]
    assert await dead_letters.redrive(QUEUE, ALL) == []
    (absent,) = await dead_letters.redrive(QUEUE, Selection(sequences=frozenset({1})))
    assert absent.outcome == "absent"
    assert (await task(job, "a")).status == "queued"


async def test_a_crash_before_the_letter_is_removed_leaves_it_to_be_redriven_again(
    dead_letters: DeadLetters, bus: Bus, broker: BrokerThread, job: Database
) -> None:
    await fail(job, "a")
    await bury(bus, body("a"))
    owed = {"a": OutboxMessage(QUEUE, body("a"))}
    found = await job.tasks.redrive(JOB, owed, message_of=lambda row: OutboxMessage(QUEUE, body(row.task_id)))
    assert found["a"].outcome == "reset"
    assert broker.counts(QUEUE).active == 0  # the crash: nothing published, the dead letter still there
    (again,) = await dead_letters.redrive(QUEUE, ALL)
    assert again.outcome == "resent"
    assert broker.counts(QUEUE).dead_letter == 0
    assert broker.counts(QUEUE).active == 4, "what the crash left, b and c with it, and a copy more"
    assert (await task(job, "a")).retry_count == 0


async def test_a_letter_that_could_not_be_removed_is_said_to_stay(
    dead_letters: DeadLetters, bus: Bus, broker: BrokerThread, job: Database
) -> None:
    await fail(job, "a")
    await bury(bus, body("a"))
    broker.faults.fail_next("settle", "com.microsoft:message-lock-lost", queue=f"{QUEUE}/$DeadLetterQueue")
    (left,) = await dead_letters.redrive(QUEUE, ALL)
    assert left.outcome == "left"
    assert (await task(job, "a")).status == "queued"
    broker.faults.expire_locks(f"{QUEUE}/$DeadLetterQueue")
    assert outcomes(await dead_letters.redrive(QUEUE, ALL)) == ["resent"]


@pytest.mark.parametrize("status", ["processing", "completed"])
async def test_a_letter_of_a_task_that_runs_or_is_completed_is_only_removed(
    dead_letters: DeadLetters, bus: Bus, broker: BrokerThread, job: Database, status: str
) -> None:
    claimed = await job.tasks.claim("a", JOB, worker="w", lease_seconds=60)
    assert isinstance(claimed, Claimed)
    if status == "completed":
        await job.tasks.complete(claimed.claim, {}, signal=OutboxMessage(JOBS, "{}"))
    await bury(bus, body("a"))
    (handled,) = await dead_letters.redrive(QUEUE, ALL)
    assert handled.outcome == "removed"
    assert status in handled.detail
    counts = broker.counts(QUEUE)
    assert (counts.active, counts.dead_letter) == (0, 0)
    assert (await task(job, "a")).status == status


async def test_what_the_worker_could_do_nothing_with_is_refused_and_stays(
    dead_letters: DeadLetters, bus: Bus, broker: BrokerThread, job: Database, conninfo: str
) -> None:
    await fail(job, "a")
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("update app.jobs set stage = 2")
        connection.execute("update app.tasks set status = 'cancelled' where task_id = 'b'")
    await bury(bus, body("nowhere"), body("a"), body("b"), body("c", parent_job_id="f" * 64))
    missing, over, cancelled, stranger = await dead_letters.redrive(QUEUE, ALL)
    assert {each.outcome for each in (missing, over, cancelled, stranger)} == {"refused"}
    assert "resubmit the job" in missing.detail
    assert "stage 2" in over.detail
    assert "cancelled" in cancelled.detail
    assert "no row" in stranger.detail
    counts = broker.counts(QUEUE)
    assert (counts.active, counts.dead_letter) == (0, 4)
    assert (await task(job, "a")).status == "failed"
    assert (await job_status(job))[0] == "failed"


async def test_tasks_that_stay_failed_in_the_stage_are_told_of(
    dead_letters: DeadLetters, bus: Bus, job: Database
) -> None:
    for name in ("a", "b"):
        claimed = await job.tasks.claim(name, JOB, worker="w", lease_seconds=60)
        assert isinstance(claimed, Claimed)
        if name == "a":
            first = claimed.claim
    await job.tasks.fail(first, reason="Broke", error_details="broke", result={})
    await job.tasks.fail(claimed.claim, reason="Broke", error_details="broke too", result={})
    await bury(bus, body("a"), body("b"))
    (handled,) = await dead_letters.redrive(QUEUE, Selection(task_id="a"))
    assert "1 others of its stage are still failed" in handled.detail
    (handled,) = await dead_letters.redrive(QUEUE, ALL)
    assert "still failed" not in handled.detail


async def test_a_stage_does_not_end_between_the_letters_of_one_redrive(
    dead_letters: DeadLetters, bus: Bus, job: Database
) -> None:
    claims = {}
    for name in "abc":
        claimed = await job.tasks.claim(name, JOB, worker="w", lease_seconds=60)
        assert isinstance(claimed, Claimed)
        claims[name] = claimed.claim
    for claim in claims.values():
        await job.tasks.fail(claim, reason="Broke", error_details="broke", result={})
    await bury(bus, *(body(name) for name in "abc"))
    await dead_letters.redrive(QUEUE, ALL)
    for name, last in (("b", False), ("a", False), ("c", True)):
        claimed = await job.tasks.claim(name, JOB, worker="w", lease_seconds=60)
        assert isinstance(claimed, Claimed)
        done = await job.tasks.complete(claimed.claim, {}, signal=OutboxMessage(JOBS, "{}"))
        assert (done.accepted, done.last) == (True, last)


async def test_a_completion_at_the_same_time_never_signals_a_stage_that_is_redriven(
    job: Database, conninfo: str
) -> None:
    signal = OutboxMessage(JOBS, "{}", f"{JOB}:1:stage_complete")
    for _ in range(15):
        with psycopg.connect(conninfo, autocommit=True) as connection:
            connection.execute("update app.tasks set status = 'completed' where task_id = 'c'")
            connection.execute("update app.tasks set status = 'queued' where task_id in ('a', 'b')")
            connection.execute("update app.jobs set status = 'processing'")
            connection.execute("update app.worker_outbox set sent_at = now()")
        beside = await job.tasks.claim("b", JOB, worker="w", lease_seconds=60)
        assert isinstance(beside, Claimed)
        await fail(job, "a")
        await asyncio.gather(
            job.tasks.complete(beside.claim, {}, signal=signal),
            job.tasks.redrive(
                JOB, {"a": OutboxMessage(QUEUE, body("a"))}, message_of=lambda row: OutboxMessage(QUEUE, "{}")
            ),
        )
        async with job.outbox.batch() as batch:
            assert not [row for row in batch.rows if row.message.queue == JOBS]
        assert ((await task(job, "a")).status, await job_status(job)) == ("queued", ("processing", None))


@pytest.mark.parametrize("content", ["hello", '["no task"]', b"\xff\xfe\x00"])
async def test_a_letter_that_is_no_task_goes_back_to_its_queue_as_it_was(
    dead_letters: DeadLetters, bus: Bus, broker: BrokerThread, content: str | bytes
) -> None:
    await bury(bus, content)
    (handled,) = await dead_letters.redrive(QUEUE, ALL)
    assert (handled.outcome, handled.task_id) == ("resent", None)
    assert broker.counts(QUEUE).dead_letter == 0
    async with bus.receiver(QUEUE) as receiver:
        message = await receiver.receive(wait_seconds=5)
    assert message is not None
    assert message.body == (content if isinstance(content, bytes) else content.encode())
    assert message.dead_letter_reason is None


async def test_a_jobs_queue_letter_is_redriven_past_duplicate_detection_and_without_a_database(
    bus: Bus, broker: BrokerThread
) -> None:
    dead_letters = DeadLetters(bus, queues=(QUEUE, JOBS))
    signal = json.dumps({"message_type": "stage_complete", "job_id": JOB, "job_type": "any_job"})
    await bury(bus, signal, queue=JOBS)
    assert outcomes(await dead_letters.redrive(JOBS, ALL)) == ["resent"]
    counts = broker.counts(JOBS)
    assert (counts.active, counts.dead_letter) == (1, 0)
    await bury(bus, body("a"))
    with pytest.raises(ConfigurationError, match="POSTGIS_HOST"):
        await dead_letters.redrive(QUEUE, ALL)
    assert broker.counts(QUEUE).dead_letter == 1


async def test_what_is_owed_after_a_redrive_is_sent_when_the_queue_works_again(
    dead_letters: DeadLetters, bus: Bus, broker: BrokerThread, job: Database
) -> None:
    await fail(job, "a")
    await bury(bus, body("a"))
    broker.faults.fail_next("send", queue=QUEUE, times=20)
    assert outcomes(await dead_letters.redrive(QUEUE, ALL)) == ["redriven"]
    assert broker.counts(QUEUE).active == 0
    broker.faults.clear()
    await Outbox(job, bus).publish()
    assert broker.counts(QUEUE).active == 3
