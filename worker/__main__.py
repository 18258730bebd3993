"""``python -m worker``. A task's process imports this module again, so it has no imports at module level."""

import sys

if __name__ == "__main__":
    from worker.cli import main

    sys.exit(main())
