"""Who may read /metrics."""

from __future__ import annotations

import socket

import aiohttp
import psutil
import pytest

from worker.web import health
from worker.web.access import Access
from worker.web.health import Readiness

TOKEN = "0123456789abcdef"


async def _status(host: str, port: int, **headers: str) -> int:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://{host}:{port}/metrics", headers=headers) as answer,
    ):
        return answer.status


def other_address() -> str:
    """Return an address of this machine other than its loopback."""
    for addresses in psutil.net_if_addrs().values():
        for address in addresses:
            if address.family is socket.AF_INET and not address.address.startswith("127."):
                return address.address
    pytest.skip("this machine has only its loopback")


async def test_without_a_token_it_is_for_this_machine() -> None:
    other = other_address()
    async with health.serving(Readiness(), name="test", host="0.0.0.0", port=0) as port:
        assert await _status("127.0.0.1", port) == 200
        assert await _status(other, port) == 401


async def test_with_a_token_it_is_for_whoever_shows_it() -> None:
    async with health.serving(
        Readiness(), name="test", host="127.0.0.1", port=0, access=Access(TOKEN)
    ) as port:
        assert await _status("127.0.0.1", port) == 401
        assert await _status("127.0.0.1", port, Authorization="Bearer wrong") == 401
        assert await _status("127.0.0.1", port, Authorization=f"Bearer {TOKEN}") == 200
