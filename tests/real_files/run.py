"""A run: every step with every raster, in timed children; the next run goes on from its results."""

from __future__ import annotations

import json
import os
import queue
import tempfile
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.real_files import zoo
from tests.real_files.child import STEPS
from tests.support.processes import Child

FAULTS = ("different", "untyped", "noise", "slow", "crashed")
#: What is taken for a raster, by its suffix.
SUFFIXES = {
    ".tif", ".tiff", ".jp2", ".j2k", ".nc", ".nc3", ".cdf", ".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp",
    ".grd", ".gtx", ".gsb", ".img", ".vrt", ".hdf", ".h5", ".dem", ".grib", ".grb", ".ico", ".ppm", ".dt2",
}  # fmt: skip
#: Seconds after which a step is ended.
LIMIT_SECONDS = 120.0


@dataclass(frozen=True)
class Judged:
    """The outcomes of a raster, by step: (outcome, details); `seen` is the file's size and time of change."""

    name: str
    seen: tuple[int, int]
    steps: dict[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def faults(self) -> dict[str, tuple[str, str]]:
        """The steps that ended in a fault."""
        return {step: told for step, told in self.steps.items() if told[0] in FAULTS}


def rasters_below(folder: Path, *, most_bytes: float = float("inf")) -> list[Path]:
    """Return the files below `folder`, or the file itself, that are rasters by their suffix."""
    files = [folder] if folder.is_file() else sorted(folder.rglob("*"))
    return [
        path for path in files
        if path.suffix.lower() in SUFFIXES and path.is_file() and 0 < path.stat().st_size <= most_bytes
    ]  # fmt: skip


def name_of(raster: Path | zoo.Animal) -> str:
    """Return the name under which a raster's outcomes are kept."""
    return str(raster) if isinstance(raster, Path) else f"zoo/{raster.name}"


def run(
    rasters: Sequence[Path | zoo.Animal],
    *,
    journal: Path | None = None,
    children: int = 2,
    limit: float = LIMIT_SECONDS,
    steps: Sequence[str] = tuple(STEPS),
) -> Iterator[Judged]:
    """Yield each raster's outcomes as they come.

    `journal` gets them as lines of JSON; a raster is not judged again if it already has all `steps` of it,
    without a fault, and the file is unchanged.
    """
    known = {(old.name, old.seen): old for old in read_journal(journal)}
    waiting: queue.Queue[Path | zoo.Animal] = queue.Queue()
    for raster in rasters:
        waiting.put(raster)
    done: queue.Queue[Judged | BaseException] = queue.Queue()
    with tempfile.TemporaryDirectory() as folder:
        threads = [
            threading.Thread(
                target=_work, args=(Path(folder) / str(index), waiting, done, known, limit, steps)
            )
            for index in range(children)
        ]
        for thread in threads:
            thread.start()
        try:
            for _ in rasters:
                judged = done.get()
                if isinstance(judged, BaseException):
                    raise judged
                if journal is not None and known.get((judged.name, judged.seen)) != judged:
                    with journal.open("a") as stream:
                        stream.write(json.dumps(asdict(judged)) + "\n")
                yield judged
        finally:
            while not waiting.empty():
                waiting.get()
            for thread in threads:
                thread.join()


def read_journal(journal: Path | None) -> list[Judged]:
    """Return the outcomes that a journal has; those of a line that was cut off are left out."""
    found = []
    for line in journal.read_text().splitlines() if journal and journal.exists() else ():
        try:
            told = json.loads(line)
        except ValueError:
            continue
        steps = {step: (outcome, details) for step, (outcome, details) in told["steps"].items()}
        found.append(Judged(told["name"], (told["seen"][0], told["seen"][1]), steps))
    return found


def _work(
    folder: Path,
    waiting: queue.Queue[Path | zoo.Animal],
    done: queue.Queue[Judged | BaseException],
    known: dict[tuple[str, tuple[int, int]], Judged],
    limit: float,
    steps: Sequence[str],
) -> None:
    folder.mkdir()
    log = folder / "printed.txt"
    child = Child("tests.real_files.child", folder / "made", log, log=log)
    try:
        while True:
            raster = waiting.get_nowait()
            path = raster if isinstance(raster, Path) else zoo.write(raster, folder)
            if not isinstance(raster, Path):
                os.utime(path, (0, 0))
            status = path.stat()
            judged = Judged(name_of(raster), (status.st_size, status.st_mtime_ns))
            old = known.get((judged.name, judged.seen))
            if old is not None and not old.faults and set(steps) <= set(old.steps):
                done.put(old)
            else:
                for step in steps:
                    judged.steps[step] = _ask(child, path, step, limit)
                done.put(judged)
            if not isinstance(raster, Path):
                path.unlink()
    except queue.Empty:
        pass
    except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits
        done.put(error)
    finally:
        child.end()


def _ask(child: Child, path: Path, step: str, limit: float) -> tuple[str, str]:
    try:
        told: dict[str, Any] = child.ask(json.dumps({"path": str(path), "step": step}), limit)
    except TimeoutError as error:
        return "slow", str(error)
    except ChildProcessError as error:
        return "crashed", str(error)
    return told["outcome"], told["details"]


def table(judged: Iterable[Judged]) -> str:
    """Return the outcomes by step, each kind of fault with an example, and totals."""
    rasters = list(judged)
    counts = {step: Counter[str]() for one in rasters for step in one.steps}
    for one in rasters:
        for step, (outcome, _) in one.steps.items():
            counts[step][outcome] += 1
    outcomes = ("right", "refused", *FAULTS)
    lines = [f"{'step':20}" + "".join(f"{outcome:>11}" for outcome in outcomes)]
    lines += [
        f"{step:20}" + "".join(f"{count[outcome]:11}" for outcome in outcomes)
        for step, count in counts.items()
    ]
    for one in rasters:
        lines += [
            f"\n{one.name}, {step}: {outcome}\n  {details.strip()}"
            for step, (outcome, details) in one.faults.items()
        ]
    total = sum(counts.values(), Counter[str]())
    lines.append(
        f"\n{len(rasters)} rasters, {total.total()} cases: {total['different']} silent differences, "
        f"{total['untyped']} untyped errors, {total['noise']} with noise, {total['slow']} timeouts, "
        f"{total['crashed']} crashes; {total['refused']} refused, {total['right']} right"
    )
    return "\n".join(lines)
