"""Bars: who sees them, that several at a time go together, and that what is told is right."""

from __future__ import annotations

import re
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from gdaltools.display.pace import memory_bytes, seconds_left
from gdaltools.progress import expecting, reporting, watched


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)


def test_a_terminal_is_watched_and_the_log_of_a_ci_is_not(
    terminal: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert watched()
    monkeypatch.setenv("CI", "true")
    assert not watched()
    with reporting("auto", label="cog", total=2, unit="blocks") as advance:
        advance(2)
    assert capsys.readouterr().err == ""


def test_a_bar_tells_rate_time_and_memory(capsys: pytest.CaptureFixture[str]) -> None:
    with expecting(lambda: 60), reporting(True, label="cog [a]", total=4, unit="blocks") as advance:
        advance(4)
    shown = capsys.readouterr().err
    assert "cog [a]" in shown
    assert "100%" in shown
    assert "blocks/s" in shown
    assert re.search(r"\d [MG]B", shown)


def test_bars_of_several_threads_are_drawn_together(capsys: pytest.CaptureFixture[str]) -> None:
    together = Barrier(3)

    def work(name: str) -> None:
        with reporting(True, label=name, total=2, unit="tiles") as advance:
            together.wait(30)
            advance(1)
            advance(1)
            together.wait(30)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(work, "abc"))
    assert capsys.readouterr().err.count("100%") >= 3


def test_the_estimate_is_asked_only_where_there_is_a_bar() -> None:
    def never() -> float:
        raise AssertionError("asked")

    with expecting(never), reporting(False, label="cog", total=1, unit="blocks") as advance:
        advance(1)
    with expecting(never), reporting(lambda _: None, label="cog", total=1, unit="blocks") as advance:
        advance(1)


def test_what_is_left_goes_from_the_estimate_to_what_was_measured() -> None:
    told = [seconds_left(share, 10 * share, 100) for share in (0.0, 0.05, 0.1, 0.2, 0.9)]
    assert told[0] == 100
    assert told == sorted(told, key=lambda left: -(left or 0))
    assert told[-1] == pytest.approx(1)
    held = memory_bytes()
    assert held is not None
    assert held > 20e6
