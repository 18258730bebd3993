"""One task in one child process, from a warm forkserver: timeout, progress, kill.

A child that dies takes nothing with it but its own task; a child whose task is over is always gone when
`Runner.run` returns or raises.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import Any

from worker import child
from worker.errors import ChildDied, TaskFailed, TaskTimedOut

# Between SIGTERM and SIGKILL: time for the child's storage to remove its scratch folder.
_TERMINATE_SECONDS = 1.0
# How long a child that has sent its outcome, or hung up, may take to exit by itself.
_EXIT_SECONDS = 2.0

ProgressSink = Callable[[dict[str, Any]], None]


class Runner:
    """Runs tasks, each in a process of its own."""

    def __init__(self, *, timeout_seconds: float) -> None:
        self._timeout_seconds = timeout_seconds
        self._context: ForkServerContext = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(child.PRELOAD)

    def warm_up(self) -> None:
        """Start the forkserver now, so that the first task does not wait for its imports."""
        forkserver.ensure_running()

    async def run(
        self, task_type: str, parameters: Mapping[str, Any], *, on_progress: ProgressSink
    ) -> dict[str, Any]:
        """The handler's result envelope.

        Cancelling the call kills the child first.

        Raises
        ------
        TaskFailed
            The handler raised; it carries the error's type, text and whether a retry can help.
        TaskTimedOut
            The task took longer than the runner's timeout.
        ChildDied
            The process ended without an outcome: killed by a signal, out of memory, or ``os._exit``.
        """
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=child.main, args=(theirs, task_type, dict(parameters), dict(os.environ)), daemon=True
        )
        patience = 0.0
        try:
            await _uninterrupted(process.start)
            theirs.close()
            async with asyncio.timeout(self._timeout_seconds):
                outcome = await _outcome(ours, on_progress)
            patience = _EXIT_SECONDS
        except TimeoutError as error:
            raise TaskTimedOut(
                f"{task_type} did not finish in {self._timeout_seconds / 60:g} minutes: "
                "raise WORKER_TIMEOUT_MINUTES or make the task smaller"
            ) from error
        finally:
            if process.pid is not None:
                await _uninterrupted(lambda: _stop(process, patience))
            ours.close()
            theirs.close()
        if outcome is None:
            raise ChildDied(f"the process of {task_type} {_ended_how(process)}")
        kind, value = outcome
        if kind == "failure":
            raise TaskFailed(value.error, error_type=value.error_type, retryable=value.retryable)
        return dict(value)


async def _outcome(connection: Connection, on_progress: ProgressSink) -> tuple[str, Any] | None:
    """The child's last message; None when it went away without one."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(connection.fileno(), readable.set)
    try:
        while True:
            await readable.wait()
            readable.clear()
            try:
                while connection.poll():
                    kind, value = connection.recv()
                    if kind != "progress":
                        return kind, value
                    on_progress(value)
            except (EOFError, ConnectionResetError):
                return None
    finally:
        loop.remove_reader(connection.fileno())


async def _uninterrupted(function: Callable[[], None]) -> None:
    """Run a blocking function on a thread to its end, even if the caller is cancelled meanwhile."""
    running = asyncio.ensure_future(asyncio.to_thread(function))
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        await running
        raise


def _stop(process: ForkServerProcess, patience_seconds: float) -> None:
    process.join(patience_seconds)
    if process.is_alive():
        process.terminate()
        process.join(_TERMINATE_SECONDS)
    if process.is_alive():
        process.kill()
    process.join()


def _ended_how(process: ForkServerProcess) -> str:
    code = process.exitcode
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        return f"was killed by {name}{hint}"
    return f"ended with exit code {code} and no result"
