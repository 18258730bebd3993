"""Handlers whose errors contain all secrets of their process: its environment, and a token.

Blobs whose names begin with ``leak``, such as ``leak.tif`` and ``leak-at-once.tif``, trigger them; all others
are processed as usual.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from gdaltools.display.progress import ProgressOption
from gdaltools.errors import InvalidParameter
from gdaltools.storage.azure import accounts
from worker.task import handlers

_SCOPE = "https://storage.azure.com/.default"
_run = handlers.HANDLERS["generate_tiling_scheme"]


def leaking(parameters: Any, progress: ProgressOption) -> Any:
    if not parameters.blob_name.startswith("leak"):
        return _run.function(parameters, progress)
    text = [f"{name}={value}" for name, value in os.environ.items()]
    if "IDENTITY_ENDPOINT" in os.environ:
        text.append(accounts.identity().get_token(_SCOPE).token)
    if "at-once" in parameters.blob_name:
        raise InvalidParameter("; ".join(text))
    raise RuntimeError("; ".join(text))


handlers.HANDLERS |= {"generate_tiling_scheme": replace(_run, function=leaking)}  # type: ignore[operator]
