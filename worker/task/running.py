"""What this worker's own tasks are doing at this moment; it is kept in memory, for whoever looks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from worker.protocol.messages import TaskMessage


@dataclass(eq=False)
class LocalRun:
    """A task that runs here.

    Attributes
    ----------
    began : datetime
        With its zone.
    pid : int or None
        Of the task's process, once it runs.
    expected_seconds : float or None
        What it was estimated to take.
    progress : mapping or None
        The newest, as a row's ``metadata.progress`` has it.
    """

    task: TaskMessage
    queue: str
    began: datetime = field(default_factory=lambda: datetime.now(UTC))
    pid: int | None = None
    expected_seconds: float | None = None
    progress: Mapping[str, Any] | None = None
    _label_since: float = field(default_factory=time.monotonic)

    def started(self, pid: int, expected_seconds: float | None) -> None:
        """Note the process, and what is expected of it."""
        self.pid, self.expected_seconds = pid, expected_seconds
        self._label_since = time.monotonic()

    def showing(self, then: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
        """A function that notes progress and hands it on."""

        def show(progress: dict[str, Any]) -> None:
            if self.progress is not None and self.progress["label"] != progress["label"]:
                self._label_since = time.monotonic()
            self.progress = progress
            then(progress)

        return show

    @property
    def seconds(self) -> float:
        """For how long the work that progress tells of has been under way."""
        return time.monotonic() - self._label_since


class RunningTasks:
    """The tasks that run here."""

    def __init__(self) -> None:
        self._runs: set[LocalRun] = set()

    @property
    def runs(self) -> tuple[LocalRun, ...]:
        """All of them, the longest first."""
        return tuple(sorted(self._runs, key=lambda run: run.began))

    @contextmanager
    def running(self, task: TaskMessage, queue: str) -> Iterator[LocalRun]:
        """Keep a task among them from entry to exit."""
        run = LocalRun(task, queue)
        self._runs.add(run)
        try:
            yield run
        finally:
            self._runs.discard(run)
