from collections.abc import Iterator

import psycopg
import pytest

from tests.support.services.guarded_postgres import ROLE, guarded_postgres
from worker.database import Database, migration
from worker.database.connections import Connections
from worker.errors import DatabaseError


@pytest.fixture(scope="module")
def guarded_conninfo() -> Iterator[str]:
    """A server that requires the password ``good`` of the role ``tok``."""
    with guarded_postgres("good") as owner:
        yield psycopg.conninfo.make_conninfo(owner, user=ROLE)


class Tokens:
    """A source of passwords that counts its calls."""

    def __init__(self, *passwords: str) -> None:
        self.passwords = list(passwords)
        self.asked = 0

    async def __call__(self) -> str:
        self.asked += 1
        return self.passwords.pop(0) if len(self.passwords) > 1 else self.passwords[0]


async def test_a_token_that_has_expired_is_replaced_at_once(guarded_conninfo):
    tokens = Tokens("expired", "good")
    async with Database(Connections(guarded_conninfo, password=tokens)) as database:
        await migration.migrate(database.connections)
        await migration.check(database.connections)
    assert tokens.asked >= 2


async def test_each_new_connection_asks_for_a_fresh_token(guarded_conninfo):
    tokens = Tokens("good")
    async with Database(Connections(guarded_conninfo, password=tokens)) as database:
        await migration.migrate(database.connections)
        async with database.outbox.batch(), database.outbox.batch(), database.outbox.batch():
            assert tokens.asked >= 3


async def test_a_wrong_password_is_a_clear_error(guarded_conninfo):
    async with Database(Connections(guarded_conninfo, password=Tokens("bad"))) as database:
        with pytest.raises(DatabaseError, match="password authentication failed"):
            await migration.check(database.connections, timeout=1)


async def test_a_token_that_cannot_be_had_is_a_clear_error(guarded_conninfo):
    async def broken() -> str:
        raise OSError("the identity endpoint does not answer")

    async with Database(Connections(guarded_conninfo, password=broken)) as database:
        with pytest.raises(DatabaseError, match="identity endpoint"):
            await migration.check(database.connections, timeout=1)
