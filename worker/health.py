"""What the platform's probes and a person's curl see: a small HTTP server, up before anything else.

``/`` and ``/livez`` answer as long as the event loop turns; ``/readyz`` answers 200 only while every part
that the worker needs answers, else 503 with one line for each that does not.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from worker.errors import ConfigurationError

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


@asynccontextmanager
async def serving(
    readiness: Readiness, *, name: str, host: str, port: int, routes: Iterable[web.RouteDef] = ()
) -> AsyncIterator[int]:
    """Serve the probes, and `routes` beside them; yields the port (0 asks for any).

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

    app = web.Application(client_max_size=_LARGEST_BODY)
    app.add_routes([web.get("/", alive), web.get("/livez", alive), web.get("/readyz", ready), *routes])
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
