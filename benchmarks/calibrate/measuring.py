"""One sitting: measure every cell of a grid in a child process, in random order, within a time budget.

Before each run, the remaining time is compared with what the remaining runs will take: the default
calibration's estimate, scaled by its error so far. If the time is short, repetitions are dropped first, then
the largest cells. A failed run is stored with its reason; if it lacked memory, larger cells of the same
operation are skipped.
"""

from __future__ import annotations

import random
import shutil
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from benchmarks.calibrate.cells import Cell
from benchmarks.calibrate.child import TILE_SIZE, CellJob, run_cell
from benchmarks.calibrate.places import Output, Place
from benchmarks.calibrate.store import Run, Store
from benchmarks.command import now
from benchmarks.compare.sources.cases import CASES
from benchmarks.compare.sources.rasters import Source, made_source, source_path
from benchmarks.errors import ChildFailed, NothingToMeasure, OutOfMemory
from benchmarks.process import ChildResult, run_child
from gdaltools.cost.calibration import DEFAULT_FILE, load
from gdaltools.cost.estimation import estimate_workload, layout_of
from gdaltools.cost.workload import Layout, Workload, memory_bound_mb
from gdaltools.raster.dataset import open_dataset
from gdaltools.raster.roughness import is_rough
from gdaltools.storage import locate

Say = Callable[[str], None]
_T = TypeVar("_T")

# What a child takes around its call: interpreter, imports, and the reference loop twice.
_AROUND_SECONDS = 2.5
# The rate at which sources are written, uncompressed; each is written and read once.
_WRITING_MB_PER_SECOND = 25.0
# Disk used by a source and its output, as a multiple of the source: spool, file and temporary files.
_DISK_FACTOR = 2.5
_WARM_UP_MB = 2.0
# After this time, the duration of past runs predicts that of the others.
_KNOWN_PACE_SECONDS = 15.0
# The reference loop: bytes and zlib level of one trial, and trials per measurement.
_REFERENCE_BYTES, _REFERENCE_LEVEL, _REFERENCE_TRIALS = 1 << 20, 6, 3


class Reference:
    """A loop of arithmetic and compression that takes about 30 ms, and its best time so far.

    Each time is the best of three trials: one interruption of one trial says nothing about the minute.
    """

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self._block = rng.normal(100, 4, _REFERENCE_BYTES).astype("uint8")
        self.best = float("inf")

    def seconds(self) -> float:
        """Return the wall seconds that the loop takes now."""
        took = min(self._trial() for _ in range(_REFERENCE_TRIALS))
        self.best = min(self.best, took)
        return took

    def _trial(self) -> float:
        began = time.perf_counter()
        zlib.compress(np.diff(self._block).tobytes(), _REFERENCE_LEVEL)
        return time.perf_counter() - began


@dataclass(frozen=True)
class Conditions:
    """Conditions that hold for a whole sitting.

    Attributes
    ----------
    inputs : Path
        Where sources are kept.
    seed : int
        Seed of the order of the runs.
    source_seed : int
        Seed of the sources.
    minutes : float
        Time limit for sources, runs and warm-up together.
    memory_limit_mb : float or None
        A child that takes more is killed.
    keep_free_mb : float
        Disk space to leave free.
    """

    sitting: str
    inputs: Path
    minutes: float
    seed: int
    timeout_minutes: float = 60.0
    memory_limit_mb: float | None = None
    keep_free_mb: float = 500.0
    source_seed: int = 0


