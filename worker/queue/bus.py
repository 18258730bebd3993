"""Service Bus operations: peek, receive, renew, settle, send.

Only `worker.queue.settings`, which manages queues, imports ``azure.servicebus`` as well.

This module contains every workaround for the SDK (azure-servicebus 7.15.0): a message is settled even if its
link was detached meanwhile, a lock is renewed until it has really expired, a dead receiver is replaced, a
cancellation ends the call that it is meant for, and every error becomes one of `worker.errors`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, cast

from azure.core.exceptions import ClientAuthenticationError
from azure.servicebus import ServiceBusMessage, ServiceBusReceivedMessage, ServiceBusSubQueue
from azure.servicebus._pyamqp.aio import _client_async, _connection_async, _transport_async
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver, ServiceBusSender, _async_utils
from azure.servicebus.amqp import AmqpMessageBodyType
from azure.servicebus.exceptions import (
    MessageAlreadySettled,
    MessageLockLostError,
    MessageSizeExceededError,
    MessagingEntityNotFoundError,
    ServiceBusAuthenticationError,
    ServiceBusAuthorizationError,
)

from gdaltools.errors import GdalToolsError, InvalidParameter
from worker.errors import (
    BusAuthenticationError,
    BusError,
    LockLost,
    MessageTooLarge,
    QueueNotFound,
)
from worker.queue.lock import lock_kept
from worker.telemetry.metrics import METRICS
from worker.waiting import mend_cancellation, retried

if TYPE_CHECKING:
    from azure.core.credentials_async import AsyncTokenCredential

# The SDK reads every frame with wait_for: without this, a cancelled receive continues while frames arrive.
mend_cancellation(_async_utils, _client_async, _connection_async, _transport_async)

SubQueue = Literal["dead-letter"]

RETRIES = 2  # by the SDK, within one call, after 0.4 and 0.8 s
BACKOFF_FACTOR = 0.2
# The time limit for a settlement's answer before the SDK uses the management link; the SDK's default is 60 s.
OUTCOME_SECONDS = 15.0
ATTEMPT_SECONDS = 20.0  # for one attempt of a settlement, a renewal, or a peek
MIN_RENEW_SECONDS = 0.5  # for one attempt to renew a lock that is about to expire
SETTLE_PAUSES_SECONDS = (0, 1, 2)  # before further attempts to settle, each with the SDK's own retries
SEND_SECONDS = 120.0  # for one call of `Bus.send`, all attempts included
RECEIVE_SLACK_SECONDS = 30.0  # the time by which a receive may overrun before its receiver is replaced
CLOSE_SECONDS = 10.0
MAX_BACKOFF_SECONDS = 30.0  # between attempts to reopen a receiver
MAX_LOCK_SECONDS = 300.0  # Service Bus's own limit
DOUBTED_LOCK_SECONDS = 15.0  # assumed for a lock whose expiry is implausible by this machine's clock
MAX_REASON_LENGTH = 4096  # characters; Service Bus refuses longer reasons and descriptions

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class OutgoingMessage:
    """A message to send.

    Parameters
    ----------
    body
        JSON text, or bytes, which are sent unchanged.
    message_id
        The id that identifies duplicates: a queue with duplicate detection drops a second message with it.
    correlation_id
        The id of the operation that the message belongs to.
    scheduled_at
        The time at which the message appears in the queue, a timezone-aware datetime; at once if None.
    content_type
        The media type of the body.
    application_properties
        Additional properties.
    """

    body: str | bytes
    message_id: str
    correlation_id: str | None = None
    scheduled_at: datetime | None = None
    content_type: str = "application/json"
    application_properties: Mapping[str, str | int | float | bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PeekedMessage:
    """A message as it was in its queue at the time of a peek; it is not locked, so it may be gone by now.

    ``delivery_count`` counts the failed deliveries; ``enqueued_at`` is timezone-aware. The application
    properties do not include the dead-letter reason and description, which have their own fields.
    """

    queue: str
    sequence_number: int
    body: bytes
    message_id: str | None
    correlation_id: str | None
    content_type: str | None
    enqueued_at: datetime | None
    delivery_count: int
    dead_letter_reason: str | None
    dead_letter_description: str | None
    application_properties: Mapping[str, Any]


def host_of(namespace: str) -> str:
    """Return the host name of a namespace that is passed as a host name or as a short name.

    >>> host_of("example")
    'example.servicebus.windows.net'
    """
    host = namespace.removeprefix("sb://").rstrip("/")
    is_short = "." not in host and host.partition(":")[0] not in _LOOPBACK
    return f"{host}.servicebus.windows.net" if is_short else host


class Bus:
    """A Service Bus namespace; create it with `connect` and use it as an async context manager.

    An instance belongs to one event loop. Each receiver and each send has its own connection, so that they do
    not wait for one another.
    """

    def __init__(self, client: ServiceBusClient, credential: AsyncTokenCredential | None) -> None:
        self._client = client
        self._own_credential = credential

    @classmethod
    def connect(
        cls,
        *,
        connection_string: str | None = None,
        namespace: str | None = None,
        credential: AsyncTokenCredential | None = None,
    ) -> Bus:
        """Create a bus for a namespace; it does not connect before the first operation.

        Parameters
        ----------
        connection_string
            A connection string with a shared access key.
        namespace
            The host name, ``example.servicebus.windows.net`` or short ``example``, as the alternative to
            `connection_string`. TLS is not used for a loopback host.
        credential
            The identity to connect with; ``DefaultAzureCredential`` if None. The caller closes a credential
            that it passes.

        Raises
        ------
        InvalidParameter
            Neither or both of `connection_string` and `namespace` are passed, or the string is malformed.
        """
        if bool(connection_string) == bool(namespace):
            raise InvalidParameter(
                "give either a Service Bus connection string or a namespace, not both or none"
            )
        settings: dict[str, Any] = {
            "retry_total": RETRIES,
            "retry_backoff_factor": BACKOFF_FACTOR,
            "try_timeout": ATTEMPT_SECONDS,
        }
        if connection_string:
            try:
                client = ServiceBusClient.from_connection_string(connection_string, **settings)
            except ValueError as error:
                raise InvalidParameter(f"the Service Bus connection string is malformed: {error}") from error
            return cls(client, None)
        assert namespace is not None
        host = host_of(namespace)
        own = None
        if credential is None:
            from azure.identity.aio import DefaultAzureCredential  # imported here because it is slow

            credential = own = DefaultAzureCredential()
        use_tls = host.rsplit(":", 1)[0].strip("[]") not in _LOOPBACK
        return cls(ServiceBusClient(host, credential, use_tls=use_tls, **settings), own)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await _close("client", self._client.close())
        if self._own_credential is not None:
            await _close("credential", self._own_credential.close())

    def receiver(self, queue: str, *, sub_queue: SubQueue | None = None) -> QueueReceiver:
        """Return a receiver of a queue or of its dead letters, to be used with ``async with``."""
        return QueueReceiver(self._client, queue, sub_queue)

    async def send(self, queue: str, messages: Sequence[OutgoingMessage]) -> None:
        """Send messages in as few batches as possible; all of them are durable when the call returns.

        After an error some messages may have been sent, and after a broken connection some may have been sent
        twice: the message ids let the queue drop duplicates.

        Raises
        ------
        MessageTooLarge
            A message exceeds the queue's size limit; no message was sent.
        QueueNotFound, BusAuthenticationError
            A retry does not help.
        BusError
            Service Bus failed or did not answer in time.
        """
        if not messages:
            return
        with _translated(f"sending to {queue}"):
            # One sender per send: the service detaches an idle sender after ten minutes, and the next send
            # then waits until the SDK detects that (azure-sdk-for-python#18795). Without keep-alive, because
            # closing waits a second for the keep-alive task.
            opened = self._client.get_queue_sender(queue, keep_alive=0)
            async with asyncio.timeout(SEND_SECONDS), opened as sender:
                for batch in await _batches(sender, [_outgoing(message) for message in messages]):
                    await sender.send_messages(batch)

    async def check_receiving(self, queue: str) -> None:
        """Check with a peek that this identity may receive from a queue.

        Raises
        ------
        BusError
            The queue is not reachable; `QueueNotFound` and `BusAuthenticationError` are the specific reasons.
        """
        with _translated(f"reaching {queue}"):
            async with asyncio.timeout(ATTEMPT_SECONDS), self._client.get_queue_receiver(queue) as receiver:
                await receiver.peek_messages(1)

    async def check_sending(self, queue: str) -> None:
        """Check by opening a link that this identity may send to a queue; raises as `check_receiving`."""
        with _translated(f"reaching {queue}"):
            async with (
                asyncio.timeout(ATTEMPT_SECONDS),
                self._client.get_queue_sender(queue, keep_alive=0) as sender,
            ):
                await sender.create_message_batch()


class QueueReceiver:
    """Receives and peeks messages of one queue; use it as an async context manager.

    Each slot has its own receiver. Call one method at a time, and none while a message's lock is being
    renewed: the SDK's receivers do not support that. Use `receive` for a message that takes time to process,
    because the locks of further messages would run meanwhile; `receive_many` is for messages that are settled
    at once.
    """

    def __init__(self, client: ServiceBusClient, queue: str, sub_queue: SubQueue | None) -> None:
        self.queue = queue
        self._client = client
        self._sub_queue = sub_queue
        self._receiver: ServiceBusReceiver | None = None
        self._opened = AsyncExitStack()
        self._is_sound = False  # True if no call on the SDK's receiver was interrupted
        self._failures = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._drop()

    async def receive(self, *, wait_seconds: float = 30) -> Message | None:
        """Return the next message, locked; None if none arrives within `wait_seconds`. See `receive_many`."""
        received = await self.receive_many(1, wait_seconds=wait_seconds)
        return received[0] if received else None

    async def receive_many(self, max_count: int, *, wait_seconds: float = 30) -> list[Message]:
        """Return the next messages, locked and in order: all that are available once the first has arrived.

        The list is empty if no message arrives within `wait_seconds`. The call may be cancelled: a message in
        transit is then released by the next `receive` or when the receiver is closed, without counting a
        delivery (the SDK waits 0.4 s for it; one that arrives later stays locked until its lock expires).
        After an error the next call reopens the receiver, after a pause that grows with each consecutive
        failure.

        Raises
        ------
        QueueNotFound, BusAuthenticationError
            A retry does not help.
        BusError
            Service Bus failed; call again.
        """
        if self._failures:
            pause = min(2.0 ** (self._failures - 2), MAX_BACKOFF_SECONDS, wait_seconds)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
        try:
            with _translated(f"receiving from {self.queue}"):
                async with asyncio.timeout(wait_seconds + RECEIVE_SLACK_SECONDS):
                    receiver = await self._sound()
                    received = await receiver.receive_messages(
                        max_message_count=max_count, max_wait_time=wait_seconds
                    )
        except BusError:
            self._failures += 1
            raise
        self._is_sound, self._failures = True, 0
        return [Message(receiver, each, self.queue) for each in received]

    async def peek(self, *, from_sequence: int = 1, max_count: int = 100) -> list[PeekedMessage]:
        """Return messages from `from_sequence` on, in order and in any state; an empty list is the end.

        There may be more messages even if fewer than `max_count` are returned.

        Raises
        ------
        QueueNotFound, BusAuthenticationError
            A retry does not help.
        BusError
            Service Bus failed; call again.
        """
        with _translated(f"looking into {self.queue}"):
            async with asyncio.timeout(ATTEMPT_SECONDS + RECEIVE_SLACK_SECONDS):
                receiver = await self._sound()
                found = await receiver.peek_messages(
                    max_count, sequence_number=from_sequence, timeout=ATTEMPT_SECONDS
                )
        self._is_sound = True
        return [_peeked(each, self.queue) for each in found]

    async def _sound(self) -> ServiceBusReceiver:
        """Return the SDK's receiver, or a new one if the last call on it was interrupted.

        The caller sets `_is_sound` when its own call has completed.
        """
        if not self._is_sound:
            await self._drop()
        self._is_sound = False
        return self._receiver or await self._open()

    async def _open(self) -> ServiceBusReceiver:
        sub_queue = ServiceBusSubQueue.DEAD_LETTER if self._sub_queue == "dead-letter" else None
        receiver = self._client.get_queue_receiver(
            self.queue, sub_queue=sub_queue, prefetch_count=0, timeout=OUTCOME_SECONDS
        )
        self._receiver = await self._opened.enter_async_context(receiver)
        return self._receiver

    async def _drop(self) -> None:
        if self._receiver is not None:
            self._receiver = None
            await _close(f"receiver of {self.queue}", self._opened.pop_all().aclose())


class Message:
    """A received message, locked for this worker. Settle it once, before its receiver is closed."""

    def __init__(self, receiver: ServiceBusReceiver, received: ServiceBusReceivedMessage, queue: str) -> None:
        self._receiver = receiver
        self._received = received
        self._one_at_a_time = asyncio.Lock()  # settling and renewing share the receiver's connection
        self._ends = _end_of_lock(received)
        self.is_settled = False
        self.queue = queue
        self.sequence_number = received.sequence_number or 0
        self.body = _body_of(received)
        self.message_id = _text(received.message_id)
        self.correlation_id = _text(received.correlation_id)
        self.content_type = _text(received.content_type)
        self.application_properties = _properties(received)
        self.delivery_count = (received.delivery_count or 0) + 1
        """The number of this delivery: 1 for the first (the protocol counts from 0)."""
        self.dead_letter_reason = received.dead_letter_reason
        self.dead_letter_description = received.dead_letter_error_description

    def __repr__(self) -> str:
        return f"Message({self.message_id!r}, queue={self.queue!r}, delivery_count={self.delivery_count})"

    @property
    def locked_until(self) -> datetime:
        """The time at which the lock expires unless it is renewed, by the service's clock, in UTC."""
        return self._received.locked_until_utc or datetime.min.replace(tzinfo=UTC)

    @property
    def remaining_seconds(self) -> float:
        """The seconds until the lock expires unless it is renewed, by the monotonic clock."""
        return self._ends - time.monotonic()

    async def complete(self) -> None:
        """Remove the message from the queue; the removal is durable when the call returns.

        Raises
        ------
        LockLost
            The lock has expired or the message is already settled; another receiver may have it. In rare
            cases, after a broken connection, Service Bus had already done this very settlement.
        BusError
            Service Bus failed in every attempt; the message stays locked until its lock expires.
        """
        await self._settle(lambda: self._receiver.complete_message(self._received), "completing")

    async def abandon(self) -> None:
        """Return the message to the queue at once and count one delivery; raises as `complete`."""
        await self._settle(lambda: self._receiver.abandon_message(self._received), "abandoning")

    async def dead_letter(self, reason: str, description: str) -> None:
        """Dead-letter the message; texts are truncated to 4096 characters. Raises as `complete`."""
        reason, description = reason[:MAX_REASON_LENGTH], description[:MAX_REASON_LENGTH]
        await self._settle(
            lambda: self._receiver.dead_letter_message(
                self._received, reason=reason, error_description=description
            ),
            "dead-lettering",
        )
        METRICS.dead_letters.add(reason=reason)

    async def renew(self) -> None:
        """Renew the lock for its full duration; raises as `complete`."""
        async with self._one_at_a_time:
            # At most half of the remaining time, so that a failure leaves time for another attempt.
            timeout = max(min(ATTEMPT_SECONDS, self.remaining_seconds / 2), MIN_RENEW_SECONDS)
            await self._with_retries(
                lambda: self._receiver.renew_message_lock(self._received, timeout=timeout), "renewing"
            )
            self._ends = _end_of_lock(self._received)

    def lock_kept(self, on_lost: Callable[[], None]) -> AbstractAsyncContextManager[None]:
        """Keep the lock until exit, or until the message is settled; see `worker.queue.lock.lock_kept`."""
        return lock_kept(self, on_lost)

    async def _settle(self, action: Callable[[], Awaitable[object]], doing: str) -> None:
        async with self._one_at_a_time:
            await self._with_retries(action, doing)
            self.is_settled = True

    async def _with_retries(self, action: Callable[[], Awaitable[object]], doing: str) -> None:
        """Run `action` on the message, and again after reopening the SDK's receiver if it has died.

        If the link was detached while the message was held, the SDK fails the settlement without a retry and
        closes the receiver. A peek reopens it, and the settlement then uses the management link, which needs
        only the lock token.
        """

        async def attempt() -> None:
            if self.is_settled or self.remaining_seconds <= 0:
                raise LockLost(f"{doing} {self!r}: its lock has ended, or it was settled before")
            with _translated(f"{doing} {self!r}"):
                # 7.15 compares the lock's expiry with this machine's clock and refuses to settle an
                # expired message; the service itself decides that correctly.
                self._received._expiry = datetime.now(UTC) + timedelta(seconds=self.remaining_seconds)
                async with asyncio.timeout(ATTEMPT_SECONDS + OUTCOME_SECONDS):
                    await action()

        async def reopened_after(seconds: float) -> None:
            await asyncio.sleep(seconds)
            await self._reopen()

        await retried(
            attempt,
            errors=BusError,
            pauses=(seconds * random.uniform(0.5, 1.0) for seconds in SETTLE_PAUSES_SECONDS),
            on_error=lambda error: _LOGGER.info("%s; opening the receiver again", error),
            sleep=reopened_after,
        )

    async def _reopen(self) -> None:
        try:
            with _translated(f"re-opening the receiver of {self.queue}"):
                await self._receiver.peek_messages(1, timeout=ATTEMPT_SECONDS)
        except BusError as error:
            _LOGGER.info("%s", error)  # the next attempt of the action meets this error too and raises it


