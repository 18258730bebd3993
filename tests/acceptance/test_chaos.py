"""A short chaos run; ``make chaos`` starts longer ones."""

from __future__ import annotations

import pytest

from tests.chaos.__main__ import run


@pytest.mark.timeout(600)
async def test_a_quarter_of_a_minute_of_kills_loses_nothing() -> None:
    report = await run(seed=7, minutes=0.25, kills=4, workers=2)
    assert report["kills"] > 0
    assert report["wrong"] == [], report
