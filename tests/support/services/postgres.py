"""A PostgreSQL for the tests: the embedded one, or the one that TEST_DATABASE_URL names."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from worker.local.postgres import EmbeddedPostgres

FOLDER_PREFIX = "gdaltools-tests-pg-"
# A server that starts beside this session has its folder and may not hold its lock yet, so younger ones stay.
_START_SECONDS = 600


class Server:
    """A server on which each test gets its own database."""

    def __init__(self, conninfo: str) -> None:
        self.conninfo = conninfo

    def create_database(self, *, template: str | None = None) -> str:
        """Create a database and return its name."""
        name = f"test_{uuid.uuid4().hex[:16]}"
        statement = sql.SQL("create database {}").format(sql.Identifier(name))
        if template is not None:
            statement += sql.SQL(" template {}").format(sql.Identifier(template))
        with psycopg.connect(self.conninfo, autocommit=True) as connection:
            connection.execute(statement)
        return name

    def drop_database(self, name: str) -> None:
        """Drop a database, disconnecting its clients."""
        with psycopg.connect(self.conninfo, autocommit=True) as connection:
            connection.execute(
                sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name))
            )

    def conninfo_for(self, name: str) -> str:
        """Return the connection string of one of the server's databases."""
        return make_conninfo(self.conninfo, dbname=name)

    @contextlib.contextmanager
    def database(self, *, template: str | None = None) -> Iterator[str]:
        """Create a database for the block, and yield its connection string."""
        name = self.create_database(template=template)
        try:
            yield self.conninfo_for(name)
        finally:
            self.drop_database(name)


def empty(conninfo: str, schema: str) -> None:
    """Disconnect all clients, and empty every table of a schema."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where pid <> pg_backend_pid() and datname = current_database()"
        )
        tables = connection.execute(
            "select tablename from pg_tables where schemaname = %s", (schema,)
        ).fetchall()
        names = sql.SQL(", ").join(sql.Identifier(schema, name) for (name,) in tables)
        connection.execute(sql.SQL("truncate {} restart identity cascade").format(names))


@contextlib.contextmanager
def server() -> Iterator[Server]:
    """Run a server for a test session."""
    given = os.environ.get("TEST_DATABASE_URL")
    if given:
        yield Server(given)
        return
    _sweep()
    folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX))
    folder.chmod(0o711)
    try:
        with EmbeddedPostgres(folder, fsync=False) as postgres:
            yield Server(postgres.conninfo)
    finally:
        EmbeddedPostgres.remove(folder)


def _sweep() -> None:
    """Stop and delete what killed test sessions left behind."""
    started_before = time.time() - _START_SECONDS
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER_PREFIX}*"):
        with contextlib.suppress(OSError):
            lock = (folder / "lock").stat()
            if lock.st_uid == os.geteuid() and lock.st_ctime < started_before:
                EmbeddedPostgres.remove(folder)


def parts(conninfo: str) -> dict[str, Any]:
    """Return the worker's settings for a connection string."""
    given = conninfo_to_dict(conninfo)
    return {
        "postgis_host": given["host"],
        "postgis_port": int(given.get("port") or 5432),
        "postgis_database": given["dbname"],
        "postgis_user": given["user"],
        "postgis_password": given.get("password"),
    }
