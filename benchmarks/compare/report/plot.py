"""A comparison as a picture: for each source, the wall time and the memory of every method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.compare.results import CaseResult, MethodResult, Report
from benchmarks.errors import MissingPackage

_ENGINE, _PEER, _WRONG = "#1f6fb4", "#a8adb3", "#c0392b"
_BAR_INCHES, _HEAD_INCHES = 0.27, 0.62


def require_plotting() -> None:
    """Fail before anything is measured if a plot cannot be drawn.

    Raises
    ------
    MissingPackage
        matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingPackage("a plot", "matplotlib") from error


def plot(report: Report, path: Path) -> None:
    """Draw a PNG at `path`: bars of wall time, as multiples of the first method's, and of peak memory."""
    require_plotting()
    from matplotlib.figure import Figure

    cases = report.cases
    heights = [_HEAD_INCHES + _BAR_INCHES * len(case.methods) for case in cases]
    figure = Figure(figsize=(12, sum(heights) + 0.7), layout="constrained")
    axes = figure.subplots(len(cases), 2, squeeze=False, height_ratios=heights, sharex="col")
    for case, (times, memory) in zip(cases, axes, strict=True):
        _draw_times(times, case)
        _draw_memory(memory, case)
    axes[-1][0].set_xlabel("wall time, multiples of the first line's (seconds beside; whiskers: all runs)")
    axes[-1][1].set_xlabel("peak resident memory of the process tree, MB")
    machine = report.machine
    figure.suptitle(
        f"The same COG from the same source, {report.options.get('threads', machine.cores)} threads on "
        f"{machine.cores} cores of {machine.processor} (GDAL {machine.gdal}; shorter is better)",
        fontsize=11,
    )
    figure.legend(handles=_legend(report), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.savefig(path, dpi=110)


def _legend(report: Report) -> list[Any]:
    from matplotlib.patches import Patch

    shown = {_colour(method) for case in report.cases for method in case.methods if method.seconds}
    names = {_ENGINE: "gdaltools", _PEER: "peers", _WRONG: "made a wrong file, or was not checked"}
    return [Patch(color=colour, label=name) for colour, name in names.items() if colour in shown]


def _draw_times(axes: Any, case: CaseResult) -> None:
    base = next((each.seconds.median for each in case.methods if each.seconds), 1.0)
    _frame(axes, case)
    shape = f"{case.width} x {case.height} x {case.bands} {case.dtype}"
    axes.set_title(f"{case.name}: {shape}, {case.size_bytes / 1e6:.0f} MB", loc="left", fontsize=10)
    for line, method in enumerate(case.methods):
        seconds = method.seconds
        if seconds is None:
            _say(axes, line, 0, "skipped" if method.skipped else "failed")
            continue
        ratio = seconds.median / base
        whiskers = [[(seconds.median - seconds.low) / base], [(seconds.high - seconds.median) / base]]
        axes.barh(line, ratio, color=_colour(method), xerr=whiskers, error_kw={"lw": 1, "alpha": 0.6})
        _say(axes, line, seconds.high / base, f"{ratio:.2f}x  {seconds.median:.1f} s")


def _draw_memory(axes: Any, case: CaseResult) -> None:
    _frame(axes, case)
    axes.tick_params(labelleft=False)
    for line, method in enumerate(case.methods):
        if method.peak_mb is not None:
            axes.barh(line, method.peak_mb.median, color=_colour(method))
            _say(axes, line, method.peak_mb.median, f"{method.peak_mb.median:.0f}")


def _frame(axes: Any, case: CaseResult) -> None:
    axes.set_yticks(range(len(case.methods)), [method.label for method in case.methods], fontsize=9)
    axes.set_ylim(len(case.methods) - 0.4, -0.6)
    axes.margins(x=0.16)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)


def _colour(method: MethodResult) -> str:
    if method.check is None or not (method.check.valid and method.check.pixels_identical):
        return _WRONG
    return _ENGINE if method.role == "engine" else _PEER


def _say(axes: Any, line: int, x: float, text: str) -> None:
    axes.annotate(text, (x, line), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8)
