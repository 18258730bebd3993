"""List, show, redrive and purge the dead letters of a queue.

Reading locks nothing. A dead letter is removed only after the requested effect is durable: for a task, one
transaction resets the row and puts a new message into the outbox. A crash therefore leaves the dead letter in
place, and a repetition is harmless. Dead letters that were not selected keep their place and order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager

from gdaltools.runtime import crash_points
from worker.database import Database
from worker.errors import BusError, ConfigurationError, DatabaseError, DeadLetterNotFound, QueueNotFound
from worker.protocol.messages import TaskMessage, utc_now
from worker.protocol.rows import OutboxMessage, Redriven, TaskRow
from worker.queue.bus import Bus, Message, OutgoingMessage, QueueReceiver
from worker.queue.dead_letter import (
    DeadLetter,
    DeadLetterDetails,
    DeadLetterResult,
    Listing,
    Outcome,
    Selection,
    SortOrder,
    dead_letter_of,
)
from worker.queue.outbox import Outbox

# The broker's own reason (learn.microsoft.com, "Overview of Service Bus dead-letter queues").
_GIVEN_UP = "MaxDeliveryCountExceeded"
# The number of dead letters that one request peeks or locks.
_BATCH = 100
# The time to wait for dead letters that were just listed; another receiver may have them locked.
_WAIT_SECONDS = 5.0
# Dead letters that were not selected are given back after this share of their lock, before it expires.
_SHARE_OF_LOCK = 0.5
# Service Bus's limit for message ids, in characters.
_MAX_MESSAGE_ID_LENGTH = 128


Look = Callable[[int], Awaitable[tuple[DeadLetter, ...]]]
"""Returns the oldest dead letters, at most the number passed."""


class DeadLetters:
    """The dead letters of `queues`. Without a database, dead letters of tasks cannot be redriven."""

    def __init__(self, bus: Bus, *, queues: Sequence[str], database: Database | None = None) -> None:
        self._bus = bus
        self._queues = tuple(queues)
        self._database = database

    async def listing(self, queue: str, *, order: SortOrder = "newest", limit: int = 50) -> Listing:
        """Return the first `limit` dead letters of a queue in `order`, and their total number.

        Raises
        ------
        QueueNotFound
            The queue is not one of `queues`, or does not exist.
        BusError
            Service Bus failed.
        """
        newest: deque[DeadLetter] = deque(maxlen=limit)
        oldest: list[DeadLetter] = []
        total = 0
        async with self._receiver(queue) as receiver:
            async for dead_letter in _dead_letters(receiver):
                total += 1
                newest.append(dead_letter)
                if len(oldest) < limit:
                    oldest.append(dead_letter)
        return Listing(queue, total, tuple(oldest if order == "oldest" else reversed(newest)))

    @asynccontextmanager
    async def watching(self, queue: str) -> AsyncIterator[Look]:
        """Yield a function that returns a queue's oldest dead letters; for repeated calls.

        Each call is one request over a link that stays open, so its cost does not depend on the number of
        dead letters. The function raises as `listing` does and can be called again after an error.
        """
        async with self._receiver(queue) as receiver:

            async def look(limit: int) -> tuple[DeadLetter, ...]:
                return tuple(dead_letter_of(message) for message in await receiver.peek(max_count=limit))

            yield look

    async def show(self, queue: str, sequence_number: int) -> DeadLetterDetails:
        """Return one dead letter, with its task's row and job if the database has them.

        Raises
        ------
        DeadLetterNotFound
            There is no dead letter with this number.
        QueueNotFound, BusError
            As `listing`.
        """
        async with self._receiver(queue) as receiver:
            found = await receiver.peek(from_sequence=sequence_number, max_count=1)
        if not found or found[0].sequence_number != sequence_number:
            raise DeadLetterNotFound(f"{queue} has no dead letter {sequence_number}: list them")
        dead_letter = dead_letter_of(found[0])
        if dead_letter.task is None:
            return DeadLetterDetails(dead_letter, note="not a task")
        if self._database is None:
            return DeadLetterDetails(dead_letter, note="no database is configured")
        try:
            row = await self._database.tasks.get(dead_letter.task.task_id)
            job = await self._database.jobs.get(dead_letter.task.parent_job_id)
        except DatabaseError as error:  # the dead letter itself is still useful
            return DeadLetterDetails(dead_letter, note=str(error))
        if row is None or row.parent_job_id != dead_letter.task.parent_job_id:
            return DeadLetterDetails(dead_letter, job=job, note="the task has no row")
        return DeadLetterDetails(dead_letter, row, job)

    async def redrive(self, queue: str, choice: Selection) -> list[DeadLetterResult]:
        """Restart the tasks of the selected dead letters; send messages that are not tasks back to the queue.

        First all rows are reset, one transaction per job (see `Database.redrive`); then the new messages are
        published and the dead letters removed.

        Raises
        ------
        ConfigurationError
            A dead letter belongs to a task, and there is no database.
        QueueNotFound, BusError, DatabaseError
            The redrive is incomplete; completed parts are durable, and repeating the call is harmless.
        """
        async with self._receiver(queue) as receiver:
            chosen = [each async for each in _dead_letters(receiver) if choice.takes(each)]
            tasks = await self._reset(queue, chosen)
            planned = {each.sequence_number: _outcome_of(each, tasks) for each in chosen}

            async def settle(message: Message, dead_letter: DeadLetter) -> DeadLetterResult:
                if dead_letter.task is None:
                    await self._bus.send(queue, [_copy_of(dead_letter)])
                return await _removed(message, planned[dead_letter.sequence_number])

            refused = [each for each in planned.values() if each.outcome == "refused"]
            taken = [each for each in chosen if planned[each.sequence_number] not in refused]
            outcomes = await _settled(receiver, taken, settle)
        return _in_order([*outcomes, *refused], choice)

    async def purge(self, queue: str, choice: Selection) -> list[DeadLetterResult]:
        """Remove the selected dead letters permanently; rows and jobs stay unchanged.

        Raises
        ------
        QueueNotFound, BusError
            Not all dead letters were removed.
        """

        async def settle(message: Message, dead_letter: DeadLetter) -> DeadLetterResult:
            reason = dead_letter.message.dead_letter_reason or "dead-lettered without a reason"
            return await _removed(
                message, DeadLetterResult(dead_letter.sequence_number, "purged", reason, dead_letter.task_id)
            )

        async with self._receiver(queue) as receiver:
            chosen = [each async for each in _dead_letters(receiver) if choice.takes(each)]
            return _in_order(await _settled(receiver, chosen, settle), choice)

    async def take_back(self, queue: str) -> list[str]:
        """Send new messages for unfinished tasks whose messages the broker dead-lettered; return their ids.

        The broker dead-letters a message when workers have died with it as often as the queue delivers a
        message, even if that is once. The broker does not know the task, so the task's row decides: an
        unfinished task gets a new message, and the dead letter of a task that is over is removed. Any other
        dead letter stays.

        Raises
        ------
        QueueNotFound, BusError, DatabaseError
            The call is incomplete; completed parts are durable, and repeating the call is harmless.
        """
        database = self._database
        assert database is not None
        asked: list[str] = []

        async def settle(message: Message, dead_letter: DeadLetter) -> DeadLetterResult:
            assert dead_letter.task is not None
            task_id, job_id = dead_letter.task.task_id, dead_letter.task.parent_job_id
            found = await database.tasks.ask_again(task_id, job_id, message=_owed(queue, dead_letter))
            crash_points.reach("letter-answered")
            if found == "asked":
                asked.append(task_id)
            if found != "unknown":
                await message.complete()
            return DeadLetterResult(dead_letter.sequence_number, "removed", found, task_id)

        async with self._receiver(queue) as receiver:
            given_up = [
                each
                async for each in _dead_letters(receiver)
                if each.message.dead_letter_reason == _GIVEN_UP and each.task is not None
            ]
            await _settled(receiver, given_up, settle)
        return asked

    def _receiver(self, queue: str) -> QueueReceiver:
        if queue not in self._queues:
            raise QueueNotFound(f"queue {queue!r} is not one of {', '.join(self._queues)}")
        return self._bus.receiver(queue, sub_queue="dead-letter")

    async def _reset(self, queue: str, dead_letters: Iterable[DeadLetter]) -> dict[tuple[str, str], Redriven]:
        """Reset the rows of the dead letters' tasks and publish their messages.

        Return the outcomes by job and task id.
        """
        by_job: dict[str, dict[str, OutboxMessage]] = {}
        for each in dead_letters:  # if a task has several, the newest is copied
            if each.task is not None:
                by_job.setdefault(each.task.parent_job_id, {})[each.task.task_id] = _owed(queue, each)
        if not by_job:
            return {}
        if self._database is None:
            raise ConfigurationError("POSTGIS_HOST is not set: a redrive resets the tasks' rows")

        def message_of(row: TaskRow) -> OutboxMessage:
            return OutboxMessage(row.target_queue or queue, _task_of(row).body())

        found: dict[tuple[str, str], Redriven] = {}
        for job_id, messages in by_job.items():
            redriven = await self._database.tasks.redrive(job_id, messages, message_of=message_of)
            found |= {(job_id, task_id): each for task_id, each in redriven.items()}
        await Outbox(self._database, self._bus).publish_or_leave()
        return found


async def _dead_letters(receiver: QueueReceiver) -> AsyncIterator[DeadLetter]:
    """Yield all current dead letters, in order."""
    after = 0
    while page := await receiver.peek(from_sequence=after + 1, max_count=_BATCH):
        for message in page:
            yield dead_letter_of(message)
        if page[-1].sequence_number <= after:
            return
        after = page[-1].sequence_number


async def _settled(
    receiver: QueueReceiver,
    chosen: Sequence[DeadLetter],
    settle: Callable[[Message, DeadLetter], Awaitable[DeadLetterResult]],
) -> list[DeadLetterResult]:
    """Lock the selected dead letters and settle each; they can only be received in order.

    Each round starts at the front and lasts for a part of the lock duration, so that dead letters that were
    not selected are given back while they are still locked. Rounds repeat until all selected dead letters are
    settled or a round settles none.
    """
    outcomes: list[DeadLetterResult] = []
    waiting = {dead_letter.sequence_number: dead_letter for dead_letter in chosen}
    while waiting:
        before = len(waiting)
        await _round(receiver, waiting, settle, outcomes)
        if len(waiting) == before:
            break
    for dead_letter in waiting.values():
        detail = "somebody else has it, or it has gone: list, and try again"
        outcomes.append(DeadLetterResult(dead_letter.sequence_number, "absent", detail, dead_letter.task_id))
    return outcomes


async def _round(
    receiver: QueueReceiver,
    waiting: dict[int, DeadLetter],
    settle: Callable[[Message, DeadLetter], Awaitable[DeadLetterResult]],
    outcomes: list[DeadLetterResult],
) -> None:
    held: list[Message] = []
    seconds = 0.0
    try:
        while waiting and (not held or held[0].remaining_seconds > seconds):
            received = await receiver.receive_many(_BATCH, wait_seconds=_WAIT_SECONDS)
            if not received:
                return
            held += received
            seconds = seconds or _SHARE_OF_LOCK * held[0].remaining_seconds
            for message in received:
                dead_letter = waiting.pop(message.sequence_number, None)
                if dead_letter is not None:
                    outcomes.append(await settle(message, dead_letter))
    finally:
        await _give_back(message for message in held if not message.is_settled)


async def _give_back(messages: Iterable[Message]) -> None:
    for message in messages:
        try:
            await message.abandon()
        except BusError:  # the message is available again when its lock expires
            continue


async def _removed(message: Message, outcome: DeadLetterResult) -> DeadLetterResult:
    try:
        await message.complete()
    except BusError as error:
        detail = f"{outcome.detail}; but the letter stays: {error}"
        return DeadLetterResult(outcome.sequence_number, "left", detail, outcome.task_id)
    return outcome


def _in_order(outcomes: Iterable[DeadLetterResult], choice: Selection) -> list[DeadLetterResult]:
    found = {each.sequence_number: each for each in outcomes}
    for number in choice.sequences - found.keys():
        found[number] = DeadLetterResult(number, "absent", "no letter of this number is what was asked for")
    return [found[number] for number in sorted(found)]


def _outcome_of(dead_letter: DeadLetter, tasks: Mapping[tuple[str, str], Redriven]) -> DeadLetterResult:
    """Return the outcome of a redrive for a dead letter."""
    if dead_letter.task is None:
        return DeadLetterResult(
            dead_letter.sequence_number, "resent", "no task: it is in its queue again, as it was"
        )
    task_id, job_id = dead_letter.task.task_id, dead_letter.task.parent_job_id
    found = tasks[job_id, task_id]
    outcome: Outcome
    match found.outcome:
        case "reset":
            outcome, detail = "redriven", "the task is queued again"
            if found.job_status == "failed":
                detail += f", its job goes on at stage {found.stage}"
            if found.asked_again:
                detail += f", {found.asked_again} unfinished tasks beside it are asked for again"
            if found.still_failed:
                detail += f"; {found.still_failed} others of its stage are still failed: redrive them too"
        case "queued":
            outcome, detail = "resent", "the task was queued already; a copy is in its queue"
            if found.job_status == "failed":
                detail += "; but its job is failed: redrive the task that failed it"
        case "running" | "completed":
            outcome, detail = "removed", f"nothing to redrive: the task is {found.status}"
        case "stage_over":
            outcome = "refused"
            detail = (
                f"the task is of stage {found.stage}, its job is {found.job_status} at stage "
                f"{found.job_stage}: resubmit the job"
            )
        case "not_ours":
            outcome, detail = "refused", f"the task is {found.status}: that is the platform's to end"
        case "missing":
            outcome, detail = "refused", f"the task has no row in job {job_id}: resubmit the job"
    return DeadLetterResult(dead_letter.sequence_number, outcome, detail, task_id)


def _owed(queue: str, dead_letter: DeadLetter) -> OutboxMessage:
    return OutboxMessage(queue, dead_letter.text, correlation_id=dead_letter.message.correlation_id)


def _copy_of(dead_letter: DeadLetter) -> OutgoingMessage:
    """Return a copy of the message with an id that is the same for the same dead letter.

    The id differs from the original's, so that duplicate detection does not drop the copy.
    """
    message = dead_letter.message
    message_id = f"redriven:{dead_letter.sequence_number}:{message.message_id or ''}"
    plain = (str, int, float, bool)
    return OutgoingMessage(
        body=message.body,
        message_id=message_id[:_MAX_MESSAGE_ID_LENGTH],
        correlation_id=message.correlation_id,
        content_type=message.content_type or "application/json",
        application_properties={
            name: value for name, value in message.application_properties.items() if isinstance(value, plain)
        },
    )


def _task_of(row: TaskRow) -> TaskMessage:
    return TaskMessage(
        task_id=row.task_id,
        parent_job_id=row.parent_job_id,
        job_type=row.job_type,
        task_type=row.task_type,
        stage=row.stage,
        parameters=dict(row.parameters),
        task_index=row.task_index,
        retry_count=row.retry_count,
        timestamp=utc_now(),
    )
