"""``python -m tests.hostile_files [FILES] [SEED]``: 2,000 damaged files by default."""

from __future__ import annotations

import sys

from tests.hostile_files.run import run

if __name__ == "__main__":
    given = [int(argument) for argument in sys.argv[1:]]
    verdict = run(given[0] if given else 2000, seed=given[1] if len(given) > 1 else 1)
    print(verdict)
    sys.exit(bool(verdict.untyped))
