import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import psycopg
import pytest
import pytest_asyncio

from worker.database import Database, migration
from worker.database.connections import Connections, sections
from worker.errors import DatabaseError, DatabaseRejected, TaskIdTaken
from worker.protocol.rows import (
    Burial,
    Claim,
    Claimed,
    Finished,
    HeldElsewhere,
    JobOver,
    Missing,
    NewJob,
    NewTask,
    OutboxMessage,
)

JOB = "a" * 64
LEASE = 60.0


def message(queue: str = "raster-tasks", message_id: str | None = None) -> OutboxMessage:
    made = OutboxMessage(queue=queue, body="{}")
    return made if message_id is None else OutboxMessage(queue=queue, body="{}", message_id=message_id)


def signal(stage: int = 1) -> OutboxMessage:
    return message("geospatial-jobs", f"{JOB}:{stage}:stage_complete")


def new_tasks(*task_ids: str) -> list[NewTask]:
    return [NewTask(task_id, "create_cog", {"n": 1}, str(i), message()) for i, task_id in enumerate(task_ids)]


async def submit(database: Database, *, total_stages: int = 2, job_id: str = JOB) -> None:
    await database.jobs.submit(NewJob(job_id, "a_job", {}, total_stages), message=message("geospatial-jobs"))


@pytest_asyncio.fixture
async def job(database: Database) -> Database:
    """A job at stage 1 with the tasks t1, t2 and t3."""
    await submit(database)
    await database.jobs.start_stage(JOB, 1, new_tasks("t1", "t2", "t3"))
    return database


@pytest_asyncio.fixture
async def other(conninfo: str) -> AsyncIterator[Database]:
    """Another worker's connections to the same database."""
    async with Database(Connections(conninfo)) as made:
        yield made


async def claimed(database: Database, task_id: str, *, lease_seconds: float = LEASE) -> Claim:
    outcome = await database.tasks.claim(task_id, JOB, worker="w1", lease_seconds=lease_seconds)
    assert isinstance(outcome, Claimed)
    return outcome.claim


async def run_sql(conninfo: str, statement: str) -> list[tuple]:
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as connection:
        cursor = await connection.execute(statement.encode())
        return await cursor.fetchall() if cursor.description else []


async def signals(database: Database) -> list[str]:
    return [name for name in await queued_messages(database, "geospatial-jobs") if "stage_complete" in name]


async def queued_messages(database: Database, queue: str) -> list[str]:
    async with database.outbox.batch(limit=1000) as batch:
        return [row.message.message_id for row in batch.rows if row.message.queue == queue]


# claim


async def test_a_claim_starts_the_task(job):
    outcome = await job.tasks.claim("t1", JOB, worker="w1", lease_seconds=LEASE)
    assert isinstance(outcome, Claimed)
    assert (outcome.retry_count, outcome.parameters, outcome.crashes) == (0, {"n": 1}, 0)
    task = await job.tasks.get("t1")
    assert task.status == "processing"
    assert task.executed_by_app == "w1"
    assert task.heartbeat is not None
    assert abs(task.execution_started_at - datetime.now(UTC).replace(tzinfo=None)) < timedelta(minutes=5)


async def test_of_many_claimants_one_wins(job, other):
    outcomes = await asyncio.gather(
        *(
            db.tasks.claim("t1", JOB, worker=f"w{i}", lease_seconds=LEASE)
            for i in range(10)
            for db in (job, other)
        )
    )
    assert sum(isinstance(outcome, Claimed) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, HeldElsewhere) for outcome in outcomes) == 19


async def test_claiming_again_with_the_same_token_is_the_same_claim(job):
    token = uuid4()
    first = await job.tasks.claim("t1", JOB, worker="w1", lease_seconds=LEASE, token=token)
    again = await job.tasks.claim("t1", JOB, worker="w1", lease_seconds=LEASE, token=token)
    assert again.claim == first.claim
    assert again.takeovers == 0


