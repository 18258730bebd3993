"""``python -m benchmarks.run``: measure this machine, fit a model, and derive the routing thresholds.

    python -m benchmarks.run                                              # about 20 minutes
    python -m benchmarks.run --quick                                      # 3 minutes
    python -m benchmarks.run --ship gdaltools/cost/default_calibration.json    # as the package's own
    python -m benchmarks.run --from-database                              # no measuring: tasks of production

Results go to a new folder below benchmarks/results: the store, calibration.json, routing.env, and the report.
The exit code is 0 if there are thresholds, 1 if there are too few runs for any, 2 for wrong usage or
something missing, 130 after Ctrl-C; completed runs are kept, and --resume continues from them.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

from benchmarks.calibrate.answer import Answer, Target
from benchmarks.calibrate.cells import BUDGETS, Budget, Cell, Scale, grid, operation_names
from benchmarks.calibrate.fit import Fitted
from benchmarks.calibrate.places import place
from benchmarks.calibrate.results import PEERS, PROFILES, Results, Targets, as_json
from benchmarks.calibrate.store import Run, Sitting, measured_runs
from benchmarks.child import usable_cores
from benchmarks.command import OK, add_inputs, as_options, exit_with, positive, run_command, say
from benchmarks.compare.command import main as compare
from benchmarks.errors import NothingToMeasure, StoreError, TooFewRuns
from benchmarks.machine import require
from gdaltools.errors import InvalidParameter

TOO_FEW = 1

_RESULTS = Path(__file__).parent / "results"
_REQUIRED = (("measuring memory", "psutil"), ("fitting a model", "scikit-learn"), ("a plot", "matplotlib"))
_PEERS_MB, _PEERS_MINUTES = 64, 1.5


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; return the exit code."""
    interrupted = "interrupted: python -m benchmarks.run --resume goes on"
    return run_command(_parser(), arguments, run, codes={TooFewRuns: TOO_FEW}, interrupted=interrupted)


def run(args: argparse.Namespace) -> int:
    """Measure, unless the arguments say not to, and conclude.

    Raises
    ------
    InvalidParameter, MissingPackage
        An argument is wrong, or something that it needs is not installed.
    StoreError
        The results' folder cannot be written to.
    NothingToMeasure, TooFewRuns
        There is nothing to conclude from.
    """
    for purpose, package in _REQUIRED:
        require(purpose, package)
    if args.profile:
        from benchmarks.calibrate.profiling import require_profiler

        require_profiler()
    results = Results(_folder(args))
    if args.from_database:
        _read_history(results)
    elif not args.refit:
        _measure(args, results)
    fitted, found = results.conclude(_targets(args), note=_note(results), say=say)
    _tell(results, fitted, found)
    if args.ship is not None:
        _ship(fitted, args.ship)
    return OK


def _measure(args: argparse.Namespace, results: Results) -> None:
    from benchmarks.calibrate.measuring import Conditions, Measuring

    budget = _budget(args)
    inputs = args.inputs
    try:
        inputs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"{inputs} cannot be made ({error.strerror}): name another folder with --inputs"
        ) from error
    with place(args.storage, inputs) as where:
        cells = grid(budget, operations=args.operations, cores=args.cores, storage=where.kind, seed=args.seed)
        remaining = _remaining(cells, budget, results.store.contents().runs)
        sitting = Sitting(options=as_options(args))
        results.store.append(sitting)
        conditions = Conditions(
            sitting=sitting.sitting,
            inputs=inputs,
            minutes=budget.minutes,
            seed=args.seed,
            memory_limit_mb=args.memory_limit_mb,
            keep_free_mb=args.keep_free_mb,
        )
        measuring = Measuring(conditions, where, results.store, say)
        say(f"{len(remaining)} runs of {len(cells)} cells, into {results.folder}")
        try:
            measuring.run(remaining)
        except NothingToMeasure as error:
            if not measured_runs(results.store.contents().runs):
                raise
            say(str(error))
        if args.profile:
            from benchmarks.calibrate.profiling import profile

            kept = [run.cell for run in results.store.contents().runs if run.cell and run.measured]
            profile(measuring, kept, results.folder / PROFILES, say)
    if args.peers:
        _compare_peers(args, results)


