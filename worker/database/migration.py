"""Create the missing objects of the schema, and check that it has everything that the worker uses.

Existing objects stay unchanged: only missing ones are created. No DDL runs on a complete schema, so a role
without the right to create objects can run there.
"""

from __future__ import annotations

from worker.database.connections import Connection, Connections, sections
from worker.errors import SchemaError

MIGRATION_LOCK_SECONDS = 60

_EXISTS = {
    "type": "select 1 from pg_type t join pg_namespace n on n.oid = t.typnamespace"
    " where n.nspname = %s and t.typname = %s",
    "table": "select 1 from pg_class c join pg_namespace n on n.oid = c.relnamespace"
    " where n.nspname = %s and c.relname = %s and c.relkind in ('r', 'p', 'v', 'f')",
    "function": "select 1 from pg_proc p join pg_namespace n on n.oid = p.pronamespace"
    " where n.nspname = %s and p.proname = %s",
}

COLUMNS = {
    "jobs": "job_id job_type parameters status stage total_stages stage_results metadata result_data"
    " error_details created_at updated_at",
    "tasks": "task_id parent_job_id job_type task_type stage task_index parameters metadata status"
    " result_data error_details retry_count heartbeat execution_started_at target_queue executed_by_app"
    " created_at updated_at",
    "worker_claims": "task_id task_created_at token claimed_by claimed_at takeovers deaths queue body"
    " correlation_id outcome stage_ended remaining dead_letter_reason",
    "worker_outbox": "id job_id job_created_at queue message_id occurrence body correlation_id scheduled_at"
    " created_at sent_at attempts next_attempt_at last_error",
}
"""The columns that queries.sql uses; a table may have more (protocol.md §2)."""

ARGUMENTS = {
    "complete_task_and_check_stage": {"p_task_id", "p_job_id", "p_stage", "p_result_data", "p_error_details"},
    "advance_job_stage": {"p_job_id", "p_current_stage", "p_stage_results"},
    "increment_task_retry_count": {"p_task_id"},
}


async def prepare(connections: Connections) -> None:
    """Connect, create the missing objects, and check that the schema has everything that the worker uses.

    Raises
    ------
    DatabaseRefused, SchemaError
        The configuration or the schema is wrong; a retry does not help.
    DatabaseError
        The database does not answer.
    """
    await connections.try_once()
    await migrate(connections)
    await check(connections)


async def migrate(connections: Connections) -> list[str]:
    """Create the missing objects in one transaction; return their names.

    The call is safe when several workers start at once: a lock makes them migrate one after the other.
    """
    lock = f"gdaltools:migrate:{connections.schema}"

    async def work(connection: Connection) -> list[str]:
        await connection.execute(f"set local lock_timeout = '{MIGRATION_LOCK_SECONDS}s'".encode())
        await connection.execute(f"set local statement_timeout = '{MIGRATION_LOCK_SECONDS}s'".encode())
        await connection.execute("select pg_advisory_xact_lock(hashtext(%s))", (lock,))
        # Query the catalogue in a new statement: the snapshot of the previous one predates its lock.
        found = await connection.execute(
            "select 1 from pg_namespace where nspname = %s", (connections.schema,)
        )
        if await found.fetchone() is None:
            await connection.execute(connections.in_schema("create schema @schema@"))
        created = []
        for file in ("platform.sql", "worker.sql"):
            for name, statements in sections(file, "object").items():
                if not await _exists(connection, connections.schema, name):
                    await connection.execute(connections.in_schema(statements))
                    created.append(name)
        return created

    return await connections.transaction(work)


async def missing(connections: Connections) -> list[str]:
    """Return the names of the objects that `migrate` would create.

    Raises
    ------
    DatabaseError
        The database does not answer.
    """
    names = [name for file in ("platform.sql", "worker.sql") for name in sections(file, "object")]
    async with connections.connection() as connection:
        return [name for name in names if not await _exists(connection, connections.schema, name)]


async def check(connections: Connections, *, timeout: float | None = None) -> None:
    """Check that the schema has every table, column and function that the worker uses.

    Raises
    ------
    DatabaseError
        The database does not answer.
    SchemaError
        Objects are missing or have a different form; the message names all of them.
    """
    async with connections.connection(timeout=timeout) as connection:
        columns = await connection.execute(
            "select table_name::text as name, array_agg(column_name::text) as has"
            " from information_schema.columns where table_schema = %s and table_name = any(%s) group by 1",
            (connections.schema, list(COLUMNS)),
        )
        has = {row["name"]: set(row["has"]) for row in await columns.fetchall()}
        functions = await connection.execute(
            "select p.proname::text as name, coalesce(p.proargnames, '{}') as arguments"
            " from pg_proc p join pg_namespace n on n.oid = p.pronamespace"
            " where n.nspname = %s and p.proname = any(%s)",
            (connections.schema, list(ARGUMENTS)),
        )
        takes: dict[str, list[set[str]]] = {}
        for row in await functions.fetchall():
            takes.setdefault(row["name"], []).append(set(row["arguments"]))
    problems = [f"table {table} is missing" for table in COLUMNS if table not in has]
    for table, required in COLUMNS.items():
        if table in has and (lacking := sorted(set(required.split()) - has[table])):
            problems.append(f"table {table} lacks {', '.join(lacking)}")
    for function, arguments in ARGUMENTS.items():
        if function not in takes:
            problems.append(f"function {function} is missing")
        elif not any(arguments <= known for known in takes[function]):
            problems.append(f"function {function} does not take {', '.join(sorted(arguments))}")
    if problems:
        raise SchemaError(f"schema {connections.schema!r}: {'; '.join(problems)}")


async def _exists(connection: Connection, schema: str, section: str) -> bool:
    kind, name = section.split()
    cursor = await connection.execute(_EXISTS[kind].encode(), (schema, name))
    return await cursor.fetchone() is not None
