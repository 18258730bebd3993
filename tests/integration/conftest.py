import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.bench import JOBS, QUEUE, Bench, working
from tests.support.services import postgres
from worker.database import Database, migration
from worker.database.connections import Connections
from worker.local.broker.server import BrokerThread, QueueSpec
from worker.queue.bus import Bus
from worker.task import child

child.PRELOAD.append("tests.support.handlers")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[postgres.Server]:
    with postgres.server() as server:
        yield server


@pytest.fixture(scope="session")
def migrated_template(postgres_server: postgres.Server) -> Iterator[str]:
    """The name of a database with the schema ``app``, used as a template."""
    name = postgres_server.create_database()

    async def migrate() -> None:
        async with Database(Connections(postgres_server.conninfo_for(name))) as database:
            await migration.migrate(database.connections)

    asyncio.run(migrate())
    yield name
    postgres_server.drop_database(name)


@pytest.fixture(scope="session")
def shared_conninfo(postgres_server: postgres.Server, migrated_template: str) -> Iterator[str]:
    """Connection string of the database that most tests share, one after the other."""
    with postgres_server.database(template=migrated_template) as made:
        yield made


@pytest.fixture
def conninfo(shared_conninfo: str) -> str:
    """Connection string of an empty database with the schema ``app``; tests may alter only its rows."""
    postgres.empty(shared_conninfo, "app")
    return shared_conninfo


@pytest.fixture
def own_conninfo(postgres_server: postgres.Server, migrated_template: str) -> Iterator[str]:
    """Connection string of a database with the schema ``app`` for this test alone (takes 0.1 s or more)."""
    with postgres_server.database(template=migrated_template) as made:
        yield made


@pytest.fixture
def empty_conninfo(postgres_server: postgres.Server) -> Iterator[str]:
    """Connection string of a fresh database with no schema."""
    with postgres_server.database() as made:
        yield made


@pytest_asyncio.fixture
async def database(conninfo: str) -> AsyncIterator[Database]:
    async with Database(Connections(conninfo)) as made:
        yield made


@pytest.fixture
def broker() -> Iterator[BrokerThread]:
    """A broker with both queues."""
    with BrokerThread([QueueSpec(QUEUE, lock_seconds=5, max_delivery_count=1), QueueSpec(JOBS)]) as made:
        yield made


@pytest_asyncio.fixture
async def bench(database: Database, conninfo: str, broker: BrokerThread, blobs: Path) -> AsyncIterator[Bench]:
    """A running processor; the module's `blobs` are its input."""
    async with working(database, conninfo, broker) as made:
        yield made


@pytest_asyncio.fixture
async def bus(broker: BrokerThread) -> AsyncIterator[Bus]:
    """A connection to the module's broker."""
    async with Bus.connect(connection_string=broker.connection_string) as made:
        yield made
