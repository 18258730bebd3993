"""The development broker, killed and restarted while the real Service Bus SDK uses it."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import pytest
import pytest_asyncio
from azure.servicebus import ServiceBusReceivedMessage
from azure.servicebus.aio import ServiceBusClient

from tests.support.eventually import eventually
from tests.support.services.broker_process import ROOT, BrokerProcess
from worker.errors import BusError
from worker.local.broker.server import BrokerThread, QueueCounts, QueueSpec
from worker.queue.bus import Bus, Message, OutgoingMessage, QueueReceiver

NOTHING = QueueCounts(active=0, locked=0, scheduled=0, dead_letter=0)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[BrokerProcess]:
    with BrokerProcess(tmp_path, ["tasks", "others"], options=["--lock-seconds=6"]) as broker:
        yield broker


@pytest_asyncio.fixture
async def bus(broker: BrokerProcess) -> AsyncIterator[Bus]:
    async with Bus.connect(connection_string=broker.connection_string) as bus:
        yield bus


def outgoing(*names: str, scheduled_at: datetime | None = None) -> list[OutgoingMessage]:
    return [OutgoingMessage("{}", message_id=name, scheduled_at=scheduled_at) for name in names]


async def receive(receiver: QueueReceiver) -> Message:
    """Receive the next message, despite a broken connection."""
    async with asyncio.timeout(30):
        while True:
            with suppress(BusError):
                message = await receiver.receive(wait_seconds=10)
                assert message is not None, "nothing came within 10 s"
                return message


async def peek_all(connection_string: str, queue: str = "tasks") -> list[ServiceBusReceivedMessage]:
    async with (
        ServiceBusClient.from_connection_string(connection_string) as client,
        client.get_queue_receiver(queue) as receiver,
    ):
        found: list[ServiceBusReceivedMessage] = []
        while batch := await receiver.peek_messages(
            250, sequence_number=(found[-1].sequence_number or 0) + 1 if found else 1
        ):
            found += batch
        return found


async def passed(when: datetime) -> None:
    await eventually(lambda: datetime.now(UTC) > when, within_seconds=20)


async def test_messages_outlive_the_broker_in_order_and_with_their_counts(
    broker: BrokerProcess, bus: Bus
) -> None:
    await bus.send("tasks", outgoing("1", "2", "3"))
    async with bus.receiver("tasks") as receiver:
        await (await receive(receiver)).abandon()
        broker.restart()
        found = []
        for _ in range(3):
            message = await receive(receiver)
            found.append((message.message_id, message.delivery_count))
            await message.complete()
    assert found == [("1", 2), ("2", 1), ("3", 1)]
    broker.restart()
    assert broker.counts("tasks") == NOTHING


async def test_scheduled_messages_come_when_due_also_those_that_were_due_meanwhile(
    broker: BrokerProcess, bus: Bus
) -> None:
    soon, later, never = (datetime.now(UTC) + timedelta(seconds=seconds) for seconds in (2, 5, 600))
    for name, when in (("soon", soon), ("later", later), ("never", never)):
        await bus.send("tasks", outgoing(name, scheduled_at=when))
    broker.kill()
    await passed(soon)
    broker.start()
    async with bus.receiver("tasks") as receiver:
        for name, when in (("soon", soon), ("later", later)):
            message = await receive(receiver)
            assert message.message_id == name
            assert datetime.now(UTC) >= when
            await message.complete()
    assert broker.counts("tasks").scheduled == 1


async def test_a_message_id_is_remembered_over_a_restart(broker: BrokerProcess, bus: Bus) -> None:
    await bus.send("tasks", outgoing("1"))
    async with bus.receiver("tasks") as receiver:
        await (await receive(receiver)).complete()
    broker.restart()
    await bus.send("tasks", outgoing("1", "2"))
    assert [message.message_id for message in await peek_all(broker.connection_string)] == ["2"]


async def test_dead_letters_keep_their_reasons(broker: BrokerProcess, bus: Bus) -> None:
    await bus.send("tasks", outgoing("1"))
    async with bus.receiver("tasks") as receiver:
        await (await receive(receiver)).dead_letter("why", "in full")
    broker.restart()
    async with bus.receiver("tasks", sub_queue="dead-letter") as receiver:
        message = await receive(receiver)
        assert (message.dead_letter_reason, message.dead_letter_description) == ("why", "in full")
        await message.complete()
    assert broker.counts("tasks") == NOTHING


async def test_a_lock_is_kept_over_a_restart_and_its_message_completed_once(
    broker: BrokerProcess, bus: Bus
) -> None:
    lost: list[str] = []
    await bus.send("tasks", outgoing("1"))
    async with bus.receiver("tasks") as receiver:
        message = await receive(receiver)
        async with message.lock_kept(lambda: lost.append("lost")):
            first_end = message.locked_until
            broker.kill()
            broker.start()
            held = broker.counts("tasks")
            await passed(first_end + timedelta(seconds=1))
            assert message.locked_until > first_end
            assert broker.counts("tasks") == held == QueueCounts(0, 1, 0, 0)
            await message.complete()
    assert not lost
    assert broker.counts("tasks") == NOTHING


async def test_a_lock_that_ended_while_the_broker_was_down_counts_a_delivery(
    broker: BrokerProcess, bus: Bus
) -> None:
    await bus.send("tasks", outgoing("1"))
    async with bus.receiver("tasks") as receiver:
        message = await receive(receiver)
        broker.kill()
        await passed(message.locked_until)
        broker.start()
        again = await receive(receiver)
        assert (again.message_id, again.delivery_count) == ("1", 2)
        await again.complete()


async def test_what_was_acknowledged_is_there_once_wherever_the_broker_was_killed(
    broker: BrokerProcess, bus: Bus
) -> None:
    acknowledged: list[str] = []
    enough = asyncio.Event()

    async def send_batches(sender: int) -> None:
        for batch in count():
            if enough.is_set():
                return
            names = [f"{sender}-{batch}-{number}" for number in range(10)]
            with suppress(BusError):
                await bus.send("tasks", outgoing(*names))
                acknowledged.extend(names)

    sending = [asyncio.create_task(send_batches(sender)) for sender in range(3)]
    for kill in range(1, 4):
        await eventually(lambda least=100 * kill: len(acknowledged) >= least, within_seconds=60)  # type: ignore[misc]
        await asyncio.to_thread(broker.restart)
    enough.set()
    await asyncio.gather(*sending)
    broker.restart()
    found = await peek_all(broker.connection_string)
    times = Counter(str(message.message_id) for message in found)
    assert set(times.values()) == {1}
    assert set(acknowledged) <= set(times)
    assert len(acknowledged) >= 300
    batches = Counter(name.rpartition("-")[0] for name in times)
    assert set(batches.values()) == {10}, "a batch is there as a whole or not at all"


async def test_what_was_completed_stays_gone_wherever_the_broker_was_killed(
    broker: BrokerProcess, bus: Bus
) -> None:
    await bus.send("tasks", outgoing(*map(str, range(300))))
    completed: list[str | None] = []

    async def complete_all() -> None:
        async with bus.receiver("tasks") as receiver:
            while len(completed) < 300:
                with suppress(BusError):
                    message = await receiver.receive(wait_seconds=1)
                    if message is not None:
                        await message.complete()
                        completed.append(message.message_id)
                    elif broker.counts("tasks") == NOTHING:
                        return

    completing = [asyncio.create_task(complete_all()) for _ in range(2)]
    for kill in range(1, 4):
        await eventually(lambda least=50 * kill: len(completed) >= least, within_seconds=60)  # type: ignore[misc]
        broker.restart()
    await asyncio.gather(*completing)
    assert len(set(completed)) == len(completed)
    assert broker.counts("tasks") == NOTHING


async def test_a_thread_goes_on_with_the_file_and_other_queues_stay_in_it(tmp_path: Path) -> None:
    for names, queue in ((["a", "b"], "a"), (["b", "c"], "c"), (["a", "b", "c"], "b")):
        with BrokerThread([QueueSpec(name) for name in names], state=tmp_path / "state.db") as broker:
            async with Bus.connect(connection_string=broker.connection_string) as bus:
                await bus.send(queue, outgoing(f"to {queue}"))
            active = {name: broker.counts(name).active for name in names}
    assert active == {"a": 1, "b": 1, "c": 1}


def run_broker(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "worker.local.broker", "--queue=q", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)


def test_a_second_broker_on_the_file_says_so_and_ends(broker: BrokerProcess) -> None:
    ended = run_broker(f"--state={broker.state}")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "in use by another broker" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize("content", [b"not a database " * 100, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_file_that_is_no_state_file_is_one_clear_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "foreign").write_bytes(content)
    ended = run_broker(f"--state={tmp_path / 'foreign'}")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert f"the state file {tmp_path / 'foreign'}" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert (tmp_path / "foreign").read_bytes() == content


def test_a_folder_that_is_not_there_is_one_clear_error(tmp_path: Path) -> None:
    ended = run_broker(f"--state={tmp_path / 'nowhere' / 'state.db'}")
    assert ended.returncode == 2
    assert "cannot be opened" in ended.stderr


async def test_faults_are_commands_of_another_process(broker: BrokerProcess, bus: Bus) -> None:
    await bus.send("tasks", outgoing("1"))
    async with bus.receiver("tasks") as receiver:
        await receive(receiver)
        assert broker.command("detach others") == "ok 0"
        assert broker.command("detach tasks") == "ok 1"
        assert broker.command("expire tasks 2") == "ok 0"
        assert broker.command("expire tasks") == "ok 1"
        assert (await receive(receiver)).delivery_count == 2
        assert int(broker.command("drop").removeprefix("ok ")) >= 1
    assert broker.command("fail send com.microsoft:server-busy 9 tasks") == "ok"
    with pytest.raises(BusError):
        await bus.send("tasks", outgoing("2"))
    await bus.send("others", outgoing("2"))
    assert broker.command("clear") == "ok"
    await bus.send("tasks", outgoing("2"))
    assert broker.command("delay 0.01") == "ok"
    await bus.send("tasks", outgoing("3"))
    counts = broker.counts("tasks")
    assert counts.active + counts.locked == 3, "the first one's lock may have ended by now"
    assert counts.dead_letter == 0


COMMANDS = [
    ("counts q", '{"active": 0, "locked": 0, "scheduled": 0, "dead_letter": 0}'),
    ("explode", "error: there is no command 'explode'"),
    ("", "error: there is no command ''"),
    ("counts nowhere", "error: there is no queue 'nowhere'"),
    ("drop everything", "error: "),
    ("delay long", "error: "),
    ("fail everything", "error: 'everything' is not one of send"),
    ("fail send x 0", "error: times is 0"),
    ("clear", "ok"),
]


def start_broker(*options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "worker.local.broker", "--queue=q", *options],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ending(process: subprocess.Popen[str]) -> tuple[int, Sequence[str], str]:
    """Send SIGTERM; return the exit code, and what was still written."""
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=20)
    return process.returncode, output.splitlines(), errors


async def test_every_command_is_answered_by_a_line_and_none_ends_the_broker() -> None:
    process = start_broker("--faults")
    assert process.stdin is not None
    assert process.stdout is not None
    connection_string = process.stdout.readline().strip()
    for command, begin in COMMANDS:
        process.stdin.write(command + "\n")
        process.stdin.flush()
        assert process.stdout.readline().startswith(begin), command
    process.stdin.close()
    async with Bus.connect(connection_string=connection_string) as bus:
        await bus.send("q", outgoing("1"))
    process.stdin = None
    assert ending(process) == (0, [], "")


def test_a_broker_that_waits_for_a_command_ends_by_sigterm_without_a_word() -> None:
    process = start_broker("--faults")
    assert process.stdout is not None
    process.stdout.readline()
    assert ending(process) == (0, [], "")


def test_standard_input_is_left_alone_without_being_asked_to_be_read() -> None:
    process = start_broker()
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("counts q\n")
    process.stdin.flush()
    process.stdout.readline()
    assert ending(process) == (0, [], "")
