"""The values that the status page shows; text from elsewhere is shortened, and secrets in it are redacted."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from gdaltools.display.pace import duration, rate, seconds_left
from gdaltools.runtime.text import redacted, shortened
from worker.database.overview import MOST_WAITING, FailedTask, Overview, RunningTask
from worker.protocol.rows import JobStage
from worker.queue.dead_letter import DeadLetter
from worker.task.running import LocalRun
from worker.telemetry.logs import Line
from worker.web.status.timeline import Timeline, timeline

_LONGEST_SAID = 2000
# Log lines shown below a task, and at the end of the page.
_TASK_LINES = 6
WORKER_LINES = 30
# A timeline grows in steps of this length: each step is sent to every viewer.
_STEP_SECONDS = 5
# A running row without an update for this long is shown as quiet.
_QUIET_SECONDS = 90.0


def said(text: str | None) -> str:
    """Return text from elsewhere with secrets redacted, shortened to 2000 characters."""
    return shortened(redacted(text or ""), _LONGEST_SAID)


@dataclass(frozen=True)
class ShownPace:
    """A task's progress, from its newest progress report.

    >>> ShownPace.of({"unit": "blocks", "done": 50, "total": 200}, seconds=10, expected=None)
    ShownPace(percent=25.0, text='50 of 200 blocks, 5.0 blocks/s, 30 s left')
    >>> ShownPace.of({"done": "many"}, seconds=10, expected=None) is None
    True
    """

    percent: float
    text: str

    @classmethod
    def of(
        cls, progress: Mapping[str, Any] | None, *, seconds: float, expected: float | None
    ) -> ShownPace | None:
        """Return the pace; None without usable numbers, as in a row that another program has written."""
        state = progress or {}
        done, total = _number(state.get("done")), _number(state.get("total"))
        if done is None or total is None or total <= 0:
            return None
        fraction = min(max(done / total, 0.0), 1.0)
        unit = str(state.get("unit") or "")
        left = seconds_left(fraction, seconds, expected)
        speed = rate(done / seconds if seconds > 0 else None, unit)
        parts = (
            f"{done:,.0f} of {total:,.0f} {unit}".strip(),
            speed,
            "" if left is None or fraction >= 1 else f"{duration(left)} left",
        )
        return cls(round(100 * fraction, 1), ", ".join(part for part in parts if part))


def _number(value: object) -> float | None:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


@dataclass(frozen=True)
class Running:
    """A task that runs here or on another worker; memory and log lines are known only of those here."""

    task_id: str
    job_id: str
    task_type: str
    stage: int
    queue: str
    blob: str
    worker: str
    began: datetime | None
    pace: ShownPace | None
    here: bool = False
    memory_mb: float | None = None
    quiet_seconds: float | None = None
    lines: tuple[Line, ...] = ()


@dataclass(frozen=True)
class QueueDeadLetters:
    """The oldest dead letters of a queue; `more` says that there are others, `problem` why none are known."""

    queue: str
    dead_letters: tuple[DeadLetter, ...] = ()
    more: bool = False
    problem: str | None = None


@dataclass(frozen=True)
class Resources:
    """The container's memory and disk, and each task's memory by pid; megabytes of 10⁶ bytes."""

    total_mb: float
    available_mb: float
    free_disk_mb: float
    tasks_mb: Mapping[int, float]


@dataclass(frozen=True)
class WorkerFacts:
    """The worker's identity: its name, mode, queues, version and start."""

    name: str
    mode: str
    queues: tuple[str, ...]
    version: str
    began: datetime