@dataclass
class Measuring:
    """Run cells and store each run as soon as it is over."""

    conditions: Conditions
    place: Place
    store: Store
    say: Say
    reference: Reference = field(default_factory=Reference)
    _took: float = 0.0
    _expected: float = 0.0
    _out_of_memory: dict[str, float] = field(default_factory=dict)

    def run(self, cells: Sequence[tuple[Cell, int]]) -> int:
        """Measure cells, each with the number of its round; return the number of runs.

        Raises
        ------
        NothingToMeasure
            No cell can be measured on this machine.
        StoreError
            A run cannot be written to the store.
        """
        ends = time.monotonic() + 60 * self.conditions.minutes
        pending = [(cell, number) for cell, number in cells if self._has_space(cell)]
        random.Random(self.conditions.seed).shuffle(pending)
        if pending:
            self._warm_up(pending)
        done = 0
        while affordable := self._affordable(pending, ends):
            cell, number = affordable[0]
            pending.remove(affordable[0])
            if not self._has_space(cell) or self._is_too_large(cell):
                continue
            began = time.monotonic()
            run = self._measured(cell, number)
            self.store.append(run)
            done += 1
            self._took += time.monotonic() - began
            self._expected += _expected_seconds(cell)
            self.say(f"{done} done, {len(affordable) - 1} to go: {cell.key}: {_text(run)}")
        if pending:
            self.say(f"{len(pending)} runs were left out to keep to {self.conditions.minutes:g} minutes")
        if not done and cells:
            raise NothingToMeasure(
                "nothing could be measured: give more time (--minutes), more disk (--inputs), or other "
                "--operations"
            )
        return done

    def _affordable(self, pending: Sequence[tuple[Cell, int]], ends: float) -> list[tuple[Cell, int]]:
        """Return the most important runs that fit in the time that is left, in the order of `pending`."""
        pace = self._took / self._expected if self._took > _KNOWN_PACE_SECONDS else 1.0
        left, chosen, made = ends - time.monotonic(), set(), set[Path]()
        for at in sorted(range(len(pending)), key=lambda at: _weight(*pending[at])):
            cell = pending[at][0]
            path = self._of_source(source_path, cell)
            left -= pace * _expected_seconds(cell)
            if path not in made and not path.exists():
                left -= cell.megabytes / _WRITING_MB_PER_SECOND
            if left < 0:
                break
            made.add(path)
            chosen.add(at)
        return [pending[at] for at in sorted(chosen)]

    def _warm_up(self, pending: Sequence[tuple[Cell, int]]) -> None:
        """Run each operation once on a tiny source, to load libraries from disk and compile kernels."""
        chosen = {cell.operation_name: cell for cell, _ in pending}
        for name, cell in sorted(chosen.items()):
            self.say(f"warming up: {name}")
            self._measured(cell.model_copy(update={"megabytes": min(_WARM_UP_MB, cell.megabytes)}), 0)
        self._out_of_memory.clear()  # the measured runs decide

    def _has_space(self, cell: Cell) -> bool:
        needed = cell.megabytes * _DISK_FACTOR + self.conditions.keep_free_mb
        free = shutil.disk_usage(self.conditions.inputs).free / 1e6
        if free < needed:
            self.say(f"{cell.key} is left out: {free:,.0f} MB are free and it may take {needed:,.0f} MB")
        return free >= needed

    def _is_too_large(self, cell: Cell) -> bool:
        too_large = cell.megabytes >= self._out_of_memory.get(cell.operation_name, float("inf"))
        if too_large:
            self.say(f"{cell.key} is left out: a smaller one was killed for its memory")
        return too_large

    def _measured(self, cell: Cell, number: int) -> Run:
        """Return one run, failed or not."""
        base = Run(sitting=self.conditions.sitting, at=now(), cell=cell, round=number)
        before = self.reference.seconds()
        workload = None
        try:
            workload = self.workload(cell)
            with self.place.output(cell) as output:
                found = self._child(cell, output)
                after = self.reference.seconds()
                return self._filled(base, workload, output, found, (before, after))
        except (ChildFailed, OSError) as error:
            if isinstance(error, OutOfMemory):
                known = self._out_of_memory.get(cell.operation_name, float("inf"))
                self._out_of_memory[cell.operation_name] = min(known, cell.megabytes)
            given = None if workload is None else workload.to_dict()
            return base.model_copy(update={"error": str(error), "workload": given})

    def workload(self, cell: Cell) -> Workload:
        """Return the workload that the model sees for `cell`; its source is created if missing."""
        return workload_of(cell, self._source(cell))

    def once(self, cell: Cell, *, within: Sequence[str] = ()) -> ChildResult:
        """Run a cell once within another command, without storing the run.

        Raises
        ------
        ChildFailed
            As `run_child` does.
        """
        with self.place.output(cell) as output:
            return self._child(cell, output, within=within)

    def _child(self, cell: Cell, output: Output, *, within: Sequence[str] = ()) -> ChildResult:
        source, limit = self.place.source(self._source(cell)), self.conditions.memory_limit_mb
        job = CellJob(cell.operation, cell.variant, cell.warps, source, output.target, cell.cores)
        return run_child(
            partial(run_cell, job),
            folder=output.folder,
            timeout_seconds=60 * self.conditions.timeout_minutes,
            environment=output.environment,
            watched=[output.folder],
            memory_limit_bytes=None if limit is None else int(limit * 1e6),
            within=within,
        )

    def _filled(
        self,
        base: Run,
        workload: Workload,
        output: Output,
        found: ChildResult,
        reference: tuple[float, float],
    ) -> Run:
        answer, local = found.answer, output.local_bytes
        return base.model_copy(
            update={
                "workload": workload.to_dict(),
                "seconds": answer["seconds"],
                "cpu_seconds": answer["cpu_seconds"],
                "process_seconds": found.process_seconds,
                "peak_mb": found.peak_bytes / 1e6,
                "bound_mb": memory_bound_mb(workload),
                "read_mb": answer["read_bytes"] / 1e6,
                "written_mb": answer["written_bytes"] / 1e6,
                "temporary_mb": max(found.disk_peak_bytes - local, 0) / 1e6,
                "output_mb": output.size_bytes() / 1e6,
                "others_cores": found.others_cores,
                "reference_seconds": reference,
                "reference_best": self.reference.best,
            }
        )

    def _source(self, cell: Cell) -> Source:
        return self._of_source(made_source, cell)

    def _of_source(self, function: Callable[..., _T], cell: Cell) -> _T:
        return function(
            CASES[cell.case],
            megabytes=cell.megabytes,
            folder=self.conditions.inputs,
            layout=cell.layout,
            compress=cell.compress,
            seed=self.conditions.source_seed,
        )


