"""``python -m benchmarks.compare cog|tiles|read|worker``."""

import signal
import sys

from benchmarks.compare.command import main

if __name__ == "__main__":
    # Told to end, it ends its child first, as after Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
