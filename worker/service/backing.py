"""The backing services: external ones, or embedded ones that live as long as the process.

In APP_MODE=standalone every service that is not configured is embedded: a PostgreSQL server, a development
broker, a folder for blobs. The rest of the worker receives a connection string and does not see the
difference.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from psycopg.conninfo import make_conninfo

from worker.database import Database
from worker.database.connections import Connections
from worker.local.broker.server import BrokerThread, QueueSpec
from worker.local.postgres import EmbeddedPostgres
from worker.queue.bus import Bus
from worker.settings import ServiceSettings, Settings

# The default folder for blobs: the demo's own folder, so that its products are found again.
LOCAL_BLOB_ROOT = Path("demo/blobs")
_STANDALONE_PREFIX = "gdaltools-standalone-"
# Azure Database for PostgreSQL's scope for a token as password (learn.microsoft.com, "Microsoft Entra
# authentication with Azure Database for PostgreSQL").
POSTGRES_SCOPE = "https://ossrdbms-aad.database.windows.net/.default"


def choose_blob_root(settings: Settings) -> None:
    """Use a local folder for blobs if the database is embedded and no blob storage is configured.

    The folder is set in the environment, because the tasks' processes read it there.
    """
    configured = settings.gdaltools_blob_root or any(name.startswith("AZURE_STORAGE_") for name in os.environ)
    if settings.app_mode.listens_to_jobs and settings.embeds_database and not configured:
        os.environ["GDALTOOLS_BLOB_ROOT"] = str(LOCAL_BLOB_ROOT.absolute())


@asynccontextmanager
async def conninfo(settings: ServiceSettings) -> AsyncIterator[str]:
    """Yield the connection string of the database; an embedded server runs from entry to exit."""
    if not settings.embeds_database:
        password = settings.postgis_password
        yield make_conninfo(
            host=settings.postgis_host,
            port=settings.postgis_port,
            dbname=settings.postgis_database,
            user=settings.postgis_user,
            password=password.get_secret_value() if password else None,
        )
        return
    await asyncio.to_thread(_sweep_killed_standalones)
    folder = Path(tempfile.mkdtemp(prefix=_STANDALONE_PREFIX))
    server = EmbeddedPostgres(folder / "postgres")
    try:
        await asyncio.to_thread(server.start)
        yield server.conninfo
    finally:
        await asyncio.to_thread(server.stop)
        await asyncio.to_thread(EmbeddedPostgres.remove, folder / "postgres")
        shutil.rmtree(folder, ignore_errors=True)


@asynccontextmanager
async def bus(settings: ServiceSettings) -> AsyncIterator[Bus]:
    """Yield the bus; an embedded broker runs from entry to exit."""
    async with AsyncExitStack() as stack:
        secret, namespace = settings.service_bus_connection_string, settings.service_bus_namespace
        address = secret.get_secret_value() if secret else None
        if settings.embeds_broker:
            specs = [QueueSpec(name) for name in settings.all_queues]
            address = stack.enter_context(BrokerThread(specs)).connection_string
        yield await stack.enter_async_context(Bus.connect(connection_string=address, namespace=namespace))


def required_rights(settings: Settings, bus: Bus) -> list[tuple[str, str, Callable[[str], Awaitable[None]]]]:
    """Return what a worker does with which queue, "receive from" or "send to", and the check of each right.

    Retries and returned messages are sent to the queue that they came from.
    """
    sending = (*settings.task_queues, settings.jobs_queue)
    return [
        *(("receive from", queue, bus.check_receiving) for queue in settings.queues),
        *(("send to", queue, bus.check_sending) for queue in sending),
    ]


@asynccontextmanager
async def database(
    settings: ServiceSettings, conninfo: str, *, connections: int = 8
) -> AsyncIterator[Database]:
    """Yield the database of `conninfo`, with at most `connections` connections."""
    async with AsyncExitStack() as stack:
        password = None
        if settings.use_managed_identity and not settings.embeds_database:
            from azure.identity.aio import DefaultAzureCredential

            credential = await stack.enter_async_context(DefaultAzureCredential())

            async def password() -> str:
                return (await credential.get_token(POSTGRES_SCOPE)).token

        yield await stack.enter_async_context(
            Database(
                Connections(
                    conninfo,
                    schema=settings.app_schema,
                    password=password,
                    max_size=connections,
                    application_name=settings.app_name,
                )
            )
        )


@asynccontextmanager
async def one_connection(settings: ServiceSettings) -> AsyncIterator[Database]:
    """Yield the database on a single connection, for a command that asks it a few things."""
    async with conninfo(settings) as address, database(settings, address, connections=1) as opened:
        yield opened


def _sweep_killed_standalones() -> None:
    """Stop the servers left by killed processes, and delete their data."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_STANDALONE_PREFIX}*"):
        with contextlib.suppress(OSError):
            ours = folder.stat().st_uid == os.geteuid() and (folder / "postgres" / "lock").exists()
            if ours and EmbeddedPostgres.remove(folder / "postgres"):
                shutil.rmtree(folder, ignore_errors=True)
