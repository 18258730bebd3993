"""Progress bars: drawn by rich in a terminal, and in a notebook as HTML that is updated in place.

The notebook's bar is an ordinary output: it needs no widgets, is saved with the notebook in its last state,
and is shown by JupyterLab, VS Code and any other host that shows HTML.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from gdaltools.display.html import Html, bar, html, strip, toned
from gdaltools.display.pace import Pace
from gdaltools.display.progress import Progress

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

# The shortest time between two updates; a person cannot follow faster ones.
_UPDATE_SECONDS = 0.25


def in_notebook() -> bool:
    """Return whether this process is a kernel whose outputs a notebook shows."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return hasattr(shell, "kernel")


@contextmanager
def showing(expected: float | None, begun: int = 0) -> Iterator[Callable[[Progress], None]]:
    """Yield a function that shows the progress of one piece of work until the block ends.

    Parameters
    ----------
    expected : float, optional
        Seconds that the work is expected to take.
    begun : int
        Units of the work that were done before.
    """
    pace = Pace(expected, begun)
    if in_notebook():
        notebook = _NotebookBar(pace)
        try:
            yield notebook.show
        finally:
            notebook.end()
        return
    with _TERMINAL.bar() as (bars, task):
        yield lambda state: bars.update(
            task,
            description=state.label,
            completed=state.done,
            total=state.total,
            detail=pace.describe(state),
        )


class _NotebookBar:
    """One output of a cell, shown at the first step and updated a few times a second."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._state: Progress | None = None
        self._handle: Any = None
        self._updated = 0.0

    def show(self, state: Progress) -> None:
        """Show `state`, unless another was shown a moment ago."""
        self._state = state
        if self._handle is None or time.monotonic() - self._updated >= _UPDATE_SECONDS:
            self._paint(stopped=False)

    def end(self) -> None:
        """Show the last state, as stopped if the work is not complete."""
        if self._state is not None:
            self._paint(stopped=self._state.done < self._state.total)

    def _paint(self, *, stopped: bool) -> None:
        from IPython.display import display

        assert self._state is not None
        self._updated = time.monotonic()
        shown = _Shown(
            self._state, "stopped" if stopped else self._pace.describe(self._state), stopped=stopped
        )
        if self._handle is None:
            self._handle = display(shown, display_id=True)
        else:
            self._handle.update(shown)


class _Shown:
    """A state of the work as a notebook shows it."""

    def __init__(self, state: Progress, text: str, *, stopped: bool) -> None:
        self._state, self._text, self._stopped = state, text, stopped

    def __repr__(self) -> str:
        return f"{self._state.label}: {self._state.fraction:.0%}, {self._text}"

    def _repr_html_(self) -> str:
        text: Html = toned(self._text, "bad") if self._stopped else html(self._text)
        return strip(self._state.label, bar(self._state.fraction), f"{self._state.fraction:.0%}", text)


class _Terminal:
    """The bars of this process's terminal; rich draws all current ones together."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bars: RichProgress | None = None
        self._shown = 0

    @contextmanager
    def bar(self) -> Iterator[tuple[RichProgress, Any]]:
        """Yield rich's display and the task of a bar that is shown until the block ends."""
        with self._lock:
            if self._bars is None:
                self._bars = _rich_bars()
                self._bars.start()
            self._shown += 1
            bars = self._bars
        task = bars.add_task("", total=None, detail="")
        try:
            yield bars, task
        finally:
            with self._lock:
                self._shown -= 1
                if not self._shown:
                    bars.stop()
                    self._bars = None


_TERMINAL = _Terminal()


def _rich_bars() -> RichProgress:
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn
    from rich.progress import Progress as RichProgress

    return RichProgress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[detail]}", markup=False, style="progress.data.speed"),
        console=Console(stderr=True),
    )
