"""The worker's log: one JSON object a line on standard output, each with the task that it is about.

What a line is about is a context that tasks of the event loop inherit, and that a task's process is given at
its start; so everything that is logged on the way of a message has its ids, whoever logs it.
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
"""What every line has; null where it is about no task."""

About = Mapping[str, str | int | None]

# What is kept for whoever looks: so many lines, each so long.
_KEPT_LINES = 200
_LONGEST_KEPT = 1000

_about: ContextVar[About] = ContextVar("about", default=MappingProxyType({}))
_written: tuple[bool, str] | None = None  # whether this process's log is JSON, and its level


@contextmanager
def about(fields: About) -> Iterator[None]:
    """Give every line that is logged from entry to exit these fields, beside those that it has already."""
    token = _about.set({**_about.get(), **fields})
    try:
        yield
    finally:
        _about.reset(token)


def current() -> About:
    """What a line that is logged here is about."""
    return _about.get()


class JsonLines(logging.Formatter):
    """One JSON object a line, without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
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
    """A line for people, without secrets."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        return redacted(super().format(record))


def _note_about(record: logging.LogRecord) -> bool:
    record.about = _about.get()
    return True


@dataclass(frozen=True)
class Line:
    """What was logged, without secrets; `time` is in seconds since 1970."""

    time: float
    level: str
    logger: str
    message: str
    task_id: str | None


class Tail(logging.Handler):
    """The newest lines of a log, kept in memory."""

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
        """Keep lines of another process; what they are about is what a line here would be."""
        task_id = current().get("task_id")
        about = None if task_id is None else str(task_id)
        self._lines.extend(replace(line, task_id=line.task_id or about) for line in lines)

    @property
    def lines(self) -> tuple[Line, ...]:
        """What is kept, in the order in which it came."""
        return tuple(self._lines.copy())

    def taken(self) -> tuple[Line, ...]:
        """What is kept, which is forgotten."""
        lines = []
        while self._lines:
            lines.append(self._lines.popleft())
        return tuple(lines)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Keep what this process logs from entry to exit."""
        root = logging.getLogger()
        root.addHandler(self)
        try:
            yield
        finally:
            root.removeHandler(self)


TAIL = Tail()
"""This process's."""


@dataclass(frozen=True)
class Carried:
    """What a task's process needs in order to go on with the worker's log."""

    as_json: bool
    level: str
    about: About


def write(settings: Settings) -> None:
    """Send this process's log to where, and in the form that, the settings say."""
    _write(settings.log_level, as_json=settings.logs_json)


def carried() -> Carried | None:
    """This process's log as it is now, and what a line here is about; None where nothing was set up."""
    return None if _written is None else Carried(*_written, about=dict(current()))


def carry_on(given: Carried | None) -> None:
    """Go on with another process's log."""
    if given is not None:
        _write(given.level, as_json=given.as_json)
        _about.set(given.about)


def write_text(level: str) -> None:
    """Send this process's log to standard error, for people."""
    _write(level, as_json=False)


def _write(level: str, *, as_json: bool) -> None:
    global _written
    _written = (as_json, level)
    handler = logging.StreamHandler(sys.stdout if as_json else sys.stderr)
    handler.setFormatter(JsonLines() if as_json else TextLines())
    # Here and not in the formatter: a record is made where its context is.
    handler.addFilter(_note_about)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # The SDK tells each link and session of every connection at INFO.
    for noisy in ("azure", "aiohttp", "rasterio", "distributed"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # What fails to connect is told by whoever needed the connection.
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
