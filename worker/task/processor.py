"""The steps of one task, in the order of protocol.md §4: look, claim, run, complete or fail, publish, settle.

One rule orders the steps: a message is settled only after its effect is durable, and every durable write is
fenced by the claim. A message may therefore be delivered twice, and a worker may die at any point.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeVar
from uuid import uuid4

from gdaltools.errors import StorageError
from gdaltools.runtime import crash_points
from worker.database import Database
from worker.database.connections import with_retries
from worker.errors import (
    BusError,
    ChildDied,
    DatabaseError,
    DatabaseRejected,
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
from worker.telemetry.metrics import TaskOutcome

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


@dataclass(eq=False, kw_only=True)
class Processor:
    """Processes messages of the task queues, many concurrently and each independently of the others.

    A task fails once `crash_limit` of its runs have ended with the death of a process. `running_tasks` are
    those that run now.
    """

    database: Database
    outbox: Outbox
    runner: Runner
    heartbeat: Heartbeat
    pressure: Pressure
    app_name: str
    jobs_queue: str
    lease_seconds: float
    crash_limit: int
    running_tasks: RunningTasks = field(default_factory=RunningTasks)
    _deliveries: set[_Delivery] = field(default_factory=set)

    @property
    def busy(self) -> int:
        """The number of messages being processed."""
        return len(self._deliveries)

    def shut_down(self) -> None:
        """Stop every running task and return it to its queue."""
        for delivery in self._deliveries:
            delivery.interrupt(StopReason.SHUTDOWN)

    async def process(self, message: Message) -> None:
        """Process one message from receipt to settlement.

        The call returns when the message is settled. If the message's lock or the task's claim is lost, or if
        the database or the bus fails, the call returns without settling the message, and the broker delivers
        it again. A result is never written without the claim.
        """
        delivery = _Delivery(self, message)
        self._deliveries.add(delivery)
        try:
            async with message.lock_kept(lambda: delivery.interrupt(StopReason.LOCK_LOST)):
                crash_points.reach("message-received")
                await delivery.go_through_its_steps()
                crash_points.reach("message-settled")
        except LockLost:
            log.warning("message %s: its lock was lost before it was settled", message.message_id)
        except _Interrupted as stop:
            log.warning("message %s: stopped: %s", message.message_id, stop)
        except (DatabaseError, BusError) as error:
            log.error("message %s comes again when its lock ends: %s", message.message_id, error)
        finally:
            self._deliveries.discard(delivery)


class _Delivery:
    """One delivery of a message, from its receipt to its settlement or to an interruption."""

    def __init__(self, processor: Processor, message: Message) -> None:
        self._processor = processor
        self._tasks = processor.database.tasks
        self._message = message
        self._interrupted: asyncio.Future[StopReason] = asyncio.get_running_loop().create_future()

    def interrupt(self, reason: StopReason) -> None:
        """Stop the work on the message, unless it is stopped already."""
        if not self._interrupted.done():
            self._interrupted.set_result(reason)

    async def go_through_its_steps(self) -> None:
        """Settle the message after its effect; raise `_Interrupted` if the work was stopped before."""
        message = self._message
        try:
            task = parse_task(message.body)
        except InvalidMessage as error:
            log.error("message %s on %s is dead-lettered: %s", message.message_id, message.queue, error)
            await self._message.dead_letter("InvalidMessage", str(error))
            return
        with self._processor.runner.warm():  # the forkserver imports while the claim is made
            with traces.span("claim"):
                outcome = await self._claim(task)
            await self._as_claimed(task, outcome)

    async def _claim(self, task: TaskMessage) -> ClaimOutcome:
        token = uuid4()  # the same for all attempts: a claim survives the loss of the database's answer
        for _ in range(_MISSING_LOOKS):
            outcome = await self._with_retries(
                lambda: self._tasks.claim(
                    task.task_id,
                    task.parent_job_id,
                    worker=self._processor.app_name,
                    lease_seconds=self._processor.lease_seconds,
                    token=token,
                    message=self._copy(),
                )
            )
            if not isinstance(outcome, Missing):
                break
            await self._unless_interrupted(asyncio.sleep(_MISSING_WAIT_SECONDS))
        return outcome

    async def _as_claimed(self, task: TaskMessage, outcome: ClaimOutcome) -> None:
        match outcome:
            case Claimed() as claimed:
                crash_points.reach("task-claimed")
                with self._processor.running_tasks.running(task, self._message.queue) as run:
                    run.outcome = await self._run(task, claimed, run)
            case Finished(burial=Burial() as burial):
                log.info("task %s has failed before: its message is dead-lettered now", task.task_id)
                await self._bury(task.task_id, burial)
            case Finished(status=status):
                log.info("task %s is %s already", task.task_id, status)
                await self._publish_and_settle()
            case JobOver(status=status):
                log.info("task %s is not run: its job is %s", task.task_id, status)
                await self._message.complete()
            case HeldElsewhere():
                log.info("task %s is run by another worker: looking again later", task.task_id)
                # A delayed copy, and not the message itself: this uses up no delivery.
                again = self._copy(delay_seconds=self._processor.lease_seconds / 3)
                await self._processor.database.outbox.owe([again])
                crash_points.reach("message-copied")
                await self._publish_and_settle()
            case Missing():
                reason = f"task {task.task_id} of job {task.parent_job_id} has no row: resubmit the job"
                log.error("message %s is dead-lettered: %s", self._message.message_id, reason)
                await self._message.dead_letter("TaskNotFound", reason)

    async def _run(self, task: TaskMessage, claimed: Claimed, run: LocalRun) -> TaskOutcome:
        claim = claimed.claim
        if claimed.crashes >= self._processor.crash_limit:
            await self._fail(claim, WorkerDied(_story(claimed)))
            return "failed"
        log.info("task %s (%s, stage %d) starts", task.task_id, task.task_type, task.stage)
        measured: dict[str, Any] = {}
        try:
            with (
                traces.span("run"),
                self._processor.heartbeat.kept(
                    claim, lambda: self.interrupt(StopReason.CLAIM_LOST)
                ) as on_progress,
            ):
                result = await self._unless_interrupted(
                    self._processor.runner.run(
                        task.task_type,
                        _inputs(task, claimed),
                        on_progress=run.showing(on_progress),
                        on_measured=measured.update,
                        on_started=run.started,
                    )
                )
        except MemoryBusy as busy:
            log.warning("task %s goes back to its queue: %s", claim.task_id, busy)
            return await self._release(claim, delay_seconds=_MEMORY_WAIT_SECONDS)
        except (TaskFailed, TaskTimedOut, ChildDied) as error:
            return await self._retry_or_fail(claimed, error)
        except _Interrupted as stop:
            if stop.reason is not StopReason.SHUTDOWN:
                raise
            log.info("task %s goes back to its queue: %s", claim.task_id, stop)
            return await self._release(claim)
        self._processor.pressure.storage_works()
        try:
            with traces.span("complete"):
                await self._complete(task, claim, result, measured)
        except DatabaseRejected as error:
            refused = TaskFailed(str(error), error_type="DatabaseRejected", retryable=False)
            return await self._retry_or_fail(claimed, refused)
        await self._message.complete()
        return "completed"

    async def _complete(
        self, task: TaskMessage, claim: Claim, result: dict[str, Any], measured: dict[str, Any]
    ) -> None:
        signal = StageComplete.of(
            task.parent_job_id,
            task.stage,
            job_type=task.job_type,
            completed_by=self._processor.app_name,
        )
        outgoing = OutboxMessage(
            queue=self._processor.jobs_queue,
            message_id=signal.message_id,
            body=signal.body(),
            correlation_id=signal.correlation_id,
        )
        completion = await self._with_retries(
            lambda: self._tasks.complete(claim, result, signal=outgoing, measured=measured or None)
        )
        if not completion.accepted:
            raise _Interrupted(StopReason.CLAIM_LOST)
        crash_points.reach("task-completed")
        log.info("task %s is completed; %d remain in its stage", task.task_id, completion.remaining)
        if completion.last:
            await self._processor.outbox.publish_or_leave()

    async def _retry_or_fail(
        self, claimed: Claimed, error: TaskFailed | TaskTimedOut | ChildDied
    ) -> TaskOutcome:
        claim, attempt = claimed.claim, claimed.retry_count
        if isinstance(error, TaskFailed) and error.error_type == StorageError.__name__:
            self._processor.pressure.storage_failed(str(error))
        deaths = int(isinstance(error, ChildDied))
        spent = attempt >= MAX_RETRIES or claimed.crashes + deaths >= self._processor.crash_limit
        if not error.retryable or spent:
            await self._fail(claim, error, retries=attempt)
            return "failed"
        delay = min(_RETRY_FIRST_SECONDS * 2**attempt, _RETRY_LONGEST_SECONDS)
        log.warning("task %s failed and is tried again in %d s: %s", claim.task_id, delay, error)
        again = self._copy(delay_seconds=delay)
        if not await self._with_retries(
            lambda: self._tasks.retry(claim, message=again, error=str(error), deaths=deaths)
        ):
            raise _Interrupted(StopReason.CLAIM_LOST)
        crash_points.reach("task-retried")
        await self._publish_and_settle()
        return "retried"

    async def _fail(
        self,
        claim: Claim,
        error: TaskFailed | TaskTimedOut | ChildDied | WorkerDied,
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
            lambda: self._tasks.fail(claim, reason=error_type, error_details=details, result=failure)
        ):
            raise _Interrupted(StopReason.CLAIM_LOST)
        crash_points.reach("task-failed")
        await self._bury(claim.task_id, Burial(error_type, details))

    async def _bury(self, task_id: str, burial: Burial) -> None:
        await self._message.dead_letter(burial.reason, burial.description)
        crash_points.reach("message-dead-lettered")
        await self._tasks.note_dead_letter(task_id)

    async def _release(self, claim: Claim, *, delay_seconds: float = 0) -> TaskOutcome:
        """Return the task to its queue, also when the work on it was stopped."""
        again = self._copy(delay_seconds=delay_seconds)
        if await with_retries(lambda: self._tasks.release(claim, message=again)):
            crash_points.reach("task-released")
            await self._publish_and_settle()
        return "released"

    async def _publish_and_settle(self) -> None:
        await self._processor.outbox.publish_or_leave()
        await self._message.complete()

    def _copy(self, *, delay_seconds: float = 0) -> OutboxMessage:
        return OutboxMessage(
            queue=self._message.queue,
            message_id=uuid4().hex,
            body=self._message.body.decode(),
            correlation_id=self._message.correlation_id,
            delay_seconds=delay_seconds,
        )

    async def _with_retries(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Return the result of `attempt`, retried until it succeeds or the task is interrupted."""
        return await with_retries(
            attempt, pause=lambda seconds: self._unless_interrupted(asyncio.sleep(seconds))
        )

    async def _unless_interrupted(self, work: Coroutine[Any, Any, T]) -> T:
        """Return the result of `work`; if interrupted cancel it, wait for its end, raise `_Interrupted`."""
        task = asyncio.create_task(work)
        try:
            first: set[asyncio.Future[Any]] = {task, self._interrupted}
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            if self._interrupted.done():
                raise _Interrupted(self._interrupted.result())
            return task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def _inputs(task: TaskMessage, claimed: Claimed) -> dict[str, Any]:
    return {
        **(claimed.parameters if task.parameters_in_row else task.parameters),
        "_job_id": task.parent_job_id,
        "_job_type": task.job_type,
        "_stage": task.stage,
        "_task_id": task.task_id,
    }


def _story(claimed: Claimed) -> str:
    return (
        f"{claimed.takeovers} workers and {claimed.deaths} of its own processes died running this task "
        "(killed, out of memory, or evicted), so it is not run again: find out why, then redrive its message"
    )
