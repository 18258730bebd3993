"""``python -m worker.local.broker``: run the development broker on its own."""

import sys

from worker.local.broker.server import main

sys.exit(main())
