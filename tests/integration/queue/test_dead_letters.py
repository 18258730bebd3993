"""Dead letters with a real queue and a real database: listed, shown and purged, never lost."""

from __future__ import annotations

import pytest

from gdaltools.errors import InvalidParameter
from tests.support.bench import JOB, QUEUE
from tests.support.dead_letters import ALL, body, bury, fail, outcomes, sequences, task
from worker.database import Database
from worker.errors import DeadLetterNotFound, QueueNotFound
from worker.local.broker.server import BrokerThread
from worker.queue.bus import Bus
from worker.queue.dead_letter import Selection
from worker.queue.dead_letters import DeadLetters

pytestmark = pytest.mark.timeout(120)


# Looking


async def test_a_list_says_reason_and_description_in_words_and_what_task_it_is(
    dead_letters: DeadLetters, bus: Bus
) -> None:
    await bury(bus, body("a"), reason="SourceNotFound", text="bronze-rasters/scene.tif does not exist")
    found = await dead_letters.listing(QUEUE)
    assert (found.queue, found.total, len(found.dead_letters)) == (QUEUE, 1, 1)
    (dead_letter,) = found.dead_letters
    assert dead_letter.message.dead_letter_reason == "SourceNotFound"
    assert dead_letter.message.dead_letter_description == "bronze-rasters/scene.tif does not exist"
    assert dead_letter.task is not None
    assert (dead_letter.task.task_id, dead_letter.task.parent_job_id, dead_letter.task.stage) == ("a", JOB, 1)
    assert dead_letter.task.task_type == "create_cog"
    assert dead_letter.message.enqueued_at is not None
    assert dead_letter.text == body("a")


async def test_looking_locks_nothing_and_counts_no_delivery(
    dead_letters: DeadLetters, bus: Bus, broker: BrokerThread
) -> None:
    await bury(bus, body("a"), body("b"))
    first = await dead_letters.listing(QUEUE)
    await dead_letters.show(QUEUE, first.dead_letters[0].sequence_number)
    again = await dead_letters.listing(QUEUE)
    assert again == first
    async with bus.receiver(QUEUE, sub_queue="dead-letter") as receiver:
        assert len(await receiver.receive_many(2, wait_seconds=2)) == 2


async def test_a_list_is_as_long_as_asked_from_the_end_that_was_asked(
    dead_letters: DeadLetters, bus: Bus
) -> None:
    await bury(bus, *(body(f"t{number}") for number in range(120)))
    newest = await dead_letters.listing(QUEUE, limit=2)
    oldest = await dead_letters.listing(QUEUE, limit=2, order="oldest")
    assert newest.total == oldest.total == 120
    assert [dead_letter.task_id for dead_letter in newest.dead_letters] == ["t119", "t118"]
    assert [dead_letter.task_id for dead_letter in oldest.dead_letters] == ["t0", "t1"]


async def test_a_queue_that_is_not_ours_and_a_letter_that_is_not_there_are_refused(
    dead_letters: DeadLetters,
) -> None:
    with pytest.raises(QueueNotFound, match="docker-tasks"):
        await dead_letters.listing("other-tasks")
    with pytest.raises(DeadLetterNotFound, match="7"):
        await dead_letters.show(QUEUE, 7)


async def test_a_letter_is_shown_with_its_task_and_job(
    dead_letters: DeadLetters, bus: Bus, job: Database
) -> None:
    await fail(job, "a")
    await bury(bus, body("a"), "no task at all")
    first, second = await sequences(dead_letters)
    shown = await dead_letters.show(QUEUE, first)
    assert shown.row is not None
    assert shown.job is not None
    assert (shown.row.status, shown.row.error_details, shown.job.status) == ("failed", "broke", "failed")
    assert (await dead_letters.show(QUEUE, second)).note == "not a task"


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"all": False},
        {"all": True, "reason": "x"},
        {"sequences": [0]},
        {"sequences": [2**63]},
        {"sequences": ["1"]},
        {"sequences": [True]},
        {"taskId": ""},
        {"everything": "yes"},
        {"letters": [1]},
        [],
    ],
)
def test_a_choice_of_nothing_or_of_nonsense_is_refused(given: object) -> None:
    with pytest.raises(InvalidParameter):
        Selection.of(given)


# Purging


async def test_purging_by_reason_leaves_the_others_rows_and_jobs(
    dead_letters: DeadLetters, bus: Bus, job: Database
) -> None:
    await fail(job, "a")
    await bury(bus, body("a"), reason="Hopeless")
    await bury(bus, body("b"), reason="HopelessToo")
    (purged,) = await dead_letters.purge(QUEUE, Selection(reason="hopeless"))
    assert (purged.outcome, purged.task_id, purged.detail) == ("purged", "a", "Hopeless")
    (left,) = (await dead_letters.listing(QUEUE)).dead_letters
    assert left.task_id == "b"
    assert (await task(job, "a")).status == "failed"


async def test_what_is_asked_for_together_must_apply_together(dead_letters: DeadLetters, bus: Bus) -> None:
    await bury(bus, body("a"), body("b"), reason="One")
    await bury(bus, body("a"), reason="Two")
    first = (await sequences(dead_letters))[0]
    assert await dead_letters.purge(QUEUE, Selection(task_id="b", reason="two")) == []
    wrong = Selection(sequences=frozenset({first}), reason="two")
    assert outcomes(await dead_letters.purge(QUEUE, wrong)) == ["absent"]
    assert outcomes(await dead_letters.purge(QUEUE, Selection(task_id="a", reason="two"))) == ["purged"]
    assert len(await sequences(dead_letters)) == 2


async def test_many_letters_between_many_others_are_found_however_short_the_locks(
    bus: Bus, broker: BrokerThread
) -> None:
    dead_letters = DeadLetters(bus, queues=(QUEUE,))
    await bury(bus, *(f"{number}" for number in range(150)), reason="Other")
    await bury(bus, *(f"wanted {number}" for number in range(150)), reason="Wanted")
    before = await sequences(dead_letters)
    handled = await dead_letters.purge(QUEUE, Selection(reason="wanted"))
    assert outcomes(handled) == ["purged"] * 150
    found = await dead_letters.listing(QUEUE, order="oldest", limit=200)
    assert [dead_letter.text for dead_letter in found.dead_letters] == [f"{number}" for number in range(150)]
    assert before[:50] == [dead_letter.sequence_number for dead_letter in found.dead_letters[:50]]


async def test_letters_that_somebody_else_holds_are_said_to_be_absent(bus: Bus) -> None:
    dead_letters = DeadLetters(bus, queues=(QUEUE,))
    await bury(bus, "held", "free")
    async with bus.receiver(QUEUE, sub_queue="dead-letter") as other:
        held = await other.receive(wait_seconds=5)
        assert held is not None
        async with held.lock_kept(lambda: None):
            assert outcomes(await dead_letters.purge(QUEUE, ALL)) == ["absent", "purged"]
        await held.abandon()
    assert outcomes(await dead_letters.purge(QUEUE, ALL)) == ["purged"]
