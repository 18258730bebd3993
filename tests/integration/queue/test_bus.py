"""The worker's client of Service Bus: the real SDK with the development broker, faults included."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from azure.core.credentials import AccessToken
from azure.core.exceptions import ClientAuthenticationError
from azure.servicebus import ServiceBusClient as SynchronousClient
from azure.servicebus import ServiceBusMessage, ServiceBusSender
from azure.servicebus.aio import ServiceBusClient
from azure.servicebus.amqp import AmqpAnnotatedMessage

from gdaltools.errors import InvalidParameter
from tests.support.eventually import eventually
from worker.errors import BusAuthenticationError, BusError, LockLost, MessageTooLarge, QueueNotFound
from worker.local.broker.server import BrokerThread, QueueCounts, QueueSpec
from worker.queue.bus import Bus, Message, OutgoingMessage, QueueReceiver

pytestmark = pytest.mark.asyncio(loop_scope="module")

NOTHING = QueueCounts(active=0, locked=0, scheduled=0, dead_letter=0)


@pytest.fixture
def broker() -> Iterator[BrokerThread]:
    with BrokerThread(
        [QueueSpec("tasks", lock_seconds=30), QueueSpec("short-locks", lock_seconds=1.5)]
    ) as broker:
        yield broker


@pytest.fixture
def bus(broker: BrokerThread) -> Bus:
    return Bus.connect(connection_string=broker.connection_string)


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def closing() -> AsyncIterator[None]:
    """Closing a receiver takes the SDK a second: every test defers that to the end of the module."""
    yield
    await asyncio.gather(*CLOSING)


CLOSING: list[asyncio.Task[None]] = []


@asynccontextmanager
async def receiving(bus: Bus, queue: str = "tasks") -> AsyncIterator[QueueReceiver]:
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(bus.receiver(queue))
        CLOSING.append(asyncio.create_task(stack.pop_all().aclose()))


async def receive(receiver: QueueReceiver) -> Message:
    message = await receiver.receive(wait_seconds=10)
    assert message is not None
    return message


async def receive_in_the_end(receiver: QueueReceiver) -> Message:
    """Receive as a listener does: call again after an error that may pass."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            message = await receiver.receive(wait_seconds=5)
        except BusError as error:
            if not error.retryable:
                raise
        else:
            if message is not None:
                return message
    raise AssertionError("nothing came within 20 s")


async def send_and_receive(bus: Bus, receiver: QueueReceiver, *messages: OutgoingMessage) -> Message:
    """Send messages while the receiver opens and waits; return the first."""
    message, _ = await asyncio.gather(receive(receiver), bus.send(receiver.queue, messages))
    return message


def task(message_id: str = "t-1", **options: Any) -> OutgoingMessage:
    return OutgoingMessage('{"task_id": "t"}', message_id, **options)


async def test_a_message_arrives_as_it_was_sent_and_is_completed(bus: Bus, broker: BrokerThread) -> None:
    async with receiving(bus) as receiver:
        message = await send_and_receive(
            bus, receiver, task(correlation_id="docker-1", application_properties={"attempt": 2})
        )
        assert message.body == b'{"task_id": "t"}'
        assert (message.message_id, message.correlation_id) == ("t-1", "docker-1")
        assert (message.content_type, message.queue) == ("application/json", "tasks")
        assert message.delivery_count == 1
        assert 25 < (message.locked_until - datetime.now(UTC)).total_seconds() < 31
        await message.complete()
        assert broker.counts("tasks") == NOTHING
        assert await receiver.receive(wait_seconds=0.1) is None


async def test_many_messages_go_in_few_batches_in_order(bus: Bus, broker: BrokerThread) -> None:
    body = "x" * 2000
    await bus.send("tasks", [OutgoingMessage(body, str(number)) for number in range(200)])
    assert broker.counts("tasks").active == 200
    async with receiving(bus) as receiver:
        assert [(await receive(receiver)).message_id for _ in range(3)] == ["0", "1", "2"]


async def test_several_messages_are_received_at_once_in_order_each_with_its_lock(
    bus: Bus, broker: BrokerThread
) -> None:
    await bus.send("tasks", [task(f"t-{number}") for number in range(5)])
    async with receiving(bus) as receiver:
        received = await receiver.receive_many(4, wait_seconds=5)
        assert [message.message_id for message in received] == ["t-0", "t-1", "t-2", "t-3"]
        assert [message.sequence_number for message in received] == [1, 2, 3, 4]
        await received[2].complete()
        await received[0].abandon()
        counts = broker.counts("tasks")
        assert (counts.active, counts.locked) == (2, 2)