def _outgoing(message: OutgoingMessage) -> ServiceBusMessage:
    if message.scheduled_at is not None and message.scheduled_at.tzinfo is None:
        raise InvalidParameter(
            f"scheduled_at {message.scheduled_at} of {message.message_id!r} has no time zone"
        )
    properties = cast("dict[str | bytes, Any]", dict(message.application_properties))
    return ServiceBusMessage(
        message.body,
        message_id=message.message_id,
        correlation_id=message.correlation_id,
        content_type=message.content_type,
        scheduled_enqueue_time_utc=message.scheduled_at.astimezone(UTC) if message.scheduled_at else None,
        application_properties=properties or None,
    )


def _peeked(found: ServiceBusReceivedMessage, queue: str) -> PeekedMessage:
    properties = _properties(found)
    return PeekedMessage(
        queue=queue,
        sequence_number=found.sequence_number or 0,
        body=_body_of(found),
        message_id=_text(found.message_id),
        correlation_id=_text(found.correlation_id),
        content_type=_text(found.content_type),
        enqueued_at=found.enqueued_time_utc,
        delivery_count=found.delivery_count or 0,
        dead_letter_reason=_text(properties.pop("DeadLetterReason", None)),
        dead_letter_description=_text(properties.pop("DeadLetterErrorDescription", None)),
        application_properties=properties,
    )


