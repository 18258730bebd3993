"""Tiling schemes as GeoJSON (protocol.md §5): one feature per tile, and the scheme itself in ``metadata``.

This module works on mappings: it knows the shape of the document, not the meaning of a scheme. `parsed` reads
a document of any number of tiles with one parsed feature in memory at a time, provided that each feature is
on a line of its own, as `lines` writes it.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from gdaltools.errors import InvalidParameter

#: The value of ``metadata.format`` in documents of gdaltools.
FORMAT = "gdaltools-tiling-scheme/1"

_MAX_BYTES = 2 << 30
# The end of the first line that `lines` yields, and the whole last line.
_FEATURES, _TAIL = '"features": [', b"]}\n"


def collection(metadata: Mapping[str, Any], features: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a FeatureCollection with a ``metadata`` member."""
    return {"type": "FeatureCollection", "metadata": dict(metadata), "features": [*features]}


def lines(metadata: Mapping[str, Any], features: Iterable[Mapping[str, Any]]) -> Iterator[bytes]:
    """Yield the same FeatureCollection as UTF-8 text, one line per feature, without keeping any of them."""
    head = json.dumps(dict(metadata), allow_nan=False)
    yield f'{{"type": "FeatureCollection", "metadata": {head}, {_FEATURES}'.encode()
    end = b"\n"
    for feature in features:
        yield end + json.dumps(feature, allow_nan=False).encode()
        end = b",\n"
    yield b"\n" + _TAIL


def parsed(document: Mapping[str, Any] | str | bytes) -> tuple[Mapping[str, Any], Iterable[object]]:
    """Return the ``metadata`` of a FeatureCollection and its features.

    Features of bytes that `lines` wrote are parsed while they are iterated, and can be iterated only once.

    Raises
    ------
    InvalidParameter
        The document is not a FeatureCollection; also during iteration, if a feature is not JSON.
    """
    if isinstance(document, bytes) and (found := _by_lines(document)) is not None:
        return found
    content = _whole(document) if isinstance(document, str | bytes) else document
    if not isinstance(content, Mapping) or content.get("type") != "FeatureCollection":
        raise InvalidParameter("not a tiling scheme: a GeoJSON FeatureCollection is needed")
    metadata, features = content.get("metadata"), content.get("features")
    return (
        metadata if isinstance(metadata, Mapping) else {},
        features if isinstance(features, list) else (),
    )


def _by_lines(document: bytes) -> tuple[Mapping[str, Any], Iterable[object]] | None:
    """Return what `parsed` returns for a text that `lines` wrote; None for any other text."""
    if len(document) > _MAX_BYTES:
        return None
    stream = io.BytesIO(document)
    head = stream.readline()
    try:
        metadata = json.loads(head + _TAIL).get("metadata")
    except (ValueError, RecursionError, AttributeError):
        return None
    if not head.rstrip().endswith(_FEATURES.encode()) or not isinstance(metadata, Mapping):
        return None
    return (metadata, _lines_of(stream)) if metadata.get("format") == FORMAT else None


def _lines_of(stream: io.BytesIO) -> Iterator[object]:
    for line in stream:
        if line == _TAIL:
            return
        try:
            yield json.loads(line.rstrip().removesuffix(b","))
        except (ValueError, RecursionError) as error:
            raise InvalidParameter(f"not a tiling scheme: not JSON ({str(error)[:80]})") from error


def _whole(document: str | bytes) -> Any:
    if len(document) > _MAX_BYTES:
        raise InvalidParameter(f"a tiling scheme of {len(document)} bytes: the limit is {_MAX_BYTES}")
    try:
        return json.loads(document)
    except (ValueError, RecursionError) as error:
        raise InvalidParameter(f"not a tiling scheme: not JSON ({str(error)[:80]})") from error
