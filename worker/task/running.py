"""The tasks that run in this worker now, with their progress; kept in memory for the status page."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from worker.protocol.messages import TaskMessage
from worker.telemetry.metrics import METRICS, TaskOutcome


@dataclass(eq=False)
class LocalRun:
    """A task that runs in this worker.

    Attributes
    ----------
    began : datetime
        The start of the run, timezone-aware.
    pid : int or None
        The id of the task's process, once it runs.
    expected_seconds : float or None
        The estimated duration.
    outcome : str
        How the run ended; "lost" unless it is set.
    progress : mapping or None
        The newest progress, in the form of the row's ``metadata.progress``.
    """

    task: TaskMessage
    queue: str
    began: datetime = field(default_factory=lambda: datetime.now(UTC))
    pid: int | None = None
    expected_seconds: float | None = None
    progress: Mapping[str, Any] | None = None
    outcome: TaskOutcome = "lost"
    _began: float = field(default_factory=time.monotonic)
    _label_since: float = field(default_factory=time.monotonic)

    def started(self, pid: int, expected_seconds: float | None) -> None:
        """Record the process id and the estimated duration."""
        self.pid, self.expected_seconds = pid, expected_seconds
        self._label_since = time.monotonic()

    def showing(self, then: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
        """Return a function that records progress and then calls `then` with it."""

        def show(progress: dict[str, Any]) -> None:
            if self.progress is not None and self.progress["label"] != progress["label"]:
                self._label_since = time.monotonic()
            self.progress = progress
            then(progress)

        return show

    @property
    def seconds(self) -> float:
        """The seconds since the current progress label began."""
        return time.monotonic() - self._label_since


class RunningTasks:
    """All tasks that run in this worker."""

    def __init__(self) -> None:
        self._runs: set[LocalRun] = set()

    @property
    def runs(self) -> tuple[LocalRun, ...]:
        """The runs, the oldest first."""
        return tuple(sorted(self._runs, key=lambda run: run.began))

    @contextmanager
    def running(self, task: TaskMessage, queue: str) -> Iterator[LocalRun]:
        """Add a task to the running tasks; on exit remove it, and count its run."""
        run = LocalRun(task, queue)
        self._runs.add(run)
        try:
            yield run
        finally:
            self._runs.discard(run)
            METRICS.count_run(
                task.task_type,
                outcome=run.outcome,
                seconds=time.monotonic() - run._began,
                expected_seconds=run.expected_seconds,
            )
