"""The store: one line of JSON for each sitting and for each run, only ever appended to.

benchmarks/README.md has the schema. A line that cannot be read is passed over and told of; the others count.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from benchmarks.calibrate.cells import Cell
from benchmarks.errors import StoreError
from benchmarks.machine import Machine
from gdaltools.cost.workload import Workload

SCHEMA = "gdaltools-runs-1"
FILE_NAME = "runs.jsonl"

# Of a core, used by others during a run, and of the reference loop's best time: above either it is not quiet.
_QUIET_CORES, _QUIET_REFERENCE = 0.25, 1.25


class Sitting(BaseModel):
    """One call of the command: what its runs were made on, and with which options."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["sitting"] = "sitting"
    schema_name: Literal["gdaltools-runs-1"] = "gdaltools-runs-1"
    sitting: str
    created: str
    machine: Machine
    options: dict[str, Any]


class Run(BaseModel):
    """One child process, or one task of production.

    Attributes
    ----------
    cell : Cell or None
        None for a task of production.
    workload : dict or None
        What the model sees of it (`gdaltools.cost.workload.Workload`); None where the source could not be
        made.
    error : str or None
        Why there are no figures.
    processor : str or None
        Of a task of production: what it ran on; else the sitting says it.
    seconds, cpu_seconds : float
        Of the call alone, imports done before.
    process_seconds : float
        With interpreter and imports.
    peak_mb : float
        Resident memory of the process tree.
    bound_mb : float
        What the operation's plan bounds it by.
    read_mb, written_mb : float
        By system calls.
    temporary_mb : float
        What lay on the local disk at the most, beyond the output.
    output_mb : float
        The output's size.
    others_cores : float
        Cores that were busy with something else.
    reference_seconds : tuple of 2 float
        The reference loop, before and after.
    reference_best : float
        Its best time in the sitting until then.
    """

    model_config = ConfigDict(frozen=True)

    kind: Literal["run"] = "run"
    sitting: str
    at: str
    cell: Cell | None = None
    round: int = 1
    workload: dict[str, Any] | None = None
    error: str | None = None
    processor: str | None = None
    seconds: float | None = None
    cpu_seconds: float | None = None
    process_seconds: float | None = None
    peak_mb: float | None = None
    bound_mb: float | None = None
    read_mb: float | None = None
    written_mb: float | None = None
    temporary_mb: float | None = None
    output_mb: float | None = None
    others_cores: float | None = None
    reference_seconds: tuple[float, float] | None = None
    reference_best: float | None = None

    @property
    def measured(self) -> bool:
        """Whether it says what a workload took."""
        return self.error is None and self.seconds is not None and self.workload is not None

    @property
    def work(self) -> Workload:
        """The workload as a value."""
        assert self.workload is not None
        return Workload.from_dict(self.workload)

    @property
    def quiet(self) -> bool:
        """Whether nothing else kept the machine busy; of production nobody knows, and it counts as it is."""
        if (self.others_cores or 0.0) > _QUIET_CORES:
            return False
        if self.reference_seconds is None or not self.reference_best:
            return True
        return max(self.reference_seconds) <= _QUIET_REFERENCE * self.reference_best


_LINE: TypeAdapter[Sitting | Run] = TypeAdapter(Sitting | Run)


@dataclass(frozen=True)
class Contents:
    """What a store holds.

    Attributes
    ----------
    problems : tuple of str
        A sentence for each line that was passed over.
    """

    sittings: tuple[Sitting, ...]
    runs: tuple[Run, ...]
    problems: tuple[str, ...]

    @property
    def machine(self) -> Machine | None:
        """The machine of the last sitting."""
        return self.sittings[-1].machine if self.sittings else None


class Store:
    """A file of lines."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, line: Sitting | Run) -> None:
        """Add a line.

        Raises
        ------
        StoreError
            The file cannot be written to.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            cut = self._is_cut()
            with self.path.open("a") as stream:
                stream.write(f"{chr(10) * cut}{line.model_dump_json()}\n")
        except OSError as error:
            raise StoreError(
                f"{self.path} cannot be written to ({error.strerror}): name another folder with --results, "
                "or make space"
            ) from error

    def _is_cut(self) -> bool:
        """Whether the last line has no end, as after a crash: the next one is not to be lost with it."""
        if not self.path.exists() or not self.path.stat().st_size:
            return False
        with self.path.open("rb") as stream:
            stream.seek(-1, 2)
            return stream.read(1) != b"\n"

    def contents(self) -> Contents:
        """All that can be read; nothing of a file that is not there.

        Raises
        ------
        StoreError
            The file is there, and cannot be read, or no line of it is one of a store.
        """
        sittings: list[Sitting] = []
        runs: list[Run] = []
        problems: list[str] = []
        lines = list(self._lines())
        for number, text in lines:
            try:
                line = _LINE.validate_python(json.loads(text))
            except (ValidationError, ValueError) as error:
                problems.append(f"{self.path.name}, line {number} is passed over: {_first(error)}")
                continue
            if isinstance(line, Sitting):
                sittings.append(line)
            else:
                runs.append(line)
        if problems and len(problems) == len(lines):
            raise StoreError(f"{self.path} is no store of the schema {SCHEMA}: {problems[0]}")
        return Contents(tuple(sittings), tuple(runs), tuple(problems))

    def _lines(self) -> Iterator[tuple[int, str]]:
        if not self.path.exists():
            return
        try:
            text = self.path.read_text(errors="replace")
        except OSError as error:
            raise StoreError(f"{self.path} cannot be read: {error.strerror}") from error
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                yield number, line


def _first(error: Exception) -> str:
    if isinstance(error, ValidationError):
        problem = error.errors()[-1]
        return f"{'.'.join(map(str, problem['loc'])) or 'it'}: {problem['msg']}"
    return f"it is no JSON ({error})"


def store_in(place: Path) -> Store:
    """The store that a file is, or that a folder of results holds."""
    return Store(place / FILE_NAME if place.is_dir() else place)


def measured_runs(runs: Sequence[Run]) -> list[Run]:
    """Those that a model can be fitted to."""
    return [run for run in runs if run.measured]
