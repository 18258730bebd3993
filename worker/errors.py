"""The worker's own errors; ``retryable`` means the same as in `gdaltools.errors`."""

from __future__ import annotations

from gdaltools.errors import GdalToolsError, InvalidParameter
from gdaltools.runtime.moved import moved


class WorkerError(GdalToolsError):
    """The base of the worker's errors; a retry may help unless the subclass says otherwise."""


class BusError(WorkerError):
    """Service Bus was not reachable, was busy, or did not answer in time."""


class LockLost(BusError):
    """The lock on a message has expired: it can no longer be settled, and another receiver may have it."""

    retryable = False


class MessageTooLarge(BusError):
    """A message exceeds Service Bus's size limit."""

    retryable = False


class QueueNotFound(BusError):
    """The namespace has no queue with this name."""

    retryable = False


class BusAuthenticationError(BusError):
    """Service Bus, or the identity's token service, refused the credentials."""

    retryable = False


class DatabaseError(WorkerError):
    """A database operation failed for a reason that may pass: connection, lock, restart."""


class DatabaseRejected(DatabaseError):
    """The database refused a value or a reference; it would refuse the same call again."""

    retryable = False


class DatabaseRefused(DatabaseError):
    """The server refused the connection: a wrong password, role or database name."""

    retryable = False


class SchemaError(DatabaseError):
    """The schema lacks an object that the worker needs, or has it in a different form."""

    retryable = False


class TaskIdTaken(DatabaseError):
    """A new task's id belongs to another job, whose id begins with the same eight digits."""

    retryable = False


class ConfigurationError(WorkerError):
    """An environment variable is missing or wrong."""

    retryable = False


class TaskFailed(WorkerError):
    """A handler raised an error; `error_type` and `retryable` are those of the original error."""

    def __init__(self, message: str, *, error_type: str, retryable: bool) -> None:
        super().__init__(message)
        self.error_type = error_type
        self.retryable = retryable


class JobFailed(WorkerError):
    """A job that the caller waited for has failed."""

    retryable = False


class TaskTimedOut(WorkerError):
    """A task exceeded the worker's time limit."""


class TaskStalled(TaskTimedOut):
    """A task's process was alive but its progress stopped for too long."""


class ChildDied(WorkerError):
    """A task's process ended without an outcome."""


class OutOfMemory(ChildDied):
    """A task's process was ended because the container ran out of memory."""


class WorkerDied(WorkerError):
    """A task's runs ended with the death of a worker or a process too often; it is not run again."""

    retryable = False


class MemoryBusy(WorkerError):
    """A task would fit into this machine's memory, but not into the memory that is free now."""


class JobNotFound(WorkerError):
    """No job has this id."""

    retryable = False


class DeadLetterNotFound(WorkerError):
    """No dead letter has this sequence number."""

    retryable = False


class NotReady(WorkerError):
    """The worker has not finished starting."""


class Stopped(WorkerError):
    """The worker was stopped before it had finished starting."""


class UnknownTaskType(WorkerError, InvalidParameter):
    """A task type is on no routing list, or no handler runs it."""

    retryable = False


def __getattr__(name: str) -> object:
    if name == "LetterNotFound":
        return moved("worker.errors.LetterNotFound", "worker.errors.DeadLetterNotFound")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
