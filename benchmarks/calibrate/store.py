"""The store: one line of JSON for each sitting and for each run, append-only.

benchmarks/README.md has the schema. A line that cannot be read is skipped and reported; the others count.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from benchmarks.calibrate.cells import Cell
from benchmarks.command import now
from benchmarks.errors import StoreError
from benchmarks.machine import Machine, this_machine
from gdaltools.cost.workload import Workload

SCHEMA = "gdaltools-runs-1"
FILE_NAME = "runs.jsonl"

# A run is not quiet if others used more than this share of a core, or the reference loop took more than this
# multiple of its best time.
_QUIET_CORES, _QUIET_REFERENCE = 0.25, 1.25


class Sitting(BaseModel):
    """One call of the command: the machine of its runs, and the options."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["sitting"] = "sitting"
    schema_name: Literal["gdaltools-runs-1"] = "gdaltools-runs-1"
    sitting: str = Field(default_factory=lambda: uuid4().hex[:12])
    created: str = Field(default_factory=now)
    machine: Machine = Field(default_factory=this_machine)
    options: dict[str, Any]


class Run(BaseModel):
    """One child process, or one task of production.

    Attributes
    ----------
    cell : Cell or None
        None for a task of production.
    workload : dict or None
        What the model sees of it (`gdaltools.cost.workload.Workload`); None if the source could not be
        created.
    error : str or None
        Why there are no figures.
    processor : str or None
        For a task of production, the processor it ran on; otherwise the sitting holds it.
    seconds, cpu_seconds : float
        Time of the call alone, without imports.
    process_seconds : float
        Time of the process, with interpreter and imports.
    peak_mb : float
        Peak resident memory of the process tree.
    bound_mb : float
        The memory bound of the operation's plan.
    read_mb, written_mb : float
        Read and written by system calls.
    temporary_mb : float
        Peak use of the local disk, without the output.
    output_mb : float
        Size of the output.
    others_cores : float
        Cores that other processes kept busy.
    reference_seconds : tuple of 2 float
        Time of the reference loop, before and after.
    reference_best : float
        Best time of the reference loop in the sitting so far.
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
        """Whether the run states what a workload took."""
        return self.error is None and self.seconds is not None and self.workload is not None

    @property
    def work(self) -> Workload:
        """The workload as a value."""
        assert self.workload is not None
        return Workload.from_dict(self.workload)

    @property
    def quiet(self) -> bool:
        """Whether the machine was otherwise idle; unknown for a task of production, which counts as quiet."""
        if (self.others_cores or 0.0) > _QUIET_CORES:
            return False
        if self.reference_seconds is None or not self.reference_best:
            return True
        return max(self.reference_seconds) <= _QUIET_REFERENCE * self.reference_best


_LINE: TypeAdapter[Sitting | Run] = TypeAdapter(Sitting | Run)


@dataclass(frozen=True)
class Contents:
    """The contents of a store.

    Attributes
    ----------
    problems : tuple of str
        A sentence for each line that was skipped.
    """

    sittings: tuple[Sitting, ...]
    runs: tuple[Run, ...]
    problems: tuple[str, ...]

    @property
    def machine(self) -> Machine | None:
        """The machine of the last sitting."""
        return self.sittings[-1].machine if self.sittings else None


class Store:
    """A file of JSON lines."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, line: Sitting | Run) -> None:
        """Append a line.

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
        """Return whether the last line lacks its newline, as after a crash; the next must start a new one."""
        if not self.path.exists() or not self.path.stat().st_size:
            return False
        with self.path.open("rb") as stream:
            stream.seek(-1, 2)
            return stream.read(1) != b"\n"

    def contents(self) -> Contents:
        """Return everything that can be read; nothing if the file does not exist.

        Raises
        ------
        StoreError
            The file exists but cannot be read, or none of its lines belongs to a store.
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
    """Return the store at `place`: a store file, or a folder of results that holds one."""
    return Store(place / FILE_NAME if place.is_dir() else place)


def measured_runs(runs: Sequence[Run]) -> list[Run]:
    """Return the runs that a model can be fitted to."""
    return [run for run in runs if run.measured]