def _properties(received: ServiceBusReceivedMessage) -> dict[str, Any]:
    return {
        _text(name) or "": _text(value) if isinstance(value, bytes) else value
        for name, value in (received.application_properties or {}).items()
    }


async def _batches(sender: ServiceBusSender, messages: list[ServiceBusMessage]) -> list[Any]:
    """Return the arguments for consecutive calls of ``send_messages``; send nothing yet."""
    if len(messages) == 1:
        return list(messages)  # a single message may be a little larger than one that fits in a batch
    batches = [await sender.create_message_batch()]
    for message in messages:
        try:
            batches[-1].add_message(message)
        except MessageSizeExceededError:
            batches.append(await sender.create_message_batch())
            batches[-1].add_message(message)
    return [batch for batch in batches if len(batch)]


def _body_of(received: ServiceBusReceivedMessage) -> bytes:
    """Return the body as bytes; a body that is not binary is encoded as text or JSON."""
    body: Any = received.body
    if received.body_type is AmqpMessageBodyType.DATA:
        return body if isinstance(body, bytes) else b"".join(body)
    if isinstance(body, bytes):
        return body
    return (body if isinstance(body, str) else json.dumps(body, default=str)).encode()


def _end_of_lock(received: ServiceBusReceivedMessage) -> float:
    """Return the expiry of a lock that has just begun, on the monotonic clock."""
    until = received.locked_until_utc
    remaining = (until - datetime.now(UTC)).total_seconds() if until is not None else 0.0
    return time.monotonic() + (remaining if 0 < remaining <= MAX_LOCK_SECONDS + 1 else DOUBTED_LOCK_SECONDS)


