"""Run each task in its own child process of a warm forkserver, and enforce memory, timeout and stall limits.

The death of a child affects only its own task. When `Runner.run` returns or raises, its child is always gone.
The forkserver uses more memory than the worker itself, so it runs only while there is work and for
`RunnerOptions.warm_seconds` afterwards.
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
from worker.telemetry.metrics import METRICS, task_label
from worker.telemetry.traces import note_step

# Between SIGTERM and SIGKILL the child can remove its scratch folder.
_TERMINATE_SECONDS = 1.0
# The time in which a child that has sent its outcome or closed its connection may exit by itself.
_EXIT_SECONDS = 2.0

# The path of a socket is limited to 107 bytes (unix(7)); multiprocessing adds a folder and the socket's name.
_SOCKET_PARENT_BYTES = 107 - len("/pymp-xxxxxxxx/listener-xxxxxxxx")

ProgressSink = Callable[[dict[str, Any]], None]
#: Receives ``{"actual": …, "estimate": …}`` when the task has ended: its measured usage and the estimate.
UsageSink = Callable[[dict[str, Any]], None]
#: Receives the process id and the task's estimated duration in seconds, or None without an estimate.
StartSink = Callable[[int, float | None], None]


@dataclass(frozen=True)
class RunnerOptions:
    """The limits of one task.

    `stall_seconds` is the longest time without progress for a handler that reports progress.
    `memory_limit_mb` bounds the memory of the worker and its tasks together where the container sets no
    limit. `warm_seconds` is how long an idle forkserver is kept.
    """

    timeout_seconds: float
    stall_seconds: float
    memory_limit_mb: float | None = None
    warm_seconds: float = 600.0


@contextmanager
def own_temporary_folder() -> Iterator[None]:
    """Give this process and its tasks a private temporary folder; for a process that is only a worker.

    The folder is removed at exit, and so is the folder that multiprocessing creates for the forkserver's
    socket. The latter is in /tmp if the path of the temporary folder is too long for a socket. Folders left
    by killed workers are removed first.

    Raises
    ------
    StorageError
        The temporary folder is not writable.
    """
    outer = Path(tempfile.gettempdir())
    parent = outer if len(os.fsencode(outer)) <= _SOCKET_PARENT_BYTES else Path("/tmp")
    scratch.sweep(parent.glob("pymp-*"))
    with scratch.scratch_folder(outer) as folder, scratch.hold(_socket_folder(parent)):
        os.environ["TMPDIR"] = str(folder)
        yield


def _socket_folder(parent: Path) -> Path:
    """Return the folder that multiprocessing uses for sockets and removes at exit."""
    default, tempfile.tempdir = tempfile.tempdir, str(parent)
    try:
        return Path(multiprocessing.util.get_temp_dir())
    except OSError as error:
        raise StorageError(f"{parent} cannot be written to: {error.strerror}; set TMPDIR") from error
    finally:
        tempfile.tempdir = default


class Runner:
    """Runs tasks, each in its own process."""

    def __init__(self, options: RunnerOptions) -> None:
        self._options = options
        self._memory = TaskMemoryBudget(limit_mb=options.memory_limit_mb)
        self._context: ForkServerContext = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(child.PRELOAD)
        self._needed_by = 0
        self._giving_up: asyncio.TimerHandle | None = None

    @contextmanager
    def warm(self) -> Iterator[None]:
        """Keep the forkserver running inside the block, so that the next task starts at once.

        The forkserver is stopped after `RunnerOptions.warm_seconds` without use. The next task then waits for
        its imports.
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
        """Run a task in a new child process and return the handler's result envelope.

        If the call is cancelled, it kills the child before it ends.

        Raises
        ------
        TaskFailed
            The handler raised; the exception has the error's type, its text and whether a retry can help. It
            is also raised for a task that can never fit into the container's memory.
        TaskTimedOut, TaskStalled
            The task exceeded the runner's timeout, or its progress stopped for `RunnerOptions.stall_seconds`.
        ChildDied
            The process ended without an outcome: killed by a signal, out of memory, or ``os._exit``.
        MemoryBusy
            The task did not fit into free memory for a minute.
        """
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=child.main,
            args=(theirs, task_type, dict(parameters), dict(os.environ), logs.state()),
            daemon=True,
        )
        running = _Child(
            process, ours, task_type, self._options.stall_seconds, on_progress, on_measured, on_started
        )
        wait_seconds = 0.0
        try:
            await _uninterrupted(process.start)
            theirs.close()
            async with asyncio.timeout(self._options.timeout_seconds):
                outcome = await running.outcome(self._memory)
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


