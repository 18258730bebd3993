"""The report: the answer first, then its evidence; as Markdown, and as one HTML page with its plots.

This module builds the sections once; `pages` renders them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.calibrate import plots
from benchmarks.calibrate.answer import Answer, Largest
from benchmarks.calibrate.fit import Fitted
from benchmarks.calibrate.misrouting import Misrouted
from benchmarks.calibrate.store import Contents, measured_runs
from benchmarks.pages import NOTHING, Picture, Section, Table
from gdaltools.cost.estimation import Estimate


@dataclass(frozen=True)
class Findings:
    """Everything that a report shows.

    Attributes
    ----------
    worker : tuple of Largest
        The largest rasters that the worker finishes within its limit.
    peers : tuple of str or Table
        The engine compared with its peers, if that was measured.
    profiles : tuple of Picture
        Memory over time of single runs, if requested.
    """

    contents: Contents
    fitted: Fitted
    answer: Answer
    worker_target: str
    worker: tuple[Largest, ...]
    jobs: int
    misrouted: tuple[Misrouted, ...]
    examples: tuple[tuple[str, float, Estimate], ...]
    peers: tuple[str | Table | Picture, ...] = ()
    profiles: tuple[Picture, ...] = ()


def report_of(findings: Findings) -> tuple[Section, ...]:
    """Build the report's sections, the answer first, and draw their plots."""
    found = (
        _answer(findings),
        _kinds(findings),
        _routing(findings),
        _quality(findings),
        _memory(findings),
        _peers(findings),
        _prices(findings),
        _basis(findings),
    )
    return tuple(section for section in found if section.parts)


def _answer(findings: Findings) -> Section:
    answer = findings.answer
    limits = answer.thresholds
    table = Table(
        ("setting", "value"),
        (
            ("SIZE_THRESHOLD_MB", f"{limits.size_threshold_mb:g}"),
            ("DURATION_THRESHOLD_MINUTES", f"{limits.duration_threshold_minutes:g}"),
            ("FUNCTION_APP_CORES", f"{limits.function_app_cores}"),
        ),
    )
    changes = Table(
        ("if there were", "SIZE_THRESHOLD_MB"),
        tuple((change.what, f"{change.size_threshold_mb:g}") for change in answer.changes),
    )
    return Section(f"Thresholds for {answer.target}", (table, *answer.reasons, changes))


def _kinds(findings: Findings) -> Section:
    runs = measured_runs(findings.contents.runs)
    what = (
        "The largest raster of each kind that ends within the limit and the memory in 95 of 100 runs: "
        "gigabytes of pixels (gigabytes on storage)."
    )
    picture = Picture(
        "times",
        plots.times(findings.fitted, runs, findings.answer),
        "Seconds against size. The line is for plain RGB; other kinds of samples lie above or below it, "
        "hollow points ran on another number of cores. Grey "
        "sizes were never measured.",
    )
    return Section(
        "What ends in time",
        (
            f"{what} In the function app:",
            _largest_table(findings.answer.largest),
            f"In the worker ({findings.worker_target}):",
            _largest_table(findings.worker),
            picture,
        ),
    )


def _largest_table(largest: Sequence[Largest]) -> Table:
    tasks = list(dict.fromkeys(str(each.task) for each in largest))
    kinds = list(dict.fromkeys(each.kind.name for each in largest))
    cells = {(str(each.task), each.kind.name): each for each in largest}

    def cell(task: str, kind: str) -> str:
        each = cells.get((task, kind))
        if each is None:
            return NOTHING
        memory = ", memory" if each.bound_by == "memory" else ""
        return f"{each.megabytes / 1000:,.1f} ({each.stored_mb / 1000:,.1f}{memory})"

    return Table(("kind", *tasks), tuple((kind, *(cell(task, kind) for task in tasks)) for kind in kinds))


