"""A job as a person watches it: one row for each stage, in a terminal by rich, in a notebook as a card.

Jobs and tasks come as the HTTP door describes them (`worker.web.api`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from gdaltools.display import bars, html
from gdaltools.runtime.text import one_line

if TYPE_CHECKING:
    from rich.console import Group

_HEADINGS = ("stage", "task", "queue", "done", "running", "seconds")
_TONES = {"completed": "good", "failed": "bad", "completed_with_errors": "warn"}


@dataclass(frozen=True)
class Stage:
    """How far one stage is.

    Attributes
    ----------
    percent : float or None
        How far its running tasks are on average; None where none runs.
    seconds : float or None
        From its first task's start to its last one's end; None while it runs.
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
        """Whether all of its tasks have ended."""
        return self.done + self.failed == self.tasks

    def cells(self) -> tuple[str, ...]:
        """What a table shows of it."""
        return (
            str(self.number),
            one_line(self.task_type),
            one_line(", ".join(self.queues)),
            f"{self.done}/{self.tasks}" + (f", {self.failed} failed" if self.failed else ""),
            f"{self.running} at {self.percent:.0f}%" if self.percent is not None else "",
            f"{self.seconds:.1f}" if self.seconds is not None else "",
        )


def stages(tasks: Sequence[Mapping[str, Any]]) -> Iterator[Stage]:
    """The stages that have tasks, in their order."""
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
    """A function that shows in place a job, its tasks, and for how many seconds they were watched."""
    if bars.in_notebook():
        from IPython.display import HTML, display

        handle = display(HTML(""), display_id=True)
        yield lambda job, tasks, seconds: handle.update(HTML(in_notebook(job, tasks, seconds=seconds)))
        return
    from rich.live import Live

    with Live(refresh_per_second=4) as live:
        yield lambda job, tasks, seconds: live.update(in_terminal(job, tasks, seconds=seconds))


def headline(job: Mapping[str, Any], seconds: float | None = None) -> str:
    """The job in a line."""
    took = "" if seconds is None else f", {seconds:.0f} s"
    return f"job {job['jobId'][:8]} is {job['status']}{took}"


def in_terminal(
    job: Mapping[str, Any],
    tasks: Sequence[Mapping[str, Any]],
    *,
    seconds: float | None = None,
    problems: Mapping[str, str] | None = None,
) -> Group:
    """The job and its stages as rich shows them."""
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
    """The job and its stages as a card, with what its failed tasks said."""
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
    status = html.toned(headline(job, seconds), _TONES.get(job["status"], ""))
    parts = [html.table(_HEADINGS, rows)]
    if failures:
        parts.append(html.table(("failed task", "what it says"), failures))
    if job.get("errorDetails"):
        parts.append(html.facts({"error": job["errorDetails"]}))
    return html.card(job["jobType"], status, *parts)
