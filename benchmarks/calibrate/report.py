"""The report: the answer first, then what it stands on; as Markdown, and as one page of HTML with its plots.

It is written as Markdown once; the page is made of the same sections.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from benchmarks.calibrate import plots
from benchmarks.calibrate.answer import Answer, Largest
from benchmarks.calibrate.fit import Fitted
from benchmarks.calibrate.misrouting import Misrouted
from benchmarks.calibrate.store import Contents, measured_runs
from benchmarks.machine import Machine
from gdaltools.estimation import Estimate

_NOTHING = "–"


@dataclass(frozen=True)
class Table:
    """Rows of text under a header."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Picture:
    """A plot: a PNG, and what it shows."""

    name: str
    png: bytes
    caption: str


@dataclass(frozen=True)
class Section:
    """A title, and paragraphs, tables and pictures below it."""

    title: str
    parts: tuple[str | Table | Picture, ...]


@dataclass(frozen=True)
class Findings:
    """Everything that a report tells.

    Attributes
    ----------
    worker : tuple of Largest
        What the worker finishes within its limit.
    peers : Picture or None
        The engine beside its peers, where that was measured.
    profiles : tuple of Picture
        Memory over time of single runs, where they were asked for.
    """

    contents: Contents
    fitted: Fitted
    answer: Answer
    worker_target: str
    worker: tuple[Largest, ...]
    jobs: int
    misrouted: tuple[Misrouted, ...]
    examples: tuple[tuple[str, float, Estimate], ...]
    peers: Picture | None = None
    profiles: tuple[Picture, ...] = ()


def report_of(findings: Findings) -> tuple[Section, ...]:
    """The report's sections, the answer first; its plots are drawn."""
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
            return _NOTHING
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
    picture = Picture(
        "misrouting",
        plots.misrouting(findings.misrouted, findings.jobs),
        "Jobs that a rule sends to the wrong place.",
    )
    return Section(
        "Size alone misroutes",
        (
            f"{findings.jobs} simulated jobs: kinds and tiers at random, files of 50 MB to 50 GB, real times "
            "the model's with the errors that held-out sizes showed. They tell what a rule loses by knowing "
            "less than the model, not how good the model is.",
            table,
            picture,
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
                _NOTHING if judged is None else f"over {judged.fitted_up_to_mb:,.0f} MB ({judged.runs} runs)",
                _NOTHING if judged is None else f"{judged.median_error:.1%}",
                _NOTHING if judged is None else f"{judged.coverage:.0%}",
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
            "Held out are the largest sizes: a model of the smaller ones predicts them. Wanted are a median "
            "error of at most 15%, and 85% to 95% of the runs within the interval.",
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
    return Section("Beside its peers", (*((findings.peers,) if findings.peers else ()), *findings.profiles))


def _prices(findings: Findings) -> Section:
    rows = tuple(
        (operation, name, f"{price:.4g}", "seconds" if name.startswith("start") else "seconds a MB")
        for operation, model in findings.fitted.calibration.models.items()
        for name, price in model.prices.items()
    )
    return Section(
        "The model's prices",
        (
            "Seconds are the sum of these, times the features of gdaltools.workload: work, decode, unpack, "
            "strips and warp are megabytes a core, serial and remote megabytes. A 0 is what the runs gave no "
            "sign of.",
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
            *(machine_line(machine) for machine in machines.values()),
            f"{len(runs)} runs, {quiet} of them on a quiet machine. {findings.fitted.calibration.note}",
        ),
    )


def machine_line(machine: Machine) -> str:
    """Hardware and versions in a sentence."""
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    return (
        f"{machine.cores} cores of {machine.processor}, {machine.memory_mb / 1000:.0f} GB, {machine.system}; "
        f"Python {machine.python}, GDAL {machine.gdal}, {versions}; commit {machine.commit or 'unknown'}."
    )


def to_markdown(sections: Sequence[Section]) -> str:
    """The report as Markdown; pictures are files beside it."""
    parts = ["# What routing should be told"]
    for section in sections:
        parts.append(f"## {section.title}")
        parts += ["\n".join(_markdown(part)) for part in section.parts]
    return "\n\n".join(parts) + "\n"


def _markdown(part: str | Table | Picture) -> Iterator[str]:
    if isinstance(part, str):
        yield part
    elif isinstance(part, Picture):
        yield f"![{part.caption}]({part.name}.png)"
    else:
        for row in (part.header, tuple("---" for _ in part.header), *part.rows):
            yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"


def pictures(sections: Sequence[Section]) -> Iterator[Picture]:
    """All pictures of a report."""
    for section in sections:
        yield from (part for part in section.parts if isinstance(part, Picture))


def to_html(sections: Sequence[Section]) -> str:
    """The report as one page that needs nothing else."""
    parts = []
    for section in sections:
        body = "".join(map(_html, section.parts))
        parts.append(f"<section><h2>{escape(section.title)}</h2>{body}</section>")
    title = "What routing should be told"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><h1>{title}</h1>{''.join(parts)}</body></html>\n"
    )


def _html(part: str | Table | Picture) -> str:
    if isinstance(part, str):
        return f"<p>{escape(part)}</p>"
    if isinstance(part, Picture):
        data = base64.b64encode(part.png).decode()
        caption = escape(part.caption)
        image = f'<img alt="{caption}" src="data:image/png;base64,{data}">'
        return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"
    head = "".join(f"<th>{escape(cell)}</th>" for cell in part.header)
    rows = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in part.rows)
    return f'<div class="table"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;color:#222;max-width:66rem;margin:2rem auto;padding:0 1rem}"
    "h1{font-size:1.7rem}"
    "h2{font-size:1.25rem;margin-top:2.4rem;border-bottom:1px solid #ddd;padding-bottom:.2rem}"
    "p{max-width:48rem}.table{overflow-x:auto}table{border-collapse:collapse;font-size:.92rem}"
    "th,td{padding:.25rem .8rem .25rem 0;text-align:right;border-bottom:1px solid #eee;white-space:nowrap}"
    "th:first-child,td:first-child{text-align:left}th{color:#555;font-weight:600}"
    "figure{margin:1.2rem 0}img{max-width:100%}figcaption{color:#555;font-size:.9rem}"
    "section:first-of-type table td:last-child{font-weight:600}"
)


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
