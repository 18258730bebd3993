"""What GDAL says went wrong while it went on: rasterio raises no error then, and only logs it.

GDAL opens a TIFF whose later directories cannot be read, and takes it for one without a mask and overviews.
That is right for a file that is damaged there, and wrong for one that did not arrive.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_LOGGER = "rasterio._env"
_SIGNALLED = "GDAL signalled an error"
_THREAD = threading.local()


@contextmanager
def heard() -> Iterator[list[str]]:
    """The errors that GDAL signals in this thread while the block lasts, in a list that grows."""
    before = getattr(_THREAD, "texts", None)
    texts: list[str] = []
    _THREAD.texts = texts
    try:
        yield texts
    finally:
        _THREAD.texts = before


def _hear(record: logging.LogRecord) -> bool:
    """Note what is signalled; whether the record goes on is for rasterio's own level to say."""
    texts: list[str] | None = getattr(_THREAD, "texts", None)
    if texts is not None and _SIGNALLED in str(record.msg):
        texts.append(record.getMessage())
    return logging.getLogger("rasterio").isEnabledFor(record.levelno)


logging.getLogger(_LOGGER).setLevel(logging.INFO)
logging.getLogger(_LOGGER).addFilter(_hear)
