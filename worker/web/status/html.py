"""HTML of the page's facts, from templates that escape every value."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from gdaltools.display.pace import duration
from gdaltools.runtime.text import megabytes, printable
from worker.database.overview import MOST_COUNTED, MOST_FAILED, MOST_RUNNING
from worker.web.status.facts import PageFacts, aware, said

SECTIONS = ("summary", "running", "waiting", "failed", "jobs", "letters", "outbox", "health", "log")
"""The names of the sections that change, and of their templates, in page order."""

_MOST_WAITING_SHOWN = 10


def rendered(facts: PageFacts, *, form_key: str) -> Mapping[str, Markup]:
    """Return the HTML of each section, by name; `form_key` goes into the forms."""
    return {
        name: Markup(_TEMPLATES.get_template(f"{name}.html").render(facts=facts, form_key=form_key))
        for name in SECTIONS
    }


def page(fragments: Mapping[str, Markup], **values: Any) -> str:
    """Return the whole page, with its sections in `fragments`."""
    return _TEMPLATES.get_template("page.html").render(fragments=fragments, sections=SECTIONS, **values)


def sign_in(**values: Any) -> str:
    """Return the sign-in page, for visitors without access."""
    return _TEMPLATES.get_template("sign_in.html").render(**values)


def asset(name: str) -> bytes:
    """Return the content of a static file of the page."""
    return files("worker.web.status").joinpath("static", name).read_bytes()


def ago(seconds: float) -> str:
    """Return how long ago something was, in coarse steps, so that the text seldom changes.

    >>> ago(3), ago(47), ago(200), ago(9000), ago(200_000)
    ('just now', '40 s ago', '3 min ago', '2 h ago', '2 days ago')
    """
    if seconds < 10:
        return "just now"
    if seconds < 60:
        return f"{int(seconds // 10) * 10} s ago"
    if seconds < 3600:
        return f"{int(seconds // 60)} min ago"
    if seconds < 2 * 86400:
        return f"{int(seconds // 3600)} h ago"
    return f"{int(seconds // 86400)} days ago"


def _time(value: datetime, now: datetime) -> Markup:
    """Return a time as HTML, absolute and relative to `now`."""
    time, today = aware(value).astimezone(UTC), aware(now).astimezone(UTC)
    shown = time.strftime("%H:%M:%S" if time.date() == today.date() else "%Y-%m-%d %H:%M")
    return Markup('<time datetime="{}">{} UTC, {}</time>').format(
        time.isoformat(timespec="seconds"), shown, ago((today - time).total_seconds())
    )


def _clock(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%H:%M:%S")


def _short(identifier: str) -> str:
    return identifier[:8]


def _shown(value: object) -> object:
    """Finalize a template value: escape text that is not HTML, and spell out its control characters."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return escape(value if value.isprintable() else printable(value))


def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("worker.web.status"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    made.filters |= {
        "clock": _clock,
        "duration": duration,
        "megabytes": lambda megabyte: megabytes(1e6 * megabyte),
        "said": said,
        "short": _short,
        "time": _time,
    }
    made.globals |= {
        "most_counted": MOST_COUNTED,
        "most_failed": MOST_FAILED,
        "most_running": MOST_RUNNING,
        "most_waiting_shown": _MOST_WAITING_SHOWN,
    }
    return made


_TEMPLATES = _environment()