async def test_a_task_that_is_not_there_is_missing(job):
    assert isinstance(await job.tasks.claim("nope", JOB, worker="w1", lease_seconds=LEASE), Missing)


async def test_a_task_of_another_job_is_missing(job):
    assert isinstance(await job.tasks.claim("t1", "b" * 64, worker="w1", lease_seconds=LEASE), Missing)


async def test_a_finished_task_is_not_claimed(job):
    await job.tasks.complete(await claimed(job, "t1"), {}, signal=signal())
    assert await job.tasks.claim("t1", JOB, worker="w1", lease_seconds=LEASE) == Finished("completed")


async def test_a_task_of_a_job_that_is_over_is_not_claimed(job):
    await job.jobs.fail(JOB, error_details="no")
    assert await job.tasks.claim("t1", JOB, worker="w1", lease_seconds=LEASE) == JobOver("failed")
    assert (await job.tasks.get("t1")).status == "queued"


@pytest.mark.parametrize("status", ["cancelled", "retrying", "pending_retry"])
async def test_a_state_that_is_not_ours_is_left_alone(job, conninfo, status):
    await run_sql(conninfo, f"update app.tasks set status = '{status}' where task_id = 't1'")
    assert await job.tasks.claim("t1", JOB, worker="w1", lease_seconds=0) == Finished(status)
    assert (await job.tasks.get("t1")).status == status


async def test_a_stale_run_is_taken_over_and_its_worker_writes_nothing_more(job, other):
    first = await claimed(job, "t1")
    taken = await other.tasks.claim("t1", JOB, worker="w2", lease_seconds=0)
    assert isinstance(taken, Claimed)
    assert taken.takeovers == 1
    assert not await job.tasks.heartbeat(first, progress={"done": 1})
    assert not (await job.tasks.complete(first, {}, signal=signal())).accepted
    assert not await job.tasks.fail(first, reason="Broken", error_details="x", result={})
    assert not await job.tasks.retry(first, message=message())
    assert not await job.tasks.release(first)
    assert await other.tasks.heartbeat(taken.claim)
    task = await job.tasks.get("t1")
    assert (task.status, task.executed_by_app, task.metadata) == ("processing", "w2", {})


async def test_of_many_who_take_over_one_wins(job, conninfo):
    await claimed(job, "t1")
    await run_sql(conninfo, "update app.tasks set heartbeat = heartbeat - interval '1 hour'")
    outcomes = await asyncio.gather(
        *(job.tasks.claim("t1", JOB, worker=f"w{i}", lease_seconds=LEASE) for i in range(8))
    )
    assert sum(isinstance(outcome, Claimed) and outcome.takeovers == 1 for outcome in outcomes) == 1


async def test_a_processing_row_without_a_heartbeat_is_judged_by_its_last_update(job, conninfo):
    await run_sql(conninfo, "update app.tasks set status = 'processing' where task_id = 't1'")
    assert isinstance(await job.tasks.claim("t1", JOB, worker="w1", lease_seconds=LEASE), HeldElsewhere)
    taken = await job.tasks.claim("t1", JOB, worker="w1", lease_seconds=0)
    assert isinstance(taken, Claimed)
    assert taken.takeovers == 1


async def test_a_heartbeat_from_the_future_does_not_keep_a_dead_row_alive(job, conninfo):
    await claimed(job, "t1")
    await run_sql(conninfo, "update app.tasks set heartbeat = heartbeat + interval '1 day'")
    assert isinstance(await job.tasks.claim("t1", JOB, worker="w2", lease_seconds=0), Claimed)


async def test_take_overs_are_counted_through_retries_and_hand_backs(job):
    await claimed(job, "t1")
    second = await claimed(job, "t1", lease_seconds=0)
    await job.tasks.retry(second, message=message())
    third = await claimed(job, "t1")
    await job.tasks.release(third)
    await claimed(job, "t1")
    outcome = await job.tasks.claim("t1", JOB, worker="w1", lease_seconds=0)
    assert outcome.takeovers == 2


# a recreated row


