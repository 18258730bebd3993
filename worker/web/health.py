"""The HTTP server for the platform's probes and for curl; it starts before every other part of the worker.

``/livez`` answers as long as the event loop runs. ``/readyz`` answers 200 only while every part that the
worker needs works, else 503 with one entry for each part that does not. ``/metrics`` is for Prometheus.
Everything but `OPEN_PATHS`, which include the probes, is limited to those whom `worker.web.access.Access`
allows.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from worker.errors import ConfigurationError
from worker.telemetry.metrics import CONTENT_TYPE, METRICS
from worker.web.access import Access
from worker.web.gauges import Gauges

# A part that fails again within this time is still in the same outage.
_ONE_OUTAGE_SECONDS = 30.0

# Bytes of a request's body; job parameters are far smaller.
_LARGEST_BODY = 1 << 20

OPEN_PATHS = frozenset({"/", "/livez", "/readyz", "/status/sign-in"})
"""Paths that are answered without access; ``/`` then shows nothing about the worker."""

log = logging.getLogger(__name__)


@dataclass
class Readiness:
    """What keeps the worker from working, by part; the code that uses a part reports its problems here.

    `phase` is "starting" or "stopping", neither of which is a fault, and None in between.
    """

    phase: str | None = "starting"
    problems: dict[str, str] = field(default_factory=dict)
    _worked_at: dict[str, float] = field(default_factory=dict)

    def report(self, part: str, problem: Exception | str | None) -> None:
        """Record the problem of `part`; None records that it works."""
        if problem is None:
            if self.problems.pop(part, None) is not None:
                self._worked_at[part] = time.monotonic()
                log.info("%s works again", part)
        else:
            if part not in self.problems:
                # A part has several users: one may see an outage end before another has seen it begin.
                again = time.monotonic() - self._worked_at.get(part, float("-inf")) < _ONE_OUTAGE_SECONDS
                log.log(logging.INFO if again else logging.WARNING, "%s: %s", part, problem)
            self.problems[part] = str(problem)

    @property
    def state(self) -> str:
        """The worker's state: its phase, else "ready" or "not ready"."""
        return self.phase or ("not ready" if self.problems else "ready")

    @property
    def ready(self) -> bool:
        """Whether no problem is known and the worker is neither starting nor stopping."""
        return self.state == "ready"


def _guard(access: Access) -> Middleware:
    if access.token is None:
        message = "this is for programs and people of this machine: set WORKER_API_TOKEN to open it to others"
    else:
        message = "send WORKER_API_TOKEN as Authorization: Bearer TOKEN, or give it to the page at /"
    body = {"error": message, "errorType": HTTPStatus.UNAUTHORIZED.phrase, "retryable": False}

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path in OPEN_PATHS or access.allows(request):
            return await handler(request)
        return web.json_response(body, status=HTTPStatus.UNAUTHORIZED)

    return guard


@asynccontextmanager
async def serving(
    readiness: Readiness,
    *,
    name: str,
    host: str,
    port: int,
    gauges: Gauges | None = None,
    access: Access | None = None,
    routes: Iterable[web.RouteDef] = (),
    on_shutdown: Callable[[web.Application], Awaitable[None]] | None = None,
) -> AsyncIterator[int]:
    """Serve the probes, the metrics and `routes`; yield the port in use (`port` 0 takes any free one).

    `gauges` are refreshed for each request to ``/metrics``. Without `access` only requests from this machine
    are allowed. `on_shutdown` is called at exit, before the server waits for answers in progress.

    Raises
    ------
    ConfigurationError
        The port is in use or not permitted.
    """

    async def alive(_: web.Request) -> web.Response:
        return web.json_response({"status": "alive", "app": name})

    async def ready(_: web.Request) -> web.Response:
        body = {"ready": readiness.ready, "phase": readiness.phase, "problems": readiness.problems}
        return web.json_response(body, status=200 if readiness.ready else 503)

    async def metrics(_: web.Request) -> web.Response:
        METRICS.ready.set(readiness.ready)
        if gauges is not None:
            await gauges.refresh()
        return web.Response(body=METRICS.rendered(), headers={"Content-Type": CONTENT_TYPE})

    app = web.Application(client_max_size=_LARGEST_BODY, middlewares=[_guard(access or Access())])
    app.add_routes([web.get("/livez", alive), web.get("/readyz", ready), web.get("/metrics", metrics)])
    app.add_routes(routes)
    if on_shutdown is not None:
        app.on_shutdown.append(on_shutdown)
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as error:
            raise ConfigurationError(
                f"PORT {port} cannot be listened on ({os.strerror(error.errno or 0)}): set PORT to a free one"
            ) from error
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
