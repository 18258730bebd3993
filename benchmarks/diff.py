"""``python -m benchmarks.diff A B``: report what changed from one store of runs to another.

A and B are folders of results, or stores. Cells present in both are compared by their medians. A difference
counts only when it exceeds the spread of the cell's own runs. The exit code is 0; 1 if --fail-over is passed
and a cell is slower by more than its value; 2 for wrong usage or for stores that share no cell.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import geometric_mean, median

from benchmarks.calibrate.store import Contents, Run, measured_runs, store_in
from benchmarks.command import OK, exit_with, positive, run_command, say
from benchmarks.errors import StoreError

SLOWER = 1
# Lower bound of a cell's noise, for cells with too few runs to estimate it.
_LEAST_NOISE = 0.1


@dataclass(frozen=True)
class Difference:
    """One cell, compared between the two stores.

    Attributes
    ----------
    seconds, cpu_seconds, peak : float
        B as a multiple of A.
    noise : float
        The largest relative deviation of the cell's runs from their median, in the noisier store.
    quiet : bool
        Whether the machine was quiet in all runs; if not, CPU seconds are more reliable than seconds.
    """

    key: str
    seconds: float
    cpu_seconds: float
    peak: float
    noise: float
    quiet: bool

    @property
    def verdict(self) -> str:
        """One of slower, faster and same, within the noise; by CPU seconds if the machine was not quiet."""
        ratio = self.seconds if self.quiet else self.cpu_seconds
        if ratio > 1 + self.noise:
            return "slower"
        return "faster" if ratio < 1 / (1 + self.noise) else "same"


def differences(before: Contents, after: Contents) -> list[Difference]:
    """Return the differences of the cells that both stores hold, sorted by key."""
    old, new = _by_key(before), _by_key(after)
    return [_difference(key, old[key], new[key]) for key in sorted(old.keys() & new.keys())]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison from the command line; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.diff", description=__doc__)
    parser.add_argument("before", type=Path, metavar="A")
    parser.add_argument("after", type=Path, metavar="B")
    parser.add_argument(
        "--fail-over", type=positive, metavar="TIMES", help="exit with 1 if a cell is slower by more"
    )
    return run_command(parser, arguments, _compare)


def _compare(args: argparse.Namespace) -> int:
    before, after = _opened(args.before), _opened(args.after)
    found = differences(before, after)
    if not found:
        raise StoreError("the stores share no cell: measure both with the same --sizes and --operations")
    print("\n".join(_table(before, after, found)))
    worst = max(each.seconds for each in found)
    return SLOWER if args.fail_over is not None and worst > args.fail_over else OK


def _opened(path: Path) -> Contents:
    if not path.exists():
        raise StoreError(f"{path} does not exist")
    contents = store_in(path).contents()
    for problem in contents.problems:
        say(problem)
    if not measured_runs(contents.runs):
        raise StoreError(f"{path} holds no runs")
    return contents


def _by_key(contents: Contents) -> dict[str, list[Run]]:
    found: dict[str, list[Run]] = {}
    for run in measured_runs(contents.runs):
        if run.cell is not None:
            found.setdefault(run.cell.key, []).append(run)
    return found


def _difference(key: str, old: Sequence[Run], new: Sequence[Run]) -> Difference:
    def ratio(name: str) -> float:
        before, after = (median(getattr(run, name) or 0.0 for run in runs) for runs in (old, new))
        return after / before if before else 1.0

    return Difference(
        key=key,
        seconds=ratio("seconds"),
        cpu_seconds=ratio("cpu_seconds"),
        peak=ratio("peak_mb"),
        noise=max(_noise(old), _noise(new), _LEAST_NOISE),
        quiet=all(run.quiet for run in (*old, *new)),
    )


def _noise(runs: Sequence[Run]) -> float:
    seconds = [run.seconds or 0.0 for run in runs]
    middle = median(seconds)
    return max(abs(each - middle) for each in seconds) / middle if middle else 0.0


def _table(before: Contents, after: Contents, found: Sequence[Difference]) -> Iterator[str]:
    for name, contents in (("A", before), ("B", after)):
        machine = contents.machine
        if machine is not None:
            where = f"{machine.cores} cores of {machine.processor}"
            yield f"{name}: {where}, GDAL {machine.gdal}, commit {machine.commit}"
    yield from _changed_versions(before, after)
    width = max(len(each.key) for each in found)
    yield f"{'cell':<{width}}  wall   CPU  peak   noise"
    for each in found:
        loud = "" if each.quiet else ", not quiet: by CPU"
        yield (
            f"{each.key:<{width}} {each.seconds:5.2f} {each.cpu_seconds:5.2f} {each.peak:5.2f} "
            f"{each.noise:6.0%}  {each.verdict}{loud}"
        )
    counts = {word: sum(each.verdict == word for each in found) for word in ("faster", "same", "slower")}
    text = ", ".join(f"{count} {word}" for word, count in counts.items())
    walls, cpus = (
        geometric_mean(getattr(each, name) for each in found) for name in ("seconds", "cpu_seconds")
    )
    yield f"{len(found)} cells: {text}; B takes {walls:.2f} times A's wall and {cpus:.2f} times its CPU time"


def _changed_versions(before: Contents, after: Contents) -> Iterator[str]:
    if before.machine is None or after.machine is None:
        return
    old, new = before.machine.versions, after.machine.versions
    changed = [f"{name} {old.get(name)} → {new.get(name)}" for name in sorted(old.keys() | new.keys())
               if old.get(name) != new.get(name)]  # fmt: skip
    if changed:
        yield f"versions: {', '.join(changed)}"


if __name__ == "__main__":
    exit_with(main)
