"""``python -m tests.support.leaky_worker``: a worker some of whose tasks fail with all its secrets."""

import sys

from worker import cli
from worker.task import child

child.PRELOAD.append("tests.support.leaky_worker.handlers")

if __name__ == "__main__":
    sys.exit(cli.main())
