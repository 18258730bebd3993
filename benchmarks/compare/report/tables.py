"""Present a comparison as tables, for a terminal and as Markdown."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.compare.goals import Verdict, verdicts
from benchmarks.compare.results import CaseResult, CodecLimit, MethodResult, Report, Scaling, Spread

_NOTHING = "–"
_PIPED_WIDTH = 160
# A run is not quiet if others used more than this share of a core: more than the kernel's own work on pages
# and disk.
_QUIET_CORES = 0.15
# The goals are for about 1 GB; for sources below this size they are printed with a warning.
_MEANINGFUL_MB = 500


@dataclass(frozen=True)
class Table:
    """Rows of text under a header, with a title above and notes below."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def tables(report: Report) -> tuple[Table, ...]:
    """Return all tables of a comparison: two for each case, then the goals."""
    each = (table for case in report.cases for table in (_runs(case), _ratios(case)) if table.rows)
    goals = _goals(report)
    return (*each, goals) if goals.rows else tuple(each)


def machine_line(report: Report) -> str:
    """Return hardware and versions as one line."""
    machine = report.machine
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    load = "" if machine.load is None else f", load {machine.load:.2f} at the start"
    return (
        f"{machine.cores} cores of {machine.processor}, {machine.memory_mb / 1000:.0f} GB, {machine.system}"
        f"{load}; Python {machine.python}, GDAL {machine.gdal}, {versions}; "
        f"commit {machine.commit or 'unknown'}"
    )


def to_markdown(report: Report) -> str:
    """Return the comparison as a Markdown document."""
    what = _TITLES[report.cases[0].output] if report.cases else "Nothing"
    parts = [f"# {what}, side by side", f"{report.created}. {machine_line(report)}", _HOW_TO_READ]
    for table in tables(report):
        lines = [table.header, tuple("---" for _ in table.header), *table.rows]
        body = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in lines)
        parts += [f"## {table.title}", body, *("- " + note for note in table.notes)]
    return "\n\n".join(parts) + "\n"


