"""Plots for choosing a setting: time and memory against size, and the error of the predictions."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.calibrate.answer import Answer
from benchmarks.calibrate.fit import Fitted
from benchmarks.calibrate.kinds import KINDS
from benchmarks.calibrate.store import Run
from gdaltools.cost.workload import Workload

_KIND_COLOURS = {"byte": "#1f6fb4", "rough": "#7b52ab", "wide": "#d98324", "float": "#3a8f5c"}
_KIND_NAMES = {"byte": "bytes", "rough": "noisy bytes", "wide": "wider integers", "float": "floats"}
_LIMIT, _BAND, _GREY = "#c0392b", "#1f6fb4", "#8a9096"
_DPI = 110


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _png(figure: Any) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=_DPI)
    return stream.getvalue()


def times(fitted: Fitted, runs: Sequence[Run], found: Answer) -> bytes:
    """Plot seconds against uncompressed size: runs, the model's median and interval, limit and threshold."""
    size = _plain(1)
    shown = [
        Workload("create_cog", "analysis", size, found.target.cores),
        Workload("create_cog", "archive", size, found.target.cores),
        Workload("create_cog", "analysis", size, found.target.cores, warps=True),
        Workload("extract_tiles", "warp", size, found.target.cores),
    ]
    shown = [each for each in shown if each.operation in fitted.calibration.models]
    figure = _figure(12, 4.2 * -(-len(shown) // 2))
    axes = figure.subplots(-(-len(shown) // 2), 2, squeeze=False).ravel()
    for axis, work in zip(axes, shown, strict=False):
        _draw_times(axis, fitted, runs, found, work)
    for axis in axes[len(shown) :]:
        axis.set_visible(False)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    return _png(figure)


def _draw_times(axis: Any, fitted: Fitted, runs: Sequence[Run], found: Answer, work: Workload) -> None:
    model = fitted.calibration.models[work.operation]
    name = f"{work.operation}, {work.variant}{', warped' * work.warps}"
    for kind, colour in _KIND_COLOURS.items():
        named = f"{_KIND_NAMES[kind]}, {work.cores} cores"
        for alike, face, label in ((True, colour, named), (False, "none", None)):
            points = [
                (run.work.layout.megabytes, run.seconds)
                for run in runs
                if _does_the_same(run.work, work)
                and run.work.layout.sample_kind == kind
                and (run.work.cores == work.cores) is alike
            ]
            places = zip(*points, strict=True) if points else ([], [])
            axis.plot(*places, "o", color=colour, mfc=face, ms=4, alpha=0.7, label=label)
    limit = 60 * found.target.minutes
    sizes = np.geomspace(5, max(4 * model.largest_mb, 1.3 * _reaches(limit, model, work)), 80)
    predicted = [model.predict(_of_size(work, size)) for size in sizes]
    axis.plot(sizes, [each.median for each in predicted], color=_BAND, lw=1.5,
              label=f"model: plain RGB, {work.cores} cores")  # fmt: skip
    axis.fill_between(sizes, [each.low for each in predicted], [each.high for each in predicted],
                      color=_BAND, alpha=0.15, lw=0, label="nine of ten")  # fmt: skip
    axis.axhline(limit, color=_LIMIT, ls="--", lw=1, label=f"limit, {found.target.minutes:g} minutes")
    axis.axhline(60 * found.thresholds.duration_threshold_minutes, color=_LIMIT, ls=":", lw=1,
                 label="DURATION_THRESHOLD_MINUTES")  # fmt: skip
    axis.axvspan(model.largest_mb, sizes[-1], color="#000000", alpha=0.04, lw=0, label="never measured")
    axis.set(xscale="log", yscale="log", title=name, xlabel="uncompressed MB", ylabel="seconds")
    _frame(axis)


def _does_the_same(one: Workload, other: Workload) -> bool:
    return (one.operation, one.variant, one.warps) == (other.operation, other.variant, other.warps)


def _plain(megabytes: float) -> Any:
    return KINDS[0].layout(megabytes, remote=False)


def _of_size(work: Workload, megabytes: float) -> Workload:
    return Workload(work.operation, work.variant, _plain(megabytes), work.cores, warps=work.warps)


def _reaches(seconds: float, model: Any, work: Workload) -> float:
    """Return the approximate size at which the median reaches `seconds`."""
    size = 1000.0
    for _ in range(4):
        size *= seconds / max(model.predict(_of_size(work, size)).median, 1e-6)
    return size


def memory(runs: Sequence[Run]) -> bytes:
    """Plot measured peaks against the memory bounds of the plans."""
    figure = _figure(12, 4.2)
    axes = figure.subplots(1, 2)
    seen = [run for run in runs if run.peak_mb and run.bound_mb]
    for operation, colour in (("create_cog", "#1f6fb4"), ("extract_tiles", "#d98324")):
        chosen = [run for run in seen if run.work.operation == operation]
        peaks, sizes = [run.peak_mb for run in chosen], [run.work.layout.megabytes for run in chosen]
        axes[0].plot(
            [run.bound_mb for run in chosen], peaks, "o", ms=4, alpha=0.65, color=colour, label=operation
        )
        axes[1].plot(sizes, peaks, "o", ms=4, alpha=0.65, color=colour)
    top = max([run.bound_mb or 0 for run in seen] + [1])
    axes[0].plot([0, top], [0, top], color=_LIMIT, ls="--", lw=1, label="the bound itself")
    axes[0].set(
        xlabel="bound of the plan, MB", ylabel="measured peak, MB", title="no run may lie above the line"
    )
    axes[0].legend(frameon=False, fontsize=9)
    axes[1].set(
        xscale="log", xlabel="uncompressed MB", ylabel="measured peak, MB", title="memory against size"
    )
    for axis in axes:
        _frame(axis)
    return _png(figure)


def residuals(fitted: Fitted) -> bytes:
    """Plot measured over predicted seconds, predicted by models that had not seen the size."""
    names = list(fitted.residuals)
    figure = _figure(12, 3.8)
    for axis, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        spread = fitted.calibration.models[name].spread
        for held, colour, label in (
            (False, _GREY, "sizes between"),
            (True, _BAND, "held out: larger than any fitted"),
        ):
            points = [(size, ratio) for size, ratio, is_held in fitted.residuals[name] if is_held is held]
            axis.plot(*zip(*points, strict=True) if points else ([], []), "o", ms=4, alpha=0.7, color=colour,
                      label=label)  # fmt: skip
        axis.axhspan(spread.low, spread.high, color=_BAND, alpha=0.12, lw=0, label="nine of ten")
        axis.axhline(1, color="#333333", lw=0.8)
        axis.set(
            xscale="log", yscale="log", title=name, xlabel="uncompressed MB", ylabel="measured / predicted"
        )
        ticks = [0.25, 0.5, 0.7, 1, 1.4, 2, 4]
        axis.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.minorticks_off()
        axis.legend(frameon=False, fontsize=9)
        _frame(axis)
    return _png(figure)


def timeline(points: Sequence[tuple[float, int]], title: str) -> bytes:
    """Plot the memory of one run over time."""
    figure = _figure(9, 3)
    axis = figure.subplots()
    axis.plot(
        [second for second, _ in points], [resident / 1e6 for _, resident in points], color=_BAND, lw=1.2
    )
    axis.set(title=title, xlabel="seconds since the process began", ylabel="resident MB")
    axis.set_ylim(bottom=0)
    _frame(axis)
    return _png(figure)


def _frame(axis: Any) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25, which="major")
    axis.set_axisbelow(True)
