"""Plots of COGs: the levels of a file, and the byte ranges that readers request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gdaltools.display.axes import new_axes


def plot_pyramid(
    levels: Sequence[tuple[int, int]], ax: Any = None, *, blocksize: int, title: str = ""
) -> Any:
    """Draw the levels of a COG, (width, height) each, the full resolution at the bottom.

    Thin lines separate the columns of blocks.
    """
    ax = new_axes(ax, width=8.0, height=0.55 * len(levels) + 1.2)
    widest = levels[0][0]
    for level, (width, height) in enumerate(levels):
        share = width / widest
        ax.barh(level, share, left=(1 - share) / 2, height=0.8, color="#0969da", alpha=0.75)
        across = -(-width // blocksize)
        for number in range(1, across if across <= 200 else 0):
            ax.plot(
                [(1 - share) / 2 + number * blocksize / widest] * 2, [level - 0.4, level + 0.4], "w", lw=0.4
            )
        label = f"{width:,} x {height:,}" + (f"  (1/{round(widest / width)})" if level else "")
        outside = share < 0.35
        ax.text(
            0.5 + (share / 2 + 0.01 if outside else 0), level, label, va="center", fontsize=9,
            ha="left" if outside else "center", color="0.3" if outside else "white",
        )  # fmt: skip
    ax.set(xlim=(-0.02, 1.02), yticks=range(len(levels)), xticks=[])
    ax.set_yticklabels(["full", *(f"overview {number}" for number in range(1, len(levels)))])
    ax.spines[:].set_visible(False)
    ax.set_title(title, fontsize=10)
    return ax


def plot_reads(files: Sequence[tuple[str, int, Sequence[tuple[int, int]]]], ax: Any = None) -> Any:
    """Draw which parts of each file were read, from its first byte to its last, one row per file.

    Parameters
    ----------
    files : sequence of (label, size, ranges)
        The text above the file's row, the file's size in bytes, and the (offset, length) of each request.
    """
    ax = new_axes(ax, width=9.0, height=0.9 * len(files) + 0.9)
    for row, (label, size, ranges) in enumerate(files):
        y = len(files) - 1 - row
        ax.barh(y, 1.0, height=0.5, color="0.9", edgecolor="0.6", linewidth=0.6)
        for offset, length in ranges:
            ax.barh(y, max(length / size, 0.0015), left=offset / size, height=0.5, color="#cf222e")
        ax.text(0, y + 0.32, label, fontsize=9)
    ax.set(xlim=(-0.005, 1.005), ylim=(-0.4, len(files) - 0.3), yticks=[])
    ax.set_xticks([0, 0.5, 1], ["first byte", "", "last byte"], fontsize=8)
    ax.spines[["left", "right", "top", "bottom"]].set_visible(False)
    return ax
