"""``python -m benchmarks.compare cog|tiles``."""

from benchmarks.command import exit_with
from benchmarks.compare.command import main

if __name__ == "__main__":
    exit_with(main)
