"""``python -m gdaltools``: the command line of `gdaltools.cli`."""

import sys

from gdaltools.cli import main

if __name__ == "__main__":
    sys.exit(main())