def _text(value: object) -> str | None:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value) if value is not None else None


async def _close(what: str, closing: Awaitable[None]) -> None:
    """Close a part of the SDK; a failure is only logged."""
    try:
        with _translated(f"closing the {what}"):
            async with asyncio.timeout(CLOSE_SECONDS):
                await closing
    except BusError as error:
        _LOGGER.info("%s", error)


@contextmanager
def _translated(doing: str) -> Iterator[None]:
    """Convert the SDK's errors to those of `worker.errors`."""
    try:
        yield
    except GdalToolsError:
        raise
    except Exception as error:  # all: the SDK also raises its transport's private exceptions
        raise _our_error(error)(f"{doing}: {str(error) or type(error).__name__}") from error


def _our_error(error: Exception) -> type[BusError]:
    inner = getattr(error, "inner_exception", None)
    if isinstance(error, MessageLockLostError | MessageAlreadySettled):
        return LockLost
    if isinstance(error, MessageSizeExceededError):
        return MessageTooLarge
    if isinstance(error, MessagingEntityNotFoundError):
        return QueueNotFound
    refusals = (ServiceBusAuthenticationError, ServiceBusAuthorizationError, ClientAuthenticationError)
    if isinstance(error, refusals) or isinstance(inner, refusals):
        return BusAuthenticationError
    return BusError
