"""One task in one child process, from a warm forkserver: memory, timeout, stall, progress, kill.

A child that dies takes nothing with it but its own task; a child whose task is over is always gone when
`Runner.run` returns or raises. The forkserver holds more memory than the worker itself, so it is there only
while there is work, and for a while after.
"""

from __future__ import annotations

import asyncio
import multiprocessing.util
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

import psutil

from gdaltools.errors import StorageError
from gdaltools.runtime import scratch
from worker.errors import ChildDied, OutOfMemory, TaskFailed, TaskStalled, TaskTimedOut
from worker.task import child
from worker.task.memory import TaskMemoryBudget
from worker.telemetry import logs
from worker.telemetry.metrics import METRICS
from worker.telemetry.traces import note_step, task_label

# Between SIGTERM and SIGKILL: time for the child's storage to remove its scratch folder.
_TERMINATE_SECONDS = 1.0
# How long a child that has sent its outcome, or hung up, may take to exit by itself.
_EXIT_SECONDS = 2.0

# A socket's path has at most 107 bytes (unix(7)); multiprocessing adds a folder and the socket's name.
_SOCKET_PARENT_BYTES = 107 - len("/pymp-xxxxxxxx/listener-xxxxxxxx")

ProgressSink = Callable[[dict[str, Any]], None]
#: Takes ``{"actual": …, "estimate": …}`` of a task that succeeded: what it took, and what was expected.
UsageSink = Callable[[dict[str, Any]], None]
#: Takes the process's id, and the seconds that the task is expected to take where that is known.
StartSink = Callable[[int, float | None], None]


@dataclass(frozen=True)
class RunnerOptions:
    """Limits of one task.

    `stall_seconds` is for how long a handler that reports progress may make none; `memory_limit_mb` bounds
    the worker and its tasks together where the container does not; `warm_seconds` is for how long the
    forkserver is kept when nothing needs it.
    """

    timeout_seconds: float
    stall_seconds: float
    memory_limit_mb: float | None = None
    warm_seconds: float = 600.0


@contextmanager
def own_temporary_folder() -> Iterator[None]:
    """Give this process and its tasks a temporary folder of their own; for a process that is only a worker.

    It goes when the process ends; those of workers that were killed are swept first. So does the folder that
    multiprocessing makes for the forkserver's socket, which lies in /tmp where the temporary folder's name
    is too long for a socket's.

    Raises
    ------
    StorageError
        The temporary folder cannot be written to.
    """
    outer = Path(tempfile.gettempdir())
    parent = outer if len(os.fsencode(outer)) <= _SOCKET_PARENT_BYTES else Path("/tmp")
    scratch.sweep(parent.glob("pymp-*"))
    with scratch.scratch_folder(outer) as folder, scratch.hold(_socket_folder(parent)):
        os.environ["TMPDIR"] = str(folder)
        yield


def _socket_folder(parent: Path) -> Path:
    """The folder that multiprocessing uses for sockets, and removes at exit."""
    default, tempfile.tempdir = tempfile.tempdir, str(parent)
    try:
        return Path(multiprocessing.util.get_temp_dir())
    except OSError as error:
        raise StorageError(f"{parent} cannot be written to: {error.strerror}; set TMPDIR") from error
    finally:
        tempfile.tempdir = default


