"""What the platform's probes and a person's curl see: a small HTTP server, up before anything else.

``/`` and ``/livez`` answer as long as the event loop turns; ``/readyz`` answers 200 only while every part
that the worker needs answers, else 503 with one line for each that does not. ``/metrics`` is for
Prometheus, on this machine or with WORKER_API_TOKEN.
"""

from __future__ import annotations

import hmac
import logging
import os
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address

from aiohttp import web

from worker.errors import ConfigurationError
from worker.measures import Measures
from worker.metrics import CONTENT_TYPE, METRICS

# A part that fails again so soon has the same fault still.
_ONE_OUTAGE_SECONDS = 30.0

# Of a request; job parameters are far smaller.
_LARGEST_BODY = 1 << 20

log = logging.getLogger(__name__)


@dataclass
class Readiness:
    """What keeps the worker from doing its work, by part; a part is told of here by whoever uses it.

    `phase` is "starting" or "stopping", neither of which is a fault, and None in between.
    """

    phase: str | None = "starting"
    problems: dict[str, str] = field(default_factory=dict)
    _worked_at: dict[str, float] = field(default_factory=dict)

    def report(self, part: str, problem: Exception | str | None) -> None:
        """Note that `part` has a problem, or None: that it works."""
        if problem is None:
            if self.problems.pop(part, None) is not None:
                self._worked_at[part] = time.monotonic()
                log.info("%s works again", part)
        else:
            if part not in self.problems:
                # Several use a part, and of one outage one may see the end before another has seen it begin.
                again = time.monotonic() - self._worked_at.get(part, float("-inf")) < _ONE_OUTAGE_SECONDS
                log.log(logging.INFO if again else logging.WARNING, "%s: %s", part, problem)
            self.problems[part] = str(problem)

    @property
    def ready(self) -> bool:
        """Whether nothing is known to be wrong, and the worker neither starts nor stops."""
        return self.phase is None and not self.problems


def _may_measure(request: web.Request, token: str | None) -> bool:
    if token is not None:
        shown = request.headers.get("Authorization", "").encode()
        return hmac.compare_digest(shown, f"Bearer {token}".encode())
    try:
        return ip_address(request.remote or "").is_loopback
    except ValueError:
        return False


@asynccontextmanager
async def serving(
    readiness: Readiness,
    *,
    name: str,
    host: str,
    port: int,
    measures: Measures | None = None,
    token: str | None = None,
    routes: Iterable[web.RouteDef] = (),
) -> AsyncIterator[int]:
    """Serve the probes and metrics, and `routes` beside them; yields the port (0 asks for any).

    `measures` brings up to date what is measured only when somebody asks; `token` opens /metrics to others.

    Raises
    ------
    ConfigurationError
        The port is taken or not allowed.
    """

    async def alive(_: web.Request) -> web.Response:
        return web.json_response({"status": "alive", "app": name})

    async def ready(_: web.Request) -> web.Response:
        body = {"ready": readiness.ready, "phase": readiness.phase, "problems": readiness.problems}
        return web.json_response(body, status=200 if readiness.ready else 503)

    async def metrics(request: web.Request) -> web.Response:
        if not _may_measure(request, token):
            message = "metrics are for this machine, or with WORKER_API_TOKEN as Authorization: Bearer TOKEN"
            return web.Response(status=401, text=message)
        METRICS.ready.set(readiness.ready)
        if measures is not None:
            await measures.refresh()
        return web.Response(body=METRICS.rendered(), headers={"Content-Type": CONTENT_TYPE})

    app = web.Application(client_max_size=_LARGEST_BODY)
    app.add_routes([web.get("/", alive), web.get("/livez", alive), web.get("/readyz", ready)])
    app.add_routes([web.get("/metrics", metrics), *routes])
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
