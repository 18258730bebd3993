"""A short fuzz run with a fixed seed; `make fuzz` starts long ones."""

from __future__ import annotations

from pathlib import Path
from random import Random

from tests.fuzz_cog.__main__ import summary
from tests.fuzz_cog.attempt import case_of
from tests.fuzz_cog.damage import damaged
from tests.fuzz_cog.run import fuzz
from tests.fuzz_cog.sources import write_sources


def test_a_short_fuzz_run_finds_nothing() -> None:
    report = fuzz(seed=7, tries=40)
    assert report["tries"] == 40
    assert not report["findings"], summary(report)
    assert report["ended"]["made"] > 5


def test_a_try_follows_from_its_number(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        write_sources(tmp_path / folder)
    for number in range(50):
        case, content = case_of(3, number, tmp_path / "one")
        assert (case, content) == case_of(3, number, tmp_path / "two") or "nan" in repr(case)
        assert case != case_of(4, number, tmp_path / "one")[0]


def test_damage_survives_any_content() -> None:
    for seed in range(200):
        random = Random(seed)
        content = random.choice((b"II*\0", b"MM\0*", b"II+\0", b"", b"x")) + random.randbytes(
            random.randrange(90)
        )
        damaged(content or b"x", random)