async def test_a_zombie_of_a_recreated_row_writes_nothing(job):
    zombie = await claimed(job, "t1")
    await job.jobs.fail(JOB, error_details="no")
    await submit(job)
    await job.jobs.start_stage(JOB, 1, new_tasks("t1"))
    for _ in ("while it is queued", "while another runs it"):
        assert not await job.tasks.heartbeat(zombie, progress={"a": 1})
        assert not (await job.tasks.complete(zombie, {}, signal=signal())).accepted
        assert not await job.tasks.fail(zombie, reason="Broken", error_details="x", result={})
        assert not await job.tasks.retry(zombie, message=message())
        assert not await job.tasks.release(zombie)
        fresh = await job.tasks.claim("t1", JOB, worker="w2", lease_seconds=LEASE)
        assert not isinstance(fresh, Claimed) or fresh.takeovers == 0
    task = await job.tasks.get("t1")
    assert (task.status, task.retry_count, task.metadata) == ("processing", 0, {})
    assert (await job.jobs.get(JOB)).status == "processing"


async def test_a_zombie_does_not_finish_a_recreated_row_that_the_platform_runs(job, conninfo):
    zombie = await claimed(job, "t1")
    await run_sql(conninfo, "delete from app.tasks where task_id = 't1'")
    await run_sql(
        conninfo,
        f"""insert into app.tasks (task_id, parent_job_id, job_type, task_type, stage, status)
            values ('t1', '{JOB}', 'a_job', 'create_cog', 1, 'processing')""",
    )
    assert not (await job.tasks.complete(zombie, {}, signal=signal())).accepted
    assert not await job.tasks.heartbeat(zombie)


# heartbeat


async def test_what_a_task_took_is_kept_beside_its_other_metadata(job, conninfo):
    claim = await claimed(job, "t1")
    await run_sql(conninfo, """update app.tasks set metadata = '{"tile_index": 3}'""")
    measured = {"actual": {"seconds": 2.5}, "estimate": None}
    await job.tasks.complete(claim, {"success": True}, signal=signal(), measured=measured)
    task = await job.tasks.get("t1")
    assert (task.status, task.metadata) == ("completed", {"tile_index": 3, "measured": measured})
    (row,) = await job.tasks.measured(limit=10)
    assert (row["task_id"], row["measured"]) == ("t1", measured)


async def test_progress_is_merged_into_the_metadata(job, conninfo):
    claim = await claimed(job, "t1")
    await run_sql(conninfo, """update app.tasks set metadata = '{"tile_index": 3}'""")
    assert await job.tasks.heartbeat(claim, progress={"done": 1, "total": 4})
    assert await job.tasks.heartbeat(claim, progress={"done": 2})
    assert await job.tasks.heartbeat(claim)
    assert (await job.tasks.get("t1")).metadata == {"tile_index": 3, "progress": {"done": 2, "total": 4}}


async def test_a_heartbeat_touches_updated_at(job):
    claim = await claimed(job, "t1")
    before = await job.tasks.get("t1")
    assert await job.tasks.heartbeat(claim)
    after = await job.tasks.get("t1")
    assert after.heartbeat > before.heartbeat
    assert after.updated_at > before.updated_at


async def test_a_row_that_the_janitor_failed_is_lost(job, conninfo):
    claim = await claimed(job, "t1")
    await run_sql(conninfo, "update app.tasks set status = 'failed' where task_id = 't1'")
    assert not await job.tasks.heartbeat(claim)
    assert not (await job.tasks.complete(claim, {}, signal=signal())).accepted


# complete


async def test_the_last_task_of_a_stage_signals_it(job):
    for task_id, remaining in (("t1", 2), ("t2", 1)):
        completion = await job.tasks.complete(await claimed(job, task_id), {"success": True}, signal=signal())
        assert (completion.accepted, completion.last, completion.remaining) == (True, False, remaining)
        assert completion.signal_id is None
    completion = await job.tasks.complete(await claimed(job, "t3"), {"success": True}, signal=signal())
    assert (completion.accepted, completion.last, completion.remaining) == (True, True, 0)
    async with job.outbox.batch(ids=[completion.signal_id]) as batch:
        assert [row.message.message_id for row in batch.rows] == [f"{JOB}:1:stage_complete"]


