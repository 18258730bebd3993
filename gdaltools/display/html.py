"""The HTML fragments that cards are built from; content is escaped here and nowhere else.

A card needs no JavaScript and no external resources. It takes its colours from JupyterLab or VS Code if
they show it, else from the reader's preference for light or dark. It paints its own background, so it is
readable on any page. If a host removes its style, plain tables remain.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from gdaltools.runtime.text import printable, shortened

# Rows that a table shows; the object itself has all of them.
MOST_ROWS = 24

# The host's own colour if it has one, else a pair for light and dark: the host's theme class chooses, or the
# reader's preference if there is no such class. Hosts' greens and oranges are too faint for text.
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
# The class is repeated where a notebook's own rules for tables would otherwise override ours.
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
    """Text that is already HTML; any other text is escaped before it becomes part of it."""

    __slots__ = ()


def html(value: object) -> Html:
    """Return a value as HTML: escaped, with control characters spelled out, and shortened if very long.

    >>> html("<b>&\\x1b")
    '&lt;b&gt;&amp;\\\\x1b'
    >>> html(Html("<b>bold</b>"))
    '<b>bold</b>'
    """
    if isinstance(value, Html):
        return value
    return Html(escape(shortened(printable("" if value is None else str(value)))))


def joined(parts: Iterable[object]) -> Html:
    """Concatenate pieces of HTML."""
    return Html("".join(map(html, parts)))


def facts(rows: Mapping[str, object]) -> Html:
    """Return a table of names and values."""
    return Html(
        "<table>"
        + "".join(f"<tr><th>{html(name)}</th><td>{html(value)}</td></tr>" for name, value in rows.items())
        + "</table>"
    )


def table(headings: Sequence[str], rows: Iterable[Sequence[object]], *, count: int | None = None) -> Html:
    """Return a table with numbers aligned right; of many rows, the first ones and the number left out.

    Parameters
    ----------
    count : int, optional
        The number of rows, if `rows` has only the first of them.
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
    """Return a bar that is filled up to `share`, from 0 to 1."""
    return Html(
        f"<span class='gdaltools-bar'><i style='width:{100 * min(max(share, 0), 1):.1f}%'></i></span>"
    )


def toned(text: object, tone: str) -> Html:
    """Return text in a tone: "good", "bad" or "warn"."""
    return Html(f"<span class='{tone}'>{html(text)}</span>")


def code(text: str) -> Html:
    """Return text that the reader is to type."""
    return Html(f"<pre>{html(text)}</pre>")


def details(summary: str, content: Html) -> Html:
    """Return content that is folded until the reader opens it."""
    return Html(f"<details><summary>{html(summary)}</summary>{content}</details>")


def image(png: bytes, alt: str) -> Html:
    """Return an image that is embedded in the page."""
    data = base64.b64encode(png).decode()
    return Html(f"<img alt='{html(alt)}' src='data:image/png;base64,{data}'>")


def card(title: object, about: object, *parts: Html) -> Html:
    """Return a card: its title, what it is about, and its parts beside or below each other."""
    body = "".join(f"<div>{part}</div>" for part in parts if part)
    return Html(
        f"<div class='gdaltools'><style>{_STYLE}</style>"
        f"<header><b>{html(title)}</b><small>{html(about)}</small></header>"
        f"<div class='gdaltools-body'>{body}</div></div>"
    )


def strip(title: object, *parts: object) -> Html:
    """Return one line: a title, and its parts one after the other."""
    shown = "".join(f"<span>{html(part)}</span>" for part in parts)
    return Html(
        f"<div class='gdaltools gdaltools-strip'><style>{_STYLE}</style>"
        f"<span><b>{html(title)}</b></span>{shown}</div>"
    )
