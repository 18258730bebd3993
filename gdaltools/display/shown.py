"""Values that show themselves: as aligned lines in a terminal, as a card in a notebook.

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

# The narrowest column of names.
_NAMES = 10


class Shown:
    """What a value says of itself, once, for every place where it is shown.

    A subclass says what its rows are. Beside these it may have a picture and further parts, which only a
    notebook shows; they are looked up when they are shown, and what cannot be had is left out.
    """

    def _rows(self) -> Mapping[str, str]:
        """Names and values, in the order in which they are read."""
        raise NotImplementedError

    def _about(self) -> object:
        """Which one it is, in a few words."""
        return ""

    def _picture(self) -> bytes | None:
        """A small PNG."""
        return None

    def _parts(self) -> Iterable[Html]:
        """What a notebook shows below the rows."""
        return ()

    def __str__(self) -> str:
        rows = self._rows()
        width = max(_NAMES, *(len(name) + 1 for name in rows))
        return "\n".join(f"{name:<{width}}{one_line(value)}" for name, value in rows.items())

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>\n{printable(str(self))}"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """What IPython prints."""
        printer.text(f"<{type(self).__name__}>\n{printable(str(self))}")

    def _repr_html_(self) -> str:
        from gdaltools.display.html import image

        picture = self._picture()
        shown = Html("") if picture is None else image(picture, "thumbnail")
        return card(type(self).__name__, self._about(), shown, facts(self._rows()), *self._parts())


class ShownInOneLine(Shown):
    """One that travels with tasks: dask asks for its repr whenever it names one, so that this is short."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {one_line(str(self._about()))}>"

    # IPython takes whichever of the two it finds first, class by class.
    _repr_pretty_ = Shown._repr_pretty_
