"""Text from others, made safe to show: the content of a file must not control a terminal or a page."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from urllib.parse import quote, unquote

# Characters of one value that are shown; the object itself has all of them.
_MOST_SHOWN = 400

# Environment variables whose values are secrets, by the ends of their names.
_SECRET_NAMES = re.compile(r"(?i)(_KEY|_TOKEN|_PASSWORD|_SECRET|CONNECTION_STRING|IDENTITY_HEADER)\Z")
# Parts of a connection string or of a SAS token that are secrets by themselves.
_SECRET_PARTS = re.compile(r"(?i)\b(?:AccountKey|SharedAccessKey|SharedAccessSignature|sig)=([^;&]+)")
# A signature in a URL, the token of a request, the key in a connection string or a password, of any owner.
_SECRET_TEXT = re.compile(
    r"(?i)(\bsig=|\bBearer\s+|\b(?:AccountKey|SharedAccessKey|password)=|\bSharedKey\s+[^\s:]+:"
    r"|\b[a-z][a-z0-9+.-]*://[^\s:/@]*:(?=[^\s/@]+@))[^\s&;@'\"]+"
)
# RFC 7519: an identity's token begins with the base64 of '{"'.
_JWT = re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*")
# A shorter value is not treated as a secret: it may be part of any word.
_SHORTEST = 8


def printable(text: str) -> str:
    """Return the text with its control characters spelled out, except line breaks and tabs.

    >>> printable("a\\x1b[2Jb")
    'a\\\\x1b[2Jb'
    """
    return "".join(
        char if char.isprintable() or char in "\n\t" else char.encode("unicode_escape").decode()
        for char in text
    )


def one_line(text: str) -> str:
    """Return the text on one line, with its control characters spelled out.

    >>> one_line("two\\nlines and \\x1b[2J")
    'two lines and \\\\x1b[2J'
    """
    return printable(" ".join(text.split()))


def shortened(text: str, most: int = _MOST_SHOWN) -> str:
    """Return the text, or its first `most` characters and its length if it is longer.

    >>> shortened("abcdefgh", 5)
    'abcde… (8 characters)'
    """
    return text if len(text) <= most else f"{text[:most]}… ({len(text)} characters)"


def megabytes(size: float) -> str:
    """Return bytes as text for a person, in units of 10³.

    >>> megabytes(532), megabytes(53_200), megabytes(1_532_000), megabytes(123_456_789_012)
    ('532 bytes', '53.2 kB', '1.5 MB', '123.5 GB')
    """
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:,.1f} {unit}"
    return f"{size:.0f} bytes"


def redacted(text: str) -> str:
    """Return the text without the secrets of the environment, and without signatures and tokens."""
    for secret in sorted(_secrets(), key=len, reverse=True):
        text = text.replace(secret, "***")
    return _JWT.sub("***", _SECRET_TEXT.sub(r"\1***", text))


def _secrets() -> Iterator[str]:
    for name, value in os.environ.items():
        if not _SECRET_NAMES.search(name):
            continue
        for secret in (value, *_SECRET_PARTS.findall(value)):
            if len(secret) >= _SHORTEST:
                yield from {secret, unquote(secret), quote(secret, safe="")}
