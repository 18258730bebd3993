"""Run the command line of `gdaltools.cli` as ``python -m gdaltools``."""

import sys

from gdaltools.cli import main

if __name__ == "__main__":
    sys.exit(main())
