"""Every error that the worker raises on purpose; ``retryable`` as in `gdaltools.errors`."""

from __future__ import annotations

from gdaltools.errors import GdalToolsError


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