async def test_peeking_shows_messages_page_by_page_and_locks_none(bus: Bus, broker: BrokerThread) -> None:
    properties = {"attempt": 2, "kind": "test"}
    await bus.send("tasks", [task(f"t-{number}", application_properties=properties) for number in range(5)])
    async with receiving(bus) as receiver:
        first = await receiver.peek(max_count=3)
        rest = await receiver.peek(from_sequence=4)
        assert [message.sequence_number for message in (*first, *rest)] == [1, 2, 3, 4, 5]
        assert await receiver.peek(from_sequence=6) == []
        assert (first[0].body, first[0].message_id) == (b'{"task_id": "t"}', "t-0")
        assert (first[0].application_properties, first[0].delivery_count) == (properties, 0)
        received = await receiver.receive_many(5, wait_seconds=5)
        assert {message.delivery_count for message in received} == {1}


async def test_a_message_of_nearly_the_limit_is_sent_and_a_larger_one_refused(
    bus: Bus, broker: BrokerThread
) -> None:
    await bus.send("tasks", [OutgoingMessage("x" * 261_900, "near")])
    with pytest.raises(MessageTooLarge):
        await bus.send("tasks", [OutgoingMessage("x" * 262_144, "over")])
    with pytest.raises(MessageTooLarge):
        await bus.send("tasks", [task(), OutgoingMessage("x" * 262_144, "over")])
    assert broker.counts("tasks").active == 1


async def test_a_scheduled_message_waits_for_its_time(bus: Bus, broker: BrokerThread) -> None:
    when = datetime.now(UTC) + timedelta(seconds=1.5)
    await bus.send("tasks", [task("now"), task("later", scheduled_at=when)])
    assert (broker.counts("tasks").active, broker.counts("tasks").scheduled) == (1, 1)
    async with receiving(bus) as receiver:
        assert [(await receive(receiver)).message_id for _ in range(2)] == ["now", "later"]
    assert datetime.now(UTC) >= when
    with pytest.raises(InvalidParameter, match="time zone"):
        await bus.send("tasks", [task(scheduled_at=datetime(2030, 1, 1))])


async def test_an_abandoned_message_comes_again_and_a_dead_lettered_one_says_why(bus: Bus) -> None:
    await bus.send("tasks", [task()])
    async with receiving(bus) as receiver:
        await (await receive(receiver)).abandon()
        message = await receive(receiver)
        assert message.delivery_count == 2
        await message.dead_letter("unreadable", "d" * 5000)
    async with bus.receiver("tasks", sub_queue="dead-letter") as receiver:
        message = await receive(receiver)
        assert (message.dead_letter_reason, message.dead_letter_description) == ("unreadable", "d" * 4096)
        await message.complete()


async def test_bodies_that_other_clients_send_as_text_are_read(bus: Bus, broker: BrokerThread) -> None:
    client = ServiceBusClient.from_connection_string(broker.connection_string)
    text, parts = (
        AmqpAnnotatedMessage(value_body='{"a": 1}'),
        AmqpAnnotatedMessage(data_body=[b'{"a"', b": 1}"]),
    )
    async with client.get_queue_sender("tasks", keep_alive=0) as sender:
        await sender.send_messages([text, parts, ServiceBusMessage(b"")])
    async with receiving(bus) as receiver:
        assert [(await receive(receiver)).body for _ in range(3)] == [b'{"a": 1}', b'{"a": 1}', b""]


async def test_a_message_is_settled_once(bus: Bus) -> None:
    async with receiving(bus) as receiver:
        message = await send_and_receive(bus, receiver, task())
        await message.complete()
        for again in (message.complete, message.abandon, message.renew):
            with pytest.raises(LockLost):
                await again()


async def test_a_message_is_settled_although_its_link_was_detached(bus: Bus, broker: BrokerThread) -> None:
    async with receiving(bus) as receiver:
        message = await send_and_receive(bus, receiver, task("1"), task("2"))
        assert broker.faults.detach_links("tasks") == 1
        await message.renew()  # makes the SDK notice the detached link
        await message.complete()
        assert (await receive(receiver)).message_id == "2"
    assert broker.counts("tasks").active == 0


async def test_a_message_is_settled_although_the_service_failed_twice(bus: Bus, broker: BrokerThread) -> None:
    async with receiving(bus) as receiver:
        message = await send_and_receive(bus, receiver, task())
        broker.faults.fail_next("settle", times=2)
        await message.dead_letter("why", "because")
    assert broker.counts("tasks") == QueueCounts(active=0, locked=0, scheduled=0, dead_letter=1)


async def test_a_message_is_settled_after_its_connection_dropped(bus: Bus, broker: BrokerThread) -> None:
    async with receiving(bus) as receiver:
        message = await send_and_receive(bus, receiver, task())
        broker.faults.drop_connections()
        await message.complete()
    assert broker.counts("tasks") == NOTHING


