"""Present a comparison as the sections of a report, and name what failed."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.compare.results import CaseResult, CodecLimit, MethodResult, Report, Spread
from benchmarks.pages import NOTHING, Section, Table, to_markdown

# A run is not quiet if others used more than this share of a core: more than the kernel's own work on pages
# and disk.
_QUIET_CORES = 0.15
_TITLES = {"cog": "COGs", "tiles": "Tiles"}
_SAME = {"cog": "identical", "tiles": "as warped"}
_HOW_TO_READ = (
    "Medians, lowest and highest in brackets. Wall and CPU seconds are those of the call, imports done "
    "before; CPU is user and system, children included; peak is resident memory of the process tree. "
    "gdaltools returns when files are on the disk, its peers when they are in the page cache."
)


def sections(report: Report) -> tuple[Section, ...]:
    """Return one section for each case, and one on the machine and how to read them."""
    basis = Section("How to read this", (_HOW_TO_READ, f"{report.created}. {report.machine}"))
    return (*map(_section, report.cases), basis)


def as_markdown(report: Report) -> str:
    """Return the comparison as a Markdown document, which a terminal shows as well."""
    what = _TITLES[report.cases[0].output] if report.cases else "Nothing"
    return to_markdown(f"{what}, side by side", sections(report))


def _section(case: CaseResult) -> Section:
    compressed = "" if case.compression == "none" else f" {case.compression}"
    title = (
        f"{case.name}: {case.description}; {case.width} x {case.height} x {case.bands} {case.dtype}, "
        f"{case.size_bytes / 1e6:.0f} MB, {case.layout}{compressed}"
    )
    return Section(title, (_runs(case), *_ratios(case), *_notes(case)))


def _runs(case: CaseResult) -> Table:
    header = ("method", "wall s", "", "CPU s", "peak MB", "size MB", "vs GDAL", "of first", "output")
    return Table(header, tuple(_run_row(case, method) for method in case.methods))


def _run_row(case: CaseResult, method: MethodResult) -> tuple[str, ...]:
    seconds, cpu, peak, size = method.seconds, method.cpu_seconds, method.peak_mb, method.size_mb
    if not (seconds and cpu and peak and size):
        return (method.label, *(NOTHING,) * 7, "skipped" if method.skipped else "FAILED")
    larger = case.ratio("size_mb", method.name, "gdal")
    return (
        method.label,
        f"{seconds.median:.2f}",
        _range(seconds),
        f"{cpu.median:.2f}",
        f"{peak.median:.0f}",
        f"{size.median:.1f}",
        NOTHING if larger is None else f"{larger - 1:+.1%}",
        _times(case.ratio("seconds", method.name, case.methods[0].name)),
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


def _ratios(case: CaseResult) -> Iterator[Table]:
    peers = [method for method in case.methods if method.role == "peer" and method.seconds]
    engine = [method for method in case.methods if method.role == "engine" and method.seconds]
    rows = tuple(
        (
            method.label,
            *(
                " / ".join(
                    _times(case.ratio(figure, peer.name, method.name))
                    for figure in ("seconds", "cpu_seconds")
                )
                for peer in peers
            ),
        )
        for method in engine
    )
    if peers and rows:
        yield Table(("times as fast as, wall / CPU", *(peer.label for peer in peers)), rows)


def _times(ratio: float | None) -> str:
    return NOTHING if ratio is None else f"{ratio:.2f}x"


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
        yield _limit_note(case, case.limit)


def _limit_note(case: CaseResult, limit: CodecLimit) -> str:
    name = limit.codec if limit.level is None else f"{limit.codec} {limit.level}"
    alike = (limit.codec, limit.level, None)  # adaptive encoders are free to beat it
    shares = ", ".join(
        f"{method.label} {limit.seconds / method.seconds.median:.0%}"
        for method in case.methods
        if method.seconds and (method.codec, method.level, method.size_tolerance) == alike
    )
    return (
        f"{name} alone: {limit.mb_per_second:.0f} MB/s on one core, so {limit.seconds:.2f} s on "
        f"{limit.threads}, and {limit.all_threads_seconds:.2f} s at the rate that they reach together. "
        f"Of the former: {shares or 'no method'}"
    )


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
