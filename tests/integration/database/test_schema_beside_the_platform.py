import asyncio
from uuid import uuid4

import psycopg
import pytest
import pytest_asyncio

from gdaltools.errors import InvalidParameter
from tests.integration.database.test_database import JOB, LEASE, new_tasks, signal, submit
from worker.database import Database, migration
from worker.database.connections import Connections
from worker.errors import SchemaError
from worker.protocol.rows import Claimed

# The platform's own schema, newer than ours: more columns, other names of triggers, its own functions.
PLATFORM = """
create schema app;
create type app.job_status as enum ('queued', 'processing', 'completed', 'failed', 'completed_with_errors');
create type app.task_status as enum
    ('queued', 'processing', 'completed', 'failed', 'retrying', 'pending_retry', 'cancelled');
create table app.jobs (
    job_id varchar(64) primary key, job_type varchar(100) not null, parameters jsonb not null default '{}',
    status app.job_status not null default 'queued', stage integer not null default 1,
    total_stages integer not null default 1, stage_results jsonb not null default '{}',
    metadata jsonb not null default '{}', result_data jsonb, error_details varchar,
    created_at timestamp not null default now(), updated_at timestamp not null default now(),
    etl_version varchar default 'x'
);
create table app.tasks (
    checkpoint_phase integer, checkpoint_data jsonb, last_pulse timestamp, claimed_by varchar,
    task_id varchar(100) primary key,
    parent_job_id varchar(64) not null references app.jobs (job_id) on delete cascade,
    job_type varchar(100) not null, task_type varchar(100) not null, stage integer not null,
    task_index varchar(50) not null default '0', parameters jsonb not null default '{}',
    metadata jsonb not null default '{}', status app.task_status not null default 'queued',
    result_data jsonb, next_stage_params jsonb, error_details varchar, retry_count integer not null default 0,
    heartbeat timestamp, execution_started_at timestamp, target_queue varchar, executed_by_app varchar,
    created_at timestamp not null default now(), updated_at timestamp not null default now()
);
create function app.increment_task_retry_count(p_task_id varchar) returns table (new_retry_count integer)
language sql as $$
    update app.tasks set retry_count = retry_count + 1, status = 'queued', claimed_by = null
    where task_id = p_task_id returning retry_count
$$;
"""


async def run_sql(conninfo: str, statement: str) -> list[tuple]:
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as connection:
        cursor = await connection.execute(statement.encode())
        return await cursor.fetchall() if cursor.description else []


COLUMNS = """
select table_name, column_name, data_type, column_default, is_nullable from information_schema.columns
where table_schema = 'app' and table_name in ('jobs', 'tasks') order by 1, 2
"""
TRIGGERS_AND_INDEXES = """
select tgname::text from pg_trigger where not tgisinternal union all
select indexname::text from pg_indexes where tablename in ('jobs', 'tasks') order by 1
"""


@pytest_asyncio.fixture
async def platform_conninfo(empty_conninfo: str) -> str:
    await run_sql(empty_conninfo, PLATFORM)
    return empty_conninfo


async def test_a_fresh_database_gets_everything_once(empty_conninfo):
    async with Database(Connections(empty_conninfo)) as database:
        with pytest.raises(SchemaError, match="table jobs is missing"):
            await migration.check(database.connections)
        created = await migration.migrate(database.connections)
        assert {"table jobs", "table tasks", "table worker_outbox", "table worker_claims"} <= set(created)
        await migration.check(database.connections)
        assert await migration.migrate(database.connections) == []


async def test_the_platforms_tables_are_not_touched(platform_conninfo):
    columns = await run_sql(platform_conninfo, COLUMNS)
    others = await run_sql(platform_conninfo, TRIGGERS_AND_INDEXES)
    async with Database(Connections(platform_conninfo)) as database:
        created = await migration.migrate(database.connections)
        await migration.check(database.connections)
    there = {"table jobs", "table tasks", "type job_status", "function increment_task_retry_count"}
    assert not there & set(created)
    assert await run_sql(platform_conninfo, COLUMNS) == columns
    assert await run_sql(platform_conninfo, TRIGGERS_AND_INDEXES) == others


async def test_a_task_lives_its_life_beside_the_platforms_tables(platform_conninfo):
    async with Database(Connections(platform_conninfo)) as database:
        await migration.migrate(database.connections)
        await submit(database)
        await database.jobs.start_stage(JOB, 1, new_tasks("t1"))
        claimed = await database.tasks.claim("t1", JOB, worker="w", lease_seconds=LEASE)
        assert isinstance(claimed, Claimed)
        assert await database.tasks.heartbeat(claimed.claim, progress={"done": 1})
        task = await database.tasks.get("t1")
        assert task.updated_at > task.created_at  # even without the platform's triggers
        assert (await database.tasks.complete(claimed.claim, {}, signal=signal())).last


async def test_the_platforms_own_function_is_the_one_that_is_called(platform_conninfo):
    async with Database(Connections(platform_conninfo)) as database:
        await migration.migrate(database.connections)
        await submit(database)
        await database.jobs.start_stage(JOB, 1, new_tasks("t1"))
        claimed = await database.tasks.claim("t1", JOB, worker="w", lease_seconds=LEASE)
        await run_sql(platform_conninfo, "update app.tasks set claimed_by = 'w'")
        await database.tasks.retry(claimed.claim, message=signal())
    assert await run_sql(platform_conninfo, "select claimed_by, retry_count from app.tasks") == [(None, 1)]