def _routing(findings: Findings) -> Section:
    table = Table(
        ("rule", "ended by the function app", "needlessly in the container", "wrong"),
        tuple(
            (each.rule, str(each.killed), str(each.needless), str(each.wrong)) for each in findings.misrouted
        ),
    )
    examples = Table(
        ("file", "on storage MB", "pixels MB", "estimate", "nine of ten up to"),
        tuple(
            (
                name,
                f"{stored:,.0f}",
                f"{found.uncompressed_mb:,.0f}",
                _time(found.seconds),
                _time(found.seconds_high),
            )
            for name, stored, found in findings.examples
        ),
    )
    return Section(
        "Size alone misroutes",
        (
            f"{findings.jobs} simulated jobs: kinds and tiers at random, files of 50 MB to 50 GB, real times "
            "the model's with the errors that held-out sizes showed. They tell what a rule loses by knowing "
            "less than the model, not how good the model is.",
            table,
            "A megabyte on storage says little: a small file may take longer than a large one.",
            examples,
        ),
    )


def _quality(findings: Findings) -> Section:
    rows = []
    for name, model in findings.fitted.calibration.models.items():
        judged = model.judgement
        rows.append(
            (
                name,
                str(model.runs),
                f"{model.smallest_mb:,.0f}–{model.largest_mb:,.0f}",
                NOTHING if judged is None else f"over {judged.fitted_up_to_mb:,.0f} MB ({judged.runs} runs)",
                NOTHING if judged is None else f"{judged.median_error:.1%}",
                NOTHING if judged is None else f"{judged.coverage:.0%}",
                f"{model.spread.low:.2f}–{model.spread.high:.2f}",
            )
        )
    header = (
        "operation",
        "runs",
        "MB",
        "held out",
        "median error",
        "in the 90% interval",
        "interval, times estimate",
    )
    picture = Picture("residuals", plots.residuals(findings.fitted), "Measured over predicted seconds.")
    notes = tuple(findings.fitted.notes) + findings.contents.problems
    return Section(
        "How good the model is",
        (
            "Held out are the largest sizes: a model of the smaller ones predicts them. The goals are a "
            "median error of at most 15%, and 85% to 95% of the runs within the interval.",
            Table(header, tuple(rows)),
            picture,
            *notes,
        ),
    )


def _memory(findings: Findings) -> Section:
    runs = measured_runs(findings.contents.runs)
    rows = tuple(
        (name, f"{model.memory.low:.2f}", f"{model.memory.median:.2f}", f"{model.memory.high:.2f}")
        for name, model in findings.fitted.calibration.models.items()
    )
    over = [run for run in runs if run.peak_mb and run.bound_mb and run.peak_mb > run.bound_mb]
    said = f"{len(over)} of {len(runs)} runs took more than their plan's bound."
    worst = max(over, key=lambda run: (run.peak_mb or 0) / (run.bound_mb or 1), default=None)
    if worst is not None and worst.cell is not None:
        said += f" The worst: {worst.cell.key}, {worst.peak_mb:,.0f} MB of {worst.bound_mb:,.0f} MB."
    return Section(
        "Memory",
        (
            "Every plan bounds its own memory, whatever the raster's size: routing and admission go by that "
            "bound. What runs took, as a share of it:",
            Table(("operation", "5 of 100 below", "median", "95 of 100 below"), rows),
            said,
            Picture("memory", plots.memory(runs), "Measured peaks of the process tree."),
        ),
    )


def _peers(findings: Findings) -> Section:
    return Section("Beside its peers", (*findings.peers, *findings.profiles))


def _prices(findings: Findings) -> Section:
    rows = tuple(
        (operation, name, f"{price:.4g}", "seconds" if name.startswith("start") else "seconds a MB")
        for operation, model in findings.fitted.calibration.models.items()
        for name, price in model.prices.items()
    )
    return Section(
        "The model's prices",
        (
            "Seconds are the sum of these, times the features of gdaltools.cost.workload: work, decode, "
            "unpack, strips and warp are megabytes a core, serial and remote megabytes. A 0 is what the runs "
            "gave no sign of.",
            Table(("operation", "feature", "price", "of"), rows),
        ),
    )


def _basis(findings: Findings) -> Section:
    machines = {
        sitting.machine.model_dump_json(exclude={"load"}): sitting.machine
        for sitting in findings.contents.sittings
    }
    runs = measured_runs(findings.contents.runs)
    quiet = sum(run.quiet for run in runs)
    return Section(
        "What it was measured on",
        (
            *map(str, machines.values()),
            f"{len(runs)} runs, {quiet} of them on a quiet machine. {findings.fitted.calibration.note}",
        ),
    )


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
