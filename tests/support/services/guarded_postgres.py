"""A PostgreSQL that requires a password, as a server in Azure does."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg import sql

from worker.local.postgres import EmbeddedPostgres

ROLE = "tok"


@contextmanager
def guarded_postgres(password: str) -> Iterator[str]:
    """Run a server whose role `ROLE` needs `password`; yield its owner's conninfo, which needs none."""
    folder = Path(tempfile.mkdtemp(prefix="gdaltools-tests-"))
    folder.chmod(0o711)
    try:
        with EmbeddedPostgres(folder / "pg", fsync=False) as server:
            rules = server.data_folder / "pg_hba.conf"
            rules.write_text(f"local all {ROLE} scram-sha-256\n{rules.read_text()}")
            create = sql.SQL("create role {} superuser login password {}")
            with psycopg.connect(server.conninfo, autocommit=True) as connection:
                connection.execute(create.format(sql.Identifier(ROLE), sql.Literal(password)))
                connection.execute("select pg_reload_conf()")
            yield server.conninfo
    finally:
        EmbeddedPostgres.remove(folder / "pg")
        folder.rmdir()