class Runner:
    """Runs tasks, each in a process of its own."""

    def __init__(self, options: RunnerOptions) -> None:
        self._options = options
        self._memory = TaskMemoryBudget(limit_mb=options.memory_limit_mb)
        self._context: ForkServerContext = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(child.PRELOAD)
        self._needed_by = 0
        self._giving_up: asyncio.TimerHandle | None = None

    @contextmanager
    def warm(self) -> Iterator[None]:
        """Keep the forkserver from entry to exit, so that a task that is about to come starts at once.

        It is given up when it was not needed for `RunnerOptions.warm_seconds`; whoever needs it then waits
        for its imports.
        """
        self._needed_by += 1
        if self._giving_up is not None:
            self._giving_up.cancel()
        forkserver.ensure_running()
        try:
            yield
        finally:
            self._needed_by -= 1
            if not self._needed_by:
                loop = asyncio.get_running_loop()
                self._giving_up = loop.call_later(self._options.warm_seconds, _end_forkserver)

    async def run(
        self,
        task_type: str,
        parameters: Mapping[str, Any],
        *,
        on_progress: ProgressSink,
        on_measured: UsageSink = lambda _: None,
        on_started: StartSink = lambda *_: None,
    ) -> dict[str, Any]:
        """The handler's result envelope.

        Cancelling the call kills the child first.

        Raises
        ------
        TaskFailed
            The handler raised; it carries the error's type, text and whether a retry can help. Or the task
            will never fit into the container's memory.
        TaskTimedOut, TaskStalled
            The task took longer than the runner's timeout, or reported progress and then none for too long.
        ChildDied
            The process ended without an outcome: killed by a signal, out of memory, or ``os._exit``.
        MemoryBusy
            There was no room for the task for a minute.
        """
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=child.main,
            args=(theirs, task_type, dict(parameters), dict(os.environ), logs.carried()),
            daemon=True,
        )
        wait_seconds = 0.0
        try:
            await _uninterrupted(process.start)
            theirs.close()
            async with asyncio.timeout(self._options.timeout_seconds):
                outcome = await self._converse(process, ours, task_type, on_progress, on_measured, on_started)
            wait_seconds = _EXIT_SECONDS
        except TimeoutError as error:
            raise TaskTimedOut(
                f"{task_type} did not finish in {self._options.timeout_seconds / 60:g} minutes: "
                "raise WORKER_TIMEOUT_MINUTES or make the task smaller"
            ) from error
        finally:
            if process.pid is not None:
                await _uninterrupted(lambda: _stop(process, wait_seconds))
            ours.close()
            theirs.close()
        if outcome is None:
            raise ChildDied(f"the process of {task_type} {_ended_how(process)}")
        kind, value = outcome
        if kind == "failure":
            raise TaskFailed(value.error, error_type=value.error_type, retryable=value.retryable)
        return dict(value)

    async def _converse(
        self,
        process: ForkServerProcess,
        connection: Connection,
        task_type: str,
        on_progress: ProgressSink,
        on_measured: UsageSink,
        on_started: StartSink,
    ) -> tuple[str, Any] | None:
        """The child's last message; None when it went away without one."""
        assert process.pid is not None
        with _listening(connection) as readable:
            first = await _next(connection, readable)
            if first is None:
                return None
            _, needs = first
            async with self._memory.admitted(process.pid, needs and needs.peak_memory_mb):
                on_started(process.pid, needs and needs.seconds)
                with suppress(OSError):  # it has died meanwhile, as the next message will say
                    connection.send("begin")
                outcome = asyncio.create_task(
                    self._outcome(connection, readable, task_type, on_progress, on_measured)
                )
                must_end = asyncio.create_task(self._memory.must_end(process.pid))
                try:
                    await asyncio.wait({outcome, must_end}, return_when=asyncio.FIRST_COMPLETED)
                    if outcome.done():
                        return outcome.result()
                    raise OutOfMemory(f"the process of {task_type} was ended: {must_end.result()}")
                finally:
                    for task in (outcome, must_end):
                        task.cancel()
                    await asyncio.gather(outcome, must_end, return_exceptions=True)

    async def _outcome(
        self,
        connection: Connection,
        readable: asyncio.Event,
        task_type: str,
        on_progress: ProgressSink,
        on_measured: UsageSink,
    ) -> tuple[str, Any] | None:
        """The child's last message, unless it shows progress and then no more for too long."""
        stall_seconds = self._options.stall_seconds
        shown: dict[str, Any] = {}
        moved: float | None = None  # when it last came further; None while there is nothing to expect
        while True:
            wait_seconds = None if moved is None else max(0.0, moved + stall_seconds - time.monotonic())
            try:
                async with asyncio.timeout(wait_seconds):
                    message = await _next(connection, readable)
            except TimeoutError:
                raise TaskStalled(
                    f"{task_type} was ended: it stood at {shown['percent']:g}% of its {shown['label']} for "
                    f"{stall_seconds / 60:g} minutes (WORKER_STALL_MINUTES)"
                ) from None
            if message is not None and message[0] == "usage":
                _note_usage(task_type, message[1])
                on_measured(message[1].measured())
                continue
            if message is not None and message[0] == "log":
                logs.TAIL.add(message[1])
                continue
            if message is None or message[0] != "progress":
                return message
            on_progress(message[1])
            if message[1] != shown:
                shown = message[1]
                moved = time.monotonic() if shown["done"] < shown["total"] else None


@contextmanager
def _listening(connection: Connection) -> Iterator[asyncio.Event]:
    """An event that is set whenever there is something to read."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(connection.fileno(), readable.set)
    try:
        yield readable
    finally:
        loop.remove_reader(connection.fileno())


async def _next(connection: Connection, readable: asyncio.Event) -> tuple[str, Any] | None:
    """The child's next message; None when it is gone."""
    try:
        while not connection.poll():
            readable.clear()
            await readable.wait()
        kind, value = connection.recv()
    except (EOFError, OSError):
        return None
    return kind, value


async def _uninterrupted(function: Callable[[], None]) -> None:
    """Run a blocking function on a thread to its end, even if the caller is cancelled meanwhile."""
    running = asyncio.ensure_future(asyncio.to_thread(function))
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        await running
        raise


def _end_forkserver() -> None:
    """End it, unless a process of somebody else's in this program is its child."""
    server: Any = forkserver._forkserver
    with suppress(psutil.NoSuchProcess):
        if server._forkserver_pid is None or psutil.Process(server._forkserver_pid).children():
            return
        # Asked to end it would wait for whoever has inherited its pipe, and this loop for it.
        psutil.Process(server._forkserver_pid).kill()
    server._stop()


def _stop(process: ForkServerProcess, grace_seconds: float) -> None:
    process.join(grace_seconds)
    if process.is_alive():
        process.terminate()
        process.join(_TERMINATE_SECONDS)
    if process.is_alive():
        process.kill()
    process.join()


def _note_usage(task_type: str, used: child.Usage) -> None:
    label = task_label(task_type)
    METRICS.peak_memory_mb.note(used.peak_memory_mb, task_type=label)
    METRICS.read_bytes.add(used.read_bytes, task_type=label)
    METRICS.written_bytes.add(used.written_bytes, task_type=label)
    for step in used.steps:
        note_step(step.name, step.began, step.ended, {"gdaltools.busy_seconds": step.busy_seconds})


def _ended_how(process: ForkServerProcess) -> str:
    code = process.exitcode
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        return f"was killed by {name}{hint}"
    return f"ended with exit code {code} and no result"
