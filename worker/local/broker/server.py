"""A Service Bus broker for development: queues on loopback, for the real ``azure-servicebus`` SDK.

By default it accepts every client: it is for one machine, not for a network. Its queues behave as the SDKs
observe the real service, and it offers no more: no topics, no sessions, no transactions, no deferral, no
receive-and-delete, no TLS. Messages live in memory or, with a state file, as long as the file: a broker
started on it continues where the last one ended, even by SIGKILL.

Run it on its own with ``python -m worker.local.broker --queue docker-tasks --queue geospatial-jobs``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from gdaltools.errors import InvalidParameter
from worker.local.broker.connection import Connection
from worker.local.broker.faults import Faults
from worker.local.queues.namespace import SERVER_BUSY, Namespace, Token
from worker.local.queues.peek_lock import QueueCounts, QueueSpec
from worker.local.queues.store import Store

__all__ = ["BrokerThread", "Faults", "QueueCounts", "QueueSpec", "Token"]

_T = TypeVar("_T")
_START_SECONDS = 10.0  # for a thread to bind a loopback port


def _accept_all(token: Token) -> bool:
    return True


class BrokerThread:
    """The broker on its own thread and event loop, for the duration of a ``with`` block.

    Every method may be called from any thread.

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
        Returns whether a client's token is accepted; it is called on the broker's thread and must not block.
        By default all are accepted.
    clock
        Returns the time in seconds since 1970 by the broker's clock, which may differ from its clients'.
    state
        A file that keeps the queues, created if missing; see `worker.local.queues.store`. Every operation
        confirmed to a client is in it. Queues in the file that are not in `queues` stay in it, for a broker
        that names them.

    Raises
    ------
    InvalidParameter
        Two queues have the same name. On entry: the state file is in use by another broker, damaged, not a
        state file, or cannot be opened.
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
        self._store = Store(Path(state) if state is not None else None)
        self._namespace = Namespace(queues, self._store, accept_token=accept_token, clock=clock)
        self._host = host
        self._requested_port = port
        self._server: asyncio.Server | None = None
        self._opened = ExitStack()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="development-broker", daemon=True)
        self.faults = Faults(self._namespace, self._call)
        """Fault injection."""

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self._open(), self._loop).result(_START_SECONDS)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._stop()

    @property
    def port(self) -> int:
        """The TCP port that it listens on."""
        if self._server is None:
            raise InvalidParameter("the broker is not running: use it with `with`")
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
        return self._call(lambda: self._namespace.get_queue(queue).counts())

    async def _open(self) -> None:
        with ExitStack() as stack:
            stack.enter_context(self._store)
            # reuse_address: after a broker was killed its address is free at once, whatever its clients do.
            self._server = await self._loop.create_server(
                lambda: Connection(self._namespace), self._host, self._requested_port, reuse_address=True
            )
            self._opened = stack.pop_all()
        self._namespace.wake()

    async def _close(self) -> None:
        with self._opened:
            if self._server is not None:
                self._server.close()
                self._namespace.close()
                await self._server.wait_closed()

    def _call(self, function: Callable[[], _T]) -> _T:
        async def run() -> _T:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result()

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _take_commands(broker: BrokerThread) -> None:
    """Answer each line of standard input by a line."""
    faults = broker.faults

    def fail(
        operation: Any, condition: str = SERVER_BUSY, times: str = "1", queue: str | None = None
    ) -> None:
        faults.fail_next(operation, condition, times=int(times), queue=queue)

    commands: Mapping[str, Callable[..., object]] = {
        "drop": faults.drop_connections,
        "detach": lambda queue=None: faults.detach_links(queue),
        "delay": lambda seconds: faults.delay_replies(float(seconds)),
        "fail": fail,
        "expire": lambda queue, message_id=None: faults.expire_locks(queue, message_id=message_id),
        "clear": faults.clear,
        "counts": lambda queue: json.dumps(asdict(broker.counts(queue))),
    }
    # Not sys.stdin: its buffer would still be locked by this thread when the interpreter ends.
    with open(0, "rb", buffering=0, closefd=False) as lines:
        for line in lines:
            name, *arguments = line.decode("utf-8", "replace").split() or [""]
            try:
                if name not in commands:
                    raise InvalidParameter(f"there is no command {name!r}; there are {', '.join(commands)}")
                answer = commands[name](*arguments)
                print(answer if name == "counts" else f"ok {'' if answer is None else answer}".rstrip())
            except (TypeError, ValueError) as error:
                print(f"error: {error}")
            sys.stdout.flush()


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
        help="take commands on standard input, one a line, and answer each by a line: drop; detach [QUEUE]; "
        "delay SECONDS; fail send|receive|settle|renew|management [CONDITION [TIMES [QUEUE]]]; "
        "expire QUEUE [MESSAGE_ID]; clear; counts QUEUE",
    )
    defaults = QueueSpec("defaults")
    settings = ("lock_seconds", "max_delivery_count", "ttl_seconds", "duplicate_window_seconds")
    for name in settings:
        default = getattr(defaults, name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    args = parser.parse_args(arguments)
    stopping = {signal.SIGTERM, signal.SIGINT}
    # Before any thread begins, so that every one inherits it and only sigwait receives them.
    signal.pthread_sigmask(signal.SIG_BLOCK, stopping)
    try:
        chosen = {name: getattr(args, name) for name in settings}
        queues = [QueueSpec(name, **chosen) for name in args.queue]
        with BrokerThread(queues, args.host, args.port, state=args.state) as broker:
            print(broker.connection_string, flush=True)
            if args.faults:
                threading.Thread(target=_take_commands, args=(broker,), daemon=True).start()
            signal.sigwait(stopping)
    except (InvalidParameter, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    return 0
