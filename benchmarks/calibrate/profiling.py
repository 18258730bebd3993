"""Flame graphs and memory over time: one more run, not in the store, of each operation's largest cell."""

from __future__ import annotations

import json
import shutil
import sysconfig
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.calibrate.cells import Cell
from benchmarks.calibrate.measuring import Measuring
from benchmarks.errors import ChildFailed, MissingPackage


def require_profiler() -> str:
    """Return the path of py-spy, or raise `MissingPackage`."""
    found = shutil.which("py-spy", path=sysconfig.get_path("scripts")) or shutil.which("py-spy")
    if found is None:
        raise MissingPackage("--profile", "py-spy")
    return found


def profile(measuring: Measuring, cells: Sequence[Cell], folder: Path, say: Callable[[str], None]) -> None:
    """Profile the largest cell of each operation; a cell that fails is reported, and the others go on."""
    folder.mkdir(parents=True, exist_ok=True)
    largest = {cell.operation_name: cell for cell in sorted(cells, key=lambda cell: cell.megabytes)}
    for name, cell in largest.items():
        path = folder / f"{name.replace(':', '-').replace('+', '-')}.json"
        command = [require_profiler(), "record", "-o", str(path.with_suffix(".svg")), "-r", "100", "--"]
        try:
            timeline = measuring.once(cell, within=command).timeline
        except ChildFailed as error:
            say(f"no profile of {cell.key}: {error}")
        else:
            path.write_text(json.dumps({"cell": cell.key, "timeline": timeline}))
            say(f"profiled {cell.key}")
