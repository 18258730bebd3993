"""Fixtures shared by the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from tests.support.cogs.by_pieces import cut_pieces

Cut = Callable[[int, int | None], None]


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> Cut:
    """Cuts COGs into pieces of the passed rows and columns (None: the whole width), however small."""

    return partial(cut_pieces, monkeypatch)
