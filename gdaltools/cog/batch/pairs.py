"""Pair every raster of a batch with the target of its COG.

A pattern is a path or URL in which ``*`` matches any characters within one part of a name, ``?`` matches one
such character, and ``**`` matches any number of folders; all other characters match themselves. The folders
before the first part with a wildcard are fixed; the rest of a match becomes the COG's name.

>>> from gdaltools.storage import locate
>>> pairs(["/data/a.tif", "/data/b.jp2"], locate("/cogs"))[1].name
'b.tif'
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from gdaltools import storage
from gdaltools.errors import InvalidParameter, SourceNotFound
from gdaltools.storage import Location, StrPath

Sources = StrPath | Location | Sequence[StrPath | Location]

_WILDCARD = re.compile(r"[*?]")
_TOKEN = re.compile(r"\*\*/|\*\*|\*|\?|[^*?]+")
_MEANING = {"**/": "(?:[^/]+/)*", "**": ".*", "*": "[^/]*", "?": "[^/]"}
_KEPT_SUFFIXES = (".tif", ".tiff")


@dataclass(frozen=True)
class Pair:
    """A raster and its COG, which is called `name` below the common folder or prefix."""

    source: Location
    name: str
    target: Location


def pairs(sources: Sources, folder: Location) -> tuple[Pair, ...]:
    """Return every raster that `sources` names or matches, with its target below `folder`.

    A match keeps its path below the pattern's fixed part, a single source the last part of its name. A
    suffix other than ``.tif`` or ``.tiff`` becomes ``.tif``. A pattern that begins above `folder` does not
    match files inside it.

    Raises
    ------
    InvalidParameter
        Two sources would get the same name, a target is a source, a source is a folder, or a name is not
        allowed.
    SourceNotFound
        A pattern matches nothing, or `sources` is empty.
    """
    items = [sources] if isinstance(sources, (str, os.PathLike, Location)) else list(sources)
    found: dict[str, Pair] = {}
    for item in items:
        for source, relative in _meant(item, folder):
            name = _cog_name(relative)
            pair = found.setdefault(name, Pair(source, name, folder.child(name)))
            if _place(pair.source) != _place(source):
                raise InvalidParameter(
                    f"{pair.source} and {source} would both become {pair.target}: make them in two calls, or "
                    "by one pattern that begins above both ('FOLDER/**/*.tif'), which keeps their folders"
                )
    if not found:
        raise SourceNotFound("no source was given: name files or a pattern such as 'FOLDER/**/*.tif'")
    places = {_place(pair.source): pair.source for pair in found.values()}
    for pair in found.values():
        if (replaced := places.get(_place(pair.target))) is not None:
            raise InvalidParameter(f"{replaced} would be replaced by its own COG: name another folder")
    return tuple(found.values())


def is_pattern(source: object) -> bool:
    """Return whether a source is a pattern; only a string can be one.

    >>> is_pattern("scenes/*.tif"), is_pattern("scenes/a.tif")
    (True, False)
    """
    return isinstance(source, str) and _WILDCARD.search(source) is not None


def folder_of(dst: StrPath | Location) -> Location:
    """Return the folder or prefix that `dst` names, with or without a trailing slash.

    Raises
    ------
    InvalidParameter
        `dst` is a file, or its name is not allowed.
    """
    text = str(dst) if isinstance(dst, Location) else os.fspath(dst)
    folder = dst if isinstance(dst, Location) else storage.locate(text.rstrip("/") or text)
    if folder.path is not None and folder.path.exists() and not folder.path.is_dir():
        raise InvalidParameter(f"{folder} is a file: name the folder or prefix that the COGs go to")
    return folder


def _meant(item: StrPath | Location, folder: Location) -> Iterator[tuple[Location, str]]:
    if not is_pattern(item):
        source = storage.locate(item)
        if source.path is not None and source.path.is_dir():
            raise InvalidParameter(f"{source} is a folder: use a pattern, '{source}/**/*.tif'")
        yield source, source.filename
        return
    text = str(item)
    fixed, rest = _split(text)
    prefix = storage.locate(fixed)
    lead = f"{prefix.name}/" if prefix.container and prefix.name else ""
    matches = re.compile("".join(_MEANING.get(token) or re.escape(token) for token in _TOKEN.findall(rest)))
    own = _below(folder, prefix)
    depth = None if "**" in rest else rest.count("/") + 1
    names = (name.removeprefix(lead) for name in storage.list_names(prefix, depth=depth))
    found = [name for name in names if matches.fullmatch(name) and not (own and name.startswith(own))]
    if not found:
        raise SourceNotFound(f"no file matches {text!r}: '*' does not cross folders, '**/' does")
    for name in found:
        yield prefix.child(name), name


def _split(pattern: str) -> tuple[str, str]:
    """Return the fixed folders of a pattern, and the rest of it.

    >>> _split("abfs://bronze-rasters/2025/**/*.tif"), _split("*.tif")
    (('abfs://bronze-rasters/2025', '**/*.tif'), ('.', '*.tif'))
    """
    wildcard = _WILDCARD.search(pattern)
    fixed, slash, _ = pattern[: wildcard.start() if wildcard else None].rpartition("/")
    rest = pattern[len(fixed) + len(slash) :]
    return fixed or slash or ".", rest


def _below(folder: Location, prefix: Location) -> str:
    """Return the path of `folder` below `prefix` with a trailing slash, or "" if it is not below it."""
    (container, outer), (other, inner) = _place(prefix), _place(folder)
    if container != other or outer == inner or not inner.is_relative_to(outer):
        return ""
    return f"{inner.relative_to(outer)}/"


def _place(location: Location) -> tuple[str | None, PurePosixPath]:
    """Return a key that is equal for two names of the same place."""
    if location.path is not None:
        return None, PurePosixPath(location.path.resolve())
    return f"{location.kind} {location.container}", PurePosixPath(location.name)


def _cog_name(relative: str) -> str:
    path = PurePosixPath(relative)
    return relative if path.suffix.lower() in _KEPT_SUFFIXES else str(path.with_suffix(".tif"))