def _remaining(cells: Sequence[Cell], budget: Budget, runs: Sequence[Run]) -> list[tuple[Cell, int]]:
    """Return the grid's runs that the store does not hold yet, as cells and the numbers of their rounds."""
    done = Counter(run.cell.key for run in runs if run.cell is not None and run.measured)
    rounds = dict(zip(budget.sizes, budget.rounds, strict=True))
    return [
        (cell, number)
        for cell in cells
        for number in range(1, rounds[cell.megabytes] + 1)
        if number > done[cell.key]
    ]


def _compare_peers(args: argparse.Namespace, results: Results) -> None:
    say(f"create_cog beside its peers, {_PEERS_MB} MB")
    arguments = ["cog", "--case", "relief", "--megabytes", str(_PEERS_MB), "--rounds", "1", "--inputs"]
    compare([*arguments, str(args.inputs), "--json", str(results.folder / PEERS)])


def _read_history(results: Results) -> None:
    from benchmarks.calibrate.history import runs_of_database

    sitting = Sitting(options={"from_database": True})
    runs, silent = runs_of_database(sitting.sitting)
    if silent:
        say(f"{silent} tasks say too little, or did several things at once: passed over")
    results.store.append(sitting)
    for each in runs:
        results.store.append(each)
    say(f"{len(runs)} tasks of production, into {results.folder}")


def _ship(fitted: Fitted, path: Path) -> None:
    default = fitted.calibration.model_copy(update={"default": True, "thresholds": None})
    try:
        path.write_text(as_json(default))
    except OSError as error:
        raise StoreError(f"{path} cannot be written to: {error.strerror}") from error
    say(f"shipped as {path}")


