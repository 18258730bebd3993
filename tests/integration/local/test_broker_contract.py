"""How the development broker behaves, as seen by the real Service Bus SDK over AMQP."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from azure.core.credentials import AccessToken
from azure.servicebus import (
    AutoLockRenewer,
    ServiceBusClient,
    ServiceBusMessage,
    ServiceBusMessageState,
    ServiceBusReceivedMessage,
    ServiceBusReceiveMode,
    ServiceBusSubQueue,
)
from azure.servicebus.aio import AutoLockRenewer as AsyncAutoLockRenewer
from azure.servicebus.aio import ServiceBusClient as AsyncServiceBusClient
from azure.servicebus.aio import ServiceBusReceiver
from azure.servicebus.exceptions import (
    MessageLockLostError,
    MessageSizeExceededError,
    MessagingEntityNotFoundError,
    ServiceBusAuthenticationError,
    ServiceBusError,
)

from tests.support.eventually import eventually
from worker.local.broker.server import BrokerThread, QueueCounts, QueueSpec, Token

pytestmark = pytest.mark.asyncio(loop_scope="module")

NOTHING = QueueCounts(active=0, locked=0, scheduled=0, dead_letter=0)


@pytest.fixture
def broker() -> Iterator[BrokerThread]:
    """A broker with a queue of ordinary settings, and one with short locks."""
    with BrokerThread(
        [QueueSpec("tasks", lock_seconds=30), QueueSpec("short-locks", lock_seconds=1)]
    ) as broker:
        yield broker


@pytest.fixture
def client(broker: BrokerThread) -> AsyncServiceBusClient:
    return connect(broker)


def connect(broker: BrokerThread) -> AsyncServiceBusClient:
    return AsyncServiceBusClient.from_connection_string(
        broker.connection_string, retry_total=3, retry_backoff_factor=0.05
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def closing() -> AsyncIterator[None]:
    """Closing a receiver takes the SDK a second: every test defers that to the end of the module."""
    yield
    await asyncio.gather(*CLOSING)


CLOSING: list[asyncio.Task[None]] = []


@asynccontextmanager
async def receiving(
    client: AsyncServiceBusClient,
    queue: str = "tasks",
    *,
    sent: Sequence[ServiceBusMessage] = (),
    **options: Any,
) -> AsyncIterator[ServiceBusReceiver]:
    """Open a receiver, and send messages meanwhile."""
    async with AsyncExitStack() as stack:
        opening = stack.enter_async_context(client.get_queue_receiver(queue, **options))
        receiver, _ = await asyncio.gather(opening, send(client, *sent, queue=queue))
        yield receiver
        CLOSING.append(asyncio.create_task(stack.pop_all().aclose()))


async def send(client: AsyncServiceBusClient, *messages: ServiceBusMessage, queue: str = "tasks") -> None:
    if messages:
        async with client.get_queue_sender(queue, keep_alive=0) as sender:
            await sender.send_messages(list(messages))


async def receive(receiver: ServiceBusReceiver, *, wait_seconds: float = 10) -> ServiceBusReceivedMessage:
    received = await receiver.receive_messages(max_message_count=1, max_wait_time=wait_seconds)
    assert received, f"nothing came within {wait_seconds} s"
    return received[0]


def dead_letters(client: AsyncServiceBusClient) -> AbstractAsyncContextManager[ServiceBusReceiver]:
    return receiving(client, sub_queue=ServiceBusSubQueue.DEAD_LETTER)


async def test_the_synchronous_client_sends_receives_and_completes(broker: BrokerThread) -> None:
    def pass_three_messages() -> list[ServiceBusReceivedMessage]:
        with ServiceBusClient.from_connection_string(broker.connection_string) as client:
            with client.get_queue_sender("tasks", keep_alive=0) as sender:
                sender.send_messages(ServiceBusMessage("one", message_id="1", correlation_id="c"))
                sender.send_messages([ServiceBusMessage("two"), ServiceBusMessage("three")])
            with client.get_queue_receiver("TASKS") as receiver:
                received = receiver.receive_messages(max_message_count=3, max_wait_time=10)
                for message in received:
                    receiver.complete_message(message)
                return received

    received = await asyncio.to_thread(pass_three_messages)
    assert [str(message) for message in received] == ["one", "two", "three"]
    assert (received[0].message_id, received[0].correlation_id) == ("1", "c")
    assert [message.sequence_number for message in received] == [1, 2, 3]
    assert broker.counts("tasks") == NOTHING


async def test_properties_survive(client: AsyncServiceBusClient) -> None:
    properties = {"text": "ä", "number": 7, "fraction": 0.5, "truth": True}
    sent = ServiceBusMessage(
        b"\x00\xff", content_type="application/json", subject="s", application_properties=properties
    )
    await send(client, sent)
    async with receiving(client) as receiver:
        message = await receive(receiver)
        await receiver.complete_message(message)
    assert b"".join(message.body) == b"\x00\xff"
    assert (message.content_type, message.subject) == ("application/json", "s")
    assert message.application_properties == {
        b"text": "ä".encode(),
        b"number": 7,
        b"fraction": 0.5,
        b"truth": True,
    }


async def test_the_third_abandon_dead_letters(client: AsyncServiceBusClient, broker: BrokerThread) -> None:
    async with receiving(client, sent=[ServiceBusMessage("x")]) as receiver:
        for failed_deliveries in range(3):
            message = await receive(receiver)
            assert message.delivery_count == failed_deliveries
            await receiver.abandon_message(message)
    async with dead_letters(client) as receiver:
        message = await receive(receiver)
        assert message.dead_letter_reason == "MaxDeliveryCountExceeded"
        await receiver.complete_message(message)
    assert broker.counts("tasks") == NOTHING


async def test_dead_lettering_keeps_reason_and_description(client: AsyncServiceBusClient) -> None:
    async with receiving(
        client, sent=[ServiceBusMessage("x", application_properties={"kept": "yes"})]
    ) as receiver:
        await receiver.dead_letter_message(await receive(receiver), reason="why", error_description="because")
    async with dead_letters(client) as receiver:
        message = await receive(receiver)
    assert (message.dead_letter_reason, message.dead_letter_error_description) == ("why", "because")
    assert message.application_properties[b"kept"] == b"yes"


async def test_an_abandoned_message_keeps_its_place(client: AsyncServiceBusClient) -> None:
    async with receiving(client, sent=[ServiceBusMessage("first"), ServiceBusMessage("second")]) as receiver:
        await receiver.abandon_message(await receive(receiver))
        assert str(await receive(receiver)) == "first"


async def test_renewing_prolongs_the_lock(client: AsyncServiceBusClient) -> None:
    async with receiving(client, "short-locks", sent=[ServiceBusMessage("x")]) as receiver:
        message = await receive(receiver)
        first_end = message.locked_until_utc
        while datetime.now(UTC) < first_end + timedelta(seconds=0.5):
            await receiver.renew_message_lock(message)
            await asyncio.sleep(0.2)
        await receiver.complete_message(message)


async def test_both_auto_lock_renewers_outlast_the_lock() -> None:
    def hold_with_the_synchronous_client(connection_string: str) -> None:
        with (
            ServiceBusClient.from_connection_string(connection_string) as client,
            AutoLockRenewer() as renewer,
        ):
            with client.get_queue_sender("sync", keep_alive=0) as sender:
                sender.send_messages(ServiceBusMessage("x"))
            with client.get_queue_receiver("sync", auto_lock_renewer=renewer) as receiver:
                message = receiver.receive_messages(max_wait_time=10)[0]
                held.wait(8)
                receiver.complete_message(message)

    held = threading.Event()
    with BrokerThread([QueueSpec("sync", lock_seconds=5), QueueSpec("async", lock_seconds=5)]) as broker:
        synchronous = asyncio.create_task(
            asyncio.to_thread(hold_with_the_synchronous_client, broker.connection_string)
        )
        client = connect(broker)
        await send(client, ServiceBusMessage("x"), queue="async")
        async with (
            AsyncAutoLockRenewer() as renewer,
            receiving(client, "async", auto_lock_renewer=renewer) as receiver,
        ):
            message = await receive(receiver)
            first_end = message.locked_until_utc
            await eventually(lambda: datetime.now(UTC) > first_end + timedelta(seconds=1))
            await receiver.complete_message(message)
        held.set()
        await synchronous
        assert broker.counts("sync") == NOTHING
        assert broker.counts("async") == NOTHING


async def test_an_expired_lock_can_neither_be_renewed_nor_settled(
    client: AsyncServiceBusClient, broker: BrokerThread
) -> None:
    async with receiving(client, sent=[ServiceBusMessage("x")]) as receiver:
        message = await receive(receiver)
        assert broker.faults.expire_locks("tasks") == 1
        with pytest.raises(MessageLockLostError):
            await receiver.renew_message_lock(message)
        with pytest.raises(MessageLockLostError):
            await receiver.complete_message(message)
        again = await receive(receiver)
        assert again.delivery_count == 1
        await receiver.complete_message(again)


async def test_a_dropped_connection_keeps_the_lock_until_it_expires(
    client: AsyncServiceBusClient, broker: BrokerThread
) -> None:
    async with receiving(client, "short-locks", sent=[ServiceBusMessage("x")]) as receiver:
        await receive(receiver)
        assert broker.faults.drop_connections() >= 1
        assert broker.counts("short-locks").locked == 1
    async with receiving(client, "short-locks") as receiver:
        assert (await receive(receiver)).delivery_count == 1


async def test_a_message_is_renewed_and_settled_after_its_connection_dropped(
    client: AsyncServiceBusClient, broker: BrokerThread
) -> None:
    async with receiving(client, sent=[ServiceBusMessage("x")]) as receiver:
        message = await receive(receiver)
        broker.faults.drop_connections()
        await receiver.renew_message_lock(message)
        broker.faults.drop_connections()
        await receiver.complete_message(message)
    assert broker.counts("tasks") == NOTHING


async def test_a_receiver_recovers_from_a_forced_detach(
    client: AsyncServiceBusClient, broker: BrokerThread
) -> None:
    async with receiving(client) as receiver:
        assert await receiver.receive_messages(max_wait_time=0.3) == []
        assert broker.faults.detach_links("tasks") == 1
        await send(client, ServiceBusMessage("x"))
        await receiver.complete_message(await receive(receiver))
    assert broker.counts("tasks") == NOTHING


async def test_closing_gives_prefetched_messages_back_uncounted(
    client: AsyncServiceBusClient, broker: BrokerThread
) -> None:
    await send(client, *(ServiceBusMessage(str(number)) for number in range(5)))
    async with client.get_queue_receiver("tasks", prefetch_count=10) as receiver:
        await receiver.complete_message(await receive(receiver))
    await eventually(lambda: broker.counts("tasks").active == 4)
    async with receiving(client) as receiver:
        message = await receive(receiver)
        assert (str(message), message.delivery_count) == ("1", 0)


async def test_peeking_locks_nothing(client: AsyncServiceBusClient, broker: BrokerThread) -> None:
    async with receiving(client, sent=[*(ServiceBusMessage(str(number)) for number in range(3))]) as receiver:
        assert [str(message) for message in await receiver.peek_messages(2)] == ["0", "1"]
        assert [str(message) for message in await receiver.peek_messages(2)] == ["2"]
        assert await receiver.peek_messages(2) == []
        assert [str(m) for m in await receiver.peek_messages(5, sequence_number=2)] == ["1", "2"]
    assert broker.counts("tasks").active == 3


async def test_scheduled_messages_appear_when_due(
    client: AsyncServiceBusClient, broker: BrokerThread
) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=6)
    await send(client, ServiceBusMessage("soon", scheduled_enqueue_time_utc=soon))
    assert broker.counts("tasks").scheduled == 1
    async with receiving(client) as receiver:
        assert (await receiver.peek_messages(1))[0].state is ServiceBusMessageState.SCHEDULED
        message = await receive(receiver)
        assert str(message) == "soon"
        assert datetime.now(UTC) >= soon
        assert message.enqueued_time_utc >= soon.replace(microsecond=0)


async def test_what_the_broker_does_not_offer_is_refused(client: AsyncServiceBusClient) -> None:
    async with receiving(client, sent=[ServiceBusMessage("x")]) as receiver:
        with pytest.raises(ServiceBusError):
            await receiver.defer_message(await receive(receiver))
    with pytest.raises(ServiceBusError):
        async with receiving(client, receive_mode=ServiceBusReceiveMode.RECEIVE_AND_DELETE) as receiver:
            await receive(receiver)


async def test_a_message_id_is_taken_once_in_the_window() -> None:
    queues = [QueueSpec("window", duplicate_window_seconds=0.5), QueueSpec("off", duplicate_window_seconds=0)]
    twice = [ServiceBusMessage("1st", message_id="a"), ServiceBusMessage("2nd", message_id="a")]
    with BrokerThread(queues) as broker:
        client = connect(broker)
        await send(client, *twice, queue="window")
        await send(client, *twice, queue="off")
        assert broker.counts("window").active == 1
        assert broker.counts("off").active == 2
        while broker.counts("window").active == 1:
            await send(client, ServiceBusMessage("later", message_id="a"), queue="window")


async def test_an_expired_message_is_dead_lettered(
    client: AsyncServiceBusClient, broker: BrokerThread
) -> None:
    await send(client, ServiceBusMessage("x", time_to_live=timedelta(seconds=1)))
    await eventually(lambda: broker.counts("tasks").dead_letter == 1)
    async with dead_letters(client) as receiver:
        assert (await receive(receiver)).dead_letter_reason == "TTLExpiredException"


async def test_an_unknown_queue_is_not_found(client: AsyncServiceBusClient) -> None:
    with pytest.raises(MessagingEntityNotFoundError):
        await send(client, ServiceBusMessage("x"), queue="nowhere")
    with pytest.raises(MessagingEntityNotFoundError):
        async with receiving(client, "nowhere") as receiver:
            await receiver.peek_messages()


class FixedCredential:
    """A credential that already has its token."""

    async def get_token(self, *scopes: str, **_: object) -> AccessToken:
        return AccessToken("header.payload.signature", int(datetime.now(UTC).timestamp()) + 3600)

    async def close(self) -> None: ...

    async def __aenter__(self) -> FixedCredential:
        return self

    async def __aexit__(self, *_: object) -> None: ...


async def test_a_refused_token_is_an_authentication_error() -> None:
    def accept(token: Token) -> bool:
        shown.append(token)
        return not token.value.startswith("SharedAccessSignature")

    shown: list[Token] = []
    with BrokerThread([QueueSpec("tasks")], accept_token=accept) as broker:
        connecting = AsyncServiceBusClient.from_connection_string(broker.connection_string, retry_total=0)
        async with connecting as client:
            with pytest.raises(ServiceBusAuthenticationError):
                await send(client, ServiceBusMessage("x"))
        host = f"127.0.0.1:{broker.port}"
        async with AsyncServiceBusClient(host, FixedCredential(), use_tls=False) as client:
            await send(client, ServiceBusMessage("x"))
        assert broker.counts("tasks").active == 1
    assert len(shown) == 2
    assert shown[1] == Token("jwt", "header.payload.signature", f"sb://{host}/tasks")


async def test_competing_consumers_share_and_never_get_the_same(
    client: AsyncServiceBusClient, broker: BrokerThread
) -> None:
    async def consume(receiver: ServiceBusReceiver) -> list[str]:
        bodies = []
        while received := await receiver.receive_messages(max_wait_time=0.5):
            bodies.append(str(received[0]))
            await receiver.complete_message(received[0])
        return bodies

    await send(client, *(ServiceBusMessage(str(number)) for number in range(40)))
    async with receiving(client) as one, receiving(client) as other:
        shares = await asyncio.gather(consume(one), consume(other))
    assert sorted(map(int, shares[0] + shares[1])) == list(range(40))
    assert all(shares)
    assert broker.counts("tasks") == NOTHING


async def test_200_kb_pass_and_more_than_256_kb_are_refused(
    client: AsyncServiceBusClient, broker: BrokerThread
) -> None:
    async with client.get_queue_sender("tasks", keep_alive=0) as sender:
        await sender.send_messages(ServiceBusMessage("x" * 200_000))
        with pytest.raises(MessageSizeExceededError):
            await sender.send_messages(ServiceBusMessage("x" * 270_000))
        await sender.send_messages(ServiceBusMessage("after"))
    async with receiving(client) as receiver:
        first, second = [await receive(receiver) for _ in range(2)]
    assert (len(str(first)), str(second)) == (200_000, "after")
    assert broker.counts("tasks").locked == 2


async def test_an_injected_condition_reaches_the_caller(
    client: AsyncServiceBusClient, broker: BrokerThread
) -> None:
    async with receiving(client, sent=[ServiceBusMessage("x")]) as receiver:
        message = await receive(receiver)
        broker.faults.fail_next("renew", "com.microsoft:message-lock-lost")
        with pytest.raises(MessageLockLostError):
            await receiver.renew_message_lock(message)
        broker.faults.fail_next("settle", "com.microsoft:server-busy")
        await receiver.complete_message(message)  # the SDK retries over the management link
        broker.faults.fail_next("management", "com.microsoft:argument-error", queue="tasks")
        with pytest.raises(ServiceBusError, match="argument-error"):
            await receiver.peek_messages()
    assert broker.counts("tasks") == NOTHING
