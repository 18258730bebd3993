"""A process that reads numbers of trials, one a line, and writes each outcome as a line of JSON."""

from __future__ import annotations

import json
import resource
import sys
import warnings
from pathlib import Path

import dask

from tests.fuzz_cog.attempt import attempt

_MEMORY_BYTES = 6 << 30


def main() -> None:
    """Run trials until standard input ends."""
    seed, sources, folder = int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    warnings.simplefilter("ignore")
    dask.config.set(num_workers=2)
    answers = sys.stdout
    sys.stdout = sys.stderr
    for line in sys.stdin:
        outcome = attempt(seed, int(line), sources, folder)
        print(json.dumps(outcome.as_json(), default=str), file=answers, flush=True)


if __name__ == "__main__":
    main()
