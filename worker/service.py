"""The worker put together: settings in, a running service out, and everything stopped again at the end.

The order of starting is the order in which others look: the probes' port first, then the embedded services
where they are wanted, the database, the bus, and last the slots that take messages.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from psycopg.conninfo import make_conninfo

from gdaltools import storage
from gdaltools.errors import GdalToolsError
from gdaltools.estimate import estimate_megabytes
from gdaltools.routing import RoutingRules, route
from worker import api, health
from worker.bus import Bus, Message
from worker.errors import BusError, InvalidMessage
from worker.health import Readiness
from worker.listener import listen
from worker.local.broker import Broker, QueueSpec
from worker.local.postgres import EmbeddedPostgres
from worker.machine import Machine
from worker.outbox import Outbox
from worker.platform_database import PlatformDatabase
from worker.processor import Processor, ProcessorOptions
from worker.runner import Runner
from worker.settings import Settings

log = logging.getLogger(__name__)
