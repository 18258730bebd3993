"""The worker's log: one JSON object per line on standard output, each with the ids of its task.

The ids are in a context variable that asyncio tasks inherit and that a task's process receives at its start.
Everything that is logged while a message is processed therefore has its ids, including the logs of libraries.
"""

from __future__ import annotations

import json
import logging
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from gdaltools.runtime.text import redacted, shortened
from worker.settings import Settings

FIELDS = ("task_id", "job_id", "stage", "correlation_id")
"""The fields of every line; null if the line is not about a task."""

About = Mapping[str, str | int | None]

# The number of lines that a `Tail` keeps, and their length in characters.
_KEPT_LINES = 200
_LONGEST_KEPT = 1000

_about: ContextVar[About] = ContextVar("about", default=MappingProxyType({}))
_written: tuple[bool, str] | None = None  # whether this process's log is JSON, and its level


@contextmanager
def about(fields: About) -> Iterator[None]:
    """Add `fields` to every line that is logged inside the block, in addition to the current fields."""
    token = _about.set({**_about.get(), **fields})
    try:
        yield
    finally:
        _about.reset(token)


def current() -> About:
    """Return the fields of a line that is logged here."""
    return _about.get()


class JsonLines(logging.Formatter):
    """Formats a record as one line of JSON, without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line for a record."""
        about = getattr(record, "about", {})
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": redacted(record.getMessage()),
            **dict.fromkeys(FIELDS),
            **about,
            "process": record.process,
        }
        if record.exc_info:
            line["exception"] = redacted(self.formatException(record.exc_info))
        return json.dumps(line, default=str, ensure_ascii=False)


class TextLines(logging.Formatter):
    """Formats a record as a line of text, without secrets."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Return the line for a record."""
        return redacted(super().format(record))


def _note_about(record: logging.LogRecord) -> bool:
    record.about = _about.get()
    return True


@dataclass(frozen=True)
class Line:
    """A log line without secrets; `time` is in seconds since 1970."""

    time: float
    level: str
    logger: str
    message: str
    task_id: str | None


class Tail(logging.Handler):
    """A handler that keeps the newest lines of a log in memory."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: deque[Line] = deque(maxlen=_KEPT_LINES)
        self.addFilter(_note_about)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record."""
        task_id = getattr(record, "about", {}).get("task_id")
        message = shortened(redacted(record.getMessage()), _LONGEST_KEPT)
        self._lines.append(
            Line(
                record.created,
                record.levelname,
                record.name,
                message,
                None if task_id is None else str(task_id),
            )
        )

    def add(self, lines: Iterable[Line]) -> None:
        """Keep lines of another process; lines without a task get the current one."""
        task_id = current().get("task_id")
        about = None if task_id is None else str(task_id)
        self._lines.extend(replace(line, task_id=line.task_id or about) for line in lines)

    @property
    def lines(self) -> tuple[Line, ...]:
        """The kept lines, in order of arrival."""
        return tuple(self._lines.copy())

    def taken(self) -> tuple[Line, ...]:
        """Return the kept lines and remove them."""
        return tuple(self._lines.popleft() for _ in range(len(self._lines)))

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Keep everything that this process logs inside the block."""
        root = logging.getLogger()
        root.addHandler(self)
        try:
            yield
        finally:
            root.removeHandler(self)


TAIL = Tail()
"""The newest log lines of this process."""


@dataclass(frozen=True)
class LogState:
    """The log configuration and fields that a task's process takes over from the worker."""

    as_json: bool
    level: str
    about: About


def write(settings: Settings) -> None:
    """Configure this process's log by the settings: JSON to standard output, or text to standard error."""
    _write(settings.log_level, as_json=settings.logs_json)


def state() -> LogState | None:
    """Return this process's log configuration and current fields; None if the log is not configured."""
    return None if _written is None else LogState(*_written, about=dict(current()))


def take_over(other: LogState | None) -> None:
    """Take over the log configuration and fields of another process."""
    if other is not None:
        _write(other.level, as_json=other.as_json)
        _about.set(other.about)


def write_text(level: str) -> None:
    """Configure this process's log as text to standard error."""
    _write(level, as_json=False)


def _write(level: str, *, as_json: bool) -> None:
    global _written
    _written = (as_json, level)
    handler = logging.StreamHandler(sys.stdout if as_json else sys.stderr)
    handler.setFormatter(JsonLines() if as_json else TextLines())
    # A filter, not the formatter, adds the fields: it runs in the context that created the record.
    handler.addFilter(_note_about)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # The SDK logs each link and session of every connection at INFO.
    for noisy in ("azure", "aiohttp", "rasterio", "distributed"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # The caller that needs a connection reports why it fails.
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
