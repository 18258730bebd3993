"""The journal beside the COGs: which COG was written from which source, so a later run writes only the rest.

A line is added before a COG is begun and after it has ended; no line is ever rewritten. The journal is true
whenever the process ends: a COG that is listed as made was published before, and one that was only begun may
exist or not. Lines that cannot be read, such as one that was cut short, are ignored.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from gdaltools import storage
from gdaltools.cog.options import CogOptions
from gdaltools.errors import SourceNotFound
from gdaltools.runtime import crash_points
from gdaltools.storage import Location, Stat

#: The journal's name in the folder of the COGs.
JOURNAL_NAME = "cogs.jsonl"

# Part of `parameters_hash`: a new number makes later runs write the COGs of earlier versions again.
_COG_FORMAT = 1

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Origin:
    """The input of a COG: the current state of its source, and a hash of the options that encode it."""

    source: str
    size_bytes: int
    etag: str
    parameters_hash: str


class JournalLine(BaseModel):
    """One event of the COG `name`; for a published COG, with its size and ETag."""

    model_config = ConfigDict(frozen=True)

    format: Literal["gdaltools-cogs/1"] = "gdaltools-cogs/1"
    name: str
    state: Literal["begun", "made", "failed"]
    origin: Origin
    size_bytes: int = 0
    etag: str = ""

    def is_whole(self, found: Stat | None) -> bool:
        """Return whether `found` is the COG that this line says was made, by size and ETag."""
        return self.state == "made" and found == Stat(self.size_bytes, self.etag)


class CogJournal:
    """The journal of a folder or prefix; any thread, and other processes too, may add lines.

    Raises
    ------
    InvalidParameter
        A folder has the journal's name.
    StorageError
        Storage does not answer.
    """

    def __init__(self, folder: Location) -> None:
        self._target = folder.child(JOURNAL_NAME)
        storage.check_target(self._target, overwrite=True)
        try:
            content = storage.read_bytes(self._target)
        except SourceNotFound:
            content = b""
        self._made: dict[str, JournalLine] = {}
        self._last: dict[str, JournalLine] = {}
        for line in self._read(content):
            self._last[line.name] = line
            if line.state == "made":
                self._made[line.name] = line
        if content and not content.endswith(b"\n"):
            storage.append_bytes(self._target, b"\n")

    def last_built(self, name: str) -> JournalLine | None:
        """Return the last line that says that the COG was made, as of when the journal was opened."""
        return self._made.get(name)

    def is_running(self, name: str) -> bool:
        """Return whether the COG was begun and never ended.

        A file at its target is then from an earlier run, or was to be replaced by one.
        """
        last = self._last.get(name)
        return last is not None and last.state == "begun"

    def begun(self, name: str, origin: Origin) -> None:
        """Record that work on a COG begins: from now on a file at its target counts as ours."""
        self._add(JournalLine(name=name, state="begun", origin=origin))
        crash_points.reach("cog-begun")

    def made(self, name: str, origin: Origin, stat: Stat) -> None:
        """Record that a COG is published."""
        self._add(JournalLine(name=name, state="made", origin=origin, size_bytes=stat.size, etag=stat.etag))
        crash_points.reach("cog-listed")

    def failed(self, name: str, origin: Origin) -> None:
        """Record that a COG was not published."""
        self._add(JournalLine(name=name, state="failed", origin=origin))

    def _add(self, line: JournalLine) -> None:
        storage.append_bytes(self._target, line.model_dump_json().encode() + b"\n")

    def _read(self, content: bytes) -> Iterator[JournalLine]:
        unread = 0
        for line in content.splitlines():
            try:
                yield JournalLine.model_validate_json(line)
            except ValidationError:
                unread += bool(line.strip())
        if unread:
            log.warning("%s: %d lines are ignored: this version cannot read them", self._target, unread)


def parameters_hash(options: CogOptions, *, reuse: bool) -> str:
    """Return a hash of `reuse` and of all options that differ from their defaults.

    >>> parameters_hash(CogOptions(level=5), reuse=True) == parameters_hash(CogOptions(), reuse=True)
    False
    """
    default = asdict(CogOptions())
    chosen = {name: value for name, value in asdict(options).items() if value != default[name]}
    decided = {"format": _COG_FORMAT, "reuse": reuse} | chosen
    return hashlib.sha256(json.dumps(decided, sort_keys=True, default=str).encode()).hexdigest()