def _tell(results: Results, fitted: Fitted, found: Answer) -> None:
    print(found.environment_file())
    for name, model in fitted.calibration.models.items():
        judged = model.judgement
        if judged is None:
            print(f"{name}: {model.runs} runs; too few sizes to hold some out")
            continue
        print(
            f"{name}: {model.runs} runs; {judged.runs} held out of {judged.held_out_from_mb:,.0f} MB and "
            f"more: median error {judged.median_error:.1%}, {judged.coverage:.0%} within the 90% interval"
        )
    for note in fitted.notes:
        say(note)
    print(f"report: {results.folder / 'report.html'}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_argument_group("what is measured")
    scale = what.add_mutually_exclusive_group()
    scale.add_argument("--quick", action="store_const", const="quick", dest="scale", help="3 minutes")
    scale.add_argument("--full", action="store_const", const="full", dest="scale", help="hours")
    parser.set_defaults(scale="default")
    what.add_argument(
        "--minutes", type=positive, help="time budget in minutes; the largest sizes are left out first"
    )
    what.add_argument(
        "--operations", nargs="+", default=[], metavar="NAME", help=f"of {', '.join(operation_names())}"
    )
    what.add_argument("--sizes", nargs="+", type=positive, metavar="MB", help="other sizes than the scale's")
    what.add_argument("--cores", nargs="+", type=int, help="numbers of cores (1 and all)")
    what.add_argument("--storage", default="local", help="local, azurite, or abfs://container/prefix (local)")
    what.add_argument("--profile", action="store_true", help="also flame graphs, and memory over time")
    what.add_argument(
        "--no-peers", action="store_false", dest="peers", help="do not run create_cog beside its peers"
    )
    what.add_argument(
        "--memory-limit-mb", type=positive, help="end a run that takes more, as a container would"
    )
    what.add_argument("--keep-free-mb", type=positive, default=500.0, help="disk that is left free (500)")
    add_inputs(what)
    what.add_argument("--seed", type=int, default=0)
    how = parser.add_argument_group("results")
    how.add_argument("--results", type=Path, metavar="FOLDER", help="(a new one below benchmarks/results)")
    how.add_argument("--resume", action="store_true", help="go on with the newest results, or with --results")
    how.add_argument("--refit", action="store_true", help="do not measure: conclude anew from what there is")
    how.add_argument(
        "--from-database", action="store_true", help="do not measure: take what the worker recorded"
    )
    how.add_argument("--ship", type=Path, metavar="FILE", help="also write the calibration as a default one")
    for name, words, values in (
        ("function", "the function app", (30.0, 2, 7000.0, 500.0)),
        ("worker", "the worker", (60.0, usable_cores(), 7700.0, 20_000.0)),
    ):
        group = parser.add_argument_group(f"what {words} has")
        minutes, cores, memory, disk = values
        group.add_argument(f"--{name}-minutes", type=positive, default=minutes, help=f"({minutes:g})")
        group.add_argument(f"--{name}-cores", type=int, default=cores, help=f"({cores})")
        group.add_argument(f"--{name}-memory-mb", type=positive, default=memory, help=f"({memory:g})")
        group.add_argument(f"--{name}-disk-mb", type=positive, default=disk, help=f"({disk:g})")
    return parser


def _budget(args: argparse.Namespace) -> Budget:
    budget = BUDGETS[cast(Scale, args.scale)]
    if args.sizes:
        sizes = tuple(sorted(set(args.sizes)))
        kinds, rounds = budget.kinds[:1] * len(sizes), budget.rounds[:1] * len(sizes)
        budget = replace(budget, sizes=sizes, kinds=kinds, rounds=rounds)
    cores = args.cores or sorted({1, usable_cores()})
    if not all(1 <= each <= usable_cores() for each in cores):
        raise InvalidParameter(f"--cores {' '.join(map(str, cores))}: there are {usable_cores()} here")
    args.cores = cores
    minutes = args.minutes or budget.minutes
    # The comparison with peers counts towards the time as well.
    args.peers = args.peers and args.scale != "quick" and minutes > 2 * _PEERS_MINUTES
    return replace(budget, minutes=minutes - _PEERS_MINUTES if args.peers else minutes)


def _targets(args: argparse.Namespace) -> Targets:
    found = [
        Target(
            words,
            minutes=getattr(args, f"{name}_minutes"),
            cores=getattr(args, f"{name}_cores"),
            memory_mb=getattr(args, f"{name}_memory_mb"),
            disk_mb=getattr(args, f"{name}_disk_mb"),
        )
        for name, words in (("function", "function app"), ("worker", "worker"))
    ]
    for target in found:
        if target.cores < 1:
            raise InvalidParameter(f"{target.name}: {target.cores} vCPU: give at least 1")
    return Targets(*found)


def _folder(args: argparse.Namespace) -> Path:
    """Return the folder of results: the one passed, the newest, or a new one."""
    if args.results is not None:
        return cast(Path, args.results)
    if args.resume or args.refit:
        found = sorted(path.parent for path in _RESULTS.glob("*/runs.jsonl"))
        if not found:
            raise InvalidParameter(
                f"there are no results below {_RESULTS.name} yet: run without --resume or --refit"
            )
        return found[-1]
    kind = "database" if args.from_database else args.scale
    return _RESULTS / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{kind}"


def _note(results: Results) -> str:
    """Return a sentence on the origin of the runs, from the store's sittings."""
    text = []
    for sitting in results.store.contents().sittings:
        options = sitting.options
        if options.get("from_database"):
            text.append("tasks of production")
        elif options:
            text.append(
                f"scale {options.get('scale')}, storage {str(options.get('storage')).partition(':')[0]}"
            )
    return f"Fitted to {'; '.join(dict.fromkeys(text)) or 'runs of unknown origin'}."


if __name__ == "__main__":
    exit_with(main)
