"""Names of a raster's bands, where nobody has given any: their colours, else their numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_COLOURS = ("red", "green", "blue", "alpha", "cyan", "magenta", "yellow", "black")
_NUMBERED = re.compile(r"Band \d+\Z")


def named(
    descriptions: Sequence[str | None], colours: Sequence[str], guessed: Sequence[str | None] = ()
) -> list[str]:
    """A name for each band: its description, else its colour, else what is guessed, else its number.

    >>> named([None, "haze", None], ["red", "gray", "gray"])
    ['Red', 'haze', 'Band 3']
    """
    names = []
    for index, (text, colour) in enumerate(zip(descriptions, colours, strict=True), start=1):
        guess = guessed[index - 1] if index <= len(guessed) else None
        fallback = colour.capitalize() if colour in _COLOURS else guess or f"Band {index}"
        names.append(text or fallback)
    return names


def given(names: Sequence[str], colours: Sequence[str]) -> tuple[str | None, ...]:
    """The names that say more than the bands' colours and numbers do.

    >>> given(["Red", "Green", "Blue"], ["red", "green", "blue"])
    (None, None, None)
    >>> given(["Red", "haze", "Band 3"], ["gray", "undefined", "undefined"])
    ('Red', 'haze', None)
    """
    numbered = [None if _NUMBERED.match(name) else name for name in names]
    said = all(name is None or name.lower() == colour for name, colour in zip(numbered, colours, strict=True))
    return (None,) * len(names) if said else tuple(numbered)


def distinct(names: Iterable[str]) -> list[str]:
    """The names, a repeated one with a number behind it.

    >>> distinct(["a", "b", "a"])
    ['a', 'b', 'a_2']
    """
    seen: dict[str, int] = {}
    found: list[str] = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return found
