"""A fuzz run: child processes that run one trial after the other, and the outcome of all of them."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
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

#: Seconds after which a trial counts as a hang; on a loaded machine each one takes one or two.
LIMIT_SECONDS = 60.0
_START_SECONDS = 120.0


class Child:
    """A child process, replaced when it dies or is killed."""

    def __init__(self, seed: int, sources: Path, folder: Path) -> None:
        self._arguments = [sys.executable, "-m", "tests.fuzz_cog.child", str(seed), sources, folder]
        self._words = folder.with_suffix(".log")
        self._process: subprocess.Popen[str] | None = None
        self._fresh = True
        self._answers: queue.Queue[str] = queue.Queue()

    def ask(self, number: int, limit: float) -> dict[str, Any] | str:
        """Return the outcome of a trial, or a text if the child did not live to report it."""
        process = self._started()
        assert process.stdin is not None
        process.stdin.write(f"{number}\n")
        process.stdin.flush()
        try:
            answer = self._answers.get(timeout=limit + (_START_SECONDS if self._fresh else 0))
        except queue.Empty:
            self.end()
            return f"still at it after {limit:.0f} s"
        self._fresh = False
        if answer:
            found: dict[str, Any] = json.loads(answer)
            return found
        code = process.wait()
        self.end()
        return f"the process ended with {code}: {self._words.read_text(errors='replace')[-500:]}"

    def end(self) -> None:
        """Kill the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None:
            with self._words.open("w") as words:
                self._process = subprocess.Popen(
                    self._arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=words, text=True
                )
            self._fresh, self._answers = True, queue.Queue()
            threading.Thread(target=_listen, args=(self._process, self._answers), daemon=True).start()
        return self._process


def _listen(process: subprocess.Popen[str], answers: queue.Queue[str]) -> None:
    assert process.stdout is not None
    try:
        for line in process.stdout:
            answers.put(line)
    except ValueError:  # closed when the child ended
        pass
    answers.put("")


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
            child = Child(seed, sources, base / f"child{index}")
            try:
                while minutes is None or time.monotonic() - began < minutes * 60:
                    with lock:
                        number = next(numbers, None)
                    if number is None:
                        return
                    found = child.ask(number, limit)
                    if isinstance(found, str):
                        case, _ = case_of(seed, number, sources)
                        found = {"case": vars(case), "ended": "no answer", "problem": found}
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
