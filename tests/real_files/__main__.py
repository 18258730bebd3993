"""``python -m tests.real_files [FOLDER ...]``: every raster below the folders, or the zoo, step by step.

Each step is judged by GDAL's reads of the source and of what was made of it, and by GDAL's COG driver. The
outcomes are printed as a table and kept as lines of JSON, from which an interrupted run goes on. Exit codes:
0 if every step was right or refused by one of gdaltools' errors, 1 if there are faults, 2 if the arguments
are wrong.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.real_files import zoo
from tests.real_files.child import STEPS
from tests.real_files.run import LIMIT_SECONDS, rasters_below, run, table


def main(argv: Sequence[str] | None = None) -> int:
    """Run as the arguments say; return the exit code."""
    parser = argparse.ArgumentParser(prog="make files ARGS=", description=__doc__.partition(": ")[2])
    parser.add_argument("folders", nargs="*", type=Path, help="folders or files; none: the whole zoo")
    parser.add_argument("--sample", type=int, metavar="N", help="only N rasters of the zoo")
    parser.add_argument("--seed", type=int, default=1, help="of the sample")
    parser.add_argument("--step", action="append", choices=STEPS, help="only this step; may be repeated")
    parser.add_argument("--limit", type=float, default=LIMIT_SECONDS, help="seconds for a step")
    parser.add_argument("--children", type=int, default=2, help="processes at a time")
    parser.add_argument(
        "--json", type=Path, default=Path(".cache/files.jsonl"), help="where outcomes are kept"
    )
    parser.add_argument("--fresh", action="store_true", help="judge again what is kept there")
    options = parser.parse_args(argv)
    if missing := [folder for folder in options.folders if not folder.exists()]:
        parser.error(f"{missing[0]} does not exist")
    rasters: list[Path | zoo.Animal] = [path for folder in options.folders for path in rasters_below(folder)]
    if not options.folders:
        rasters += zoo.everything() if options.sample is None else zoo.sample(options.sample, options.seed)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    if options.fresh:
        options.json.unlink(missing_ok=True)
    judged = []
    for one in run(
        rasters,
        journal=options.json,
        children=options.children,
        limit=options.limit,
        steps=options.step or tuple(STEPS),
    ):
        judged.append(one)
        ended = ", ".join(f"{step} {outcome}" for step, (outcome, _) in one.faults.items()) or "no fault"
        print(f"{len(judged)} of {len(rasters)}: {one.name}: {ended}", file=sys.stderr)
    print(table(judged))
    return 1 if any(one.faults for one in judged) else 0


if __name__ == "__main__":
    sys.exit(main())