@dataclass(frozen=True)
class PageFacts:
    """Everything that the page shows at one moment.

    Attributes
    ----------
    overview : Overview or None
        The database's view; None while it is unknown, and `unknown` is then the reason.
    dead_letters : tuple of QueueDeadLetters or None
        None before the queues have answered for the first time.
    """

    now: datetime
    about: WorkerFacts
    state: str
    problems: Mapping[str, str]
    overview: Overview | None
    unknown: str | None
    running: tuple[Running, ...]
    jobs: tuple[Timeline, ...]
    dead_letters: tuple[QueueDeadLetters, ...] | None
    resources: Resources | None
    lines: tuple[Line, ...]

    @property
    def waiting(self) -> str:
        """The number of waiting tasks, as text; counting stops at MOST_WAITING."""
        count = 0 if self.overview is None else self.overview.waiting_count
        return f"{count:,}" + (" or more" if count >= MOST_WAITING else "")

    @property
    def failed(self) -> tuple[FailedTask, ...]:
        """The tasks that failed last."""
        return () if self.overview is None else self.overview.failed

    @property
    def dead(self) -> str:
        """The number of dead letters known, as text; "+" when there are more, "?" when unknown."""
        if self.dead_letters is None:
            return "?"
        more = any(each.more for each in self.dead_letters)
        return f"{sum(len(each.dead_letters) for each in self.dead_letters)}{'+' if more else ''}"


def aware(time: datetime) -> datetime:
    """Return `time` with its zone; the database's times are UTC without one."""
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time


def running(
    overview: Overview | None,
    runs: Sequence[LocalRun],
    lines: Iterable[Line],
    resources: Resources | None,
    *,
    name: str,
    now: datetime,
) -> tuple[Running, ...]:
    """Return the tasks that run here, then those that run elsewhere according to the database."""
    of_task: dict[str, list[Line]] = {}
    for line in lines:
        if line.task_id is not None:
            of_task.setdefault(line.task_id, []).append(line)
    memory = {} if resources is None else resources.tasks_mb
    rows = {} if overview is None else {row.task_id: row for row in overview.running}
    here = {run.task.task_id: run for run in runs}
    found = [
        _running_here(run, rows.get(task_id), of_task.get(task_id, []), memory, name=name)
        for task_id, run in here.items()
    ]
    found += [_running_elsewhere(row, now=now) for task_id, row in rows.items() if task_id not in here]
    return tuple(found)


def _running_here(
    run: LocalRun,
    row: RunningTask | None,
    lines: Sequence[Line],
    memory: Mapping[int, float],
    *,
    name: str,
) -> Running:
    task = run.task
    blob = row.blob if row is not None else None
    return Running(
        task_id=task.task_id,
        job_id=task.parent_job_id,
        task_type=task.task_type,
        stage=task.stage,
        queue=run.queue,
        blob=said(blob),
        worker=name,
        here=True,
        began=run.began,
        pace=ShownPace.of(run.progress, seconds=run.seconds, expected=run.expected_seconds),
        memory_mb=None if run.pid is None else memory.get(run.pid),
        lines=tuple(lines[-_TASK_LINES:]),
    )


def _running_elsewhere(row: RunningTask, *, now: datetime) -> Running:
    seconds = 0.0 if row.began is None else max((now - aware(row.began)).total_seconds(), 0.0)
    progress = {"unit": row.unit, "done": row.done, "total": row.total}
    quiet = row.idle_seconds if row.idle_seconds is not None and row.idle_seconds > _QUIET_SECONDS else None
    return Running(
        task_id=row.task_id,
        job_id=row.job_id,
        task_type=row.task_type,
        stage=row.stage,
        queue=row.queue or "",
        blob=said(row.blob),
        worker=said(row.worker),
        began=None if row.began is None else aware(row.began),
        pace=ShownPace.of(progress, seconds=seconds, expected=None),
        quiet_seconds=quiet,
    )


def jobs(overview: Overview | None, stages: Mapping[str, Sequence[JobStage]]) -> tuple[Timeline, ...]:
    """Return the timelines of the newest jobs."""
    if overview is None:
        return ()
    now = overview.now.replace(second=overview.now.second // _STEP_SECONDS * _STEP_SECONDS, microsecond=0)
    return tuple(timeline(job, stages.get(job.job_id, ()), now=now) for job in overview.jobs)
