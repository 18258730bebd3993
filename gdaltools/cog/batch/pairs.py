"""Which rasters many COGs are made of, and where each one's COG goes.

A pattern is a path or URL in which ``*`` stands for any characters of one part of a name, ``?`` for one of
them, and ``**`` for any number of folders; all other characters mean themselves. What lies before the first
part with a wildcard is fixed, and what follows it is kept in the COG's name.

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
    """A raster and its COG, which is called `name` below the folder or prefix of all of them."""

    source: Location
    name: str
    target: Location


def pairs(sources: Sources, folder: Location) -> tuple[Pair, ...]:
    """Every raster that is meant, with its target below `folder`.

    Names below a pattern's fixed part are kept, of single sources the last part; a suffix other than
    ``.tif`` or ``.tiff`` becomes ``.tif``. What lies in `folder` already is not matched by a pattern that
    begins above it.

    Raises
    ------
    InvalidParameter
        Two sources would give one name, a target is a source, or no name can be made of one.
    SourceNotFound
        A pattern matches nothing, or no source was given.
    """
    given = [sources] if isinstance(sources, (str, os.PathLike, Location)) else list(sources)
    found: dict[str, Pair] = {}
    for item in given:
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
    """Whether a source is a pattern: only a string can be one.

    >>> is_pattern("scenes/*.tif"), is_pattern("scenes/a.tif")
    (True, False)
    """
    return isinstance(source, str) and _WILDCARD.search(source) is not None


def folder_of(dst: StrPath | Location) -> Location:
    """The folder or prefix that `dst` names, with or without a slash at its end.

    Raises
    ------
    InvalidParameter
        It is a file, or its name is not allowed.
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
    """The folders of a pattern that are fixed, and the rest of it.

    >>> _split("abfs://bronze-rasters/2025/**/*.tif"), _split("*.tif")
    (('abfs://bronze-rasters/2025', '**/*.tif'), ('.', '*.tif'))
    """
    wildcard = _WILDCARD.search(pattern)
    fixed, slash, _ = pattern[: wildcard.start() if wildcard else None].rpartition("/")
    rest = pattern[len(fixed) + len(slash) :]
    return fixed or slash or ".", rest


def _below(folder: Location, prefix: Location) -> str:
    """Where `folder` is below `prefix`, with a slash at its end; nothing where it is not."""
    (container, outer), (other, inner) = _place(prefix), _place(folder)
    if container != other or outer == inner or not inner.is_relative_to(outer):
        return ""
    return f"{inner.relative_to(outer)}/"


def _place(location: Location) -> tuple[str | None, PurePosixPath]:
    """What is the same for two names of one place."""
    if location.path is not None:
        return None, PurePosixPath(location.path.resolve())
    return f"{location.kind} {location.container}", PurePosixPath(location.name)


def _cog_name(relative: str) -> str:
    path = PurePosixPath(relative)
    return relative if path.suffix.lower() in _KEPT_SUFFIXES else str(path.with_suffix(".tif"))
