"""What happens to a world: kills, stops, freezes, restarts, faults, and deaths at named points."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress

import psycopg

from tests.chaos import crashes
from tests.chaos.world import DOCKER, LEASE_SECONDS, World
from tests.support.processes import descendants
from tests.support.worker_process import WorkerProcess
from worker.waiting import is_set_within

# A task may fail three times before it fails for good, and its retries come within half a minute. Its own
# process is killed so rarely that no task is hit four times.
_CHILD_PAUSE_SECONDS = 15.0
_DRAIN_SECONDS = 30.0
# Points that a task's own process reaches; whether the container dies there as well is random.
_CHILD_POINTS = frozenset(
    {
        "child-started",
        "child-ended",
        "file-before-publish",
        "file-published",
        "tile-published",
        "manifest-written",
    }
)

Action = Callable[[], Awaitable[None]]


class Monkey:
    """Shakes a world according to a seed; `done` counts the actions."""

    def __init__(self, world: World, seed: int) -> None:
        self._world = world
        self._random = random.Random(seed)
        self.done: Counter[str] = Counter()
        self._points = crashes.named_points()
        self._child_killed_at = 0.0
        self._background: set[asyncio.Task[None]] = set()
        self._tired = asyncio.Event()
        self._stopping: set[int] = set()  # process ids

    def tire(self) -> None:
        """Finish the running actions and start no more."""
        self._tired.set()

    @property
    def kills(self) -> int:
        """How many processes were killed without warning."""
        killed = sum(count for what, count in self.done.items() if what.startswith("kill"))
        return killed + len(crashes.carried_out(self._world.orders))

    async def shake_workers(self, pause_seconds: float) -> None:
        """Disturb a worker until tired; every named point gets its turn."""
        actions: list[tuple[int, Action]] = [
            (4, self._kill_worker),
            (6, self._die_at_point),
            (2, self._stop_worker),
            (1, self._stop_then_kill_worker),
            (1, self._freeze_worker),
            (2, self._kill_child),
            (1, self._kill_helper),
        ]
        await self._shake(actions, pause_seconds)

    async def shake_services(self, pause_seconds: float) -> None:
        """Disturb the broker or the database until tired, one action at a time."""
        actions: list[tuple[int, Action]] = [
            (2, self._kill_broker),
            (1, self._restart_broker),
            (4, self._disturb_broker),
            (2, self._crash_database),
            (1, self._restart_database),
            (2, self._drop_database_connections),
        ]
        await self._shake(actions, pause_seconds)

    async def calm(self) -> None:
        """Undo what is still in effect: orders, faults, frozen and stopping workers."""
        for path in self._world.orders.iterdir():
            if "@" not in path.name:
                path.unlink(missing_ok=True)
        await asyncio.gather(*self._background, return_exceptions=True)
        await asyncio.to_thread(self._world.broker.command, "clear")

    async def _shake(self, actions: list[tuple[int, Action]], pause_seconds: float) -> None:
        weights = [weight for weight, _ in actions]
        while not await is_set_within(self._tired, pause_seconds * self._random.uniform(0.5, 1.5)):
            (action,) = self._random.choices([action for _, action in actions], weights)
            await action()

    def _count(self, what: str) -> None:
        self.done[what] += 1

    def _one_running(self) -> WorkerProcess | None:
        running = [worker for worker in self._world.workers if worker.is_running]
        return self._random.choice(running) if running else None

    def _later(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # Workers

    async def _kill_worker(self) -> None:
        worker = self._one_running()
        if worker is not None:
            worker.kill()
            self._count("kill worker")

    def _told_to_stop(self) -> WorkerProcess | None:
        """Send a worker its first SIGTERM and return it; a second one would end it at once, with code 1."""
        worker = self._one_running()
        if worker is None or worker.pid in self._stopping:
            return None
        self._stopping.add(worker.pid)
        worker.terminate()
        return worker

    async def _stop_worker(self) -> None:
        worker = self._told_to_stop()
        if worker is not None:
            self._count("stop worker")
            self._later(self._ended_well(worker))

    async def _ended_well(self, worker: WorkerProcess) -> None:
        try:
            code = await asyncio.to_thread(worker.wait, _DRAIN_SECONDS)
        except subprocess.TimeoutExpired:
            self._world.problems.append(f"a worker did not end within {_DRAIN_SECONDS:g} s of SIGTERM")
            worker.kill()
        else:
            # SIGTERM itself ended it: Python had not reached the worker's first line.
            if code not in (0, -signal.SIGTERM, -signal.SIGKILL):
                self._world.problems.append(f"a worker ended with {code} after SIGTERM")

    async def _stop_then_kill_worker(self) -> None:
        worker = self._told_to_stop()
        if worker is not None:
            await asyncio.sleep(self._random.uniform(0, 3))
            if worker.is_running:
                worker.kill()
                self._count("kill stopping worker")

    async def _freeze_worker(self) -> None:
        worker = self._one_running()
        if worker is not None:
            os.kill(worker.pid, signal.SIGSTOP)
            self._count("freeze worker")
            self._later(self._thaw(worker.pid, self._random.uniform(1, 2 * LEASE_SECONDS)))

    async def _thaw(self, pid: int, seconds: float) -> None:
        try:
            await asyncio.sleep(seconds)
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    async def _kill_child(self) -> None:
        worker = self._one_running()
        if worker is None or not self._may_kill_child():
            return
        tasks = {pid for helper in _children(worker.pid) for pid in _children(helper)}
        if tasks:
            with suppress(ProcessLookupError):
                os.kill(self._random.choice(sorted(tasks)), signal.SIGKILL)
                self._count("kill task")

    async def _kill_helper(self) -> None:
        """Kill the process that all of a worker's tasks are forked from."""
        worker = self._one_running()
        helpers = _children(worker.pid) if worker is not None else set()
        if helpers:
            with suppress(ProcessLookupError):
                os.kill(self._random.choice(sorted(helpers)), signal.SIGKILL)
                self._count("kill helper")

    async def _die_at_point(self) -> None:
        point = self._points.pop(0)
        self._points.append(point)
        who = "container"
        if point in _CHILD_POINTS and self._random.random() < 0.5 and self._may_kill_child():
            who = "process"
        crashes.order(self._world.orders, point, who=who)

    def _may_kill_child(self) -> bool:
        now = asyncio.get_running_loop().time()
        if now - self._child_killed_at < _CHILD_PAUSE_SECONDS:
            return False
        self._child_killed_at = now
        return True

    # Services

    async def _kill_broker(self) -> None:
        await asyncio.to_thread(self._world.broker.kill)
        self._count("kill broker")
        await asyncio.sleep(self._random.uniform(0, 3))
        await asyncio.to_thread(self._world.broker.start)

    async def _restart_broker(self) -> None:
        await asyncio.to_thread(self._world.broker.stop)
        self._count("restart broker")
        await asyncio.sleep(self._random.uniform(0, 2))
        await asyncio.to_thread(self._world.broker.start)

    async def _disturb_broker(self) -> None:
        line = self._random.choice(
            [
                "drop",
                f"detach {DOCKER}",
                "detach",
                "delay 1.5",
                "fail send com.microsoft:server-busy 2",
                "fail settle com.microsoft:server-busy 2",
                "fail renew com.microsoft:server-busy 2",
                "fail receive com.microsoft:server-busy 2",
                *(f"expire {queue}" for queue in self._world.queues),
            ]
        )
        await asyncio.to_thread(self._world.broker.command, line)
        self._count(f"broker: {line.split()[0]}")
        await asyncio.sleep(self._random.uniform(1, 5))
        await asyncio.to_thread(self._world.broker.command, "clear")

    async def _crash_database(self) -> None:
        await self._database_down(crash=True)
        self._count("kill database")

    async def _restart_database(self) -> None:
        await self._database_down(crash=False)
        self._count("restart database")

    async def _database_down(self, *, crash: bool) -> None:
        seconds = self._random.uniform(0, 4)
        down = self._world.postgres.down(crash=crash)
        await asyncio.to_thread(down.__enter__)
        try:
            await asyncio.sleep(seconds)
        finally:
            await asyncio.to_thread(down.__exit__, None, None, None)

    async def _drop_database_connections(self) -> None:
        def drop() -> None:
            with psycopg.connect(self._world.postgres.conninfo, autocommit=True) as connection:
                connection.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity"
                    " where pid <> pg_backend_pid() and backend_type = 'client backend'"
                )

        await asyncio.to_thread(drop)
        self._count("drop database connections")


def _children(pid: int) -> set[int]:
    everybody = descendants(pid)
    return everybody - {grandchild for child in everybody for grandchild in descendants(child)}
