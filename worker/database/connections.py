"""The connection pool for PostgreSQL: every connection is READ COMMITTED, in UTC, and freshly authenticated.

The guarantees of the statements in queries.sql depend on READ COMMITTED: under REPEATABLE READ a completion
would not see what the previous one committed, and a stage's last signal would be lost. Each connection
therefore sets its isolation level and limits itself, whatever the defaults of the server or the role.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from functools import wraps
from importlib.resources import files
from itertools import chain, repeat
from types import TracebackType
from typing import Any, ClassVar, Concatenate, ParamSpec, Protocol, Self, TypeVar

import psycopg
from psycopg import IsolationLevel, sql
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout, TooManyRequests, _acompat

from gdaltools.errors import InvalidParameter
from gdaltools.runtime import crash_points
from worker.errors import DatabaseError, DatabaseRefused, DatabaseRejected
from worker.waiting import growing, mend_cancellation, retried

mend_cancellation(_acompat)  # for the waits of the pool; psycopg 3.3 itself has none

Password = Callable[[], Awaitable[str]]
T = TypeVar("T")
P = ParamSpec("P")
Table = TypeVar("Table", bound="_Table")

CONNECT_SECONDS = 10
"""The time limit for one attempt to connect, and for a caller that waits for a connection."""

STATEMENT_SECONDS = 30
LOCK_SECONDS = 15
IDLE_IN_TRANSACTION_SECONDS = 90
"""The time limit for an idle transaction: a frozen worker must not hold its stage's lock forever."""

ANSWER_SECONDS = 45
"""The time limit for a transaction by the client's clock: a frozen server does not enforce its own limits."""

# The texts with which the server refuses a client (PostgreSQL's ClientAuthentication and InitPostgres).
_REFUSALS = ("authentication failed", "no password supplied", "does not exist", "no pg_hba.conf entry")

CONFLICT_PAUSES_SECONDS = (0.02, 0.04, 0.06)
"""The pauses before each further attempt of a transaction that PostgreSQL aborts as a deadlock's victim."""

# The first and the longest pause while the database does not answer.
_FIRST_SECONDS, _LONGEST_SECONDS = 0.25, 10.0

log = logging.getLogger(__name__)


class Connection(psycopg.AsyncConnection[DictRow]):
    """A connection that runs the statements of queries.sql by name."""

    queries: ClassVar[Mapping[str, bytes]]

    async def one(self, query: str, **values: object) -> DictRow | None:
        """Run a named query and return its first row."""
        cursor = await self.execute(self.queries[query], values)
        return await cursor.fetchone() if cursor.description else None

    async def all(self, query: str, **values: object) -> list[DictRow]:
        """Run a named query and return its rows."""
        return await (await self.execute(self.queries[query], values)).fetchall()

    async def count(self, query: str, **values: object) -> int:
        """Run a named query and return the number of affected rows."""
        return (await self.execute(self.queries[query], values)).rowcount


class Connections:
    """A pool of connections to one schema.

    Use it as an async context manager; it connects in the background. A broken connection raises
    `DatabaseError` where it is used, and the pool replaces it. After an authentication error the connection
    is attempted once more with a fresh password.

    Parameters
    ----------
    conninfo : str
        A libpq connection string or URI.
    schema : str
        The platform's schema (APP_SCHEMA).
    password : callable, optional
        Called for each new connection, because a managed identity's token is short-lived.

    Raises
    ------
    InvalidParameter
        The schema's name is not valid.
    """

    def __init__(
        self,
        conninfo: str,
        *,
        schema: str = "app",
        password: Password | None = None,
        min_size: int = 1,
        max_size: int = 8,
        application_name: str = "",
    ) -> None:
        self.schema = schema
        self._quoted_schema = quoted_schema(schema)
        self._failure: list[str] = []
        self._conninfo = conninfo
        kwargs: dict[str, Any] = {
            "row_factory": dict_row,
            "autocommit": False,
            # Prepared statements do not survive a migration or a pooler in front of the server.
            "prepare_threshold": None,
            "connect_timeout": CONNECT_SECONDS,
            "keepalives_idle": 30,
            "keepalives_interval": 10,
            "keepalives_count": 3,
        }
        if application_name:
            kwargs["application_name"] = application_name
        self._kwargs = kwargs
        self._connection_class = _authenticating_class(
            _named_queries(self._quoted_schema), password, self._failure
        )
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
        """Connect once, outside the pool, because the pool does not report why a connection fails.

        Raises
        ------
        DatabaseRefused
            The server does not accept the role, its password or the database: the configuration is wrong.
        DatabaseError
            The server is not reachable.
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
        """Yield a connection for one transaction: committed on a normal exit, rolled back on an error.

        Raises
        ------
        DatabaseError
            No connection is available, the connection broke, or the transaction exceeded `within_seconds`.
        DatabaseRejected
            A value cannot be stored or violates a constraint.
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
        """Run `work` in one READ COMMITTED transaction, and again if PostgreSQL aborts it for a deadlock.

        `work` must have no effects except on its connection. Raises the same errors as `connection`.
        """

        async def attempt() -> T:
            async with self.connection() as connection:
                result = await work(connection)
                crash_points.reach("transaction-open")
            crash_points.reach("transaction-committed")
            return result

        return await retried(
            attempt, errors=DatabaseError, may_pass=_is_conflict, pauses=CONFLICT_PAUSES_SECONDS
        )

    async def one(self, query: str, **values: object) -> DictRow | None:
        """Run a named query that only reads, and return its first row."""
        async with self.connection() as connection:
            return await connection.one(query, **values)

    async def all(self, query: str, **values: object) -> list[DictRow]:
        """Run a named query that only reads, and return its rows."""
        async with self.connection() as connection:
            return await connection.all(query, **values)

    async def utc_now(self) -> datetime:
        """Return the server's time in UTC, as a naive datetime."""
        row = await self.one("clock")
        assert row is not None
        now: datetime = row["now"]
        return now

    def in_schema(self, statement: str) -> bytes:
        """Replace ``@schema@`` in a statement by the quoted schema name."""
        return statement.replace("@schema@", self._quoted_schema).encode()