async def test_settling_says_that_the_lock_was_lost(bus: Bus, broker: BrokerThread) -> None:
    async with receiving(bus) as receiver:
        message = await send_and_receive(bus, receiver, task())
        broker.faults.expire_locks("tasks")
        with pytest.raises(LockLost):
            await message.complete()
        assert (await receive(receiver)).delivery_count == 2


async def test_a_kept_lock_outlasts_its_time_and_transient_faults(bus: Bus, broker: BrokerThread) -> None:
    lost: list[bool] = []
    async with receiving(bus, "short-locks") as receiver:
        message = await send_and_receive(bus, receiver, task())
        first_end = message.locked_until
        broker.faults.fail_next("renew", times=1)
        async with message.lock_kept(lambda: lost.append(True)):
            await eventually(lambda: datetime.now(UTC) > first_end + timedelta(seconds=1.5))
            await message.complete()
    assert not lost
    assert broker.counts("short-locks") == NOTHING


@pytest.mark.parametrize("hours", [-1, 1])
async def test_a_lock_is_kept_and_settled_whatever_the_calendars_say(hours: int) -> None:
    spec = QueueSpec("tasks", lock_seconds=6)
    with BrokerThread([spec], clock=lambda: time.time() + 3600 * hours) as broker:
        lost: list[bool] = []
        async with Bus.connect(connection_string=broker.connection_string) as bus, receiving(bus) as receiver:
            message = await send_and_receive(bus, receiver, task())
            first_end = message.locked_until
            async with message.lock_kept(lambda: lost.append(True)):
                await eventually(lambda: message.locked_until > first_end, within_seconds=20)
                await message.complete()
        assert not lost
        assert broker.counts("tasks") == NOTHING


async def test_the_loss_of_a_kept_lock_is_told_once(bus: Bus, broker: BrokerThread) -> None:
    lost: list[bool] = []
    async with receiving(bus, "short-locks") as receiver:
        message = await send_and_receive(bus, receiver, task())
        async with message.lock_kept(lambda: lost.append(True)):
            broker.faults.expire_locks("short-locks")
            await eventually(lambda: bool(lost))
            with pytest.raises(LockLost):
                await message.complete()
    assert lost == [True]


async def test_a_kept_lock_is_lost_only_when_it_has_run_out(bus: Bus, broker: BrokerThread) -> None:
    lost_at: list[datetime] = []
    async with receiving(bus, "short-locks") as receiver:
        message = await send_and_receive(bus, receiver, task())
        broker.faults.fail_next("renew", times=1000)
        async with message.lock_kept(lambda: lost_at.append(datetime.now(UTC))):
            await eventually(lambda: bool(lost_at))
        assert lost_at[0] >= message.locked_until


async def test_a_lock_is_no_longer_kept_behind_its_context(bus: Bus, broker: BrokerThread) -> None:
    async with receiving(bus, "short-locks") as receiver:
        message = await send_and_receive(bus, receiver, task())
        with pytest.raises(ZeroDivisionError):
            async with message.lock_kept(lambda: pytest.fail("told of a loss after the end")):
                raise ZeroDivisionError
        await eventually(lambda: broker.counts("short-locks").active == 1)


async def test_a_cancelled_receive_gives_back_the_message_that_was_on_its_way(
    bus: Bus, broker: BrokerThread
) -> None:
    async with bus.receiver("tasks") as receiver:
        assert await receiver.receive(wait_seconds=0.1) is None
        with _synchronous_sender(broker, "tasks") as sender:
            waiting = asyncio.create_task(receiver.receive(wait_seconds=30))
            await _turns(20)  # until it reads
            broker.faults.delay_replies(0.2)
            sending = asyncio.create_task(asyncio.to_thread(sender.send_messages, ServiceBusMessage("{}")))
            await _turns(1)
            _stand_still_until_locked(broker, "tasks")
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await sending
        broker.faults.clear()
    await eventually(lambda: broker.counts("tasks").active == 1)
    async with receiving(bus) as receiver:
        assert (await receive(receiver)).delivery_count == 1


