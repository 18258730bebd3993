"""Write JSON text that every reader accepts: RFC 8259 parsers, PostgreSQL's jsonb and the platform.

Python's own writer emits three things that other readers refuse: NaN and infinities, NUL characters (which
jsonb cannot store) and lone surrogates (which come from file names that are not UTF-8). A task's result must
not be lost because a raster's nodata is NaN, so this module replaces them on output.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence, Set
from typing import Any


def dumps(value: object) -> str:
    """Return `value` as strict JSON text.

    Non-finite numbers become null, NUL characters are removed, lone surrogates become U+FFFD, mapping keys
    become strings, tuples and sets become arrays, and any other type is written as its ``str()``.

    Examples
    --------
    >>> dumps({"nodata": float("nan"), "name": "a\\x00b"})
    '{"nodata": null, "name": "ab"}'
    """
    return json.dumps(_clean(value), allow_nan=False)


def clean_text(text: str) -> str:
    """Return `text` in a form that PostgreSQL's text types can store: without NULs and lone surrogates.

    Examples
    --------
    >>> clean_text("caf\\udce9\\x00")
    'caf�'
    """
    return text.replace("\x00", "").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _clean(value: object) -> Any:
    if value is None or isinstance(value, bool | int):
        return value if not isinstance(value, int) or isinstance(value, bool) else int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, Mapping):
        return {clean_text(str(key)): _clean(item) for key, item in value.items()}
    if isinstance(value, Sequence | Set) and not isinstance(value, bytes | bytearray):
        return [_clean(item) for item in value]
    return clean_text(str(value))
