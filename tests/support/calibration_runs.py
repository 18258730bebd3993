"""Runs of an invented machine: the right model is known, and the noise follows from a seed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.calibrate.cells import Cell
from benchmarks.calibrate.store import Run, Sitting, Store
from benchmarks.machine import Machine
from gdaltools.cost.workload import Layout, Workload, features, memory_bound_mb

MACHINE = Machine(
    processor="Z80",
    cores=2,
    memory_mb=8000,
    system="Linux",
    python="3.11.0",
    gdal="3.10.3",
    versions={"gdaltools": "0.1.0"},
    commit="abc",
    load=0.1,
)
#: Seconds per unit of each feature.
TRUTH = {
    "start": 0.5,
    "serial": 0.002,
    "work:analysis:byte": 0.02,
    "work:analysis:wide": 0.03,
    "work:window:byte": 0.01,
    "work:window:wide": 0.012,
    "decode:deflate": 0.006,
    "strips": 0.001,
}
SIZES = (8.0, 34.0, 150.0, 650.0)


def sitting(name: str = "one", **machine: object) -> Sitting:
    return Sitting(
        sitting=name, created="2026-01-01", machine=MACHINE.model_copy(update=dict(machine)), options={}
    )


def runs(
    *,
    sizes: Sequence[float] = SIZES,
    operations: Sequence[tuple[str, str]] = (("create_cog", "analysis"), ("extract_tiles", "window")),
    rounds: int = 2,
    noise: float = 0.06,
    seed: int = 0,
    slower: float = 1.0,
    outliers: float = 0.0,
) -> list[Run]:
    """Return what that machine measured: two dtypes, plain and compressed, on one core and on two."""
    rng = np.random.default_rng(seed)
    made = []
    for operation, variant in operations:
        for size in sizes:
            for number in range(rounds):
                for case, layout, compress, cores in (
                    ("relief", "striped", None, 2),
                    ("relief", "tiled", "deflate", 1),
                    ("noise-u16", "tiled", None, 2),
                    ("noise-u16", "striped", "deflate", 1),
                ):
                    cell = Cell(
                        operation=operation,  # type: ignore[arg-type]
                        variant=variant,
                        case=case,
                        layout=layout,  # type: ignore[arg-type]
                        compress=compress,
                        megabytes=size,
                        cores=cores,
                    )
                    work = workload(cell)
                    seconds = sum(
                        TRUTH[name] * value for name, value in features(work).items() if name in TRUTH
                    )
                    seconds *= slower * float(np.exp(rng.normal(0, noise)))
                    if rng.random() < outliers:
                        seconds *= 20
                    bound = memory_bound_mb(work)
                    made.append(
                        Run(
                            sitting="one",
                            at="2026-01-01",
                            cell=cell,
                            round=number + 1,
                            workload=work.to_dict(),
                            seconds=seconds,
                            cpu_seconds=seconds * cores,
                            process_seconds=seconds + 1,
                            peak_mb=bound * float(rng.uniform(0.5, 0.9)),
                            bound_mb=bound,
                            others_cores=0.01,
                            reference_seconds=(0.1, 0.1),
                            reference_best=0.1,
                        )
                    )
    return made


def workload(cell: Cell) -> Workload:
    """Return the workload that the model sees for a cell, without its source."""
    bands, itemsize = (3, 1) if cell.case == "relief" else (4, 2)
    side = round((cell.megabytes * 1e6 / bands / itemsize) ** 0.5)
    stored = cell.megabytes * 0.6 if cell.compress else None
    layout = Layout(
        side, side, bands, itemsize, codec=cell.compress, stored_mb=stored, tiled=cell.layout == "tiled"
    )
    return Workload(cell.operation, cell.variant, layout, cell.cores)


def store(folder: Path, made: Sequence[Run], *sittings: Sitting) -> Store:
    """Return a store of these runs."""
    found = Store(folder / "runs.jsonl")
    for each in sittings or (sitting(),):
        found.append(each)
    for run in made:
        found.append(run)
    return found
