"""``python -m tests.support.worker_main``: the worker's command line, with the tests' task types."""

import sys

from worker import child, cli

child.PRELOAD.append("tests.support.handlers")

if __name__ == "__main__":
    sys.exit(cli.main())
