"""How work in hand tells how far it is: one small protocol for bars, heartbeats and silence.

Every long function takes ``progress=``: True (a bar), False (silence), "auto" (a bar where a person
watches: a terminal or a notebook) or a callback that is given a `Progress` at each step. An error that
the callback raises ends the work: this is how a caller cancels it.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rich.progress import ProgressColumn


@dataclass(frozen=True)
class Progress:
    """How far the work named by `label` is: `done` of `total`, both in `unit`."""

    label: str
    done: int
    total: int
    unit: str

    @property
    def fraction(self) -> float:
        """Share of the work that is done, 0 to 1.

        >>> Progress("tiles", 3, 12, "tiles").fraction
        0.25
        """
        return self.done / self.total if self.total else 1.0


ProgressCallback = Callable[[Progress], None]
ProgressOption = bool | Literal["auto"] | ProgressCallback


@contextmanager
def reporting(
    option: ProgressOption, *, label: str | Callable[[], str], total: int, unit: str
) -> Iterator[Callable[[int], None]]:
    """A function that reports so many more units as done; it may be called from any thread.

    A `label` that is a function is asked at each step.

    >>> seen = []
    >>> with reporting(seen.append, label="cog", total=2, unit="blocks") as advance:
    ...     advance(2)
    >>> [state.done for state in seen]
    [0, 2]
    """
    if option is False or (option == "auto" and not _watched()):
        yield lambda _: None
        return
    if callable(option):
        yield _counted(option, label, total, unit)
        return
    with _bar(total) as show:
        yield _counted(show, label, total, unit)


def _counted(
    show: ProgressCallback, label: str | Callable[[], str], total: int, unit: str
) -> Callable[[int], None]:
    lock = threading.Lock()
    done = 0

    def advance(step: int) -> None:
        nonlocal done
        with lock:
            done = min(done + step, total)
            show(Progress(label if isinstance(label, str) else label(), done, total, unit))

    advance(0)
    return advance


@contextmanager
def _bar(total: int) -> Iterator[ProgressCallback]:
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        _rate_column(),
        TimeRemainingColumn(),
    )
    with RichProgress(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task("", total=total, unit="")
        yield lambda state: bars.update(task, description=state.label, completed=state.done, unit=state.unit)


def _rate_column() -> ProgressColumn:
    from rich.progress import ProgressColumn, Task
    from rich.text import Text

    class RateColumn(ProgressColumn):
        max_refresh = 0.5

        def render(self, task: Task) -> Text:
            return Text(
                rate(task.finished_speed or task.speed, task.fields["unit"]), style="progress.data.speed"
            )

    return RateColumn()


def rate(speed: float | None, unit: str) -> str:
    """Units a second as a person reads them; nothing where it is not known yet.

    >>> rate(41.26, "blocks"), rate(12_300_000, "bytes"), rate(7_654_321, "pixels"), rate(None, "tiles")
    ('41.3 blocks/s', '12.3 MB/s', '7.7 Mpixels/s', '')
    """
    if not speed:
        return ""
    if unit == "bytes":
        return f"{speed / 1e6:,.1f} MB/s"
    return f"{speed / 1e6:,.1f} M{unit}/s" if speed >= 1e6 else f"{speed:,.1f} {unit}/s"


def _watched() -> bool:
    return sys.stderr.isatty() or "ipykernel" in sys.modules
