"""``python -m tests.fuzz_cog``: COGs of damaged rasters with random options.

Each trial runs in a child process with a time limit. It must end with one of gdaltools' errors and leave no
files, or with a valid COG whose pixels are the source's. Everything follows from the seed; ``--seed S --only
N`` repeats a trial. Exit codes: 0 if all went well, 1 if there are findings, 2 if the arguments are wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from random import randrange
from typing import Any

from tests.fuzz_cog.run import LIMIT_SECONDS, fuzz


def main(argv: Sequence[str] | None = None) -> int:
    """Run as the arguments say; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz_cog", description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, help="default: a new one, printed")
    parser.add_argument("--only", type=int, metavar="NUMBER", help="only this try")
    parser.add_argument("--children", type=int, default=2, help="processes at a time")
    parser.add_argument("--limit", type=float, default=LIMIT_SECONDS, help="seconds for a try")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="put the sources of findings there")
    options = parser.parse_args(argv)
    seed = randrange(2**31) if options.seed is None else options.seed
    report = fuzz(
        seed=seed, minutes=options.minutes, only=options.only, children=options.children,
        limit=options.limit, keep=options.keep,
    )  # fmt: skip
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=2))
    print(summary(report))
    return 1 if report["findings"] else 0


def summary(report: dict[str, Any]) -> str:
    """Return the report as text."""
    lines = [f"seed {report['seed']}: {report['tries']} tries in {report['seconds']} s"]
    lines += [f"{count:8} {ended}" for ended, count in report["ended"].items()]
    for found in report["findings"]:
        case = found["case"]
        lines.append(f"\ntry {case['number']}: {case['source']}, {'whole' if case['whole'] else 'damaged'}")
        lines.append(f"  pieces {case['piece']}, {case['options']}")
        lines.append(f"  {found['problem']}")
    lines.append(f"\n{len(report['findings'])} findings" if report["findings"] else "no findings")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