async def test_a_function_of_another_form_is_left_alone_and_named(platform_conninfo):
    await run_sql(
        platform_conninfo,
        "create function app.complete_task_and_check_stage(p_task_id varchar) returns void"
        " language sql as ''",
    )
    async with Database(Connections(platform_conninfo)) as database:
        await migration.migrate(database.connections)
        with pytest.raises(SchemaError, match="complete_task_and_check_stage does not take p_error_details"):
            await migration.check(database.connections)


async def test_a_table_that_lacks_a_column_is_named(platform_conninfo):
    await run_sql(platform_conninfo, "alter table app.tasks drop column heartbeat")
    async with Database(Connections(platform_conninfo)) as database:
        await migration.migrate(database.connections)
        with pytest.raises(SchemaError, match="table tasks lacks heartbeat"):
            await migration.check(database.connections)


async def test_workers_that_migrate_at_once_do_not_disturb_each_other(empty_conninfo):
    databases = [Database(Connections(empty_conninfo)) for _ in range(5)]
    for database in databases:
        await database.__aenter__()
    try:
        created = await asyncio.gather(*(migration.migrate(database.connections) for database in databases))
    finally:
        for database in databases:
            await database.__aexit__(None, None, None)
    assert sorted(map(len, created))[:4] == [0, 0, 0, 0]


async def test_a_role_that_may_create_nothing_can_migrate_a_complete_schema(conninfo):
    role = f"plain_{uuid4().hex[:12]}"
    await run_sql(
        conninfo,
        f"""create role {role} login;
            grant usage on schema app to {role};
            grant select, insert, update, delete on all tables in schema app to {role}""",
    )
    try:
        plain = psycopg.conninfo.make_conninfo(conninfo, user=role)
        async with Database(Connections(plain)) as database:
            assert await migration.migrate(database.connections) == []
            await migration.check(database.connections)
            await submit(database)
            await database.jobs.start_stage(JOB, 1, new_tasks("t1"))
            assert isinstance(await database.tasks.claim("t1", JOB, worker="w", lease_seconds=1), Claimed)
    finally:
        await run_sql(conninfo, f"drop owned by {role}; drop role {role}")


async def test_another_schema_name_is_used_throughout(empty_conninfo):
    async with Database(Connections(empty_conninfo, schema="My-app")) as database:
        await migration.migrate(database.connections)
        await migration.check(database.connections)
        await submit(database)
        await database.jobs.start_stage(JOB, 1, new_tasks("t1"))
        claimed = await database.tasks.claim("t1", JOB, worker="w", lease_seconds=LEASE)
        assert (await database.tasks.complete(claimed.claim, {}, signal=signal())).last
        assert (await database.jobs.advance(JOB, 1, results=[{}], tasks=new_tasks("t2"))).advanced
    assert await run_sql(empty_conninfo, "select count(*) from pg_namespace where nspname = 'app'") == [(0,)]


@pytest.mark.parametrize("schema", ["", "a b", 'a"b', "a'; drop table x", "a$b", "x" * 64, "1a"])
def test_a_schema_name_that_could_be_anything_else_is_refused(schema):
    with pytest.raises(InvalidParameter, match="APP_SCHEMA"):
        Database(Connections("", schema=schema))


# The platform's functions, called as the platform calls them.


async def test_check_job_completion_says_what_the_platform_reads(database, conninfo):
    await submit(database, total_stages=1)
    await database.jobs.start_stage(JOB, 1, new_tasks("t1", "t2"))
    call = f"select * from app.check_job_completion('{JOB}')"
    assert (await run_sql(conninfo, call))[0][:4] == (False, 1, 2, 0)
    for task_id in ("t1", "t2"):
        claimed = await database.tasks.claim(task_id, JOB, worker="w", lease_seconds=LEASE)
        await database.tasks.complete(claimed.claim, {"success": True}, signal=signal())
    complete, stage, total, completed, results = (await run_sql(conninfo, call))[0]
    assert (complete, stage, total, completed) == (True, 1, 2, 2)
    assert {result["task_id"]: result["result_data"] for result in results} == {
        "t1": {"success": True},
        "t2": {"success": True},
    }
    assert (await run_sql(conninfo, "select * from app.check_job_completion('none')"))[0][0] is False


async def test_completing_what_is_not_processing_changes_nothing(database, conninfo):
    await submit(database)
    await database.jobs.start_stage(JOB, 1, new_tasks("t1"))
    call = f"select * from app.complete_task_and_check_stage('t1', '{JOB}', 1)"
    assert await run_sql(conninfo, call) == [(False, False, None, None, 0)]
    assert (await database.tasks.get("t1")).status == "queued"


async def test_an_empty_error_string_is_a_failure(database, conninfo):
    await submit(database)
    await database.jobs.start_stage(JOB, 1, new_tasks("t1"))
    await run_sql(conninfo, "update app.tasks set status = 'processing'")
    call = f"select * from app.complete_task_and_check_stage('t1', '{JOB}', 1, null, '')"
    assert await run_sql(conninfo, call) == [(True, True, JOB, 1, 0)]
    assert (await database.tasks.get("t1")).status == "failed"


async def test_advancing_is_compare_and_set(database, conninfo):
    await submit(database, total_stages=2)
    call = f"select * from app.advance_job_stage('{JOB}', 1, '{{\"n\": 1}}')"
    assert await run_sql(conninfo, call) == [(True, 2, False)]
    assert await run_sql(conninfo, call) == [(False, None, None)]
