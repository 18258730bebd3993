"""How long work reports its progress, and how a notebook shows errors and interruptions."""

from __future__ import annotations

import linecache
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial

from gdaltools.display.progress import Progress, ProgressCallback, ProgressOption
from gdaltools.errors import GdalToolsError
from gdaltools.runtime.text import printable

_expected: ContextVar[Callable[[], float] | None] = ContextVar("expected", default=None)

_RED, _PLAIN = "\x1b[31m", "\x1b[0m"


@contextmanager
def expecting(seconds: Callable[[], float]) -> Iterator[None]:
    """Inside this block work is expected to take `seconds`; a bar first shows what is left of them.

    Parameters
    ----------
    seconds : callable
        Called only if there is a bar.
    """
    token = _expected.set(seconds)
    try:
        yield
    finally:
        _expected.reset(token)


@contextmanager
def reporting(
    option: ProgressOption, *, label: str | Callable[[], str], total: int, unit: str, begun: int = 0
) -> Iterator[Callable[[int], None]]:
    """Yield a function that reports `step` more units as done; any thread may call it.

    A `label` that is a function is called at each step. `begun` units were done before: they count as done,
    but not for the rate and the time.

    >>> seen = []
    >>> with reporting(seen.append, label="cog", total=2, unit="blocks") as advance:
    ...     advance(2)
    >>> [state.done for state in seen]
    [0, 2]
    """
    with interrupted_shortly():
        if option is False or (option == "auto" and not watched()):
            yield lambda _: None
            return
        if callable(option):
            yield _counted(option, label, total, unit, begun)
            return
        from gdaltools.display.bars import showing

        expected = _expected.get()
        with showing(None if expected is None else expected(), begun) as show:
            yield _counted(show, label, total, unit, begun)


def _counted(
    show: ProgressCallback, label: str | Callable[[], str], total: int, unit: str, begun: int
) -> Callable[[int], None]:
    lock = threading.Lock()
    done = begun

    def advance(step: int) -> None:
        nonlocal done
        with lock:
            done = min(done + step, total)
            show(Progress(label if isinstance(label, str) else label(), done, total, unit))

    advance(0)
    return advance


def watched() -> bool:
    """Return whether a person watches: a notebook or a terminal, but not the log of a CI run."""
    from gdaltools.display.bars import in_notebook

    return not os.environ.get("CI") and (in_notebook() or sys.stderr.isatty())


def show_errors_briefly() -> None:
    """Make IPython show gdaltools' errors as `rendered` formats them, instead of a traceback.

    IPython calls an error's ``_render_traceback_`` before it prints a traceback of its own.
    """
    GdalToolsError._render_traceback_ = rendered  # type: ignore[attr-defined]


def rendered(error: BaseException) -> list[str]:
    """Return the error's message and the cells' lines that it came through.

    After ``%xmode Verbose`` it is a full traceback.
    """
    if _wants_all():
        return traceback.format_exception(error)
    name = type(error).__name__
    return [*_own_lines(error), f"{_RED}{name}{_PLAIN}: {printable(str(error))}"]


@contextmanager
def interrupted_shortly() -> Iterator[None]:
    """Inside this block a notebook shows an interruption as briefly as an error of gdaltools."""
    try:
        yield
    except KeyboardInterrupt as error:
        error.args = error.args or ("the work was stopped before its end",)
        error._render_traceback_ = partial(rendered, error)  # type: ignore[attr-defined]
        raise


def _own_lines(error: BaseException) -> Iterator[str]:
    """Yield the lines of the notebook's cells that the error came through."""
    found = error.__traceback__
    while found is not None:
        frame = found.tb_frame
        if frame.f_globals.get("__name__") == "__main__":
            line = linecache.getline(frame.f_code.co_filename, found.tb_lineno).strip()
            yield f"line {found.tb_lineno}: {line}"
        found = found.tb_next


def _wants_all() -> bool:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    mode = getattr(getattr(shell, "InteractiveTB", None), "mode", "")
    return mode == "Verbose"