@pytest.mark.parametrize("round_", range(3))
async def test_of_completions_at_once_exactly_one_is_the_last(database, other, round_):
    await submit(database)
    ids = [f"t{i}" for i in range(16)]
    await database.jobs.start_stage(JOB, 1, new_tasks(*ids))
    claims = [await claimed(database, task_id) for task_id in ids]
    completions = await asyncio.gather(
        *(
            (database, other)[i % 2].tasks.complete(claim, {"i": i}, signal=signal())
            for i, claim in enumerate(claims)
        )
    )
    assert all(completion.accepted for completion in completions)
    assert sorted(completion.remaining for completion in completions) == list(range(16))
    assert sum(completion.last for completion in completions) == 1
    assert await signals(database) == [f"{JOB}:1:stage_complete"]


async def test_completing_twice_with_one_claim_is_completing_once(job):
    for task_id in ("t1", "t2"):
        await job.tasks.complete(await claimed(job, task_id), {}, signal=signal())
    claim = await claimed(job, "t3")
    first = await job.tasks.complete(claim, {}, signal=signal())
    second = await job.tasks.complete(claim, {}, signal=signal())
    assert second.accepted
    assert (second.last, second.signal_id) == (True, None)
    assert first.signal_id is not None
    assert len(await signals(job)) == 1


async def test_a_stage_of_a_failed_job_is_not_signalled(job):
    one, two, three = [await claimed(job, task_id) for task_id in ("t1", "t2", "t3")]
    assert await job.tasks.fail(one, reason="Broken", error_details="broken", result={"success": False})
    await job.tasks.complete(two, {}, signal=signal())
    completion = await job.tasks.complete(three, {}, signal=signal())
    assert (completion.last, completion.signal_id) == (True, None)


async def test_a_result_may_hold_what_jsonb_cannot(job):
    claim = await claimed(job, "t1")
    result = {"nodata": float("nan"), "name": "a\x00b\udce9", "max": float("inf")}
    assert (await job.tasks.complete(claim, result, signal=signal())).accepted
    assert (await job.tasks.get("t1")).result_data == {"nodata": None, "name": "ab\ufffd", "max": None}


# fail, retry, release


async def test_a_failure_fails_the_task_and_its_job(job):
    claim = await claimed(job, "t1")
    assert await job.tasks.fail(
        claim, reason="Broken", error_details="no such\x00 blob", result={"success": False, "error": "x"}
    )
    task = await job.tasks.get("t1")
    assert (task.status, task.error_details, task.result_data) == (
        "failed",
        "no such blob",
        {"success": False, "error": "x"},
    )
    job_row = await job.jobs.get(JOB)
    assert (job_row.status, job_row.error_details) == ("failed", "no such blob")
    assert await signals(job) == []


async def test_an_empty_error_is_a_failure_too(job):
    assert await job.tasks.fail(await claimed(job, "t1"), reason="Broken", error_details="", result={})
    assert (await job.tasks.get("t1")).status == "failed"


async def test_a_failure_leaves_a_job_that_is_over_as_it_is(job, conninfo):
    claim = await claimed(job, "t1")
    await run_sql(conninfo, "update app.jobs set status = 'completed'")
    assert await job.tasks.fail(claim, reason="Broken", error_details="late", result={})
    job_row = await job.jobs.get(JOB)
    assert (job_row.status, job_row.error_details) == ("completed", None)


