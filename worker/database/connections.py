"""The door to PostgreSQL: a pool whose every connection is READ COMMITTED, in UTC, and freshly authenticated.

The guarantees of the statements in queries.sql stand on READ COMMITTED: under REPEATABLE READ a completion
would not see what the one before it committed, and a stage's last signal would be lost. So nothing is left to
a server's or a role's defaults.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.resources import files
from types import TracebackType
from typing import Any, Self, TypeVar

import psycopg
from psycopg import IsolationLevel, sql
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout, TooManyRequests, _acompat

from gdaltools.errors import GdalToolsError, InvalidParameter
from gdaltools.runtime import crash_points
from worker.waiting import mend_cancellation

mend_cancellation(_acompat)  # the pool's waits; psycopg 3.3 itself has none

Password = Callable[[], Awaitable[str]]
Connection = psycopg.AsyncConnection[DictRow]
T = TypeVar("T")

CONNECT_SECONDS = 10
"""How long one attempt to connect may take, and how long a caller waits for a connection."""

STATEMENT_SECONDS = 30
LOCK_SECONDS = 15
IDLE_IN_TRANSACTION_SECONDS = 90
"""A worker that is frozen in mid-transaction must not hold its stage's lock for ever."""

ANSWER_SECONDS = 45
"""How long a transaction may take by our own clock: a server that is frozen does not keep its time limits."""

# What libpq says when the server turns a client away (PostgreSQL's ClientAuthentication and InitPostgres).
_REFUSALS = ("authentication failed", "no password supplied", "does not exist", "no pg_hba.conf entry")

CONFLICT_TRIES = 4
"""How often a transaction that PostgreSQL chose as a deadlock's victim is run in all."""


class DatabaseError(GdalToolsError):
    """The database did not do what was asked, for a reason that may pass: connection, lock, restart."""


class DatabaseRejected(DatabaseError):
    """The database refused a value or a reference; the same call would be refused again."""

    retryable = False


class DatabaseRefused(DatabaseError):
    """The server turned us away: a wrong password, role or database name."""

    retryable = False


class SchemaError(DatabaseError):
    """The schema lacks something that the worker needs, or has it in another form."""

    retryable = False


