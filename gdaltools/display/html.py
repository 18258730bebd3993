"""The few pieces of HTML that cards are made of; whatever is put into them is escaped here and nowhere else.

A card needs no JavaScript and nothing from elsewhere. It takes its colours from JupyterLab or VS Code where
it is shown in them, else from the reader's own preference for light or dark, and paints its own background,
so that it can be read on any page. Where a host removes its style, plain tables are left.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from gdaltools.runtime.text import printable, shortened

# Rows of a table that are shown; the object itself has all of them.
MOST_ROWS = 24

# A host's own colour where it has one, else one for light and one for dark: which, its class for a theme
# says, and where it has none the reader's preference. Hosts' own greens and oranges are too faint for text.
_COLOURS = """
--gt-text:var(--jp-content-font-color1,var(--vscode-editor-foreground,light-dark(#1f2328,#e6edf3)));
--gt-dim:var(--jp-content-font-color2,var(--vscode-descriptionForeground,light-dark(#59636e,#9198a1)));
--gt-ground:var(--jp-layout-color1,var(--vscode-editor-background,light-dark(#fff,#0d1117)));
--gt-line:var(--jp-border-color2,var(--vscode-panel-border,light-dark(#d1d9e0,#3d444d)));
--gt-blue:var(--jp-brand-color1,var(--vscode-charts-blue,light-dark(#0969da,#4493f8)));
--gt-good:light-dark(#1a7f37,#3fb950);
--gt-bad:light-dark(#cf222e,#f85149);
--gt-warn:light-dark(#9a6700,#d29922);
"""
_SCHEMES = """
.gdaltools{color-scheme:light dark}
.vscode-light .gdaltools,.vscode-high-contrast-light .gdaltools,[data-jp-theme-light=true] .gdaltools,
[data-md-color-scheme=default] .gdaltools{color-scheme:light}
.vscode-dark .gdaltools,.vscode-high-contrast:not(.vscode-high-contrast-light) .gdaltools,
[data-jp-theme-light=false] .gdaltools,[data-md-color-scheme=slate] .gdaltools{color-scheme:dark}
"""
# The class stands twice where a notebook's own rules for tables would win over ours.
_RULES = """
.gdaltools{display:inline-block;max-width:100%;box-sizing:border-box;padding:.6em .9em;margin:.2em 0;
color:var(--gt-text);background:var(--gt-ground);border:1px solid var(--gt-line);border-radius:6px;
font:13px/1.45 system-ui,sans-serif;overflow-x:auto}
.gdaltools header{margin:0 0 .4em}.gdaltools header small{color:var(--gt-dim);margin-left:.6em}
.gdaltools-body{display:flex;flex-wrap:wrap;gap:.4em 1.2em;align-items:flex-start}
.gdaltools img,.gdaltools svg{max-width:100%;border-radius:3px;image-rendering:auto}
.gdaltools.gdaltools table{border-collapse:collapse;margin:.2em 0;font-size:inherit;border:0;width:auto;
color:inherit;background:none}
.gdaltools.gdaltools tr{background:none;border:0}
.gdaltools.gdaltools th,.gdaltools.gdaltools td{padding:.1em 1em .1em 0;text-align:left;vertical-align:top;
border:0;background:none;white-space:normal;overflow-wrap:anywhere;max-width:48em}
.gdaltools.gdaltools th{color:var(--gt-dim);font-weight:normal;white-space:nowrap;overflow-wrap:normal}
.gdaltools.gdaltools td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.gdaltools summary{cursor:pointer;color:var(--gt-dim)}
.gdaltools pre{font:12px ui-monospace,monospace;color:inherit;background:none;padding:0;margin:0;
white-space:pre-wrap}
.gdaltools .good{color:var(--gt-good)}.gdaltools .bad{color:var(--gt-bad)}
.gdaltools .warn{color:var(--gt-warn)}
.gdaltools-bar{display:inline-block;width:9em;height:.7em;border-radius:2px;overflow:hidden;
border:1px solid var(--gt-line)}
.gdaltools-bar i{display:block;height:100%;background:var(--gt-blue)}
.gdaltools-strip{padding:.25em .7em}
.gdaltools-strip>span{margin-right:.9em}
.gdaltools svg rect{fill:var(--gt-blue);fill-opacity:.16;stroke:var(--gt-blue);stroke-width:1}
"""
_STYLE = f"{_SCHEMES}.gdaltools{{{_COLOURS}}}{_RULES}".replace("\n", "")


class Html(str):
    """Text that is HTML already; any other is escaped before it becomes part of it."""

    __slots__ = ()


def html(value: object) -> Html:
    """A value as HTML: escaped, with its control characters spelled out and cut where it is very long.

    >>> html("<b>&\\x1b")
    '&lt;b&gt;&amp;\\\\x1b'
    >>> html(Html("<b>bold</b>"))
    '<b>bold</b>'
    """
    if isinstance(value, Html):
        return value
    return Html(escape(shortened(printable("" if value is None else str(value)))))


def joined(parts: Iterable[object]) -> Html:
    """Pieces of HTML one behind the other."""
    return Html("".join(map(html, parts)))


def facts(rows: Mapping[str, object]) -> Html:
    """What is known, as a table of names and values."""
    return Html(
        "<table>"
        + "".join(f"<tr><th>{html(name)}</th><td>{html(value)}</td></tr>" for name, value in rows.items())
        + "</table>"
    )


def table(headings: Sequence[str], rows: Iterable[Sequence[object]], *, count: int | None = None) -> Html:
    """A table; numbers stand to the right. Of many rows the first are shown, and how many there are.

    Parameters
    ----------
    count : int, optional
        How many rows there are, where `rows` has only the first of them.
    """
    found = list(rows)
    left_out = (count if count is not None else len(found)) - len(found[:MOST_ROWS])
    head = "".join(f"<th>{html(heading)}</th>" for heading in headings)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in found[:MOST_ROWS])
    more = f"<tr><td colspan='{len(headings)}'>… and {left_out:,} more</td></tr>" if left_out > 0 else ""
    return Html(f"<table><thead><tr>{head}</tr></thead><tbody>{body}{more}</tbody></table>")


def _cell(value: object) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"<td class='n'>{value:,}</td>"
    return f"<td>{html(value)}</td>"


def bar(share: float) -> Html:
    """A bar that is filled up to a share of 0 to 1."""
    return Html(
        f"<span class='gdaltools-bar'><i style='width:{100 * min(max(share, 0), 1):.1f}%'></i></span>"
    )


def toned(text: object, tone: str) -> Html:
    """Text that is "good", "bad" or a "warn"ing."""
    return Html(f"<span class='{tone}'>{html(text)}</span>")


def code(text: str) -> Html:
    """What is to be typed."""
    return Html(f"<pre>{html(text)}</pre>")


def details(summary: str, content: Html) -> Html:
    """Something that is folded until it is asked for."""
    return Html(f"<details><summary>{html(summary)}</summary>{content}</details>")


def image(png: bytes, alt: str) -> Html:
    """A picture that is part of the page."""
    data = base64.b64encode(png).decode()
    return Html(f"<img alt='{html(alt)}' src='data:image/png;base64,{data}'>")


def card(title: object, about: object, *parts: Html) -> Html:
    """A card: what it is, which one, and its parts beside or below each other."""
    body = "".join(f"<div>{part}</div>" for part in parts if part)
    return Html(
        f"<div class='gdaltools'><style>{_STYLE}</style>"
        f"<header><b>{html(title)}</b><small>{html(about)}</small></header>"
        f"<div class='gdaltools-body'>{body}</div></div>"
    )


def strip(title: object, *parts: object) -> Html:
    """One line: what it is, and its parts behind each other."""
    shown = "".join(f"<span>{html(part)}</span>" for part in parts)
    return Html(
        f"<div class='gdaltools gdaltools-strip'><style>{_STYLE}</style>"
        f"<span><b>{html(title)}</b></span>{shown}</div>"
    )
