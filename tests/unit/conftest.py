"""What tests of this folder share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gdaltools.cog import planning

Cut = Callable[[int, int | None], None]


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> Cut:
    """Cuts COGs into pieces of so many rows and columns (None: the whole width), however small they are."""

    def into(rows: int, cols: int | None) -> None:
        def piece_shape(width: int, *others: int) -> tuple[int, int]:
            _, _, blocksize, *_ = others
            return rows, cols or -(-width // blocksize) * blocksize

        monkeypatch.setattr(planning, "piece_shape", piece_shape)

    return into