async def test_a_retry_counts_and_owes_the_message(job, conninfo):
    claim = await claimed(job, "t1")
    again = OutboxMessage("raster-tasks", '{"same": "body"}', message_id="retry-1", delay_seconds=5)
    assert await job.tasks.retry(claim, message=again, error="connection reset")
    assert await job.tasks.retry(claim, message=again, error="connection reset")
    task = await job.tasks.get("t1")
    assert (task.status, task.retry_count, task.heartbeat) == ("queued", 1, None)
    assert task.metadata["last_error"] == "connection reset"
    async with job.outbox.batch() as batch:
        (row,) = [row for row in batch.rows if row.message.message_id == "retry-1"]
    assert row.message.body == '{"same": "body"}'
    (now,) = (await run_sql(conninfo, "select now()"))[0]
    assert row.scheduled_at is not None
    assert abs((row.scheduled_at - now).total_seconds() - 5) < 4, "by the database's clock"


async def test_a_task_handed_back_is_queued_without_a_retry(job):
    claim = await claimed(job, "t1")
    assert await job.tasks.release(claim)
    assert await job.tasks.release(claim)
    task = await job.tasks.get("t1")
    assert (task.status, task.retry_count) == ("queued", 0)
    assert not await job.tasks.heartbeat(claim)
    await claimed(job, "t1")


async def test_failing_while_the_job_is_submitted_anew_ends_in_one_of_the_two(job, other):
    claims = [await claimed(job, task_id) for task_id in ("t1", "t2")]
    await job.tasks.fail(claims[0], reason="Broken", error_details="first", result={})
    failed, _ = await asyncio.gather(
        job.tasks.fail(claims[1], reason="Broken", error_details="second", result={}), submit(other)
    )
    row = await job.jobs.get(JOB)
    assert row.status == "queued"
    assert row.error_details is None
    assert failed in (True, False)
    assert await job.tasks.of_job(JOB) == []


# outbox


async def test_two_sweepers_get_different_messages(job, other):
    async with job.outbox.batch(limit=2) as mine, other.outbox.batch() as theirs:
        assert len(mine.rows) == 2
        assert not {row.id for row in mine.rows} & {row.id for row in theirs.rows}


async def test_what_was_sent_is_not_lent_again_even_after_an_error(job):
    before = (await job.outbox.backlog()).unsent

    async def sweep() -> None:
        async with job.outbox.batch() as batch:
            batch.sent(batch.rows[0])
            raise RuntimeError("the broker went away")

    with pytest.raises(RuntimeError):
        await sweep()
    assert (await job.outbox.backlog()).unsent == before - 1


async def test_what_was_sent_is_not_lent_again_when_the_sender_is_cancelled(job):
    before = (await job.outbox.backlog()).unsent
    first_is_sent = asyncio.Event()

    async def sweep() -> None:
        async with job.outbox.batch() as batch:
            batch.sent(batch.rows[0])
            first_is_sent.set()
            await asyncio.Event().wait()

    sweeping = asyncio.create_task(sweep())
    await first_is_sent.wait()
    sweeping.cancel()
    await asyncio.wait([sweeping])
    assert (await job.outbox.backlog()).unsent == before - 1


async def test_a_message_that_cannot_be_sent_does_not_hold_up_the_others(job):
    async with job.outbox.batch() as batch:
        for row in batch.rows:
            batch.failed(row, "no such queue")
    await job.outbox.owe([message("elsewhere")])
    async with job.outbox.batch() as batch:
        assert [row.message.queue for row in batch.rows] == ["elsewhere"]


async def test_a_message_is_lent_by_its_id_at_any_time(job):
    (row_id,) = await job.outbox.owe([message()])
    async with job.outbox.batch(ids=[row_id]) as batch:
        batch.failed(batch.rows[0], "busy")
    async with job.outbox.batch(ids=[row_id]) as batch:
        assert batch.rows[0].attempts == 1
        batch.sent(batch.rows[0])
    async with job.outbox.batch(ids=[row_id]) as batch:
        assert batch.rows == ()


async def test_the_signal_of_a_job_run_anew_is_no_duplicate_to_the_broker(database):
    for occurrence in ("", ":2"):
        await submit(database)
        await database.jobs.start_stage(JOB, 1, new_tasks("t1"))
        completion = await database.tasks.complete(await claimed(database, "t1"), {}, signal=signal())
        async with database.outbox.batch() as batch:
            (mine,) = [row for row in batch.rows if row.id == completion.signal_id]
            assert mine.message.message_id == f"{JOB}:1:stage_complete{occurrence}"
            for row in batch.rows:
                batch.sent(row)
        await database.jobs.fail(JOB, error_details="x")


