"""``python -m benchmarks.compare cog|tiles``."""

import signal
import sys

from benchmarks.compare.command import main

if __name__ == "__main__":
    # SIGTERM ends the child first, as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
