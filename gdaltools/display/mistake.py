"""What a notebook shows of an error that is the caller's to mend, or of a cell that was stopped.

IPython asks an error for ``_render_traceback_`` before it prints a traceback of its own. After
``%xmode Verbose`` the whole of it is shown.
"""

from __future__ import annotations

import linecache
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from gdaltools.runtime.text import printable

_RED, _PLAIN = "\x1b[31m", "\x1b[0m"


def rendered(error: BaseException) -> list[str]:
    """The lines that are shown."""
    if _wants_all():
        return traceback.format_exception(error)
    name = type(error).__name__
    return [*_own_lines(error), f"{_RED}{name}{_PLAIN}: {printable(str(error))}"]


@contextmanager
def interrupted_shortly() -> Iterator[None]:
    """In the block an interruption is one that a notebook shows as it shows a mistake."""
    try:
        yield
    except KeyboardInterrupt as error:
        error.args = error.args or ("the work was stopped before its end",)
        error._render_traceback_ = partial(rendered, error)  # type: ignore[attr-defined]
        raise


def _own_lines(error: BaseException) -> Iterator[str]:
    """The lines of the notebook's cells through which the error came."""
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
