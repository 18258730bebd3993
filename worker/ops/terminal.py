"""Tables for the output of the worker's commands; text from elsewhere cannot control the terminal.

A task's error, a dead letter's reason or a blob's name may contain anything: control characters are spelled
out, and square brackets are not read as markup.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Sequence

from gdaltools.runtime.text import one_line

# Width, in characters, of a table that is written to a file or a pipe.
_PIPED_WIDTH = 200
# The least width, in characters, of a shortened column.
_SHORTEST = 24


def print_table(
    headings: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    wrapped: Collection[str] = (),
    shortened: Collection[str] = (),
) -> None:
    """Print a table, one line per row; only `wrapped` columns wrap, `shortened` ones share the spare width.

    The first column is never cut, because the reader passes its value to other commands.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = [["" if value is None else one_line(str(value)) for value in row] for row in rows]
    table = Table(expand=bool(shortened))
    for number, heading in enumerate(headings):
        elastic = heading in shortened
        whole = max(len(row[0]) for row in [headings, *shown]) if number == 0 else None
        table.add_column(
            heading,
            no_wrap=heading not in wrapped,
            ratio=1 if elastic else None,
            min_width=_SHORTEST if elastic else whole,
        )
    for row in shown:
        table.add_row(*map(Text, row))
    Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH).print(table)