def workload_of(cell: Cell, source: Source) -> Workload:
    """Return the workload of a cell as an estimate of its source would see it."""
    location = locate(source.path)
    with open_dataset(location) as dataset:
        rough = is_rough(dataset, location)
    layout = layout_of(
        (source.dtype,) * source.bands,
        source.width,
        source.height,
        rough=rough,
        codec=None if source.compression == "none" else source.compression,
        stored_mb=source.path.stat().st_size / 1e6,
        tiled=source.layout == "tiled",
        remote=cell.storage != "local",
    )
    return _workload(cell, layout)


def _workload(cell: Cell, layout: Layout) -> Workload:
    tile_size = TILE_SIZE if cell.operation == "extract_tiles" else None
    return Workload(cell.operation, cell.variant, layout, cell.cores, warps=cell.warps, tile_size=tile_size)


@cache
def _expected_seconds(cell: Cell) -> float:
    """Return the expected seconds of a run by the default calibration, the process around it included."""
    case = CASES[cell.case]
    width, height = case.size(cell.megabytes)
    layout = layout_of(
        (case.dtype,) * case.bands,
        width,
        height,
        codec=cell.compress,
        tiled=cell.layout == "tiled",
        remote=cell.storage != "local",
    )
    found = estimate_workload(_workload(cell, layout), calibration=load(DEFAULT_FILE))
    return _AROUND_SECONDS + found.seconds


def _weight(cell: Cell, number: int) -> tuple[bool, float, float]:
    """Return the sort key of importance: repetitions are dropped first, then the largest, slowest cells."""
    return number > 1, cell.megabytes, _expected_seconds(cell)


def _text(run: Run) -> str:
    if run.error is not None:
        return f"FAILED, {run.error}"
    noisy = "" if run.quiet else ", not quiet"
    return f"{run.seconds:.2f} s, {run.peak_mb:.0f} MB{noisy}"
