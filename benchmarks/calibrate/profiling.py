"""Profile where time and memory go: one more run of each operation's largest cell, under py-spy.

The results are flame graphs of all threads, and the memory of the process tree over time. These runs are not
in the store, because the profiler slows them down.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.calibrate.cells import Cell
from benchmarks.calibrate.measuring import Measuring
from benchmarks.errors import ChildFailed, MissingPackage

_RATE = 100


def require_profiler() -> str:
    """Return the path of the profiler's executable.

    Raises
    ------
    MissingPackage
        py-spy is not installed.
    """
    beside = Path(sys.executable).with_name("py-spy")
    found = str(beside) if beside.exists() else shutil.which("py-spy")
    if found is None:
        raise MissingPackage("--profile", "py-spy")
    return found


def profile(measuring: Measuring, cells: Sequence[Cell], folder: Path, say: Callable[[str], None]) -> None:
    """Profile the largest cell of each operation; a cell that fails is reported, and the others go on."""
    command = require_profiler()
    folder.mkdir(parents=True, exist_ok=True)
    largest = {cell.operation_name: cell for cell in sorted(cells, key=lambda cell: cell.megabytes)}
    for name, cell in largest.items():
        stem = name.replace(":", "-").replace("+", "-")
        flames = folder / f"{stem}.svg"
        within = [command, "record", "-o", str(flames), "-r", str(_RATE), "--"]
        try:
            found = measuring.once(cell, within=within)
        except ChildFailed as error:
            say(f"no profile of {cell.key}: {error}")
            continue
        (folder / f"{stem}.json").write_text(json.dumps({"cell": cell.key, "timeline": found.timeline}))
        say(f"profiled {cell.key}")
