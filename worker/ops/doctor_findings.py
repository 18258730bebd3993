"""What a check of `worker.ops.doctor` says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "problem", "unknown"]


@dataclass(frozen=True)
class Finding:
    """What a check found; `remedy` says what to do about a problem."""

    part: str
    state: State
    said: str
    remedy: str = ""
