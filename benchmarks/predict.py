"""``python -m benchmarks.predict``: compare estimates with measurements, on rasters that no fit has seen.

The rasters are generated from another seed than the grid's, with sizes and options that it does not have; one
has more than 3 GB of pixels. The exit code is 0, or 2 for wrong usage or something missing.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.calibrate.cells import Cell
from benchmarks.calibrate.measuring import Conditions, Measuring
from benchmarks.calibrate.places import place
from benchmarks.calibrate.store import FILE_NAME, Store
from benchmarks.child import usable_cores
from benchmarks.command import OK, add_inputs, exit_with, positive, run_command
from gdaltools.cost.calibration import load
from gdaltools.cost.estimation import estimate_workload
from gdaltools.cost.workload import Operation

_SEED = 7
_OF_LARGEST: tuple[tuple[Operation, str, str, str | None, float], ...] = (
    ("create_cog", "analysis", "relief", "lzw", 0.12),
    ("extract_tiles", "warp", "noise-rgb", "deflate", 0.4),
    ("create_cog", "analysis", "noise-u16", None, 1.0),
)
_LARGEST_MB = 3300.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Predict and measure from the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.predict", description=__doc__)
    parser.add_argument(
        "--calibration", type=Path, metavar="FILE", help="(GDALTOOLS_CALIBRATION, or the default)"
    )
    parser.add_argument("--largest-mb", type=positive, default=_LARGEST_MB, help=f"({_LARGEST_MB:g})")
    add_inputs(parser)
    return run_command(parser, arguments, _predict)


def _predict(args: argparse.Namespace) -> int:
    calibration, inputs = load(args.calibration), args.inputs
    inputs.mkdir(parents=True, exist_ok=True)
    conditions = Conditions("predict", inputs, float("inf"), seed=0, source_seed=_SEED)
    print(f"by: {calibration.source}")
    with place("local", inputs) as where:
        measuring = Measuring(conditions, where, Store(inputs / FILE_NAME), print)
        for operation, variant, case, compress, share in _OF_LARGEST:
            cell = Cell(
                operation=operation,
                variant=variant,
                case=case,
                layout="tiled",
                compress=compress,
                megabytes=share * args.largest_mb,
                cores=usable_cores(),
            )
            estimate = estimate_workload(measuring.workload(cell), calibration=calibration)
            found = measuring.once(cell)
            seconds, peak = found.answer["seconds"], found.peak_bytes / 1e6
            inside = "within" if estimate.seconds_low <= seconds <= estimate.seconds_high else "OUTSIDE"
            times = f"{seconds / estimate.seconds:.2f} times, {inside}"
            print(
                f"{cell.key}: estimate {estimate.seconds:.1f} s ({estimate.seconds_low:.1f} to "
                f"{estimate.seconds_high:.1f}), measured {seconds:.1f} s, {times}; memory {peak:.0f} MB of "
                f"{estimate.peak_memory_mb:.0f}; others used {found.others_cores:.1f} cores"
            )
    return OK


if __name__ == "__main__":
    exit_with(main)
