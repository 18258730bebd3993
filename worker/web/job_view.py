"""A job for display, one row per stage and queue: a rich table in a terminal, an HTML card in a notebook.

Jobs and tasks are mappings as the HTTP API returns them (`worker.web.api`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from gdaltools.display import bars, html
from gdaltools.runtime.text import one_line
from worker.protocol.rows import JobStage, tone_of

if TYPE_CHECKING:
    from rich.console import Group

_HEADINGS = ("stage", "task", "queue", "done", "running", "seconds")
_STYLES = {"bad": "red", "good": "green", "now": ""}


def stages(tasks: Sequence[Mapping[str, Any]]) -> Iterator[tuple[JobStage, float | None]]:
    """Yield the stages that have tasks, in order, each with the mean percentage of its running tasks."""
    groups: dict[tuple[int, str], list[Mapping[str, Any]]] = {}
    for task in tasks:
        groups.setdefault((int(task["stage"]), task["queue"] or ""), []).append(task)
    for (number, queue), mine in sorted(groups.items()):
        counts = Counter(task["status"] for task in mine)
        began = [task["executionStartedAt"] for task in mine if task["executionStartedAt"]]
        ended = [task["updatedAt"] for task in mine if task["status"] in ("completed", "failed")]
        percents = [
            (task["progress"] or {}).get("percent", 0.0) for task in mine if task["status"] == "processing"
        ]
        stage = JobStage(
            job_id="",
            stage=number,
            task_type=str(mine[0]["taskType"]),
            queue=queue,
            tasks=len(mine),
            done=counts["completed"],
            failed=counts["failed"],
            running=counts["processing"],
            began=min(map(datetime.fromisoformat, began), default=None),
            ended=max(map(datetime.fromisoformat, ended), default=None),
        )
        yield stage, sum(map(float, percents)) / len(percents) if percents else None


def _cells(stage: JobStage, percent: float | None) -> tuple[str, ...]:
    return (
        str(stage.stage),
        one_line(stage.task_type),
        one_line(stage.queue),
        f"{stage.done}/{stage.tasks}" + (f", {stage.failed} failed" if stage.failed else ""),
        "" if percent is None else f"{stage.running} at {percent:.0f}%",
        "" if stage.seconds is None else f"{stage.seconds:.1f}",
    )


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
    for stage, percent in stages(tasks):
        table.add_row(*map(Text, _cells(stage, percent)), style=_STYLES[stage.tone])
    waits = [Text(one_line(f"{part}: {problem}"), "red") for part, problem in (problems or {}).items()]
    return Group(Text(headline(job, seconds)), table, *waits)


def in_notebook(
    job: Mapping[str, Any], tasks: Sequence[Mapping[str, Any]], *, seconds: float | None = None
) -> html.Html:
    """Return the job and its stages as an HTML card, with the errors of failed tasks."""
    rows = []
    for stage, percent in stages(tasks):
        number, task, queue, done, running, took = _cells(stage, percent)
        shown = done if stage.tone == "now" else html.toned(done, stage.tone)
        part = html.joined((html.bar(percent / 100), " ", running)) if percent is not None else ""
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
