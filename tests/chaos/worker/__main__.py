"""``python -m tests.chaos.worker``: the worker's own command line, which obeys orders to die.

It is a package, as the worker is, so that a task's process does not import the main module again.
"""

import os
import sys

from tests.chaos import crashes
from worker import cli
from worker.task import child

child.PRELOAD += ["tests.support.handlers", "tests.chaos.crashes"]
os.environ[crashes.WORKER] = str(os.getpid())

if __name__ == "__main__":
    sys.exit(cli.main())
