"""``python -m tests.chaos.worker``: the worker's own command line, obedient to orders to die.

A package, as the worker is: so a task's process does not import its main module anew.
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
