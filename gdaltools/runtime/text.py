"""Texts that others wrote, as they may be shown: what a file says must not steer a terminal or a page."""

from __future__ import annotations

# Characters of one value that a person reads; the object itself has all of them.
_MOST_SHOWN = 400


def printable(text: str) -> str:
    """The text with its control characters spelled out, but for line breaks and tabs.

    >>> printable("a\\x1b[2Jb")
    'a\\\\x1b[2Jb'
    """
    return "".join(
        char if char.isprintable() or char in "\n\t" else char.encode("unicode_escape").decode()
        for char in text
    )


def one_line(text: str) -> str:
    """The text on one line, with its control characters spelled out.

    >>> one_line("two\\nlines and \\x1b[2J")
    'two lines and \\\\x1b[2J'
    """
    return printable(" ".join(text.split()))


def shortened(text: str, most: int = _MOST_SHOWN) -> str:
    """The text, or its beginning and how much of it is left out.

    >>> shortened("abcdefgh", 5)
    'abcde… (8 characters)'
    """
    return text if len(text) <= most else f"{text[:most]}… ({len(text)} characters)"


def megabytes(size: float) -> str:
    """Bytes as a person reads them, in units of 10³.

    >>> megabytes(532), megabytes(53_200), megabytes(1_532_000), megabytes(123_456_789_012)
    ('532 bytes', '53.2 kB', '1.5 MB', '123.5 GB')
    """
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:,.1f} {unit}"
    return f"{size:.0f} bytes"
