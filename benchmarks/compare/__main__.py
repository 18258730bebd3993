"""``python -m benchmarks.compare cog``."""

import sys

from benchmarks.compare.command import main

if __name__ == "__main__":
    sys.exit(main())