async def test_an_id_for_the_broker_is_not_used_again_when_older_ones_of_it_are_purged(database, conninfo):
    for _ in range(2):
        await database.outbox.owe([signal()])
    await run_sql(conninfo, "update app.worker_outbox set sent_at = now() - interval '1 year' where id = 1")
    await run_sql(conninfo, "update app.worker_outbox set sent_at = now() where id = 2")
    await database.outbox.purge()
    await database.outbox.owe([signal()])
    assert await signals(database) == [f"{JOB}:1:stage_complete:3"], "the broker may still remember :2"


async def test_purging_forgets_only_what_is_over(job, conninfo):
    await claimed(job, "t1")
    await run_sql(conninfo, "update app.worker_outbox set sent_at = now() - interval '1 year' where id = 1")
    await run_sql(
        conninfo, "insert into app.worker_claims values ('gone', now(), gen_random_uuid(), 'w', '2020-01-01')"
    )
    assert await job.outbox.purge() == 2
    assert (await job.outbox.backlog()).unsent == 3
    assert await run_sql(conninfo, "select task_id from app.worker_claims") == [("t1",)]


# the platform's part


async def test_submitting_again_returns_the_job_that_is_there(database):
    first = await database.jobs.submit(NewJob(JOB, "a_job", {"a": 1}, 2), message=message())
    again = await database.jobs.submit(NewJob(JOB, "a_job", {"a": 2}, 2), message=message())
    assert (first.created, again.created, again.status) == (True, False, "queued")
    assert (await database.jobs.get(JOB)).parameters == {"a": 1}
    assert (await database.outbox.backlog()).unsent == 1


async def test_submitting_a_job_many_times_at_once_makes_one(database, other):
    job = NewJob(JOB, "a_job", {}, 2)
    outcomes = await asyncio.gather(
        *(db.jobs.submit(job, message=message()) for _ in range(5) for db in (database, other))
    )
    assert sum(outcome.created for outcome in outcomes) == 1
    assert (await database.outbox.backlog()).unsent == 1


async def test_a_failed_job_is_run_anew(job):
    await job.jobs.fail(JOB, error_details="x")
    outcome = await job.jobs.submit(NewJob(JOB, "a_job", {}, 2), message=message("geospatial-jobs", "again"))
    assert outcome.created
    assert await job.tasks.of_job(JOB) == []
    async with job.outbox.batch() as batch:
        assert [row.message.message_id for row in batch.rows] == ["again"]


async def test_resubmitting_a_failed_job_many_times_at_once_makes_one(job, other):
    await job.jobs.fail(JOB, error_details="x")
    outcomes = await asyncio.gather(
        *(
            db.jobs.submit(NewJob(JOB, "a_job", {}, 2), message=message())
            for _ in range(4)
            for db in (job, other)
        ),
        return_exceptions=True,
    )
    made = [outcome for outcome in outcomes if not isinstance(outcome, DatabaseError) and outcome.created]
    assert len(made) == 1
    assert (await job.jobs.get(JOB)).status == "queued"


async def test_starting_a_stage_twice_creates_its_tasks_once(database):
    await submit(database)
    counts = await asyncio.gather(
        *(database.jobs.start_stage(JOB, 1, new_tasks("t1", "t2")) for _ in range(4))
    )
    assert sorted(counts) == [0, 0, 0, 2]
    assert len(await queued_messages(database, "raster-tasks")) == 2
    assert (await database.jobs.get(JOB)).status == "processing"


async def test_a_task_id_of_another_job_is_refused(job):
    other_job = JOB[:8] + "b" * 56
    await submit(job, job_id=other_job)
    with pytest.raises(TaskIdTaken, match="aaaaaaaa"):
        await job.jobs.start_stage(other_job, 1, new_tasks("t1"))
    assert (await job.jobs.get(other_job)).status == "queued"


