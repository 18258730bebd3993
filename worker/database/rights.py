"""The database rights that a worker's role needs: list the missing ones, and grant them.

With a platform, the schema is often created by a role other than the worker's.
"""

from __future__ import annotations

from psycopg import sql

from worker.database.connections import Connection, Connections, quoted_schema
from worker.database.migration import ARGUMENTS

TABLES = {
    "jobs": ("SELECT", "UPDATE"),
    "tasks": ("SELECT", "UPDATE"),
    "worker_claims": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "worker_outbox": ("SELECT", "INSERT", "UPDATE", "DELETE"),
}
"""The rights on each table that the statements of queries.sql need."""


async def lacking(connections: Connections) -> list[str]:
    """Return the rights that the current role lacks in a complete schema, each as a ``GRANT`` names it.

    Raises
    ------
    DatabaseError
        The database does not answer.
    """
    schema = connections.schema
    async with connections.connection() as connection:
        if not await _may(connection, "select has_schema_privilege(%s, 'USAGE') as may", schema):
            return [f"USAGE on schema {schema}"]
        found = []
        for table, rights in TABLES.items():
            name = f"{quoted_schema(schema)}.{table}"
            question = "select has_table_privilege(%s, %s) as may"
            found += [
                f"{right} on {schema}.{table}"
                for right in rights
                if not await _may(connection, question, name, right)
            ]
        for function in ARGUMENTS:
            question = (
                "select bool_and(has_function_privilege(p.oid, 'EXECUTE')) as may from pg_proc p"
                " join pg_namespace n on n.oid = p.pronamespace where n.nspname = %s and p.proname = %s"
            )
            if not await _may(connection, question, schema, function):
                found.append(f"EXECUTE on {schema}.{function}")
        return found


async def grant(connections: Connections, role: str) -> None:
    """Grant a role all rights that a worker needs; the call can be repeated.

    Raises
    ------
    DatabaseError
        The role does not exist, or the current role may not grant.
    """
    schema = sql.Identifier(connections.schema)
    to = sql.Identifier(role)

    async def work(connection: Connection) -> None:
        await connection.execute(sql.SQL("grant usage on schema {} to {}").format(schema, to))
        for table, rights in TABLES.items():
            await connection.execute(
                sql.SQL("grant {} on {} to {}").format(
                    sql.SQL(", ").join(map(sql.SQL, rights)), sql.Identifier(connections.schema, table), to
                )
            )
        await connection.execute(
            sql.SQL("grant execute on all functions in schema {} to {}").format(schema, to)
        )

    await connections.transaction(work)


async def exists(connections: Connections, role: str) -> bool:
    """Return whether the server has the role."""
    async with connections.connection() as connection:
        return await _may(connection, "select exists(select 1 from pg_roles where rolname = %s) as may", role)


async def make_principal(connections: Connections, role: str) -> None:
    """Create a role with an identity's name that logs in with the identity's tokens.

    It works only on Azure's servers, in their database ``postgres`` (learn.microsoft.com,
    "Manage Microsoft Entra roles in Azure Database for PostgreSQL").

    Raises
    ------
    DatabaseError
        The server is not one of Azure's, or the current role is not its Entra administrator.
    """

    async def work(connection: Connection) -> None:
        await connection.execute("select pgaadauth_create_principal(%s, false, false)", (role,))

    await connections.transaction(work)


async def _may(connection: Connection, question: str, *values: str) -> bool:
    row = await (await connection.execute(question.encode(), values)).fetchone()
    return bool(row and row["may"])
