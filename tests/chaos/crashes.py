"""Orders to die: a process that imports this module kills itself at a named point if a file orders it to.

The file's name is the point's, and its content says who dies: ``process`` or ``container``. The process that
renames it first carries it out. Only the chaos run's own worker imports this module (`tests.chaos.worker`).
"""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

from gdaltools.runtime import crash_points

ORDERS = "CHAOS_ORDERS"
"""The variable with the folder of the orders."""
WORKER = "CHAOS_WORKER"
"""The variable with the worker's process id, also set in its tasks' processes."""
_ROOT = Path(__file__).parents[2]


def named_points() -> list[str]:
    """Return every point that the code names."""
    files = [*_ROOT.glob("worker/**/*.py"), *_ROOT.glob("gdaltools/**/*.py")]
    found = {
        name for file in files for name in re.findall(r'crash_points\.reach\("([^"]+)"\)', file.read_text())
    }
    return sorted(found)


def order(folder: Path, point: str, *, who: str) -> None:
    """Place an order."""
    draft = folder / f".{point}"
    draft.write_text(who)
    draft.rename(folder / point)


def carried_out(folder: Path) -> list[str]:
    """Return the points at which a process died, each as often as it happened."""
    return sorted(path.name.partition("@")[0] for path in folder.glob("*@*"))


def _visit(point: str) -> None:
    folder = os.environ.get(ORDERS)
    if folder is None or not os.path.exists(f"{folder}/{point}"):
        return
    mine = Path(folder) / f"{point}@{os.getpid()}-{os.urandom(3).hex()}"
    try:
        (Path(folder) / point).rename(mine)
    except FileNotFoundError:
        return
    if mine.read_text() == "container":
        os.kill(int(os.environ[WORKER]), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


crash_points.arm(_visit)
