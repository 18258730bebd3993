"""The steps of one task, in the order of protocol.md §4: look, claim, run, complete or fail, publish, settle.

One rule orders the steps: a message is settled only after its effect is durable, and every durable write is
fenced by the claim. A message may therefore be delivered twice, and a worker may die at any point.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar
from uuid import uuid4

from gdaltools.errors import StorageError
from gdaltools.runtime import crash_points
from worker.database import Database
from worker.database.connections import DatabaseError, DatabaseRejected, with_retries
from worker.errors import (
    BusError,
    ChildDied,
    LockLost,
    MemoryBusy,
    TaskFailed,
    TaskTimedOut,
    WorkerDied,
)
from worker.protocol.messages import InvalidMessage, StageComplete, TaskMessage, parse_task
from worker.protocol.rows import (
    Burial,
    Claim,
    Claimed,
    ClaimOutcome,
    Finished,
    HeldElsewhere,
    JobOver,
    Missing,
    OutboxMessage,
)
from worker.queue.bus import Message
from worker.queue.outbox import Outbox
from worker.task.heartbeat import Heartbeat
from worker.task.pressure import Pressure
from worker.task.runner import Runner
from worker.task.running import LocalRun, RunningTasks
from worker.telemetry import traces
from worker.telemetry.metrics import METRICS, TaskOutcome

MAX_RETRIES = 3
_RETRY_FIRST_SECONDS = 5
_RETRY_LONGEST_SECONDS = 300
# A row may be committed after its message was sent, so a missing row is looked up several times.
_MISSING_LOOKS = 5
_MISSING_WAIT_SECONDS = 1.0
# The delay before a task that found too little free memory is received again, here or elsewhere.
_MEMORY_WAIT_SECONDS = 30.0

log = logging.getLogger(__name__)
T = TypeVar("T")


class StopReason(Enum):
    """The reason for interrupting a task from outside."""

    LOCK_LOST = "the message's lock was lost"
    CLAIM_LOST = "the task's row is no longer ours"
    SHUTDOWN = "the worker is shutting down"


class _Interrupted(Exception):
    def __init__(self, reason: StopReason) -> None:
        super().__init__(reason.value)
        self.reason = reason


@dataclass(frozen=True)
class ProcessorOptions:
    """The processor's names, times and limits.

    A task fails once `crash_limit` of its runs have ended with the death of a process.
    """

    app_name: str
    jobs_queue: str
    lease_seconds: float
    crash_limit: int


class Processor:
    """Processes messages of the task queues, many concurrently and each independently of the others."""

    def __init__(
        self,
        *,
        database: Database,
        outbox: Outbox,
        runner: Runner,
        heartbeat: Heartbeat,
        pressure: Pressure,
        options: ProcessorOptions,
    ) -> None:
        self._database = database
        self._outbox = outbox
        self._runner = runner
        self._heartbeat = heartbeat
        self._pressure = pressure
        self._options = options
        self._held: set[asyncio.Future[StopReason]] = set()
        self.running_tasks = RunningTasks()
        """The tasks that are running now."""

    @property
    def busy(self) -> int:
        """The number of messages being processed."""
        return len(self._held)

    def shut_down(self) -> None:
        """Stop every running task and return it to its queue."""
        for interrupted in self._held:
            _interrupt(interrupted, StopReason.SHUTDOWN)

    async def process(self, message: Message) -> None:
        """Process one message from receipt to settlement.

        The call returns when the message is settled. If the message's lock or the task's claim is lost, or if
        the database or the bus fails, the call returns without settling the message, and the broker delivers
        it again. A result is never written without the claim.
        """
        interrupted: asyncio.Future[StopReason] = asyncio.get_running_loop().create_future()
        self._held.add(interrupted)
        try:
            async with message.lock_kept(lambda: _interrupt(interrupted, StopReason.LOCK_LOST)):
                crash_points.reach("message-received")
                await self._through_its_steps(message, interrupted)
                crash_points.reach("message-settled")
        except LockLost:
            log.warning("message %s: its lock was lost before it was settled", message.message_id)
        except _Interrupted as stop:
            log.warning("message %s: stopped: %s", message.message_id, stop)
        except (DatabaseError, BusError) as error:
            log.error("message %s comes again when its lock ends: %s", message.message_id, error)
        finally:
            self._held.discard(interrupted)

    async def _through_its_steps(self, message: Message, interrupted: asyncio.Future[StopReason]) -> None:
        try:
            task = parse_task(message.body)
        except InvalidMessage as error:
            log.error("message %s on %s is dead-lettered: %s", message.message_id, message.queue, error)
            await _dead_letter(message, "InvalidMessage", str(error))
            return
        with self._runner.warm():  # the forkserver imports while the claim is made
            await self._as_claimed(message, task, interrupted)

    async def _as_claimed(
        self, message: Message, task: TaskMessage, interrupted: asyncio.Future[StopReason]
    ) -> None:
        with traces.span("claim"):
            outcome = await self._claimed(message, task, interrupted)
        match outcome:
            case Claimed() as claimed:
                crash_points.reach("task-claimed")
                with self.running_tasks.running(task, message.queue) as run:
                    run.outcome = await self._run(message, task, claimed, run, interrupted)
            case Finished(burial=Burial() as burial):
                log.info("task %s has failed before: its message is dead-lettered now", task.task_id)
                await self._bury(message, task.task_id, burial)
            case Finished(status=status):
                log.info("task %s is %s already", task.task_id, status)
                await self._outbox.publish_or_leave()
                await message.complete()
            case JobOver(status=status):
                log.info("task %s is not run: its job is %s", task.task_id, status)
                await message.complete()
            case HeldElsewhere():
                log.info("task %s is run by another worker: looking again later", task.task_id)
                await self._hand_back(message, delay_seconds=self._options.lease_seconds / 3)
            case Missing():
                reason = f"task {task.task_id} of job {task.parent_job_id} has no row: resubmit the job"
                log.error("message %s is dead-lettered: %s", message.message_id, reason)
                await _dead_letter(message, "TaskNotFound", reason)

    async def _claimed(
        self, message: Message, task: TaskMessage, interrupted: asyncio.Future[StopReason]
    ) -> ClaimOutcome:
        token = uuid4()  # the same for all attempts: a claim survives the loss of the database's answer
        for _ in range(_MISSING_LOOKS):
            outcome = await self._with_retries(
                lambda: self._database.tasks.claim(
                    task.task_id,
                    task.parent_job_id,
                    worker=self._options.app_name,
                    lease_seconds=self._options.lease_seconds,
                    token=token,
                    message=_copy(message),
                ),
                interrupted,
            )
            if not isinstance(outcome, Missing):
                break
            await _wait(_MISSING_WAIT_SECONDS, interrupted)
        return outcome

    async def _run(
        self,
        message: Message,
        task: TaskMessage,
        claimed: Claimed,
        run: LocalRun,
        interrupted: asyncio.Future[StopReason],
    ) -> TaskOutcome:
        claim = claimed.claim
        if claimed.crashes >= self._options.crash_limit:
            await self._fail(message, claim, WorkerDied(_story(claimed)), interrupted)
            return "failed"
        inputs = claimed.parameters if task.parameters_in_row else task.parameters
        parameters = {
            **inputs,
            "_job_id": task.parent_job_id,
            "_job_type": task.job_type,
            "_stage": task.stage,
            "_task_id": task.task_id,
        }
        log.info("task %s (%s, stage %d) starts", task.task_id, task.task_type, task.stage)
        measured: dict[str, Any] = {}
        try:
            with (
                traces.span("run"),
                self._heartbeat.kept(
                    claim, lambda: _interrupt(interrupted, StopReason.CLAIM_LOST)
                ) as on_progress,
            ):
                result = await _unless(
                    interrupted,
                    self._runner.run(
                        task.task_type,
                        parameters,
                        on_progress=run.showing(on_progress),
                        on_measured=measured.update,
                        on_started=run.started,
                    ),
                )
        except MemoryBusy as busy:
            log.warning("task %s goes back to its queue: %s", claim.task_id, busy)
            await self._release(message, claim, delay_seconds=_MEMORY_WAIT_SECONDS)
            return "released"
        except (TaskFailed, TaskTimedOut, ChildDied) as error:
            return await self._retry_or_fail(message, claimed, error, interrupted)
        except _Interrupted as stop:
            if stop.reason is not StopReason.SHUTDOWN:
                raise
            log.info("task %s goes back to its queue: %s", claim.task_id, stop)
            await self._release(message, claim)
            return "released"
        self._pressure.storage_works()
        try:
            with traces.span("complete"):
                await self._complete(task, claim, result, measured, interrupted)
        except DatabaseRejected as error:
            refused = TaskFailed(str(error), error_type="DatabaseRejected", retryable=False)
            return await self._retry_or_fail(message, claimed, refused, interrupted)
        await message.complete()
        return "completed"

    async def _complete(
        self,
        task: TaskMessage,
        claim: Claim,
        result: dict[str, Any],
        measured: dict[str, Any],
        interrupted: asyncio.Future[StopReason],
    ) -> None:
        signal = StageComplete.of(
            task.parent_job_id,
            task.stage,
            job_type=task.job_type,
            completed_by=self._options.app_name,
        )
        outgoing = OutboxMessage(
            queue=self._options.jobs_queue,
            message_id=signal.message_id,
            body=signal.body(),
            correlation_id=signal.correlation_id,
        )
        completion = await self._with_retries(
            lambda: self._database.tasks.complete(claim, result, signal=outgoing, measured=measured or None),
            interrupted,
        )
        if not completion.accepted:
            raise _Interrupted(StopReason.CLAIM_LOST)
        crash_points.reach("task-completed")
        log.info("task %s is completed; %d remain in its stage", task.task_id, completion.remaining)
        if completion.last:
            await self._outbox.publish_or_leave()

    async def _retry_or_fail(
        self,
        message: Message,
        claimed: Claimed,
        error: TaskFailed | TaskTimedOut | ChildDied,
        interrupted: asyncio.Future[StopReason],
    ) -> TaskOutcome:
        claim, attempt = claimed.claim, claimed.retry_count
        if isinstance(error, TaskFailed) and error.error_type == StorageError.__name__:
            self._pressure.storage_failed(str(error))
        deaths = int(isinstance(error, ChildDied))
        spent = attempt >= MAX_RETRIES or claimed.crashes + deaths >= self._options.crash_limit
        if not error.retryable or spent:
            await self._fail(message, claim, error, interrupted, retries=attempt)
            return "failed"
        delay = min(_RETRY_FIRST_SECONDS * 2**attempt, _RETRY_LONGEST_SECONDS)
        log.warning("task %s failed and is tried again in %d s: %s", claim.task_id, delay, error)
        again = _copy(message, delay_seconds=delay)
        if not await self._with_retries(
            lambda: self._database.tasks.retry(claim, message=again, error=str(error), deaths=deaths),
            interrupted,
        ):
            raise _Interrupted(StopReason.CLAIM_LOST)
        crash_points.reach("task-retried")
        await self._outbox.publish_or_leave()
        await message.complete()
        return "retried"

    async def _fail(
        self,
        message: Message,
        claim: Claim,
        error: TaskFailed | TaskTimedOut | ChildDied | WorkerDied,
        interrupted: asyncio.Future[StopReason],
        *,
        retries: int = 0,
    ) -> None:
        error_type = error.error_type if isinstance(error, TaskFailed) else type(error).__name__
        details = f"{error_type}: {error}"
        if error.retryable and retries:
            details += f" (after {retries} retries)"
        log.error("task %s failed: %s", claim.task_id, details)
        failure = {
            "success": False,
            "error": str(error),
            "error_type": error_type,
            "retryable": error.retryable,
        }
        if not await self._with_retries(
            lambda: self._database.tasks.fail(
                claim, reason=error_type, error_details=details, result=failure
            ),
            interrupted,
        ):
            raise _Interrupted(StopReason.CLAIM_LOST)
        crash_points.reach("task-failed")
        await self._bury(message, claim.task_id, Burial(error_type, details))

    async def _bury(self, message: Message, task_id: str, burial: Burial) -> None:
        await _dead_letter(message, burial.reason, burial.description)
        crash_points.reach("message-dead-lettered")
        await self._database.tasks.note_dead_letter(task_id)

    async def _release(self, message: Message, claim: Claim, *, delay_seconds: float = 0) -> None:
        again = _copy(message, delay_seconds=delay_seconds)
        if await with_retries(lambda: self._database.tasks.release(claim, message=again)):
            crash_points.reach("task-released")
            await self._outbox.publish_or_leave()
            await message.complete()

    async def _hand_back(self, message: Message, *, delay_seconds: float) -> None:
        """Send a delayed copy of the message, then complete the original; this uses up no delivery."""
        await self._database.outbox.owe([_copy(message, delay_seconds=delay_seconds)])
        crash_points.reach("message-copied")
        await self._outbox.publish_or_leave()
        await message.complete()

    async def _with_retries(
        self, attempt: Callable[[], Awaitable[T]], interrupted: asyncio.Future[StopReason]
    ) -> T:
        """Return the result of `attempt`, retried until it succeeds or the task is interrupted."""
        return await with_retries(attempt, pause=lambda seconds: _wait(seconds, interrupted))


async def _dead_letter(message: Message, reason: str, description: str) -> None:
    await message.dead_letter(reason, description)
    METRICS.dead_letters.add(reason=reason)


def _copy(message: Message, *, delay_seconds: float = 0) -> OutboxMessage:
    return OutboxMessage(
        queue=message.queue,
        message_id=uuid4().hex,
        body=message.body.decode(),
        correlation_id=message.correlation_id,
        delay_seconds=delay_seconds,
    )


def _story(claimed: Claimed) -> str:
    return (
        f"{claimed.takeovers} workers and {claimed.deaths} of its own processes died running this task "
        "(killed, out of memory, or evicted), so it is not run again: find out why, then redrive its message"
    )


def _interrupt(interrupted: asyncio.Future[StopReason], reason: StopReason) -> None:
    if not interrupted.done():
        interrupted.set_result(reason)


async def _wait(seconds: float, interrupted: asyncio.Future[StopReason]) -> None:
    await _unless(interrupted, asyncio.sleep(seconds))


async def _unless(interrupted: asyncio.Future[StopReason], work: Coroutine[Any, Any, T]) -> T:
    """Return the result of `work`; on an interruption cancel it, wait for its end, raise `_Interrupted`."""
    task = asyncio.create_task(work)
    try:
        first: set[asyncio.Future[Any]] = {task, interrupted}
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        if interrupted.done():
            raise _Interrupted(interrupted.result())
        return task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