class _Table(Protocol):
    @property
    def connections(self) -> Connections: ...


def in_transaction(
    operation: Callable[Concatenate[Table, Connection, P], Awaitable[T]],
) -> Callable[Concatenate[Table, P], Coroutine[Any, Any, T]]:
    """Run each call of a method in one transaction of `Connections.transaction`, which passes the connection.

    The method must have no effects except on its connection.
    """

    @wraps(operation)
    async def run(table: Table, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await table.connections.transaction(
            lambda connection: operation(table, connection, *args, **kwargs)
        )

    return run


async def with_retries(
    attempt: Callable[[], Awaitable[T]], *, pause: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> T:
    """Return the result of `attempt`, repeated until the database answers, so that no finished work is lost.

    Parameters
    ----------
    pause : callable
        Waits the number of seconds before the next attempt; an exception from it ends the retries.

    Raises
    ------
    DatabaseError
        The error is not retryable.
    """
    levels = chain([logging.WARNING], repeat(logging.DEBUG))
    return await retried(
        attempt,
        errors=DatabaseError,
        pauses=growing(_FIRST_SECONDS, _LONGEST_SECONDS),
        on_error=lambda error: log.log(next(levels), "the database did not answer, trying again: %s", error),
        sleep=pause,
    )


def quoted_schema(name: str) -> str:
    """Return a schema's name, quoted for SQL.

    Raises
    ------
    InvalidParameter
        The name has characters other than letters, digits, underscores and hyphens, starts with a digit or
        hyphen, or is longer than 63 characters.

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
    """Return the sections of one of the package's SQL files by name, without comments.

    Each section begins with a ``-- kind: name`` line.
    """
    text = files("worker.database").joinpath(file).read_text(encoding="utf-8")
    parts = re.split(rf"^-- {kind}: (.+)$", text, flags=re.MULTILINE)[1:]
    bodies = (re.sub(r"^\s*--.*\n", "", part, flags=re.MULTILINE).strip() for part in parts[1::2])
    return dict(zip(parts[0::2], bodies, strict=True))


def _named_queries(schema: str) -> dict[str, bytes]:
    named = sections("queries.sql", "name")
    return {name: text.replace("@schema@", schema).encode() for name, text in named.items()}


async def _configure(connection: Connection) -> None:
    await connection.set_isolation_level(IsolationLevel.READ_COMMITTED)
    # The start-up packet's "options" could set these too, but poolers in front of a server refuse them.
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


def _authenticating_class(
    named: Mapping[str, bytes], password: Password | None, failure: list[str]
) -> type[Connection]:
    """Return the pool's connection class: it requests the password for each connection.

    `failure` holds the text of the last connection error, and is empty after a success.
    """

    class Authenticating(Connection):
        queries = named

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
    # libpq reports a failed connection only as text, without an SQLSTATE (psycopg 3.3).
    return any(word in str(error) for word in ("authentication", "password", "token"))


def _is_conflict(error: DatabaseError) -> bool:
    cause = error.__cause__
    return isinstance(cause, psycopg.errors.DeadlockDetected | psycopg.errors.SerializationFailure)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