async def test_advancing_many_times_at_once_advances_once(job, other):
    outcomes = await asyncio.gather(
        *(
            db.jobs.advance(JOB, 1, results=[{"ok": True}], tasks=new_tasks("u1"))
            for _ in range(5)
            for db in (job, other)
        )
    )
    assert sum(outcome.advanced for outcome in outcomes) == 1
    row = await job.jobs.get(JOB)
    assert (row.stage, row.status, row.stage_results) == (2, "processing", {"1": {"ok": True}})
    assert [task.task_id for task in await job.tasks.of_job(JOB, stage=2)] == ["u1"]


async def test_a_job_is_finished_once_and_only_from_its_last_stage(job):
    assert not await job.jobs.finish(JOB, 2, stage_results={}, result={})
    assert await job.jobs.finish(JOB, 1, stage_results={"n": 3}, result={"done": True})
    assert not await job.jobs.finish(JOB, 1, stage_results={}, result={})
    assert not await job.jobs.fail(JOB, error_details="late")
    row = await job.jobs.get(JOB)
    assert (row.status, row.result_data, row.stage_results) == ("completed", {"done": True}, {"1": {"n": 3}})


async def test_five_thousand_tasks_are_created_at_once(database):
    await submit(database)
    ids = [f"{i:04d}" for i in range(5000)]
    assert await database.jobs.start_stage(JOB, 1, new_tasks(*ids)) == 5000
    assert [task.status for task in await database.tasks.of_job(JOB, stage=1)] == ["queued"] * 5000
    assert (await database.outbox.backlog()).unsent == 5001


# connections


async def test_every_connection_is_read_committed_in_utc_whatever_the_defaults_are(own_conninfo):
    name = psycopg.conninfo.conninfo_to_dict(own_conninfo)["dbname"]
    await run_sql(
        own_conninfo, f"alter database {name} set default_transaction_isolation = 'repeatable read'"
    )
    await run_sql(own_conninfo, f"alter database {name} set timezone = 'Asia/Tokyo'")
    async with (
        Database(Connections(own_conninfo)) as database,
        database.connections.connection() as connection,
    ):
        cursor = await connection.execute(
            "select current_setting('transaction_isolation') as isolation,"
            " current_setting('timezone') as zone"
        )
        assert await cursor.fetchone() == {"isolation": "read committed", "zone": "UTC"}


async def test_the_pool_heals_when_its_connections_are_killed(job, conninfo):
    await job.tasks.get("t1")
    await run_sql(
        conninfo,
        "select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid()"
        " and datname = current_database()",
    )
    assert (await job.tasks.get("t1")).status == "queued"


async def test_a_connection_that_breaks_in_mid_transaction_is_a_database_error(job, conninfo):
    async def broken() -> None:
        async with job.outbox.batch():
            await run_sql(
                conninfo,
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where pid <> pg_backend_pid() and datname = current_database()",
            )

    with pytest.raises(DatabaseError):
        await broken()
    assert (await job.outbox.backlog()).unsent == 4


async def test_a_server_that_is_not_there_is_a_clear_error(tmp_path):
    async with Database(Connections(f"host={tmp_path} dbname=x user=y")) as database:
        with pytest.raises(DatabaseError, match=r"no connection .*No such file or directory"):
            await migration.check(database.connections, timeout=1)


async def test_a_value_that_does_not_fit_is_refused_for_good(database):
    with pytest.raises(DatabaseRejected):
        await submit(database, job_id="x" * 65)


async def test_every_statement_has_a_name_and_no_comment_left():
    queries = sections("queries.sql", "name")
    assert len(queries) > 30
    assert all(text and "--" not in text for text in queries.values())


# rescue


