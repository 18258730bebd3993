"""Render the sections of a report as Markdown, and as one self-contained HTML page."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

#: What a cell without a value shows.
NOTHING = "–"


@dataclass(frozen=True)
class Table:
    """Rows of text under a header."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Picture:
    """A plot: a PNG and its caption."""

    name: str
    png: bytes
    caption: str


@dataclass(frozen=True)
class Section:
    """A title with the paragraphs, tables and pictures below it."""

    title: str
    parts: tuple[str | Table | Picture, ...]


def to_markdown(title: str, sections: Sequence[Section]) -> str:
    """Return the report as Markdown, its tables aligned; its pictures are separate files next to it."""
    parts = [f"# {title}"]
    for section in sections:
        parts.append(f"## {section.title}")
        parts += ["\n".join(_markdown(part)) for part in section.parts]
    return "\n\n".join(parts) + "\n"


def _markdown(part: str | Table | Picture) -> Iterator[str]:
    if isinstance(part, str):
        yield part
    elif isinstance(part, Picture):
        yield f"![{part.caption}]({part.name}.png)"
    else:
        rows = [[cell.replace("|", "\\|") for cell in row] for row in (part.header, *part.rows)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        rows.insert(1, ["-" * width for width in widths])
        for row in rows:
            yield "| " + " | ".join(map(str.ljust, row, widths)) + " |"


def pictures(sections: Sequence[Section]) -> Iterator[Picture]:
    """Yield all pictures of a report."""
    for section in sections:
        yield from (part for part in section.parts if isinstance(part, Picture))


def to_html(title: str, sections: Sequence[Section]) -> str:
    """Return the report as one self-contained HTML page."""
    parts = []
    for section in sections:
        body = "".join(map(_html, section.parts))
        parts.append(f"<section><h2>{escape(section.title)}</h2>{body}</section>")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>{''.join(parts)}</body></html>\n"
    )


def _html(part: str | Table | Picture) -> str:
    if isinstance(part, str):
        return f"<p>{escape(part)}</p>"
    if isinstance(part, Picture):
        data = base64.b64encode(part.png).decode()
        caption = escape(part.caption)
        image = f'<img alt="{caption}" src="data:image/png;base64,{data}">'
        return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"
    head = "".join(f"<th>{escape(cell)}</th>" for cell in part.header)
    rows = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in part.rows)
    return f'<div class="table"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;color:#222;max-width:66rem;margin:2rem auto;padding:0 1rem}"
    "h1{font-size:1.7rem}"
    "h2{font-size:1.25rem;margin-top:2.4rem;border-bottom:1px solid #ddd;padding-bottom:.2rem}"
    "p{max-width:48rem}.table{overflow-x:auto}table{border-collapse:collapse;font-size:.92rem}"
    "th,td{padding:.25rem .8rem .25rem 0;text-align:right;border-bottom:1px solid #eee;white-space:nowrap}"
    "th:first-child,td:first-child{text-align:left}th{color:#555;font-weight:600}"
    "figure{margin:1.2rem 0}img{max-width:100%}figcaption{color:#555;font-size:.9rem}"
    "section:first-of-type table td:last-child{font-weight:600}"
)
