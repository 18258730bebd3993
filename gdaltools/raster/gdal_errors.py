"""Interpret the text of GDAL's errors, and collect the errors after which GDAL goes on.

rasterio does not raise the latter, and only logs them. GDAL opens a TIFF whose later directories cannot be
read, and treats it as one without a mask and overviews. That is right for a file that is damaged there, and
wrong for one that was not fully received.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from gdaltools.runtime.text import redacted
from gdaltools.storage import Location

_TRANSPORT = re.compile(
    r"(?i)curl|HTTP (?:error|response)|Input/output error|timed? ?out|vsiaz|AuthenticationFailed"
)
# libtiff's messages about bytes that it requested and did not get.
_SHORT_READ = re.compile(r"Read error (?:at|on)|got \d+ bytes, expected \d+")

_LOGGER = "rasterio._env"
_SIGNALLED = "GDAL signalled an error"
_THREAD = threading.local()


@contextmanager
def heard() -> Iterator[list[str]]:
    """Collect the errors that GDAL signals in this thread until the block ends, in a list that grows."""
    before = getattr(_THREAD, "texts", None)
    texts: list[str] = []
    _THREAD.texts = texts
    try:
        yield texts
    finally:
        _THREAD.texts = before


def _hear(record: logging.LogRecord) -> bool:
    """Collect a signalled error; rasterio's own level decides whether the record is logged."""
    texts: list[str] | None = getattr(_THREAD, "texts", None)
    if texts is not None and _SIGNALLED in str(record.msg):
        texts.append(record.getMessage())
    return logging.getLogger("rasterio").isEnabledFor(record.levelno)


def is_transport(location: Location | str, text: str) -> bool:
    """Return whether GDAL's message is about the transport of the bytes and not about the bytes."""
    if isinstance(location, str):
        return _TRANSPORT.search(text.replace(location, "")) is not None
    # A blob's blocks were found to lie within it, so bytes that are missing were lost on the way.
    lost = location.in_azure and _SHORT_READ.search(text)
    name = str(location) if location.memory else location.gdal_path
    return bool(lost) or _TRANSPORT.search(text.replace(name, "")) is not None


def whole_text(error: BaseException | None) -> str:
    """Return the messages of an error and of its causes; GDAL's reason is in the last of them."""
    texts: list[str] = []
    while error is not None:
        text = str(error).strip().rstrip(".")
        if text and text not in texts and not text.startswith("Read failed"):
            texts.append(text)
        error = error.__cause__ or error.__context__
    return redacted("; ".join(texts)) or "read failed"


logging.getLogger(_LOGGER).setLevel(logging.INFO)
logging.getLogger(_LOGGER).addFilter(_hear)
