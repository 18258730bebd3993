"""Every error that the worker raises on purpose; ``retryable`` as in `gdaltools.errors`."""

from __future__ import annotations

from gdaltools.errors import GdalToolsError, InvalidParameter
from gdaltools.runtime.moved import moved


class WorkerError(GdalToolsError):
    """Something went wrong in the worker; trying again may help."""


class BusError(WorkerError):
    """Service Bus could not be reached, was busy, or did not answer in time."""


class LockLost(BusError):
    """The lock on a message has ended: it can no longer be settled, and somebody else may have it."""

    retryable = False


class MessageTooLarge(BusError):
    """A message is larger than Service Bus takes."""

    retryable = False


class QueueNotFound(BusError):
    """The namespace has no such queue."""

    retryable = False


class BusAuthenticationError(BusError):
    """Service Bus, or the identity's token service, refused the credentials."""

    retryable = False


class ConfigurationError(WorkerError):
    """An environment variable is missing or wrong."""

    retryable = False


class TaskFailed(WorkerError):
    """A handler raised; the error's own type and verdict on retrying travel with it."""

    def __init__(self, message: str, *, error_type: str, retryable: bool) -> None:
        super().__init__(message)
        self.error_type = error_type
        self.retryable = retryable


class JobFailed(WorkerError):
    """A job was waited for, and failed."""

    retryable = False


class TaskTimedOut(WorkerError):
    """A task took longer than the worker allows."""


class TaskStalled(TaskTimedOut):
    """A task's process lived but came no further for too long."""


class ChildDied(WorkerError):
    """A task's process ended without saying how the task went."""


class OutOfMemory(ChildDied):
    """A task's process was ended because the memory of the container ran out."""


class WorkerDied(WorkerError):
    """A task's runs ended whole workers, more often than is tried."""

    retryable = False


class MemoryBusy(WorkerError):
    """A task would fit into this machine's memory, but not beside what is there now."""


class JobNotFound(WorkerError):
    """No job has this id."""

    retryable = False


class DeadLetterNotFound(WorkerError):
    """No dead letter has this sequence number."""

    retryable = False


class NotReady(WorkerError):
    """The worker has not finished starting."""


class Stopped(WorkerError):
    """The worker was told to stop before it had finished starting."""


class UnknownTaskType(WorkerError, InvalidParameter):
    """A task type is on no routing list, or no handler runs it."""

    retryable = False


def __getattr__(name: str) -> object:
    if name == "LetterNotFound":
        return moved("worker.errors.LetterNotFound", "worker.errors.DeadLetterNotFound")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
