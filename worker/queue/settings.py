"""The required settings of the worker's queues, and their management over HTTPS.

Only this module and `worker.queue.bus` import ``azure.servicebus``. Management needs the right to manage (the
role Azure Service Bus Data Owner); a worker itself needs only the rights to receive and to send.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    HttpResponseError,
    ResourceNotFoundError,
)
from azure.servicebus.aio.management import ServiceBusAdministrationClient

from gdaltools.errors import InvalidParameter
from worker.errors import BusAuthenticationError, BusError
from worker.queue.bus import host_of
from worker.settings import Settings

if TYPE_CHECKING:
    from azure.core.credentials_async import AsyncTokenCredential

_UNAUTHORIZED, _FORBIDDEN = 401, 403


@dataclass(frozen=True, slots=True)
class QueueSettings:
    """The queue settings that the worker depends on; the defaults are those of protocol.md §6.

    `detects_duplicates` can be set only when a queue is created.
    """

    lock_duration: timedelta = timedelta(minutes=5)
    max_delivery_count: int = 3
    time_to_live: timedelta = timedelta(days=7)
    dead_letters_expired: bool = True
    detects_duplicates: bool = False

    def differences(self, required: QueueSettings) -> dict[str, str]:
        """Return in words, by name, the settings that differ from `required`.

        A queue that detects duplicates is right where none need be detected.
        """
        return {
            each.name: f"{each.name} is {mine}, should be {theirs}"
            for each in fields(self)
            if (mine := getattr(self, each.name)) != (theirs := getattr(required, each.name))
            and not (each.name == "detects_duplicates" and mine)
        }


def required_queues(settings: Settings) -> dict[str, QueueSettings]:
    """Return the required settings of all queues that a worker receives from and sends to.

    The jobs queue detects duplicates, so that a stage signal that is sent twice is read once.
    """
    required = dict.fromkeys(settings.task_queues, QueueSettings())
    return required | {settings.jobs_queue: QueueSettings(detects_duplicates=True)}


class QueueManagement:
    """The queues of a namespace; create it with `connect` and use it as an async context manager."""

    def __init__(
        self, client: ServiceBusAdministrationClient, credential: AsyncTokenCredential | None
    ) -> None:
        self._client = client
        self._own_credential = credential

    @classmethod
    def connect(
        cls, *, connection_string: str | None = None, namespace: str | None = None
    ) -> QueueManagement:
        """Create the management client for a namespace; it does not connect before the first operation.

        Raises
        ------
        InvalidParameter
            The connection string is malformed, or neither parameter is passed.
        """
        # Few retries, so that failures are reported quickly: a person waits for the answer.
        options: dict[str, Any] = {"retry_total": 1}
        if connection_string:
            try:
                client = ServiceBusAdministrationClient.from_connection_string(connection_string, **options)
            except ValueError as error:
                raise InvalidParameter(f"the Service Bus connection string is malformed: {error}") from error
            return cls(client, None)
        if not namespace:
            raise InvalidParameter("set SERVICE_BUS_NAMESPACE or SERVICE_BUS_CONNECTION_STRING")
        from azure.identity.aio import DefaultAzureCredential

        credential = DefaultAzureCredential()
        return cls(ServiceBusAdministrationClient(host_of(namespace), credential, **options), credential)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()
        if self._own_credential is not None:
            await self._own_credential.close()

    async def look(self, queue: str) -> QueueSettings | None:
        """Return a queue's settings; None if the queue does not exist.

        Raises
        ------
        BusAuthenticationError
            The identity may not manage this namespace.
        BusError
            The namespace is not reachable.
        """
        with _translated(f"looking at {queue}"):
            try:
                found = await self._client.get_queue(queue)
            except ResourceNotFoundError:
                return None
        return QueueSettings(
            lock_duration=_duration(found.lock_duration),
            max_delivery_count=found.max_delivery_count or 0,
            time_to_live=_duration(found.default_message_time_to_live),
            dead_letters_expired=bool(found.dead_lettering_on_message_expiration),
            detects_duplicates=bool(found.requires_duplicate_detection),
        )

    async def create(self, queue: str, settings: QueueSettings) -> None:
        """Create a queue; raises as `look`."""
        with _translated(f"making {queue}"):
            await self._client.create_queue(
                queue,
                lock_duration=settings.lock_duration,
                max_delivery_count=settings.max_delivery_count,
                default_message_time_to_live=settings.time_to_live,
                dead_lettering_on_message_expiration=settings.dead_letters_expired,
                requires_duplicate_detection=settings.detects_duplicates,
            )

    async def update(self, queue: str, settings: QueueSettings) -> None:
        """Change the mutable settings of a queue and leave all others unchanged; raises as `look`."""
        with _translated(f"changing {queue}"):
            found = await self._client.get_queue(queue)
            found.lock_duration = settings.lock_duration
            found.max_delivery_count = settings.max_delivery_count
            found.default_message_time_to_live = settings.time_to_live
            found.dead_lettering_on_message_expiration = settings.dead_letters_expired
            await self._client.update_queue(found)


def _duration(value: timedelta | str | None) -> timedelta:
    return value if isinstance(value, timedelta) else timedelta()


@contextmanager
def _translated(doing: str) -> Iterator[None]:
    try:
        yield
    except ClientAuthenticationError as error:
        raise BusAuthenticationError(f"{doing}: {_short(error)}") from error
    except HttpResponseError as error:
        kind = BusAuthenticationError if error.status_code in (_UNAUTHORIZED, _FORBIDDEN) else BusError
        raise kind(f"{doing}: {_short(error)}") from error
    except AzureError as error:
        raise BusError(f"{doing}: {_short(error)}") from error


def _short(error: AzureError) -> str:
    return " ".join(str(error.message).split())[:300]
