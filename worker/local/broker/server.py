"""A Service Bus broker for development: queues on loopback, for the real ``azure-servicebus`` SDK.

By default it accepts every client: it is for one machine, not for a network. Its queues behave as the SDKs
observe the real service, and it offers no more: no topics, no sessions, no transactions, no TLS. Messages
live in memory or, with a state file, as long as the file: a broker started on it continues where the last one
ended, even by SIGKILL.

Run it on its own with ``python -m worker.local.broker --queue docker-tasks --queue geospatial-jobs``.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from gdaltools.errors import InvalidParameter
from worker.local.broker.commands import USAGE, Commands
from worker.local.broker.connection import Connection
from worker.local.broker.faults import Faults
from worker.local.queues.journal import MEMORY_ONLY, SqliteJournal
from worker.local.queues.namespace import Namespace, Token
from worker.local.queues.peek_lock import QueueCounts, QueueSpec

__all__ = ["Broker", "BrokerThread", "Faults", "QueueCounts", "QueueSpec", "Token"]

_T = TypeVar("_T")
_START_SECONDS = 10.0  # for a thread to bind a loopback port


def _accept_all(token: Token) -> bool:
    return True


class Broker:
    """The broker on the running event loop, for the duration of an ``async with`` block.

    Parameters
    ----------
    queues
        The queues; each has a dead-letter sub-queue.
    host
        Address to listen on. Any address but loopback exposes the queues to the network: there are no
        passwords.
    port
        TCP port; 0 takes a free one.
    accept_token
        Returns whether a client's token is accepted; it must not block. By default all are accepted.
    clock
        Returns the time in seconds since 1970 by the broker's clock, which may differ from its clients'.
    state
        A file that keeps the queues, created if missing; see `worker.local.queues.journal`. Every operation
        confirmed to a client is in it. Queues in the file that are not in `queues` stay in it, for a broker
        that names them.

    Raises
    ------
    InvalidParameter
        Two queues have the same name. On entry: the state file is in use by another broker, damaged, not a
        journal, or cannot be opened.
    OSError
        On entry: the port is in use.
    """

    def __init__(
        self,
        queues: Iterable[QueueSpec],
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        accept_token: Callable[[Token], bool] = _accept_all,
        clock: Callable[[], float] = time.time,
        state: Path | str | None = None,
    ) -> None:
        self._journal = SqliteJournal(Path(state)) if state is not None else None
        self._namespace = Namespace(
            queues, accept_token=accept_token, clock=clock, journal=self._journal or MEMORY_ONLY
        )
        self._host = host
        self._requested_port = port
        self._server: asyncio.Server | None = None
        self._opened = ExitStack()
        self.faults = Faults(self._namespace, lambda function: function())
        """Fault injection; for use on the broker's own event loop."""

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        with ExitStack() as stack:
            if self._journal is not None:
                stack.enter_context(self._journal)
                self._namespace.restore()
            # reuse_address: after a broker was killed its address is free at once, whatever its clients do.
            self._server = await loop.create_server(
                lambda: Connection(self._namespace), self._host, self._requested_port, reuse_address=True
            )
            self._opened = stack.pop_all()
        self._namespace.wake()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._opened:
            if self._server is not None:
                self._server.close()
                self._namespace.close()
                await self._server.wait_closed()

    @property
    def port(self) -> int:
        """The TCP port that it listens on."""
        if self._server is None:
            raise InvalidParameter("the broker is not running: use it with `async with`")
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def connection_string(self) -> str:
        """The clients' connection string; its last part makes the SDK use the port, without TLS."""
        return (
            f"Endpoint=sb://{self._host}:{self.port};SharedAccessKeyName=development;"
            "SharedAccessKey=development;UseDevelopmentEmulator=true;"
        )

    def counts(self, queue: str) -> QueueCounts:
        """How many messages of a queue are in each state.

        Raises
        ------
        InvalidParameter
            There is no such queue.
        """
        return self._namespace.get_queue(queue).counts()


