"""Who may use the jobs' HTTP endpoint, and how much they may send."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator

import aiohttp
import pytest
import pytest_asyncio

from worker.web import api, health
from worker.web.health import Readiness

TOKEN = "a-token-of-some-length"


@pytest_asyncio.fixture(params=[None, TOKEN], ids=["without a token", "with a token"])
async def door(request: pytest.FixtureRequest) -> AsyncIterator[tuple[str, str | None]]:
    """The address of an endpoint whose platform never starts, and its token."""
    routes = api.routes(api.Platform(), token=request.param)
    async with health.serving(Readiness(), name="t", host="127.0.0.1", port=0, routes=routes) as port:
        yield f"http://127.0.0.1:{port}", request.param


async def _asked(url: str, *, method: str = "GET", data: bytes = b"", **headers: str) -> int:
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, url, data=data or None, headers=headers) as answer,
    ):
        return answer.status


async def test_a_door_with_a_token_opens_to_those_who_show_it(door: tuple[str, str | None]) -> None:
    url, token = door
    for method, path in (
        ("POST", "jobs/submit/x"),
        ("GET", "jobs/status/1"),
        ("GET", "jobs/tasks/1"),
        ("GET", "dead-letters/q"),
        ("POST", "dead-letters/q/purge"),
    ):
        inside = {503, 415}  # authorised: there is nothing yet to answer from
        shown = {"Authorization": f"Bearer {token}"}
        assert await _asked(f"{url}/api/{path}", method=method, **shown) in inside
        for wrong in ({}, {"Authorization": "Bearer "}, {"Authorization": f"Basic {token}"}):
            status = await _asked(f"{url}/api/{path}", method=method, **wrong)
            assert (status == 401) if token else (status in inside)


async def test_probes_ask_for_no_token(door: tuple[str, str | None]) -> None:
    url, _ = door
    assert await _asked(f"{url}/livez") == 200
    assert await _asked(f"{url}/readyz") == 503


async def test_a_page_in_a_browser_is_refused(door: tuple[str, str | None]) -> None:
    url, token = door
    status = await _asked(f"{url}/api/jobs/submit/x", method="POST", Origin="https://evil.example")
    assert status == (401 if token else 403)


async def test_a_body_has_a_largest_size(door: tuple[str, str | None]) -> None:
    url, token = door
    body = io.BytesIO(b'{"a": "' + b"x" * (2 << 20) + b'"}')
    shown = {"Authorization": f"Bearer {token}"}
    assert await _asked(f"{url}/api/jobs/submit/x", method="POST", data=body, **shown) == 413


@pytest.mark.parametrize(
    "path", ["../../etc/passwd", "%2e%2e/%2e%2e/etc/passwd", "/etc/passwd", "livez/../../x", "a%00b", "%ff"]
)
async def test_no_path_leads_to_a_file(door: tuple[str, str | None], path: str) -> None:
    url, _ = door
    assert await _asked(f"{url}/{path}") in (400, 404)
