"""A fuzz run: child processes that run one trial after the other, and the outcome of all of them."""

from __future__ import annotations

import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from tests.fuzz_cog.attempt import case_of
from tests.fuzz_cog.sources import write_sources
from tests.support.processes import Child

#: Seconds after which a trial counts as a hang; on a loaded machine each one takes one or two.
LIMIT_SECONDS = 60.0


@contextmanager
def _folders() -> Iterator[tuple[Path, Path]]:
    with tempfile.TemporaryDirectory() as base:
        sources = Path(base) / "sources"
        sources.mkdir()
        write_sources(sources)
        yield Path(base), sources


def fuzz(
    *,
    seed: int,
    minutes: float | None = None,
    tries: int | None = None,
    only: int | None = None,
    children: int = 2,
    limit: float = LIMIT_SECONDS,
    keep: Path | None = None,
) -> dict[str, Any]:
    """Run for `minutes` or `tries` and return the report; the sources of findings are copied to `keep`."""
    began = time.monotonic()
    numbers = count() if only is None else iter([only])
    if tries is not None:
        numbers = iter(range(tries))
    ends: Counter[str] = Counter()
    findings: list[dict[str, Any]] = []
    lock = threading.Lock()
    with _folders() as (base, sources):

        def work(index: int) -> None:
            folder = base / f"child{index}"
            child = Child("tests.fuzz_cog.child", str(seed), sources, folder, log=folder.with_suffix(".log"))
            try:
                while minutes is None or time.monotonic() - began < minutes * 60:
                    with lock:
                        number = next(numbers, None)
                    if number is None:
                        return
                    try:
                        found = child.ask(str(number), limit)
                    except (TimeoutError, ChildProcessError) as error:
                        case, _ = case_of(seed, number, sources)
                        found = {"case": vars(case), "ended": "no answer", "problem": str(error)}
                    with lock:
                        ends[found["ended"]] += 1
                        if found["problem"]:
                            findings.append(found)
                            _keep(seed, number, sources, keep)
            finally:
                child.end()

        threads = [threading.Thread(target=work, args=(index,)) for index in range(children)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return {
        "seed": seed,
        "tries": ends.total(),
        "seconds": round(time.monotonic() - began),
        "ended": dict(ends.most_common()),
        "findings": sorted(findings, key=lambda found: found["case"]["number"]),
    }


def _keep(seed: int, number: int, sources: Path, folder: Path | None) -> None:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        case, content = case_of(seed, number, sources)
        (folder / f"{seed}-{number}-{case.source}").write_bytes(content)
