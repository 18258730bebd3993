"""Who sees the status page, from where, and what a form of another site can do."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest

from tests.unit.worker.web.test_metrics_page import other_address
from worker.web import health
from worker.web.access import COOKIE, Access
from worker.web.api import Platform
from worker.web.health import Readiness
from worker.web.status import page
from worker.web.status.board import Board
from worker.web.status.facts import WorkerFacts

TOKEN = "a-token-of-some-length"
ABOUT = WorkerFacts("a-worker", "worker_docker", ("docker-tasks",), "0", datetime.now(UTC))


@asynccontextmanager
async def served(
    token: str | None = None, *, host: str = "127.0.0.1", readiness: Readiness | None = None
) -> AsyncIterator[tuple[str, Access]]:
    """Run the server of a worker that is starting; yield its address and its access rule."""
    access, streams = Access(token), page.Streams()
    readiness = readiness or Readiness()
    board = Board(ABOUT, readiness, Platform(), queues=(), form_key=access.form_key)
    async with health.serving(
        readiness,
        name="a-worker",
        host=host,
        port=0,
        access=access,
        routes=page.routes(board, access, streams),
        on_shutdown=streams.close,
    ) as port:
        yield f"http://127.0.0.1:{port}", access


async def asked(url: str, *, method: str = "GET", data: Any = None, **headers: str) -> tuple[int, str]:
    jar = aiohttp.DummyCookieJar()
    async with (
        aiohttp.ClientSession(cookie_jar=jar) as session,
        session.request(method, url, data=data, headers=headers, allow_redirects=False) as answer,
    ):
        return answer.status, str(answer.headers) + await answer.text()


PATHS = ("/status/events", "/status/page.css", "/status/page.js", "/metrics", "/api/jobs/status/1", "/none")


async def test_this_machine_sees_the_page_of_a_worker_that_starts() -> None:
    async with served() as (url, _):
        status, text = await asked(url)
        assert status == 200
        assert "a-worker" in text
        assert "Not known right now: the worker is starting" in text


async def test_the_page_names_what_does_not_work() -> None:
    readiness = Readiness(phase=None)
    readiness.report("database", "it <b>sleeps</b>; password=planted-secret")
    async with served(readiness=readiness) as (url, _):
        _, text = await asked(url)
    assert "not ready" in text
    assert "it &lt;b&gt;sleeps&lt;/b&gt;" in text
    assert "planted-secret" not in text


async def test_from_elsewhere_there_is_a_plain_answer_and_nothing_else() -> None:
    other = other_address()
    async with served(host="0.0.0.0") as (url, _):
        far = url.replace("127.0.0.1", other)
        status, text = await asked(far)
        assert status == 200
        assert text.endswith("gdaltools worker\n")
        assert "a-worker" not in text
        assert {(await asked(far + path))[0] for path in PATHS} == {401}
        assert (await asked(f"{far}/livez"))[0] == 200
        assert (await asked(f"{far}/readyz"))[0] == 503
        assert (await asked(f"{far}/status/redrive", method="POST"))[0] == 401


@pytest.mark.parametrize(
    "headers",
    [{"Host": "evil.example"}, {"X-Forwarded-For": "203.0.113.7"}, {"Forwarded": "for=203.0.113.7"}],
)
async def test_a_name_or_a_proxy_that_leads_to_this_machine_is_elsewhere(headers: dict[str, str]) -> None:
    async with served() as (url, _):
        status, text = await asked(url, **headers)
        assert status == 200
        assert "a-worker" not in text
        assert (await asked(f"{url}/status/events", **headers))[0] == 401


async def test_with_a_token_it_is_for_those_who_show_it() -> None:
    async with served(TOKEN) as (url, _):
        status, text = await asked(url)
        assert status == 200
        assert "a-worker" not in text
        assert 'type="password"' in text
        assert {(await asked(url + path))[0] for path in PATHS} == {401}
        status, text = await asked(url, Authorization=f"Bearer {TOKEN}")
        assert "a-worker" in text
        assert TOKEN not in text
        assert "a-worker" not in (await asked(url, Authorization=f"Bearer {TOKEN}x"))[1]


async def test_a_browser_gives_the_token_once_and_keeps_a_cookie() -> None:
    async with served(TOKEN) as (url, _):
        status, text = await asked(f"{url}/status/sign-in", method="POST", data={"token": "wrong"})
        assert status == 401
        assert "That is not the token" in text
        assert "Set-Cookie" not in text
        status, text = await asked(f"{url}/status/sign-in", method="POST", data={"token": TOKEN})
        assert status == 303
        cookie = re.search(rf"{COOKIE}=[^;]+", text)
        assert cookie is not None
        assert TOKEN not in text
        assert "HttpOnly" in text
        assert "SameSite=Strict" in text
        status, text = await asked(url, Cookie=cookie[0])
        assert "a-worker" in text
        assert "Sign out" in text
        assert (await asked(f"{url}/status/page.css", Cookie=cookie[0]))[0] == 200
        later = re.sub(r"=\d", "=9", cookie[0])
        assert "a-worker" not in (await asked(url, Cookie=later))[1], "its end is part of it"


async def test_a_cookie_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.web.access.COOKIE_SECONDS", -1)
    async with served(TOKEN) as (url, access):
        assert "a-worker" not in (await asked(url, Cookie=f"{COOKIE}={access.ticket()}"))[1]


@pytest.mark.parametrize(
    ("headers", "key", "expected"),
    [
        ({"Sec-Fetch-Site": "same-origin"}, None, 303),
        ({"Origin": "ours"}, None, 303),
        ({}, None, 303),
        ({"Sec-Fetch-Site": "cross-site"}, None, 403),
        ({"Sec-Fetch-Site": "same-site", "Origin": "ours"}, None, 403),
        ({"Origin": "https://evil.example"}, None, 403),
        ({"Origin": "null"}, None, 403),
        ({"Origin": "ours"}, "", 403),
        ({"Sec-Fetch-Site": "same-origin"}, "0" * 64, 403),
    ],
)
async def test_only_a_form_of_the_page_itself_redrives(
    headers: dict[str, str], key: str | None, expected: int
) -> None:
    async with served() as (url, access):
        sent = {name: url if value == "ours" else value for name, value in headers.items()}
        data = {"queue": "docker-tasks", "sequence": "1", "form_key": access.form_key if key is None else key}
        status, text = await asked(f"{url}/status/redrive", method="POST", data=data, **sent)
        assert status == expected
        if status == 303:
            place = re.search(r"\?notice=[\w-]+", text)
            assert place is not None
            assert "nothing was redriven" in (await asked(f"{url}/{place[0]}"))[1]


@pytest.mark.parametrize("choice", [{"sequence": "<1>"}, {}, {"sequence": "1", "all": "all"}])
async def test_a_choice_that_is_none_is_refused(choice: dict[str, str]) -> None:
    async with served() as (url, access):
        data = {"queue": "docker-tasks", "form_key": access.form_key, **choice}
        assert (await asked(f"{url}/status/redrive", method="POST", data=data))[0] == 400


async def test_the_page_lets_nothing_in_from_elsewhere() -> None:
    async with served() as (url, _):
        _, text = await asked(url)
        policy = re.search(r"'Content-Security-Policy': \"([^\"]+)\"", text)
        assert policy is not None
        assert policy[1].startswith("default-src 'none'")
        assert "unsafe" not in policy[1]
        body = text[text.index("<!doctype") :]
        assert not re.search(r"<script(?![^>]* src=\"status/)|\son\w+=|\sstyle=|<style", body)
        assert not re.findall(r"(?:src|href|action)=\"(?:https?:)?//", body)
        for name, start in (("page.css", ":root"), ("page.js", '"use strict"')):
            found = re.search(rf'"(status/{name}\?v=\w+)"', body)
            assert found is not None
            status, asset = await asked(f"{url}/{found[1]}")
            assert status == 200
            assert start in asset


async def test_of_many_who_watch_the_last_are_refused() -> None:
    async with served() as (url, _), aiohttp.ClientSession() as session:
        streams = [await session.get(f"{url}/status/events") for _ in range(page.MOST_STREAMS)]
        assert {stream.status for stream in streams} == {200}
        assert (await asked(f"{url}/status/events"))[0] == 503
        assert (await asked(url))[0] == 200


async def test_a_stream_ends_when_the_server_does() -> None:
    async with aiohttp.ClientSession() as session:
        async with served() as (url, _):
            stream = await session.get(f"{url}/status/events")
            assert stream.content_type == "text/event-stream"
            assert await stream.content.readline() == b"retry: 2000\n"
        # Complete, and not broken off, as it would be by a server that had waited for it in vain.
        async with asyncio.timeout(10):
            assert b"event: section" in await stream.read()
