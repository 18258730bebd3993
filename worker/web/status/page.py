"""The status page for browsers: HTML that works without JavaScript, and with it a live stream of changes.

The page loads nothing from other hosts, its address never contains the token, and only its own forms trigger
actions. A stream ends when the server shuts down, so that it does not delay the shutdown.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from hashlib import sha256
from http import HTTPStatus
from secrets import token_urlsafe

from aiohttp import web

from gdaltools.errors import InvalidParameter
from worker.queue.dead_letter import Selection, parse_sequence_number
from worker.waiting import is_set_within
from worker.web.access import COOKIE, COOKIE_SECONDS, Access
from worker.web.status import html
from worker.web.status.board import Board

MOST_STREAMS = 16
"""The most streams at a time; other viewers see the page, marked as not live."""

_TICK_SECONDS = 1.0
_KEEP_ALIVE_SECONDS = 15.0
# Time limit for a browser to read what was sent.
_WRITE_SECONDS = 10.0

_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": _POLICY,
    # Not "no-referrer": without a referrer a form's origin would be "null".
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
_ASSETS = {"page.css": "text/css", "page.js": "text/javascript"}


class Streams:
    """The open streams, at most MOST_STREAMS; they end when `close` is called."""

    def __init__(self) -> None:
        self._closing = asyncio.Event()
        self._open = 0

    @asynccontextmanager
    async def entered(self) -> AsyncIterator[bool]:
        """Hold a place for a stream from entry to exit; yield whether one was free."""
        is_free = self._open < MOST_STREAMS
        self._open += is_free
        try:
            yield is_free
        finally:
            self._open -= is_free

    async def pause(self, seconds: float) -> bool:
        """Wait `seconds`, or until `close` is called; return whether to continue."""
        return not await is_set_within(self._closing, seconds)

    async def close(self, _: object) -> None:
        """End all streams."""
        self._closing.set()


def routes(board: Board, access: Access, streams: Streams) -> Iterable[web.RouteDef]:
    """Return the routes of the page, its stream, its forms and its static files."""
    assets = {name: html.asset(name) for name in _ASSETS}
    versions = {name: sha256(content).hexdigest()[:12] for name, content in assets.items()}

    async def show(request: web.Request) -> web.Response:
        if not access.allows(request):
            return _nothing_to_see(access, HTTPStatus.OK)
        text = html.page(
            await board.fragments(),
            name=board.about.name,
            now=datetime.now(UTC).strftime("%H:%M:%S"),
            notice=board.notice(request.query.get("notice", "")),
            versions=versions,
            signed_in=COOKIE in request.cookies,
            form_key=access.form_key,
        )
        return web.Response(text=text, content_type="text/html", headers=_HEADERS)

    async def sign_in(request: web.Request) -> web.Response:
        form = await request.post()
        if not access.is_token(str(form.get("token", ""))):
            return _nothing_to_see(access, HTTPStatus.UNAUTHORIZED, refused=True)
        answer = _see_other("../")
        answer.set_cookie(
            COOKIE,
            access.ticket(),
            max_age=COOKIE_SECONDS,
            httponly=True,
            samesite="Strict",
            secure=request.secure or request.headers.get("X-Forwarded-Proto") == "https",
        )
        return answer

    async def sign_out(_: web.Request) -> web.Response:
        answer = _see_other("../")
        answer.del_cookie(COOKIE, httponly=True, samesite="Strict")
        return answer

    async def redrive(request: web.Request) -> web.Response:
        form = await request.post()
        numbers = frozenset(parse_sequence_number(str(each)) for each in form.getall("sequence", ()))
        choice = Selection.of({"sequences": numbers, "all": form.get("all") == "all"})
        key = await board.redrive(str(form.get("queue", "")), choice)
        return _see_other(f"../?notice={key}")

    async def stream(request: web.Request) -> web.StreamResponse:
        async with streams.entered() as is_free:
            if not is_free:
                return _refused(HTTPStatus.SERVICE_UNAVAILABLE, "as many watch already as can")
            answer = web.StreamResponse(
                headers={**_HEADERS, "Content-Type": "text/event-stream", "X-Accel-Buffering": "no"}
            )
            await answer.prepare(request)
            with suppress(TimeoutError, ConnectionError):  # the viewer is gone
                await _follow(board, streams, answer)
            return answer

    def asset(name: str, content_type: str) -> web.RouteDef:
        async def send(_: web.Request) -> web.Response:
            headers = {**_HEADERS, "Cache-Control": "private, max-age=86400"}
            return web.Response(
                body=assets[name], content_type=content_type, charset="utf-8", headers=headers
            )

        return web.get(f"/status/{name}", send)

    return [
        web.get("/", show),
        web.get("/status/events", stream, allow_head=False),
        web.post("/status/sign-in", sign_in),
        web.post("/status/sign-out", _of_our_forms(sign_out, access)),
        web.post("/status/redrive", _of_our_forms(redrive, access)),
        *(asset(name, content_type) for name, content_type in _ASSETS.items()),
    ]


def _of_our_forms(
    handler: Callable[[web.Request], Awaitable[web.Response]], access: Access
) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def guard(request: web.Request) -> web.Response:
        form = await request.post()
        if not access.trusts_form(request, str(form.get("form_key", ""))):
            return _refused(HTTPStatus.FORBIDDEN, "this did not come from the page as it is now: reload it")
        try:
            return await handler(request)
        except InvalidParameter as error:
            return _refused(HTTPStatus.BAD_REQUEST, str(error))

    return guard


async def _follow(board: Board, streams: Streams, answer: web.StreamResponse) -> None:
    """Send each section when it has changed, until the server shuts down."""
    sent: dict[str, str] = {}
    silent = 0.0
    await _send(answer, "retry: 2000\n\n")
    while True:
        fragments = await board.fragments()
        changed = {name: text for name, text in fragments.items() if sent.get(name) != text}
        silent = 0.0 if changed else silent + _TICK_SECONDS
        if changed:
            events = (_event(name, text) for name, text in changed.items())
            await _send(answer, "".join(events))
            sent |= changed
        elif silent >= _KEEP_ALIVE_SECONDS:
            await _send(answer, ":\n\n")
            silent = 0.0
        if not await streams.pause(_TICK_SECONDS):
            return


def _event(name: str, text: str) -> str:
    return f"event: section\ndata: {json.dumps({'name': name, 'html': text})}\n\n"


async def _send(answer: web.StreamResponse, text: str) -> None:
    async with asyncio.timeout(_WRITE_SECONDS):
        await answer.write(text.encode())


def _see_other(place: str) -> web.Response:
    return web.Response(status=HTTPStatus.SEE_OTHER, headers={**_HEADERS, "Location": place})


def _refused(status: HTTPStatus, message: str) -> web.Response:
    return web.Response(status=status, text=f"{message}\n", headers=_HEADERS)


def _nothing_to_see(access: Access, status: HTTPStatus, *, refused: bool = False) -> web.Response:
    """Return an answer that reveals nothing; when there is a token, with a form to enter it."""
    if access.token is None:
        return web.Response(status=status, text="gdaltools worker\n", headers=_HEADERS)
    nonce = token_urlsafe(16)
    policy = f"default-src 'none'; style-src 'nonce-{nonce}'; form-action 'self'; frame-ancestors 'none'"
    return web.Response(
        status=status,
        text=html.sign_in(nonce=nonce, refused=refused),
        content_type="text/html",
        headers={**_HEADERS, "Content-Security-Policy": policy},
    )