def print_tables(report: Report) -> None:
    """Print the comparison to the terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    # A table piped into a file must not be folded.
    console = Console() if sys.stdout.isatty() else Console(width=_PIPED_WIDTH)
    for table in tables(report):
        # Text, not markup: square brackets in an error stay unchanged.
        rich = RichTable(title=Text(table.title), title_justify="left", box=box.SIMPLE_HEAD)
        for number, name in enumerate(table.header):
            left = number in (0, len(table.header) - 1)
            rich.add_column(Text(name), justify="left" if left else "right", no_wrap=number == 0)
        for row in table.rows:
            rich.add_row(*(Text(cell) for cell in row))
        console.print(rich)
        for note in table.notes:
            console.print(Text(f"  {note}"), soft_wrap=True)
    console.print()
    console.print(Text(_HOW_TO_READ), soft_wrap=True)
    console.print(Text(machine_line(report)), soft_wrap=True)


_TITLES = {"cog": "COGs", "tiles": "Tiles"}
_SAME = {"cog": "identical", "tiles": "as warped"}

_HOW_TO_READ = (
    "Medians, lowest and highest in brackets. Wall and CPU seconds are those of the call, imports done "
    "before; CPU is user and system, children included; peak is resident memory of the process tree. "
    "gdaltools returns when files are on the disk, its peers when they are in the page cache."
)


def _runs(case: CaseResult) -> Table:
    first = next((each for each in case.methods if each.role == "engine"), case.methods[0])
    header = ("method", "wall s", "", "CPU s", "peak MB", "size MB", "vs GDAL", "of first", "output")
    rows = tuple(_run_row(case, method, first) for method in case.methods)
    compressed = "" if case.compression == "none" else f" {case.compression}"
    title = (
        f"{case.name}: {case.description}; {case.width} x {case.height} x {case.bands} {case.dtype}, "
        f"{case.size_bytes / 1e6:.0f} MB, {case.layout}{compressed}"
    )
    return Table(title, header, rows, tuple(_notes(case)))


def _run_row(case: CaseResult, method: MethodResult, first: MethodResult) -> tuple[str, ...]:
    seconds, cpu, peak, size = method.seconds, method.cpu_seconds, method.peak_mb, method.size_mb
    if not (seconds and cpu and peak and size):
        return (method.label, *(_NOTHING,) * 7, "skipped" if method.skipped else "FAILED")
    larger, ratio = case.size_against(method.name, "gdal"), case.ratio(method.name, first.name)
    return (
        method.label,
        f"{seconds.median:.2f}",
        _range(seconds),
        f"{cpu.median:.2f}",
        f"{peak.median:.0f}",
        f"{size.median:.1f}",
        _NOTHING if larger is None else f"{larger:+.1%}",
        _NOTHING if ratio is None else f"{ratio:.2f}x",
        _verdict(case, method),
    )


def _range(seconds: Spread) -> str:
    return f"({seconds.low:.2f}–{seconds.high:.2f})"


def _verdict(case: CaseResult, method: MethodResult) -> str:
    if method.failed or method.check is None:
        return "FAILED"
    layout = "valid" if method.check.valid else "NOT VALID"
    pixels = _SAME[case.output] if method.check.pixels_identical else "PIXELS DIFFER"
    return f"{layout}, {pixels}" + (", see below" if method.check.problems else "")


def _notes(case: CaseResult) -> Iterator[str]:
    for method in case.methods:
        if method.skipped:
            yield f"{method.label}: skipped, {method.skipped}"
        if method.failed:
            yield f"{method.label}: FAILED, {method.failed}"
        for problem in method.check.problems if method.check else ():
            yield f"{method.label}: {problem}"
    if case.others_cores is not None and case.others_cores > _QUIET_CORES:
        yield (
            f"NOT QUIET: something else used {case.others_cores:.2f} cores meanwhile, so that wall times and "
            f"their ratios mean little; CPU seconds mean more"
        )
    if case.limit is not None:
        limit = case.limit
        name = limit.codec if limit.level is None else f"{limit.codec} {limit.level}"
        reached = ", ".join(
            f"{method.label} {limit.seconds / method.seconds.median:.0%}"
            for method in case.methods
            if method.seconds and _encodes_alike(method, limit)
        )
        yield (
            f"{name} alone: {limit.mb_per_second:.0f} MB/s on one core, so {limit.seconds:.2f} s on "
            f"{limit.threads}; {limit.threads} threads together reach {limit.thread_gain:.2f} times one "
            f"thread's rate, so {limit.all_threads_seconds:.2f} s. Of the former: {reached or 'nobody'}"
        )
    elif case.limit_missing:
        yield f"the codec's limit is not known: {case.limit_missing}"
    if case.scaling is not None:
        yield _scaling_note(case.scaling)


def _encodes_alike(method: MethodResult, limit: CodecLimit) -> bool:
    """Return whether the limit holds for the method: adaptive encoders are free to beat it."""
    same = (method.codec, method.level) == (limit.codec, limit.level)
    return same and method.size_tolerance is None and method.name != "default"


def _scaling_note(scaling: Scaling) -> str:
    if scaling.gain is None or scaling.failed:
        return f"{scaling.method}: scaling FAILED, {scaling.failed}"
    return f"{scaling.method}: {scaling.gain:.2f} times as fast on {scaling.threads} threads as on one"


def _ratios(case: CaseResult) -> Table:
    peers = [method for method in case.methods if method.role == "peer" and method.seconds]
    engine = [method for method in case.methods if method.role == "engine" and method.seconds]
    rows = tuple(
        (method.label, *(_both_ratios(case, peer.name, method.name) for peer in peers)) for method in engine
    )
    header = ("times as fast as, wall / CPU", *(peer.label for peer in peers))
    return Table(f"{case.name}: ratios of medians", header, rows if peers else ())


def _both_ratios(case: CaseResult, slow: str, fast: str) -> str:
    return f"{_times(case.ratio(slow, fast))} / {_times(case.cpu_ratio(slow, fast))}"


def _times(ratio: float | None) -> str:
    return _NOTHING if ratio is None else f"{ratio:.2f}x"


def _goals(report: Report) -> Table:
    found = [verdict for case in report.cases for verdict in verdicts(case)]
    small = any(case.size_bytes < _MEANINGFUL_MB * 1e6 for case in report.cases)
    notes = ("the goals are for about 1 GB and two quiet cores: on smaller inputs they say little",)
    return Table(
        "goals and measurements",
        ("case", "method", "measure", "goal", "measured", "reached"),
        tuple(_goal_row(verdict) for verdict in found),
        notes if small else (),
    )


def _goal_row(verdict: Verdict) -> tuple[str, ...]:
    sign = "≤" if verdict.at_most else "≥"
    return (
        verdict.case,
        verdict.method,
        verdict.measure,
        f"{sign} {_quantity(verdict, verdict.required)}",
        _NOTHING if verdict.measured is None else _quantity(verdict, verdict.measured),
        {True: "yes", False: "NO", None: _NOTHING}[verdict.reached],
    )


def _quantity(verdict: Verdict, value: float) -> str:
    if verdict.measure.startswith("size"):
        return f"{value:+.1%}"
    return f"{value:.0f}" if verdict.measure == "peak MB" else f"{value:.2f}x"


def failures(report: Report) -> Iterator[str]:
    """Yield a sentence for each engine variant that failed or wrote a wrong file."""
    for case in report.cases:
        for method in case.methods:
            if method.role == "peer":
                continue
            if method.failed:
                yield f"{case.name}: {method.label} failed, {method.failed}"
            elif method.check and method.check.problems:
                yield f"{case.name}: {method.label} made a wrong file, {'; '.join(method.check.problems)}"
        if case.scaling is not None and case.scaling.failed:
            yield f"{case.name}: scaling failed, {case.scaling.failed}"