class Connections:
    """A pool of connections to one schema.

    Use it as an async context manager. A broken connection surfaces as `DatabaseError` where it was used; the
    pool replaces it. An authentication error is tried once more with a fresh password before it counts.
    """

    def __init__(
        self,
        conninfo: str,
        *,
        schema: str,
        password: Password | None,
        min_size: int,
        max_size: int,
        application_name: str,
    ) -> None:
        self.schema = schema
        self._quoted_schema = quoted_schema(schema)
        self._queries = _named_queries(self._quoted_schema)
        self._failure: list[str] = []
        self._conninfo = conninfo
        kwargs: dict[str, Any] = {
            "row_factory": dict_row,
            "autocommit": False,
            # Prepared statements would not survive a migration, nor a pooler between us and the server.
            "prepare_threshold": None,
            "connect_timeout": CONNECT_SECONDS,
            "keepalives_idle": 30,
            "keepalives_interval": 10,
            "keepalives_count": 3,
        }
        if application_name:
            kwargs["application_name"] = application_name
        self._kwargs = kwargs
        self._connection_class = _authenticating_class(password, self._failure)
        self._pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            conninfo,
            connection_class=self._connection_class,
            kwargs=kwargs,
            min_size=min_size,
            max_size=max(min_size, max_size),
            timeout=CONNECT_SECONDS,
            max_idle=300,
            max_lifetime=1800,
            reconnect_timeout=60,
            configure=_configure,
            check=AsyncConnectionPool.check_connection,
            open=False,
            name=application_name or None,
        )

    async def __aenter__(self) -> Self:
        await self._pool.open(wait=False)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._pool.close()

    async def try_once(self) -> None:
        """Connect outside the pool, which keeps its reasons to itself.

        Raises
        ------
        DatabaseRefused
            The server does not know the role, its password or the database: the configuration is wrong.
        DatabaseError
            It could not be reached.
        """
        try:
            connection = await self._connection_class.connect(self._conninfo, **self._kwargs)
        except psycopg.Error as error:
            refused = any(words in str(error) for words in _REFUSALS)
            kind = DatabaseRefused if refused else DatabaseError
            raise kind(f"connecting to the database failed: {_one_line(error)}") from error
        await connection.close()

    @asynccontextmanager
    async def connection(
        self, *, timeout: float | None = None, within_seconds: float | None = ANSWER_SECONDS
    ) -> AsyncIterator[Connection]:
        """Lend a connection for one transaction: committed on a normal exit, rolled back on an error.

        Raises
        ------
        DatabaseError
            No connection could be had, it broke, or the transaction was not done `within_seconds`.
        DatabaseRejected
            A value cannot be stored, or breaks a constraint.
        """
        try:
            async with (
                asyncio.timeout(within_seconds),
                self._pool.connection(timeout=timeout) as connection,
            ):
                yield connection
        except TimeoutError as error:
            raise DatabaseError(f"the database did not answer within {within_seconds:g} s") from error
        except (PoolTimeout, TooManyRequests) as error:
            reason = self._failure[-1] if self._failure else "all connections are busy"
            raise DatabaseError(f"no connection to the database in time: {reason}") from error
        except PoolClosed as error:
            raise DatabaseError("the database's connections are closed") from error
        except (psycopg.DataError, psycopg.IntegrityError) as error:
            raise DatabaseRejected(f"the database refused a value: {_one_line(error)}") from error
        except psycopg.Error as error:
            raise DatabaseError(f"the database failed: {_one_line(error)}") from error

    async def transaction(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Run `work` in one READ COMMITTED transaction, again when a deadlock made it the victim.

        `work` must have no effects but on its connection. Raises as `connection` does.
        """
        tries = 0
        while True:
            tries += 1
            try:
                async with self.connection() as connection:
                    result = await work(connection)
                    crash_points.reach("transaction-open")
                crash_points.reach("transaction-committed")
                return result
            except DatabaseError as error:
                conflict = isinstance(
                    error.__cause__, psycopg.errors.DeadlockDetected | psycopg.errors.SerializationFailure
                )
                if not conflict or tries == CONFLICT_TRIES:
                    raise
            await asyncio.sleep(0.02 * tries)

    async def one(self, connection: Connection, query: str, **values: object) -> DictRow | None:
        """Run a named query and return its first row."""
        cursor = await connection.execute(self._queries[query], values)
        return await cursor.fetchone() if cursor.description else None

    async def all(self, connection: Connection, query: str, **values: object) -> list[DictRow]:
        """Run a named query and return its rows."""
        cursor = await connection.execute(self._queries[query], values)
        return await cursor.fetchall()

    async def count(self, connection: Connection, query: str, **values: object) -> int:
        """Run a named query and return how many rows it touched."""
        return (await connection.execute(self._queries[query], values)).rowcount

    def in_schema(self, statement: str) -> bytes:
        """Put the quoted schema name into a statement of our own SQL files."""
        return statement.replace("@schema@", self._quoted_schema).encode()


def quoted_schema(name: str) -> str:
    """Return a schema's name as it is written in SQL.

    Raises
    ------
    InvalidParameter
        The name is not made of letters, digits, underscores and hyphens, or is longer than 63 characters.

    Examples
    --------
    >>> quoted_schema("app")
    '"app"'
    """
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]{0,62}", name):
        raise InvalidParameter(
            f"APP_SCHEMA is {name!r}: a schema's name is 1 to 63 letters, digits, underscores or hyphens"
        )
    return sql.Identifier(name).as_string(None)


def sections(file: str, kind: str) -> dict[str, str]:
    """Split one of our SQL files at its ``-- kind: name`` lines, without comments."""
    text = files("worker.database").joinpath(file).read_text(encoding="utf-8")
    parts = re.split(rf"^-- {kind}: (.+)$", text, flags=re.MULTILINE)[1:]
    bodies = (re.sub(r"^\s*--.*\n", "", part, flags=re.MULTILINE).strip() for part in parts[1::2])
    return dict(zip(parts[0::2], bodies, strict=True))


def _named_queries(schema: str) -> dict[str, bytes]:
    named = sections("queries.sql", "name")
    return {name: text.replace("@schema@", schema).encode() for name, text in named.items()}


async def _configure(connection: Connection) -> None:
    await connection.set_isolation_level(IsolationLevel.READ_COMMITTED)
    # Not by the start-up packet's "options": poolers in front of a server refuse them.
    settings = {
        "timezone": "UTC",
        "default_transaction_isolation": "read committed",
        "statement_timeout": f"{STATEMENT_SECONDS}s",
        "lock_timeout": f"{LOCK_SECONDS}s",
        "idle_in_transaction_session_timeout": f"{IDLE_IN_TRANSACTION_SECONDS}s",
    }
    for name, value in settings.items():
        await connection.execute("select set_config(%s, %s, false)", (name, value))
    await connection.commit()


def _authenticating_class(password: Password | None, failure: list[str]) -> type[Connection]:
    """Make the pool's connection class: it asks for the password anew each time, and notes why it failed."""

    class Authenticating(psycopg.AsyncConnection[DictRow]):
        @classmethod
        async def connect(cls, conninfo: str = "", **kwargs: Any) -> Self:
            fresh_tries = 1 if password is None else 2
            while True:
                fresh_tries -= 1
                try:
                    fresh = {} if password is None else {"password": await password()}
                    made = await super().connect(conninfo, **{**kwargs, **fresh})
                except Exception as error:
                    failure[:] = [_one_line(error)]
                    refused = isinstance(error, psycopg.OperationalError) and _is_about_the_password(error)
                    if not refused or fresh_tries == 0:
                        raise
                else:
                    failure.clear()
                    return made

    return Authenticating


def _is_about_the_password(error: psycopg.OperationalError) -> bool:
    # libpq reports a failed connection without an SQLSTATE, only in words (psycopg 3.3).
    return any(word in str(error) for word in ("authentication", "password", "token"))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