@dataclass(frozen=True)
class _Child:
    """A task's process, the connection to it, and what receives its reports."""

    process: ForkServerProcess
    connection: Connection
    task_type: str
    stall_seconds: float
    on_progress: ProgressSink
    on_measured: UsageSink
    on_started: StartSink

    async def outcome(self, memory: TaskMemoryBudget) -> tuple[str, Any] | None:
        """Let the task begin when its memory is free; return its outcome, or None if it ended without one."""
        pid = self.process.pid
        assert pid is not None
        with _listening(self.connection) as readable:
            first = await _next(self.connection, readable)
            if first is None:
                return None
            _, needs = first
            async with memory.admitted(pid, needs and needs.peak_memory_mb):
                self.on_started(pid, needs and needs.seconds)
                with suppress(OSError):  # the child is already dead; reading the outcome finds that
                    self.connection.send("begin")
                reported = asyncio.create_task(self._reported(readable))
                must_end = asyncio.create_task(memory.must_end(pid))
                try:
                    await asyncio.wait({reported, must_end}, return_when=asyncio.FIRST_COMPLETED)
                    if reported.done():
                        return reported.result()
                    raise OutOfMemory(f"the process of {self.task_type} was ended: {must_end.result()}")
                finally:
                    for task in (reported, must_end):
                        task.cancel()
                    await asyncio.gather(reported, must_end, return_exceptions=True)

    async def _reported(self, readable: asyncio.Event) -> tuple[str, Any] | None:
        """Pass on the child's reports until its outcome; raise `TaskStalled` if its progress stops."""
        shown: dict[str, Any] = {}
        moved: float | None = None  # the time of the last progress; None while no progress is due
        while True:
            wait_seconds = None if moved is None else max(0.0, moved + self.stall_seconds - time.monotonic())
            try:
                async with asyncio.timeout(wait_seconds):
                    message = await _next(self.connection, readable)
            except TimeoutError:
                raise TaskStalled(
                    f"{self.task_type} was ended: it stood at {shown['percent']:g}% of its {shown['label']} "
                    f"for {self.stall_seconds / 60:g} minutes (WORKER_STALL_MINUTES)"
                ) from None
            match message:
                case "usage", used:
                    _note_usage(self.task_type, used)
                    self.on_measured(used.measured())
                case "log", lines:
                    logs.TAIL.add(lines)
                case "progress", progress:
                    self.on_progress(progress)
                    if progress != shown:
                        shown = progress
                        moved = time.monotonic() if shown["done"] < shown["total"] else None
                case _:
                    return message


@contextmanager
def _listening(connection: Connection) -> Iterator[asyncio.Event]:
    """Yield an event that is set whenever the connection has data to read."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(connection.fileno(), readable.set)
    try:
        yield readable
    finally:
        loop.remove_reader(connection.fileno())


async def _next(connection: Connection, readable: asyncio.Event) -> tuple[str, Any] | None:
    """Return the child's next message; None if the child is gone."""
    try:
        while not connection.poll():
            readable.clear()
            await readable.wait()
        kind, value = connection.recv()
    except (EOFError, OSError):
        return None
    return kind, value


async def _uninterrupted(function: Callable[[], None]) -> None:
    """Run a blocking function in a thread, and wait for its end even if the caller is cancelled."""
    running = asyncio.ensure_future(asyncio.to_thread(function))
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        await running
        raise


def _end_forkserver() -> None:
    """Kill the forkserver, unless other code in this program has a running child of it."""
    server: Any = forkserver._forkserver
    with suppress(psutil.NoSuchProcess):
        if server._forkserver_pid is None or psutil.Process(server._forkserver_pid).children():
            return
        # A regular stop waits for every process that inherited the forkserver's pipe, and blocks this loop.
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
    METRICS.peak_memory_mb.add(used.peak_memory_mb, task_type=label)
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
