"""Values that display themselves: as aligned lines in a terminal, as a card in a notebook.

>>> class Lake(Shown):
...     def _rows(self):
...         return {"name": "Tana", "area": "3,200 km²"}
>>> Lake()
<Lake>
name      Tana
area      3,200 km²
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from gdaltools.display.html import Html, card, facts
from gdaltools.runtime.text import one_line, printable

# The least width of the column of names.
_NAMES = 10


class Shown:
    """Describe a value once, for every place that shows it.

    A subclass defines the rows. It may add a picture and further parts, which only a notebook shows; they are
    looked up when they are shown, and left out if unavailable.
    """

    def _rows(self) -> Mapping[str, str]:
        """Return names and values, in reading order."""
        raise NotImplementedError

    def _about(self) -> object:
        """Return which value it is, in a few words."""
        return ""

    def _picture(self) -> bytes | None:
        """Return a small PNG, None if there is none."""
        return None

    def _parts(self) -> Iterable[Html]:
        """Return what a notebook shows below the rows."""
        return ()

    def __str__(self) -> str:
        rows = self._rows()
        width = max(_NAMES, *(len(name) + 1 for name in rows))
        return "\n".join(f"{name:<{width}}{one_line(value)}" for name, value in rows.items())

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>\n{printable(str(self))}"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Print the value in IPython."""
        printer.text(f"<{type(self).__name__}>\n{printable(str(self))}")

    def _repr_html_(self) -> str:
        from gdaltools.display.html import image

        picture = self._picture()
        shown = Html("") if picture is None else image(picture, "thumbnail")
        return card(type(self).__name__, self._about(), shown, facts(self._rows()), *self._parts())


class ShownInOneLine(Shown):
    """A value with a short repr: it travels with tasks, and dask calls its repr whenever it names one."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {one_line(str(self._about()))}>"

    # IPython uses `__repr__` or `_repr_pretty_`, whichever it finds first, class by class.
    _repr_pretty_ = Shown._repr_pretty_
