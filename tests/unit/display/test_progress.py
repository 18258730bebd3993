"""Progress bars: who sees them, several at a time share the display, and their figures are right."""

from __future__ import annotations

import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import dask
import pytest

import gdaltools as gt
from gdaltools.display.pace import Pace, memory_bytes, seconds_left
from gdaltools.display.progress import Progress
from gdaltools.display.reporting import expecting, reporting, watched
from tests.support.rasters import UTM, UTM_GRID, smooth, write_raster


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


def test_what_was_done_before_says_nothing_of_the_pace() -> None:
    now = iter((0.0, 2.0, 4.0))
    pace = Pace(None, 80, clock=lambda: next(now))
    assert pace.describe_rate(Progress("tiles", 85, 100, "tiles")) == "2.5 tiles/s, 6 s left"
    assert pace.describe_rate(Progress("tiles", 100, 100, "tiles")) == "5.0 tiles/s, in 4 s"


def test_work_that_is_computed_later_shows_its_bar_then(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_raster(tmp_path / "a.tif", smooth(3, 600, 700))
    later = gt.create_cog(source, tmp_path / "b.tif", overwrite=True, progress=True, compute=False)
    assert not capsys.readouterr().err
    for _ in range(2):
        later.compute(scheduler="threads")
        shown = capsys.readouterr().err
        assert "cog b.tif" in shown
        assert "100%" in shown


def test_work_that_was_cancelled_later_begins_anew_when_it_is_computed_again(tmp_path: Path) -> None:
    source = write_raster(tmp_path / "a.tif", smooth(3, 600, 700), crs=UTM, transform=UTM_GRID)
    scheme = gt.generate_tiling_scheme(source, 256, 32)
    describe_rate: list[Progress] = []
    expected = False

    def hear(state: Progress) -> None:
        describe_rate.append(state)
        if state.done and not expected:
            raise InterruptedError

    later = gt.extract_tiles(source, scheme, tmp_path / "tiles", overwrite=True, progress=hear, compute=False)
    with pytest.raises(InterruptedError), dask.config.set(scheduler="synchronous"):
        later.compute()
    assert 0 < describe_rate[-1].done < describe_rate[-1].total
    describe_rate.clear()
    expected = True
    later.compute(scheduler="threads")
    assert (describe_rate[0].done, describe_rate[-1].done) == (0, describe_rate[-1].total)


def test_the_estimate_is_asked_only_where_there_is_a_bar() -> None:
    def never() -> float:
        raise AssertionError("asked")

    with expecting(never), reporting(False, label="cog", total=1, unit="blocks") as advance:
        advance(1)
    with expecting(never), reporting(lambda _: None, label="cog", total=1, unit="blocks") as advance:
        advance(1)


def test_what_is_left_goes_from_the_estimate_to_what_was_measured() -> None:
    describe_rate = [seconds_left(share, 10 * share, 100) for share in (0.0, 0.05, 0.1, 0.2, 0.9)]
    assert describe_rate[0] == 100
    assert describe_rate == sorted(describe_rate, key=lambda left: -(left or 0))
    assert describe_rate[-1] == pytest.approx(1)
    held = memory_bytes()
    assert held is not None
    assert held > 20e6