async def test_a_receive_ends_in_whatever_turn_of_the_loop_it_is_cancelled() -> None:
    queues = [f"queue-{turns}" for turns in range(6)]
    with BrokerThread([QueueSpec(queue) for queue in queues]) as broker:
        bus = Bus.connect(connection_string=broker.connection_string)
        receivers = [bus.receiver(queue) for queue in queues]
        came = 0  # receives that finished in time; with that many turns or more, all do
        for turns, receiver in enumerate(receivers):
            assert await receiver.receive(wait_seconds=0.1) is None
            waiting = asyncio.create_task(receiver.receive(wait_seconds=30))
            await _turns(20)  # until it reads
            with _synchronous_sender(broker, receiver.queue) as sender:
                sender.send_messages(ServiceBusMessage("{}"))
            _stand_still_until_locked(broker, receiver.queue)
            await _turns(turns)
            came += waiting.done()
            waiting.cancel()
            await asyncio.wait({waiting}, timeout=10)
            assert waiting.cancelled() or came, (
                f"cancelled {turns} turns after a message had come, it went on"
            )
        await asyncio.gather(*(receiver.__aexit__(None, None, None) for receiver in receivers))
        assert 0 < came < len(queues)
        assert sum(broker.counts(queue).locked for queue in queues) == came


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@contextmanager
def _synchronous_sender(broker: BrokerThread, queue: str) -> Iterator[ServiceBusSender]:
    """Open a sender that needs no event loop."""
    client = SynchronousClient.from_connection_string(broker.connection_string)
    with client, client.get_queue_sender(queue, keep_alive=0) as sender:
        yield sender


def _stand_still_until_locked(broker: BrokerThread, queue: str) -> None:
    """Block the event loop until the broker has delivered a message."""
    deadline = time.monotonic() + 30
    while broker.counts(queue).locked == 0:
        assert time.monotonic() < deadline
        time.sleep(0.005)


async def test_a_receiver_that_died_is_opened_again(bus: Bus, broker: BrokerThread) -> None:
    faults: list[Callable[[], object]] = [
        lambda: broker.faults.detach_links("tasks", condition="com.microsoft:server-busy"),
        lambda: broker.faults.fail_next("receive"),
        broker.faults.drop_connections,
    ]
    async with receiving(bus) as receiver:
        for number, inject in enumerate(faults):
            assert await receiver.receive(wait_seconds=0.1) is None
            inject()
            message, _ = await asyncio.gather(
                receive_in_the_end(receiver), bus.send("tasks", [task(str(number))])
            )
            assert message.message_id == str(number)
            await message.complete()


async def test_a_broker_that_was_killed_and_came_back_is_found_again() -> None:
    async def start(port: int) -> tuple[asyncio.subprocess.Process, str]:
        arguments = ("-m", "worker.local.broker", "--queue", "tasks", "--port", str(port))
        process = await asyncio.create_subprocess_exec(
            sys.executable, *arguments, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        return process, (await process.stdout.readline()).decode().strip()

    process, connection_string = await start(0)
    bus = Bus.connect(connection_string=connection_string)
    async with receiving(bus) as receiver:
        assert await receiver.receive(wait_seconds=0.1) is None
        process.kill()
        await process.wait()
        with pytest.raises(BusError):
            await receiver.receive(wait_seconds=5)
        with pytest.raises(BusError):
            await bus.check_receiving("tasks")
        port = int(connection_string.split(":")[2].split(";")[0])
        process, _ = await start(port)
        await bus.send("tasks", [task()])
        assert (await receive(receiver)).message_id == "t-1"
    process.terminate()
    assert await process.wait() == 0


async def test_an_unknown_queue_is_a_permanent_error(bus: Bus) -> None:
    with pytest.raises(QueueNotFound):
        await bus.check_receiving("nowhere")
    with pytest.raises(QueueNotFound) as caught:
        await bus.send("nowhere", [task()])
    assert not caught.value.retryable
    async with receiving(bus, "nowhere") as receiver:
        with pytest.raises(QueueNotFound):
            await receiver.receive(wait_seconds=5)


async def test_refused_credentials_are_an_authentication_error() -> None:
    with BrokerThread([QueueSpec("tasks")], accept_token=lambda _: False) as broker:
        bus = Bus.connect(connection_string=broker.connection_string)
        with pytest.raises(BusAuthenticationError):
            await bus.check_receiving("tasks")


class IdentityWithoutToken:
    """A credential whose token service refuses."""

    async def get_token(self, *scopes: str, **_: object) -> AccessToken:
        raise ClientAuthenticationError("no identity has been assigned")

    async def close(self) -> None: ...

    async def __aenter__(self) -> IdentityWithoutToken:
        return self

    async def __aexit__(self, *_: object) -> None: ...


async def test_an_identity_that_gets_no_token_is_an_authentication_error(broker: BrokerThread) -> None:
    bus = Bus.connect(namespace=f"127.0.0.1:{broker.port}", credential=IdentityWithoutToken())
    with pytest.raises(BusAuthenticationError, match="no identity"):
        await bus.check_receiving("tasks")


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="nothing given"),
        pytest.param({"connection_string": "Endpoint=sb://x/;y=z", "namespace": "x"}, id="both given"),
        pytest.param({"connection_string": "not a connection string"}, id="malformed"),
    ],
)
async def test_a_wrong_way_to_connect_is_refused_at_once(options: dict[str, str]) -> None:
    with pytest.raises(InvalidParameter):
        Bus.connect(**options)  # type: ignore[arg-type]
