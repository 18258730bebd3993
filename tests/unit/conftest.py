"""What tests of this folder share."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from tests.support.cogs.by_pieces import cut_pieces

Cut = Callable[[int, int | None], None]


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> Cut:
    """Cuts COGs into pieces of so many rows and columns (None: the whole width), however small they are."""

    return partial(cut_pieces, monkeypatch)
