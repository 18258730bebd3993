"""A client that breaks the protocol loses its connection, and no other client does."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest

from worker.local.broker.server import BrokerThread, QueueSpec


@pytest.fixture
def broker() -> Iterator[BrokerThread]:
    with BrokerThread([QueueSpec("tasks")]) as broker:
        yield broker


FRAME = struct.Struct(">IBBH")
OPENED = b"AMQP\x00\x01\x00\x00" + b"\x00\x00\x00\x11\x02\x00\x00\x00" + b"\x00\x53\x10\xc0\x04\x01\xa1\x01c"


@pytest.mark.parametrize(
    "attack",
    [
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="another protocol"),
        pytest.param(b"AMQP\x00\x09\x09\x01", id="another version"),
        pytest.param(OPENED + FRAME.pack(0xFFFFFFFF, 2, 0, 0), id="a frame of 4 GB"),
        pytest.param(OPENED + FRAME.pack(4, 2, 0, 0), id="a frame smaller than its header"),
        pytest.param(OPENED + FRAME.pack(12, 2, 0, 0) + b"\xff\xff\xff\xff", id="no AMQP type"),
        pytest.param(
            OPENED + FRAME.pack(13, 2, 0, 7) + b"\x00\x53\x12\x45\x00"[:5], id="a link without a session"
        ),
        pytest.param(
            OPENED
            + FRAME.pack(22, 2, 0, 0)
            + b"\x00\x53\x15\xf0"
            + b"\x00\x00\x00\x06\xff\xff\xff\xff\x40\x40",
            id="an array of four billion nulls",
        ),
    ],
)
def test_a_hostile_client_loses_its_connection_and_nobody_else_does(
    broker: BrokerThread, attack: bytes
) -> None:
    with socket.create_connection(("127.0.0.1", broker.port), timeout=5) as bystander:
        bystander.sendall(OPENED)
        assert bystander.recv(8) == b"AMQP\x00\x01\x00\x00"
        with socket.create_connection(("127.0.0.1", broker.port), timeout=5) as hostile:
            hostile.sendall(attack)
            while hostile.recv(4096):
                pass
        bystander.sendall(FRAME.pack(12, 2, 0, 0) + b"\x00\x53\x18\x45")
        answers = b""
        while received := bystander.recv(4096):
            answers += received
    assert b"\x00\x53\x18" in answers  # it was closed properly