class BrokerThread:
    """The broker on its own thread and event loop, for the duration of a ``with`` block.

    It is for tests and notebooks. Every method may be called from any thread. The parameters are those of
    `Broker`; `accept_token` is called on the broker's thread.
    """

    def __init__(
        self,
        queues: Iterable[QueueSpec],
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        accept_token: Callable[[Token], bool] = _accept_all,
        clock: Callable[[], float] = time.time,
        state: Path | str | None = None,
    ) -> None:
        self._broker = Broker(queues, host, port, accept_token=accept_token, clock=clock, state=state)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="development-broker", daemon=True)
        self.faults = Faults(self._broker._namespace, self._call)
        """Fault injection, from any thread."""

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self._broker.__aenter__(), self._loop).result(_START_SECONDS)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._broker.__aexit__(None, None, None), self._loop).result()
        self._stop()

    @property
    def port(self) -> int:
        """The TCP port that it listens on."""
        return self._broker.port

    @property
    def connection_string(self) -> str:
        """The clients' connection string."""
        return self._broker.connection_string

    def counts(self, queue: str) -> QueueCounts:
        """How many messages of a queue are in each state.

        Raises
        ------
        InvalidParameter
            There is no such queue.
        """
        return self._call(lambda: self._broker.counts(queue))

    def _call(self, function: Callable[[], _T]) -> _T:
        async def run() -> _T:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result()

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _serve(broker: Broker, *, take_commands: bool) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    async with broker:
        print(broker.connection_string, flush=True)
        if take_commands:
            commands = Commands(broker.faults, broker.counts)
            threading.Thread(target=_take_commands, args=(commands, loop), daemon=True).start()
        await stopped.wait()


def _take_commands(commands: Commands, loop: asyncio.AbstractEventLoop) -> None:
    """Answer commands on standard input, on a separate thread: not every kind of input can be polled."""

    async def answer(line: str) -> str:
        return commands.answer(line)

    # Not sys.stdin: its buffer would still be locked by this thread when the interpreter ends.
    with open(0, "rb", buffering=0, closefd=False) as lines:
        for line in lines:
            text = line.decode("utf-8", "replace")
            print(asyncio.run_coroutine_threadsafe(answer(text), loop).result(), flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a broker until SIGTERM or SIGINT; its first line of output is the connection string."""
    parser = argparse.ArgumentParser(prog="python -m worker.local.broker", description=main.__doc__)
    parser.add_argument("--queue", action="append", required=True, metavar="NAME", help="a queue; repeatable")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: loopback)")
    parser.add_argument("--port", type=int, default=0, help="TCP port (default: any free one)")
    parser.add_argument("--state", metavar="FILE", help="keep the queues in FILE, beyond this process's life")
    parser.add_argument(
        "--faults",
        action="store_true",
        help="take commands on standard input, one a line, and answer each by a line: "
        + "; ".join(USAGE.values()),
    )
    defaults = QueueSpec("defaults")
    parser.add_argument("--lock-seconds", type=float, default=defaults.lock_seconds)
    parser.add_argument("--max-delivery-count", type=int, default=defaults.max_delivery_count)
    parser.add_argument("--ttl-seconds", type=float, default=defaults.ttl_seconds)
    parser.add_argument("--duplicate-window-seconds", type=float, default=defaults.duplicate_window_seconds)
    args = parser.parse_args(arguments)
    try:
        queues = [
            QueueSpec(
                name,
                lock_seconds=args.lock_seconds,
                max_delivery_count=args.max_delivery_count,
                ttl_seconds=args.ttl_seconds,
                duplicate_window_seconds=args.duplicate_window_seconds,
            )
            for name in args.queue
        ]
        broker = Broker(queues, args.host, args.port, state=args.state)
        asyncio.run(_serve(broker, take_commands=args.faults))
    except (InvalidParameter, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    return 0
