"""Texts without secrets: of messages that others wrote, and that are kept or shown.

>>> redacted("GET https://account.blob.core.windows.net/c/b?sv=2024&sig=abc%3D failed")
'GET https://account.blob.core.windows.net/c/b?sv=2024&sig=*** failed'
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from urllib.parse import quote, unquote

# Variables of the environment whose values are secrets, by the ends of their names.
_SECRET_NAMES = re.compile(r"(?i)(_KEY|_TOKEN|_PASSWORD|_SECRET|CONNECTION_STRING|IDENTITY_HEADER)\Z")
# Parts of a connection string, or of a SAS token, that are secret by themselves.
_SECRET_PARTS = re.compile(r"(?i)\b(?:AccountKey|SharedAccessKey|SharedAccessSignature|sig)=([^;&]+)")
# A signature in a URL, the token of a request, the key in a connection string, a password, whose they may be.
_SECRET_TEXT = re.compile(
    r"(?i)(\bsig=|\bBearer\s+|\b(?:AccountKey|SharedAccessKey|password)=|\bSharedKey\s+[^\s:]+:"
    r"|\b[a-z][a-z0-9+.-]*://[^\s:/@]*:(?=[^\s/@]+@))[^\s&;@'\"]+"
)
# RFC 7519: an identity's token begins with the base64 of '{"'.
_JWT = re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*")
# A shorter value is no secret, and may be part of any word.
_SHORTEST = 8


def redacted(text: str) -> str:
    """The text without the secrets that the environment holds, and without signatures and tokens."""
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
