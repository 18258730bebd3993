"""A job for display, one row per stage: as a rich table in a terminal, as an HTML card in a notebook.

Jobs and tasks are mappings as the HTTP API returns them (`worker.web.api`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from gdaltools.display import bars, html
from gdaltools.runtime.text import one_line
from worker.protocol.rows import tone_of

if TYPE_CHECKING:
    from rich.console import Group

_HEADINGS = ("stage", "task", "queue", "done", "running", "seconds")


@dataclass(frozen=True)
class Stage:
    """The progress of one stage.

    Attributes
    ----------
    percent : float or None
        Mean progress of the running tasks; None when no task runs.
    seconds : float or None
        From the first task's start to the last task's end; None while a task runs, or when none has started.
    """

    number: int
    task_type: str
    queues: tuple[str, ...]
    tasks: int
    done: int
    failed: int
    running: int
    percent: float | None
    seconds: float | None

    @property
    def over(self) -> bool:
        """Whether every task is completed or failed."""
        return self.done + self.failed == self.tasks

    def cells(self) -> tuple[str, ...]:
        """Return the stage's table cells."""
        return (
            str(self.number),
            one_line(self.task_type),
            one_line(", ".join(self.queues)),
            f"{self.done}/{self.tasks}" + (f", {self.failed} failed" if self.failed else ""),
            f"{self.running} at {self.percent:.0f}%" if self.percent is not None else "",
            f"{self.seconds:.1f}" if self.seconds is not None else "",
        )


def stages(tasks: Sequence[Mapping[str, Any]]) -> Iterator[Stage]:
    """Yield the stages that have tasks, in order."""
    for number in sorted({int(task["stage"]) for task in tasks}):
        mine = [task for task in tasks if task["stage"] == number]
        running = [task for task in mine if task["status"] == "processing"]
        percents = [float((task["progress"] or {}).get("percent", 0.0)) for task in running]
        yield Stage(
            number=number,
            task_type=str(mine[0]["taskType"]),
            queues=tuple(sorted({task["queue"] or "" for task in mine})),
            tasks=len(mine),
            done=sum(task["status"] == "completed" for task in mine),
            failed=sum(task["status"] == "failed" for task in mine),
            running=len(running),
            percent=sum(percents) / len(percents) if percents else None,
            seconds=None if running else _seconds(mine),
        )


def _seconds(tasks: Sequence[Mapping[str, Any]]) -> float | None:
    began = [datetime.fromisoformat(t["executionStartedAt"]) for t in tasks if t["executionStartedAt"]]
    if not began:
        return None
    return (max(datetime.fromisoformat(t["updatedAt"]) for t in tasks) - min(began)).total_seconds()


Show = Callable[[Mapping[str, Any], Sequence[Mapping[str, Any]], float], None]


@contextmanager
def screen() -> Iterator[Show]:
    """Yield a function that shows a job, its tasks and the seconds watched so far, updated in place."""
    if bars.in_notebook():
        from IPython.display import HTML, display

        handle = display(HTML(""), display_id=True)
        yield lambda job, tasks, seconds: handle.update(HTML(in_notebook(job, tasks, seconds=seconds)))
        return
    from rich.live import Live

    with Live(refresh_per_second=4) as live:
        yield lambda job, tasks, seconds: live.update(in_terminal(job, tasks, seconds=seconds))


def headline(job: Mapping[str, Any], seconds: float | None = None) -> str:
    """Return a one-line summary of the job."""
    took = "" if seconds is None else f", {seconds:.0f} s"
    return f"job {job['jobId'][:8]} is {job['status']}{took}"


def in_terminal(
    job: Mapping[str, Any],
    tasks: Sequence[Mapping[str, Any]],
    *,
    seconds: float | None = None,
    problems: Mapping[str, str] | None = None,
) -> Group:
    """Return the job, its stages and the worker's `problems` as a rich group."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for heading in _HEADINGS:
        table.add_column(heading, no_wrap=True)
    for stage in stages(tasks):
        style = "red" if stage.failed else ("green" if stage.over else "")
        table.add_row(*map(Text, stage.cells()), style=style)
    waits = [Text(one_line(f"{part}: {problem}"), "red") for part, problem in (problems or {}).items()]
    return Group(Text(headline(job, seconds)), table, *waits)


def in_notebook(
    job: Mapping[str, Any], tasks: Sequence[Mapping[str, Any]], *, seconds: float | None = None
) -> html.Html:
    """Return the job and its stages as an HTML card, with the errors of failed tasks."""
    rows = []
    for stage in stages(tasks):
        number, task, queue, done, running, took = stage.cells()
        shown = (
            html.toned(done, "bad") if stage.failed else (html.toned(done, "good") if stage.over else done)
        )
        part = html.joined((html.bar(stage.percent / 100), " ", running)) if stage.percent is not None else ""
        rows.append((number, task, queue, shown, part, took))
    failures = [
        (task["taskId"], html.toned(task["errorDetails"], "bad"))
        for task in tasks
        if task["status"] == "failed"
    ]
    status = html.toned(headline(job, seconds), tone_of(job["status"]))
    parts = [html.table(_HEADINGS, rows)]
    if failures:
        parts.append(html.table(("failed task", "what it says"), failures))
    if job.get("errorDetails"):
        parts.append(html.facts({"error": job["errorDetails"]}))
    return html.card(job["jobType"], status, *parts)