async def held(database: Database, task_id: str, *, queue: str = "docker-tasks") -> Claim:
    outcome = await database.tasks.claim(
        task_id,
        JOB,
        worker="w1",
        lease_seconds=LEASE,
        message=OutboxMessage(queue, f'{{"task_id": "{task_id}"}}', correlation_id="docker-aaaaaaaa"),
    )
    assert isinstance(outcome, Claimed)
    return outcome.claim


async def let_the_lease_run_out(conninfo: str) -> None:
    await run_sql(
        conninfo,
        "alter table app.tasks disable trigger user;"
        "update app.tasks set heartbeat = timezone('utc', now()) - interval '1 hour',"
        " updated_at = timezone('utc', now()) - interval '1 hour' where status = 'processing';"
        "alter table app.tasks enable trigger user",
    )


async def test_a_dead_workers_task_is_queued_again_with_its_own_message(job, other, conninfo):
    dead = await held(job, "t1")
    await held(job, "t2", queue="raster-tasks")
    assert await other.tasks.rescue(["docker-tasks"], lease_seconds=LEASE) == [], "its worker is alive"
    await let_the_lease_run_out(conninfo)
    rescued = await asyncio.gather(
        *(db.tasks.rescue(["docker-tasks"], lease_seconds=LEASE) for db in (job, other))
    )
    assert sorted(rescued) == [[], ["t1"]], "once, and only where we serve the queue"
    assert (await job.tasks.get("t1")).status == "queued"
    async with job.outbox.batch() as batch:
        (message,) = [row.message for row in batch.rows if row.message.queue == "docker-tasks"]
    assert (message.body, message.correlation_id) == ('{"task_id": "t1"}', "docker-aaaaaaaa")
    assert not (await job.tasks.complete(dead, {}, signal=signal())).accepted
    assert await job.tasks.standing([dead]) == set()


async def test_take_overs_and_deaths_of_a_row_add_up(job, conninfo):
    for _ in range(2):
        await held(job, "t1")
        await let_the_lease_run_out(conninfo)
        await job.tasks.rescue(["docker-tasks"], lease_seconds=LEASE)
    assert await job.tasks.retry(await held(job, "t1"), message=message(), deaths=1)
    await job.tasks.release(await held(job, "t1"))
    outcome = await job.tasks.claim("t1", JOB, worker="w1", lease_seconds=LEASE)
    assert isinstance(outcome, Claimed)
    assert (outcome.takeovers, outcome.deaths, outcome.crashes) == (2, 1, 3)


async def test_only_claims_that_nobody_has_taken_away_stand(job, other, conninfo):
    one, two, three = [await held(job, task_id) for task_id in ("t1", "t2", "t3")]
    assert await other.tasks.standing([one, two, three]) == {one.token, two.token, three.token}
    await job.tasks.complete(one, {}, signal=signal())
    await run_sql(conninfo, "delete from app.tasks where task_id = 't2'")
    await run_sql(conninfo, "update app.tasks set status = 'failed' where task_id = 't3'")
    assert await other.tasks.standing([one, two, three]) == set()


async def test_a_failure_whose_message_was_not_dead_lettered_is_told_to_the_next_who_gets_it(job):
    await job.tasks.fail(await held(job, "t1"), reason="SourceNotFound", error_details="no blob x", result={})
    found = await job.tasks.claim("t1", JOB, worker="w2", lease_seconds=LEASE)
    assert found == Finished("failed", Burial("SourceNotFound", "no blob x"))
    await job.tasks.note_dead_letter("t1")
    assert await job.tasks.claim("t1", JOB, worker="w2", lease_seconds=LEASE) == Finished("failed")


async def test_what_a_run_left_unsaid_is_not_said_into_the_next(job, conninfo):
    for task_id in ("t1", "t2", "t3"):
        await job.tasks.complete(await claimed(job, task_id), {}, signal=signal())
    assert await signals(job) == [f"{JOB}:1:stage_complete"]
    await run_sql(
        conninfo,
        "create temporary table kept as select * from app.jobs;"
        "delete from app.jobs;"
        "insert into app.jobs (job_id, job_type, total_stages) select job_id, job_type, 2 from kept",
    )
    assert await signals(job) == []
